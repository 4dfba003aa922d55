# ruff: noqa
"""Answers initialize a byte at a time, each well within any timeout that starts anew."""

import sys
import time


def drip(request):
    while True:
        sys.stdout.write("x")
        sys.stdout.flush()
        time.sleep(0.05)


serve(initialize=drip)
