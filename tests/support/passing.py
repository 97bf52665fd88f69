"""What a recipe is told of its instructions where no judge is asked: that all pass."""

from __future__ import annotations

from collections.abc import Sequence

from selfinstruct_hub.records import Candidate


async def all_pass(candidates: Sequence[Candidate]) -> list[bool]:
    return [True] * len(candidates)
