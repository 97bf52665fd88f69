"""What `gc` did, or would do, on standard output."""

from __future__ import annotations

import sys

from selfinstruct_hub.figures import counted, spans
from selfinstruct_hub.show.pieces import console_of
from selfinstruct_hub.upkeep import Collected

_WIDTH = 100_000


def print_collected(found: Collected) -> None:
    console = console_of(sys.stdout, width=None if sys.stdout.isatty() else _WIDTH)
    say = "would drop" if found.dry_run else "dropped"
    if found.rounds:
        console.print(
            f"{say} prompts and texts of {counted(found.answers, 'answer')} of rounds {spans(found.rounds)}: "
            f"{_size(found.size)}"
        )
        console.print(
            "lost by it: replay and reproduction of these rounds; rows, counts, costs and releases stay as they "
            "are"
        )
    else:
        console.print("no frozen round has texts of answers that could be dropped")
    if found.kept:
        console.print(f"kept: rounds {spans(found.kept)}, which are not frozen yet")
    if found.after is not None:
        console.print(f"pool: {_size(found.before)} before, {_size(found.after)} now, {_size(found.won)} won")
    if found.not_shrunk:
        console.print(f"the pool's file is not smaller: {found.not_shrunk}", soft_wrap=True)
    for folder in found.removed:
        remove = "would remove" if found.dry_run else "removed"
        console.print(f"{remove} {folder}, which packaging has left half-way", soft_wrap=True)
    for folder in found.left:
        console.print(f"left {folder}: the next grow builds it anew", soft_wrap=True)


def _size(number: int) -> str:
    return f"{number / 1e6:,.1f} MB" if number >= 100_000 else f"{number:,} bytes"
