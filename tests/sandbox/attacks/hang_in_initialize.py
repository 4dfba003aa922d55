# ruff: noqa
"""Takes the handshake and says nothing."""

import time

serve(initialize=lambda request: time.sleep(1000))
