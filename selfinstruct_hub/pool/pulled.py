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
    each: its counts, models and cost; `revisions` is the number of revisions that it had seen."""

    repo: str
    commit: str
    version: str
    rounds: Mapping[int, Mapping[str, Any]]
    revisions: int = 0

    def as_text(self) -> str:
        rounds = {str(number): dict(said) for number, said in self.rounds.items()}
        place = {"repo": self.repo, "commit": self.commit, "version": self.version}
        return json.dumps({**place, "rounds": rounds, "revisions": self.revisions})

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


def counts(said: Mapping[str, Any]) -> dict[str, Any]:
    """The counts of a pulled round, as it was published."""
    return {key: said[key] for key in COUNTS}
