"""Gives every candidate its verdict: rules on the instruction, evaluation sets, novelty, rules on its instances.
In request order.

Reads the pool once, when a round is begun or resumed; writes nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from selfinstruct_hub import filters, languages
from selfinstruct_hub.judging.evaluation import EvaluationSets
from selfinstruct_hub.judging.gates import Gates, paraphrase
from selfinstruct_hub.novelty import NoveltyGate, mode_for
from selfinstruct_hub.novelty.embedding import EmbeddingComparison, EmbeddingGate
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import TOO_SIMILAR, Candidate, Drop, Neighbour, Round, Verdict, task_of

__all__ = ["EvaluationSets", "Gates", "Judge"]


class Judge:
    """Gives every candidate its verdict, in the order of Self-Instruct's steps: what is wrong with the
    instruction, whether it is from an evaluation set, whether it is new among seeds and accepted tasks, why a
    stage gave it up, its instances."""

    def __init__(
        self,
        round_: Round,
        gate: NoveltyGate,
        gates: Gates,
        *,
        frozen: int,
        accepted: int,
        bare: Mapping[str, str],
        paraphrases: EmbeddingGate | None = None,
    ) -> None:
        """`gate` knows the seeds, `frozen` tasks in all of them and of earlier rounds, and then the
        `accepted` ones of this round, and so does `paraphrases`. `bare` are ids by instruction of the accepted
        ones without instances."""
        self._round = round_
        self._gate = gate
        self._gates = gates
        self._paraphrases = paraphrases
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
    def resumed(cls, pool: Pool, round_: Round, gates: Gates | None = None) -> Judge:
        """A judge who knows the seeds and everything that the pool has accepted so far."""
        gates = gates or Gates()
        seeds = [(task.id, task.instruction) for task in pool.seeds()]
        # Of what was there when the round began, so that a resumed round is judged as it was.
        frozen = len(seeds) + sum(pool.accepted_count(number) for number in range(1, round_.number))
        novelty = round_.settings["novelty"]
        mode, threshold = novelty.get("mode", "auto"), novelty["threshold"]
        if mode == "auto":
            mode = mode_for(frozen, threshold)
        gate = NoveltyGate(novelty["most_similar"], mode=mode, threshold=threshold)
        paraphrases = gates.paraphrases() if gates.paraphrases else None
        bare: dict[str, str] = {}

        def accepted() -> Iterator[tuple[str, str]]:
            for number in range(1, round_.number + 1):
                for key, instruction, has_instances in pool.instructions(number):
                    if has_instances:
                        bare.pop(instruction, None)
                    else:
                        bare[instruction] = key
                    yield key, instruction

        for known in (seeds, list(accepted()) if paraphrases is not None else accepted()):
            gate.extend(known)
            if paraphrases is not None:
                paraphrases.extend(known)
        accepted_now = len(gate) - frozen
        return cls(round_, gate, gates, frozen=frozen, accepted=accepted_now, bare=bare, paraphrases=paraphrases)

    def passing(self, candidates: Sequence[Candidate]) -> list[bool]:
        """Whether each instruction passes the rules, is from no evaluation set, and is new among seeds and earlier
        rounds. May run in a thread beside the one that judges.

        Says nothing about this round's tasks: what is asked for must not depend on the order of answers. What
        does not pass here will not pass `draws` either.
        """
        sound = [filters.instruction_drop(candidate, self._rules) is None for candidate in candidates]
        left = [candidate for candidate, well in zip(candidates, sound, strict=True) if well]
        found = iter(
            [
                drop is None and self._is_new(c)
                for c, drop in zip(left, self._gates.contaminated(left), strict=True)
            ]
        )
        return [well and next(found) for well in sound]

    def _is_new(self, candidate: Candidate) -> bool:
        """Whether an instruction is new among seeds and earlier rounds."""
        assert candidate.instruction is not None
        if self._gate.compare(candidate.instruction, among=self._frozen).score > self._threshold:
            return False
        if self._paraphrases is None:
            return True
        near = self._paraphrases.compare(candidate.instruction, among=self._frozen)
        return near is None or near.score <= self._paraphrases.threshold

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
        sound = [number for number, drop in enumerate(drops) if drop is None]
        found = self._gates.contaminated([places[number][2] for number in sound])
        for number, drop in zip(sound, found, strict=True):
            drops[number] = drop
        texts = [c.instruction or "" for (*_, c), drop in zip(places, drops, strict=True) if drop is None]
        comparison = self._gate.comparison(texts)
        paraphrases = self._paraphrases.comparison(texts) if self._paraphrases is not None else None
        compared = itertools.count()
        for (number, position, candidate), drop in zip(places, drops, strict=True):
            verdict = Verdict(self._round.number, number, position, candidate, lost=candidate.lost)
            if drop is not None:
                yield replace(verdict, drop=drop)
            else:
                place = next(compared)
                verdict = self._verdict(replace(verdict, similarity=comparison[place]), paraphrases, place)
                if verdict.task:
                    comparison.accept(place, verdict.task.id)
                    if paraphrases is not None:
                        paraphrases.accept(place, verdict.task.id)
                yield verdict

    def _verdict(self, verdict: Verdict, paraphrases: EmbeddingComparison | None, place: int) -> Verdict:
        """The verdict on a candidate whose instruction passes the rules and was compared; among `paraphrases` it
        is at `place`."""
        candidate = verdict.candidate
        assert verdict.similarity is not None
        nearest = [near for near in verdict.similarity.nearest if not self._fills(candidate, near)]
        if nearest and nearest[0].score > self._threshold:
            return replace(verdict, drop=_too_similar(nearest[0]))
        if (drop := self._paraphrase(candidate, paraphrases, place)) is not None:
            return replace(verdict, drop=drop)
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

    def _paraphrase(
        self, candidate: Candidate, paraphrases: EmbeddingComparison | None, place: int
    ) -> Drop | None:
        if paraphrases is None or self._paraphrases is None:
            return None
        near = paraphrases[place]
        if near is None or near.score <= self._paraphrases.threshold:
            return None
        return None if self._fills(candidate, near) else paraphrase(near)

    def _fills(self, candidate: Candidate, near: Neighbour) -> bool:
        """Whether `near` is this very instruction, imported without the instances that `candidate` brings."""
        return bool(candidate.instances) and self._bare.get(candidate.instruction or "") == near.id


def _too_similar(nearest: Neighbour) -> Drop:
    return Drop(TOO_SIMILAR, f"ROUGE-L {nearest.score:.3f} with {nearest.id}", nearest)
