"""What a pool remembers of the published version that it was made from. Kept as one fact of the pool.

A release tells every accepted and rejected candidate, but not the answers themselves, so a round that was pulled
keeps the counts that were published with it: they cannot be counted again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

META = "pulled"


@dataclass(frozen=True)
class Pulled:
    """Dataset, commit and version that a pool was made from. `rounds` has, by number, what the manifest said of
    each: its counts, models and cost; `revisions` is the number of revisions that it had seen, `review` what
    people had said of its rows."""

    repo: str
    commit: str
    version: str
    rounds: Mapping[int, Mapping[str, Any]]
    revisions: int = 0
    review: Mapping[str, Any] | None = None

    def as_text(self) -> str:
        rounds = {str(number): dict(said) for number, said in self.rounds.items()}
        place = {"repo": self.repo, "commit": self.commit, "version": self.version}
        return json.dumps({**place, "rounds": rounds, "revisions": self.revisions, "review": self.review})

    @classmethod
    def of_text(cls, text: str) -> Pulled:
        values = json.loads(text)
        rounds = {int(number): said for number, said in values["rounds"].items()}
        return cls(**{**values, "rounds": rounds})


# What `Pool.counts` says of a round, but for what nobody publishes.
COUNTS = (
    *("tasks", "rows", "requests", "completions", "failed", "parsed", "candidates", "acceptance", "drops"),
    *("lost_instances", "similarity", "tokens", "stages"),
)
# Of a stage and of tokens, what is told even where it is none.
_PARTS = ("requests", "failed", "parsed", "tokens", "candidates", "drops", "prompt", "generated")
_BY_REASON = ("drops", "failed", "lost_instances")


def counts(said: Mapping[str, Any]) -> dict[str, Any]:
    """The counts of a pulled round, as it was published."""
    return {key: said[key] for key in COUNTS}


def since(said: Mapping[str, Any], then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """`said`, which was published, with what has changed since: what is counted `now` over what was counted
    `then`, before the first change. Nearness stays as it was published: a release does not tell it of every
    candidate."""
    found = _moved(said, then, now)
    tasks, candidates = found["tasks"], found["candidates"]
    acceptance = round(tasks / candidates, 4) if candidates else None
    drops = {name: dict(sorted(found[name].items(), key=lambda one: (-one[1], one[0]))) for name in _BY_REASON}
    return {**found, **drops, "acceptance": acceptance, "similarity": said["similarity"]}


def _moved(said: Mapping[str, Any], then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in dict.fromkeys([*said, *now]):
        values = [place.get(key) for place in (said, then, now)]
        if any(isinstance(value, Mapping) for value in values):
            found[key] = _moved(*(value or {} for value in values))
            continue
        was, before, after = (value or 0 for value in values)
        count = was + after - before
        if count or key in said:
            found[key] = count
    # What does not occur any more is not told.
    return {key: value for key, value in found.items() if value != 0 or key in COUNTS or key in _PARTS}
