# ruff: noqa
"""Answers initialize and spins in tools/list."""


def spin(request):
    while True:
        pass


serve(tools=spin)
