"""Untrusted servers, launched and questioned: the jail, the zygote inside it, the session."""
