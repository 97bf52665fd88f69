"""Draws the demonstrations of a request. Pure: (tasks, seed, round, request number) decide the draw.

A draw never depends on the order in which answers come back, and a resumed run repeats none.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from selfinstruct_hub.records import Task


def rng_of(seed: int, round_number: int, request_number: int, purpose: str) -> random.Random:
    """A generator of its own for each purpose of each request (seeded by text: the same on every platform)."""
    return random.Random(f"{seed}/{round_number}/{request_number}/{purpose}")


def demonstrations(
    tasks: Sequence[Task], count: int, *, seed: int, round_number: int, request_number: int
) -> tuple[Task, ...]:
    """`count` different tasks in random order, as both papers draw them (uniformly, without replacement)."""
    rng = rng_of(seed, round_number, request_number, "demonstrations")
    return tuple(rng.sample(list(tasks), count))


def request_seed(seed: int, round_number: int, request_number: int, call: int) -> int:
    """The sampling seed sent with a request: below 2**31, which every server accepts."""
    return rng_of(seed, round_number, request_number, f"call {call}").getrandbits(31)


def length(task: Task) -> int:
    """Characters that showing `task` costs: its instruction and its first instance."""
    first = task.instances[0]
    return len(task.instruction) + len(first.input) + len(first.output)
