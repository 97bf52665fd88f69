"""Commands that are killed at any moment and started again: `python -m tests.survival --kills 200`.

A run that nobody kills says what must come out. Every other one is killed with SIGKILL, up to three times, at
moments spread over its time or when the server has seen so many requests, and then let go to its end.
"""
