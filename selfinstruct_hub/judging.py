"""Gives every candidate its verdict: rules first, then novelty. Judging runs in request order.

Reads the pool once, when a round is begun or resumed; writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from selfinstruct_hub import filters
from selfinstruct_hub.novelty import NoveltyGate
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import Candidate, Drop, Round, Similarity, Verdict, task_of


class Judge:
    """Gives every candidate its verdict: rules first, then novelty against seeds and accepted tasks."""

    def __init__(self, round_: Round, gate: NoveltyGate, accepted: int) -> None:
        self._round = round_
        self._gate = gate
        self._accepted = accepted
        self._threshold: float = round_.settings["novelty"]["threshold"]
        rules = round_.settings["filters"]
        self._rules = filters.Rules(**{**rules, "blocked_words": tuple(rules["blocked_words"])})

    @classmethod
    def resumed(cls, pool: Pool, round_: Round) -> Judge:
        """A judge who knows the seeds and everything that the pool has accepted so far."""
        gate = NoveltyGate(round_.settings["novelty"]["most_similar"])
        gate.extend((task.id, task.instruction) for task in pool.seeds())
        for earlier in range(1, round_.number + 1):
            for verdict in pool.verdicts(earlier, accepted=True):
                assert verdict.task is not None
                gate.add(verdict.task.id, verdict.task.instruction)
        return cls(round_, gate, pool.accepted_count(round_.number))

    def draw(self, number: int, candidates: Sequence[Candidate]) -> list[Verdict]:
        """The verdicts on one draw's candidates, in order."""
        return [self._verdict(number, position, candidate) for position, candidate in enumerate(candidates)]

    def _verdict(self, number: int, position: int, candidate: Candidate) -> Verdict:
        verdict = Verdict(round=self._round.number, number=number, position=position, candidate=candidate)
        instances, drop = filters.judge(candidate, self._rules)
        if drop:
            return replace(verdict, drop=drop)
        assert candidate.instruction is not None
        similarity = self._gate.compare(candidate.instruction)
        if similarity.score > self._threshold:
            drop = _too_similar(similarity)
        elif self._accepted >= self._round.wanted:
            drop = Drop("surplus", "the round was complete")
        if drop:
            return replace(verdict, drop=drop, similarity=similarity)
        task = task_of(candidate, instances)
        self._gate.add(task.id, task.instruction)
        self._accepted += 1
        return replace(verdict, task=task, similarity=similarity)


def _too_similar(similarity: Similarity) -> Drop:
    nearest = similarity.nearest[0]
    return Drop("too_similar", f"ROUGE-L {nearest.score:.3f} with {nearest.id}")
