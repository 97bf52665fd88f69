"""What a judge has to know who judges a round once more, so that with the same rules the verdicts are the same.

Where the round was complete decides what is surplus; what a person has decided is no rule's to change; what was
judged last, by a top-up, is compared with what was there then; and what was not accepted before must be new among
what came later too, which was judged without it.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from selfinstruct_hub.judging.gates import paraphrase
from selfinstruct_hub.novelty import NoveltyGate
from selfinstruct_hub.novelty.embedding import EmbeddingGate
from selfinstruct_hub.pool.again import Section
from selfinstruct_hub.records import TOO_SIMILAR, Candidate, Drop, Instance, Lost, Neighbour, Task, Verdict

# A draw of a round, and a candidate's position in it.
Spot = tuple[int, int]
NOWHERE: Spot = (-1, -1)


@dataclass(frozen=True)
class Beside:
    """Tasks that are compared with beside those that a judge knows. `bare` are ids by instruction of those without
    instances."""

    gate: NoveltyGate
    paraphrases: EmbeddingGate | None = None
    bare: Mapping[str, str] = field(default_factory=dict)

    def near(self, candidate: Candidate) -> Neighbour | None:
        """The task that a candidate is too near to."""
        found = self.gate.compare(candidate.instruction or "").nearest
        near = next((one for one in found if not self._fills(candidate, one)), None)
        return near if near is not None and near.score > self.gate.threshold else None

    def near_in_meaning(self, candidate: Candidate) -> Neighbour | None:
        """The same by meaning."""
        if self.paraphrases is None:
            return None
        near = self.paraphrases.compare(candidate.instruction or "")
        if near is None or near.score <= self.paraphrases.threshold or self._fills(candidate, near):
            return None
        return near

    def drop(self, candidate: Candidate) -> Drop | None:
        """Why a candidate may not be accepted beside them."""
        if near := self.near(candidate):
            return too_similar(near)
        near = self.near_in_meaning(candidate)
        return paraphrase(near) if near is not None else None

    def _fills(self, candidate: Candidate, near: Neighbour) -> bool:
        return bool(candidate.instances) and self.bare.get(candidate.instruction or "") == near.id


class Ruling(NamedTuple):
    """What the rules that look at one candidate alone have said of it already: why its `instruction` may not stay,
    or else what stays of its instances (see `filters.kept_instances`) and the task that it would be. `text` and
    `task_text` are what the pool stores of both."""

    instruction: str | None
    drop: Drop | None
    kept: tuple[tuple[Instance, ...], tuple[Lost, ...], Drop | None] | None
    task: Task | None
    text: str
    task_text: str | None


@dataclass
class Again:
    """`complete_at` is the place of the last task of the complete round: no candidate up to there is surplus.
    `decided` are verdicts that stay as they are. `rulings` are there for candidates that the rules have looked at.

    Of a round that was topped up, `ends` are earlier places where it was complete, each as (number of the draw
    that the top-up began with, the place): what follows there was surplus, and the top-up has made up for it.

    `sections` are what to know of other rounds when it begins (None: all earlier ones, whole). `beside` has more
    tasks that were there when what is judged now was judged first. An instruction that is not `known` (accepted as
    the round stands) must be new among `later` too, which came after it. With `reuse`, what was compared before
    need not be compared again (see `Judge.reusing`)."""

    complete_at: Spot = NOWHERE
    decided: Mapping[Spot, Verdict] = field(default_factory=dict)
    known: Container[str] = ()
    later: Sequence[Beside] = ()
    reuse: bool = False
    rulings: Mapping[Spot, Ruling] = field(default_factory=dict)
    ends: list[tuple[int, Spot]] = field(default_factory=list)
    sections: Sequence[Section] | None = None
    beside: Sequence[Beside] = ()

    def not_new(self, candidate: Candidate) -> Drop | None:
        """Why an instruction may not be accepted that was not before."""
        if not self.later or candidate.instruction in self.known:
            return None
        return next(filter(None, (later.drop(candidate) for later in self.later)), None)

    def is_surplus(self, spot: Spot, *, full: bool) -> bool:
        """Whether the round needs nothing that comes at a place; `full` says that it has its number."""
        for before, end in self.ends:
            if spot[0] < before:
                return spot > end
        return full and spot > self.complete_at


def too_similar(nearest: Neighbour) -> Drop:
    return Drop(TOO_SIMILAR, f"ROUGE-L {nearest.score:.3f} with {nearest.id}", nearest)
