"""What holds for every test."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# A busy machine is no fault.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# The tests start many interpreters, each of which would compile the package again where bytecode is not kept.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell that puts the tests in the background has them ignore Ctrl-C, and their children with them, to which some
# tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
