"""Gives every candidate its verdict: rules on the instruction, evaluation sets, novelty, rules on its instances.
In request order.

Reads the pool once, when a round is begun or resumed; writes nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from selfinstruct_hub import filters, languages
from selfinstruct_hub.judging.again import Again, Beside, Ruling, Spot, too_similar
from selfinstruct_hub.judging.evaluation import EvaluationSets
from selfinstruct_hub.judging.gates import Gates, paraphrase
from selfinstruct_hub.novelty import Mode, NoveltyGate, mode_for
from selfinstruct_hub.novelty.embedding import EmbeddingComparison, EmbeddingGate
from selfinstruct_hub.novelty.reuse import ReusingGate
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import Candidate, Drop, Neighbour, Round, Similarity, Verdict, task_of

__all__ = ["Again", "Beside", "EvaluationSets", "Gates", "Judge", "mode_of", "rules_of"]


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
        again: Again | None = None,
    ) -> None:
        """`gate` knows the seeds, `frozen` tasks in all of them and of earlier rounds, and then the
        `accepted` ones of this round, and so does `paraphrases`. `bare` are ids by instruction of the accepted
        ones without instances. `again` is there where the round is judged once more, from its first candidate."""
        self._round = round_
        self._gate = gate
        self._gates = gates
        self._paraphrases = paraphrases
        self._frozen = frozen
        self._accepted = accepted
        self._again = again
        self._bare = dict(bare)
        self._threshold: float = round_.settings["novelty"]["threshold"]
        self._rules = rules_of(round_.settings)

    @classmethod
    def resumed(
        cls,
        pool: Pool,
        round_: Round,
        gates: Gates | None = None,
        *,
        again: Again | None = None,
        mode: Mode | None = None,
        beyond: bool = False,
    ) -> Judge:
        """A judge who knows the seeds and everything that the pool has accepted so far; nothing of `round_` itself
        where it is judged `again`, and of later rounds only with `beyond`. `mode` is how to compare whatever the
        round's settings say."""
        gates = gates or Gates()
        seeds = [(task.id, task.instruction) for task in pool.seeds()]
        others = [one.number for one in pool.rounds()] if beyond else list(range(1, round_.number))
        others = [number for number in others if number != round_.number]
        parts: list[tuple[int, int, int | None]] = [(number, 0, None) for number in others]
        if again is None:
            parts.append((round_.number, 0, None))
        elif again.sections is not None:
            parts = [(one.round, one.first, one.before) for one in again.sections]
        # Of what was there when the round began, so that a resumed round is judged as it was.
        frozen = len(seeds) + sum(pool.accepted_count(number) for number in others)
        novelty = round_.settings["novelty"]
        threshold = novelty["threshold"]
        made = ReusingGate if again is not None and again.reuse else NoveltyGate
        gate = made(novelty["most_similar"], mode=mode or mode_of(round_, frozen), threshold=threshold)
        paraphrases = gates.paraphrases() if gates.paraphrases else None
        bare: dict[str, str] = {}

        def accepted() -> Iterator[tuple[str, str]]:
            for part in parts:
                for key, instruction, has_instances in pool.instructions(*part):
                    if has_instances:
                        bare.pop(instruction, None)
                    else:
                        bare[instruction] = key
                    yield key, instruction

        for known in (seeds, list(accepted()) if paraphrases is not None else accepted()):
            gate.extend(known)
            if paraphrases is not None:
                paraphrases.extend(known)
        if again is not None:
            frozen = len(gate)
        accepted_now = len(gate) - frozen
        known_now = {"frozen": frozen, "accepted": accepted_now}
        return cls(round_, gate, gates, **known_now, bare=bare, paraphrases=paraphrases, again=again)

    @property
    def accepted(self) -> int:
        """Tasks of the round so far."""
        return self._accepted

    @property
    def reusing(self) -> ReusingGate | None:
        """The gate where what was compared before is used again. Until it is started it compares everything."""
        return self._gate if isinstance(self._gate, ReusingGate) else None

    def measured(self, asked: Sequence[tuple[str, int]]) -> list[Similarity]:
        """How near each of several instructions is to the first so many that were known, in full."""
        return self._gate.measured(asked)

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
        if self._again is not None and any(other.drop(candidate) for other in self._again.beside):
            return False
        if self._paraphrases is None:
            return True
        near = self._paraphrases.compare(candidate.instruction, among=self._frozen)
        return near is None or near.score <= self._paraphrases.threshold

    def again(
        self, draws: Sequence[tuple[int, Sequence[Candidate]]], first: int = 0
    ) -> Iterator[list[tuple[Verdict, int]]]:
        """The verdicts on each of several numbered draws, in order, all of them; each with the number of
        instructions that were known before it. Positions are counted from `first`."""
        places = [(n, p, candidate) for n, found in draws for p, candidate in enumerate(found, start=first)]
        verdicts = self._verdicts(places)
        for _, found in draws:
            yield [
                (one, len(self._gate) - (one.task is not None)) for one in itertools.islice(verdicts, len(found))
            ]

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
        decided = self._again.decided if self._again else {}
        stands = [decided.get(place[:2]) for place in places]
        rulings = self._again.rulings if self._again else {}
        ruled = [rulings.get(place[:2]) for place in places]
        drops = [
            None if stood else said.drop if said else filters.instruction_drop(candidate, self._rules)
            for (*_, candidate), stood, said in zip(places, stands, ruled, strict=True)
        ]
        # Compared many at a time, which is faster; each sees what was accepted before it.
        sound = [number for number, drop in enumerate(drops) if drop is None and stands[number] is None]
        found = self._gates.contaminated([places[number][2] for number in sound])
        for number, drop in zip(sound, found, strict=True):
            drops[number] = drop
        texts = [
            (stood.task.instruction if stood and stood.task else candidate.instruction) or ""
            for (*_, candidate), drop, stood in zip(places, drops, stands, strict=True)
            if drop is None
        ]
        if isinstance(self._gate, ReusingGate):
            spots = [places[at][:2] for at, drop in enumerate(drops) if drop is None]
            comparison = self._gate.of(spots, texts)
        else:
            comparison = self._gate.comparison(texts)
        paraphrases = self._paraphrases.comparison(texts) if self._paraphrases is not None else None
        compared = itertools.count()
        for (number, position, candidate), drop, stood, said in zip(places, drops, stands, ruled, strict=True):
            if drop is not None:
                yield Verdict(self._round.number, number, position, candidate, drop=drop, lost=candidate.lost)
            else:
                place = next(compared)
                similarity = comparison[place]  # also of what stands: it is compared with those that follow
                if stood is None:
                    # Made once: there are many.
                    made = partial(Verdict, self._round.number, number, position, candidate, similarity=similarity)
                    verdict = self._verdict(
                        made, (number, position), candidate, similarity, paraphrases, place, said
                    )
                else:
                    verdict = stood
                    if stood.task:
                        self._bare.pop(stood.task.instruction, None)
                        self._accepted += 1
                if verdict.task:
                    comparison.accept(place, verdict.task.id)
                    if paraphrases is not None:
                        paraphrases.accept(place, verdict.task.id)
                yield verdict

    def _verdict(
        self,
        made: Callable[..., Verdict],
        spot: Spot,
        candidate: Candidate,
        similarity: Similarity,
        paraphrases: EmbeddingComparison | None,
        place: int,
        said: Ruling | None,
    ) -> Verdict:
        """The verdict on a candidate whose instruction passes the rules and was compared; among `paraphrases` it
        is at `place`. `said` is what the rules have said of it, `made` makes the verdict."""
        nearest = [near for near in similarity.nearest if not self._fills(candidate, near)][:1]
        if self._again is not None and self._again.beside:
            nearest = _nearest_of(nearest, (other.near(candidate) for other in self._again.beside))
        if nearest and nearest[0].score > self._threshold:
            return made(drop=too_similar(nearest[0]), lost=candidate.lost)
        if (drop := self._paraphrase(candidate, paraphrases, place)) is not None:
            return made(drop=drop, lost=candidate.lost)
        if candidate.failure:
            return made(drop=candidate.failure, lost=candidate.lost)
        if said is not None and said.kept is not None:
            instances, lost, drop = said.kept
        else:
            instances, lost, drop = filters.kept_instances(candidate, self._rules)
        if drop is None and self._again is not None:
            drop = self._again.not_new(candidate)
        if drop is None and self._is_surplus(spot):
            drop = Drop("surplus", "the round was complete")
        if drop:
            return made(lost=lost, drop=drop)
        task = said.task if said is not None and said.task is not None else task_of(candidate, instances)
        self._bare.pop(task.instruction, None)
        self._accepted += 1
        return made(lost=lost, task=task)

    def _is_surplus(self, spot: Spot) -> bool:
        full = self._accepted >= self._round.wanted
        if self._again is None:
            return full
        return self._again.is_surplus(spot, full=full)

    def _paraphrase(
        self, candidate: Candidate, paraphrases: EmbeddingComparison | None, place: int
    ) -> Drop | None:
        if paraphrases is None or self._paraphrases is None:
            return None
        near = paraphrases[place]
        if near is not None and (near.score <= self._paraphrases.threshold or self._fills(candidate, near)):
            near = None
        if self._again is not None and self._again.beside:
            others = (other.near_in_meaning(candidate) for other in self._again.beside)
            near = next(iter(_nearest_of([near] if near else [], others)), None)
        return paraphrase(near) if near is not None else None

    def _fills(self, candidate: Candidate, near: Neighbour) -> bool:
        """Whether `near` is this very instruction, imported without the instances that `candidate` brings."""
        return bool(candidate.instances) and self._bare.get(candidate.instruction or "") == near.id


def _nearest_of(nearest: list[Neighbour], others: Iterable[Neighbour | None]) -> list[Neighbour]:
    """The nearest of all, the first of equals, as a list of one; an empty one where there is none."""
    return sorted([*nearest, *filter(None, others)], key=lambda one: -one.score)[:1]


def rules_of(settings: Mapping[str, Any]) -> filters.Rules:
    """The rules of a round with these settings."""
    rules = settings["filters"]
    return filters.Rules(
        **{**rules, "blocked_words": tuple(rules["blocked_words"])},
        language=languages.of(settings["language"], settings.get("language_name")),
    )


def mode_of(round_: Round, frozen: int) -> Mode:
    """How a round is compared where `frozen` instructions were known when it began."""
    novelty = round_.settings["novelty"]
    mode: Mode | Literal["auto"] = novelty.get("mode", "auto")
    return mode_for(frozen, novelty["threshold"]) if mode == "auto" else mode
