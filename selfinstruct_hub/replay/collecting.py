"""Less looking for garbage where many small things are made that stay, and none that hold one another.

Python looks through all that it has whenever some hundred new things are there, which takes a seventh of the time
of a replay and finds nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# New things before the youngest are looked through, and how often that happens before the older ones are.
_RARELY = (100_000, 50, 100)


@contextmanager
def rarely() -> Iterator[None]:
    """While it is open, Python looks for garbage rarely; then as it did. Threads share it."""
    before = gc.get_threshold()
    gc.set_threshold(*_RARELY)
    try:
        yield
    finally:
        gc.set_threshold(*before)
