# ruff: noqa
"""Never gets to the end of its first line, deaf to signals."""

import signal

for number in range(1, 32):
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_IGN)
while True:
    pass
