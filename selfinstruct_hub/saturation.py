"""Whether the last rounds resemble the pool so much that growth should stop. Pure: counts in, a sentence out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfinstruct_hub.config import Saturation


def reason(rounds: Sequence[Mapping[str, Any]], limits: Saturation) -> str | None:
    """Why growth should stop, or None.

    `rounds` are the counts of the grown rounds, the newest last (see `pool.Pool.counts`). All of the last
    `limits.rounds` must cross one and the same limit.
    """
    last = rounds[-limits.rounds :]
    if len(last) < limits.rounds:
        return None
    checks = (
        ("mean similarity with the nearest neighbour", "mean", limits.mean_similarity),
        ("90th percentile of the similarity with the nearest neighbour", "p90", limits.p90_similarity),
    )
    for what, key, limit in checks:
        scores = [counts["similarity"][key] for counts in last]
        if limit is not None and all(score is not None and score >= limit for score in scores):
            return f"{_of(last)} {what} was {_listed(scores)} ({limit:g} or more stops)"
    shares = [counts["acceptance"] for counts in last]
    if limits.acceptance is not None and all(s is not None and s <= limits.acceptance for s in shares):
        return f"{_of(last)} acceptance was {_listed(shares)} ({limits.acceptance:g} or less stops)"
    return None


def _of(rounds: Sequence[object]) -> str:
    return "the last round's" if len(rounds) == 1 else f"the last {len(rounds)} rounds'"


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)
