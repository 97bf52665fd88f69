"""Draws the demonstrations of a request. Pure: (tasks, seed, round, request number) decide the draw.

A draw never depends on the order in which answers come back, and a resumed run repeats none.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from selfinstruct_hub.records import Task, estimated_tokens


def rng_of(seed: int, round_number: int, request_number: int, purpose: str) -> random.Random:
    """A generator of its own for each purpose of each request (seeded by text: the same on every platform)."""
    return random.Random(f"{seed}/{round_number}/{request_number}/{purpose}")


@dataclass(frozen=True)
class Deck:
    """What one draw may show: seeds, tasks of earlier rounds, and a generator for each purpose."""

    human: Sequence[Task]
    machine: Sequence[Task]
    rng: Callable[[str], random.Random]


def demonstrations(
    human: Sequence[Task], machine: Sequence[Task], *, humans: int, machines: int, rng: random.Random
) -> tuple[Task, ...]:
    """`humans` seeds and `machines` tasks of earlier rounds, different and in random order. Where there are fewer
    machine-made ones, seeds take their places (Self-Instruct's code does the same in its first steps)."""
    made = rng.sample(list(machine), min(machines, len(machine)))
    seeds = rng.sample(list(human), min(humans + machines - len(made), len(human)))
    both = seeds + made
    if made:
        rng.shuffle(both)
    return tuple(both)


def fitting(
    tasks: Sequence[Task], most: int, room: int | None, cost: Callable[[Task], int]
) -> tuple[list[Task], int]:
    """The tasks short enough to be shown and how many at a time: at most `most`, fewer where `room` tokens
    do not take so many. `cost` is a task's tokens as the prompt shows it."""
    for count in range(min(most, len(tasks)), 0, -1):
        short = [task for task in tasks if room is None or cost(task) <= room // count]
        if len(short) >= count:
            return short, count
    shortest = sorted(tasks, key=cost)[:1]
    return shortest, len(shortest)


def request_seed(seed: int, round_number: int, request_number: int, call: int) -> int:
    """The sampling seed sent with a request: below 2**31, which every server accepts."""
    return rng_of(seed, round_number, request_number, f"call {call}").getrandbits(31)


def revision_seed(seed: int, revision: int, item: int, call: int) -> int:
    """The same for a request of a revision."""
    return rng_of(seed, revision, item, f"revision call {call}").getrandbits(31)


def length(task: Task) -> int:
    """Characters that showing `task` costs: its instruction and its first instance."""
    return len(_shown(task))


def tokens(task: Task) -> int:
    """Estimated tokens that showing `task` with its first instance costs."""
    return estimated_tokens(_shown(task))


def _shown(task: Task) -> str:
    return task.instruction + "".join(i.input + i.output for i in task.instances[:1])
