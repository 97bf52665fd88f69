"""Gives every candidate its verdict: rules on the instruction, novelty, rules on its instances. In request order.

Reads the pool once, when a round is begun or resumed; writes nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from selfinstruct_hub import filters, languages
from selfinstruct_hub.novelty import NoveltyGate, mode_for
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import Candidate, Drop, Neighbour, Round, Verdict, task_of


class Judge:
    """Gives every candidate its verdict, in the order of Self-Instruct's steps: what is wrong with the
    instruction, whether it is new among seeds and accepted tasks, why a stage gave it up, its instances."""

    def __init__(
        self, round_: Round, gate: NoveltyGate, *, frozen: int, accepted: int, bare: Mapping[str, str]
    ) -> None:
        """`gate` knows the seeds, `frozen` tasks in all of them and of earlier rounds, and then the
        `accepted` ones of this round. `bare` are ids by instruction of the accepted ones without instances."""
        self._round = round_
        self._gate = gate
        self._frozen = frozen
        self._accepted = accepted
        self._bare = dict(bare)
        self._threshold: float = round_.settings["novelty"]["threshold"]
        rules = round_.settings["filters"]
        self._rules = filters.Rules(
            **{**rules, "blocked_words": tuple(rules["blocked_words"])},
            language=languages.of(round_.settings["language"], round_.settings.get("language_name")),
        )

    @classmethod
    def resumed(cls, pool: Pool, round_: Round) -> Judge:
        """A judge who knows the seeds and everything that the pool has accepted so far."""
        seeds = [(task.id, task.instruction) for task in pool.seeds()]
        # Of what was there when the round began, so that a resumed round is judged as it was.
        frozen = len(seeds) + sum(pool.accepted_count(number) for number in range(1, round_.number))
        novelty = round_.settings["novelty"]
        mode, threshold = novelty.get("mode", "auto"), novelty["threshold"]
        if mode == "auto":
            mode = mode_for(frozen, threshold)
        gate = NoveltyGate(novelty["most_similar"], mode=mode, threshold=threshold)
        gate.extend(seeds)
        bare: dict[str, str] = {}

        def accepted() -> Iterator[tuple[str, str]]:
            for number in range(1, round_.number + 1):
                for key, instruction, has_instances in pool.instructions(number):
                    if has_instances:
                        bare.pop(instruction, None)
                    else:
                        bare[instruction] = key
                    yield key, instruction

        gate.extend(accepted())
        return cls(round_, gate, frozen=frozen, accepted=len(gate) - frozen, bare=bare)

    def passes(self, candidate: Candidate) -> bool:
        """Whether an instruction passes the rules and is new among seeds and earlier rounds.

        Says nothing about this round's tasks: what is asked for must not depend on the order of answers. What
        does not pass here will not pass `draw` either.
        """
        if filters.instruction_drop(candidate, self._rules):
            return False
        assert candidate.instruction is not None
        return self._gate.compare(candidate.instruction, among=self._frozen).score <= self._threshold

    def draws(self, draws: Sequence[tuple[int, Sequence[Candidate]]]) -> Iterator[list[Verdict]]:
        """The verdicts on each of several numbered draws, in order, up to the draw that completes the round."""
        verdicts = self._verdicts([(n, p, candidate) for n, found in draws for p, candidate in enumerate(found)])
        for _, found in draws:
            yield list(itertools.islice(verdicts, len(found)))
            if self._accepted >= self._round.wanted:
                return

    def verdicts(self, number: int, candidates: Sequence[Candidate]) -> Iterator[Verdict]:
        """The verdicts on the candidates of one draw, one by one."""
        return self._verdicts([(number, position, candidate) for position, candidate in enumerate(candidates)])

    def _verdicts(self, places: Sequence[tuple[int, int, Candidate]]) -> Iterator[Verdict]:
        """The verdicts on (draw, position, candidate), in order; what is accepted counts against those that
        follow."""
        drops = [filters.instruction_drop(candidate, self._rules) for *_, candidate in places]
        # Compared many at a time, which is faster; each sees what was accepted before it.
        comparison = self._gate.comparison(
            [c.instruction or "" for (*_, c), drop in zip(places, drops, strict=True) if drop is None]
        )
        compared = itertools.count()
        for (number, position, candidate), drop in zip(places, drops, strict=True):
            verdict = Verdict(self._round.number, number, position, candidate, lost=candidate.lost)
            if drop is not None:
                yield replace(verdict, drop=drop)
            else:
                place = next(compared)
                verdict = self._verdict(replace(verdict, similarity=comparison[place]))
                if verdict.task:
                    comparison.accept(place, verdict.task.id)
                yield verdict

    def _verdict(self, verdict: Verdict) -> Verdict:
        """The verdict on a candidate whose instruction passes the rules and was compared."""
        candidate = verdict.candidate
        assert verdict.similarity is not None
        nearest = [near for near in verdict.similarity.nearest if not self._fills(candidate, near)]
        if nearest and nearest[0].score > self._threshold:
            return replace(verdict, drop=_too_similar(nearest[0]))
        if candidate.failure:
            return replace(verdict, drop=candidate.failure)
        instances, lost, drop = filters.kept_instances(candidate, self._rules)
        if drop is None and self._accepted >= self._round.wanted:
            drop = Drop("surplus", "the round was complete")
        if drop:
            return replace(verdict, lost=lost, drop=drop)
        task = task_of(candidate, instances)
        self._bare.pop(task.instruction, None)
        self._accepted += 1
        return replace(verdict, lost=lost, task=task)

    def _fills(self, candidate: Candidate, near: Neighbour) -> bool:
        """Whether `near` is this very instruction, imported without the instances that `candidate` brings."""
        return bool(candidate.instances) and self._bare.get(candidate.instruction or "") == near.id


def _too_similar(nearest: Neighbour) -> Drop:
    return Drop("too_similar", f"ROUGE-L {nearest.score:.3f} with {nearest.id}")
