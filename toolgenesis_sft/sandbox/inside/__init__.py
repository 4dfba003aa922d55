"""All of our code that a generated server can see: it runs inside the jail, with the servers'
own interpreter, and imports nothing of the harness."""
