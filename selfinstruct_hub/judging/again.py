"""What a judge has to know who judges a round once more, so that with the same rules the verdicts are the same.

Where the round was complete decides what is surplus; what a person has decided is no rule's to change; and what
was not accepted before must be new among later rounds too, which were judged without it.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from selfinstruct_hub.judging.gates import paraphrase
from selfinstruct_hub.novelty import NoveltyGate
from selfinstruct_hub.novelty.embedding import EmbeddingGate
from selfinstruct_hub.records import TOO_SIMILAR, Drop, Instance, Lost, Neighbour, Task, Verdict

# A draw of a round, and a candidate's position in it.
Spot = tuple[int, int]
NOWHERE: Spot = (-1, -1)


@dataclass(frozen=True)
class Later:
    """The tasks of later rounds, which stay as they are."""

    gate: NoveltyGate
    paraphrases: EmbeddingGate | None = None

    def drop(self, instruction: str) -> Drop | None:
        """Why a task with this instruction may not come before them."""
        if (nearest := self.gate.compare(instruction).nearest) and nearest[0].score > self.gate.threshold:
            return too_similar(nearest[0])
        if self.paraphrases is None:
            return None
        near = self.paraphrases.compare(instruction)
        return paraphrase(near) if near is not None and near.score > self.paraphrases.threshold else None


class Ruling(NamedTuple):
    """What the rules that look at one candidate alone have said of it already: why its instruction may not stay,
    or else what stays of its instances (see `filters.kept_instances`) and the task that it would be. `text` and
    `task_text` are what the pool stores of both."""

    drop: Drop | None
    kept: tuple[tuple[Instance, ...], tuple[Lost, ...], Drop | None] | None
    task: Task | None
    text: str
    task_text: str | None


@dataclass
class Again:
    """`complete_at` is the place of the last task of the complete round: no candidate up to there is surplus.
    `decided` are verdicts that stay as they are. An instruction that is not `known` (accepted as the round
    stands) must be new among `later`. `rulings` are there for candidates that the rules have looked at."""

    complete_at: Spot = NOWHERE
    decided: Mapping[Spot, Verdict] = field(default_factory=dict)
    known: Container[str] = ()
    later: Sequence[Later] = ()
    rulings: Mapping[Spot, Ruling] = field(default_factory=dict)

    def not_new(self, instruction: str) -> Drop | None:
        """Why an instruction may not be accepted that was not before."""
        if not self.later or instruction in self.known:
            return None
        return next(filter(None, (later.drop(instruction) for later in self.later)), None)


def too_similar(nearest: Neighbour) -> Drop:
    return Drop(TOO_SIMILAR, f"ROUGE-L {nearest.score:.3f} with {nearest.id}", nearest)
