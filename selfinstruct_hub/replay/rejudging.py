"""A complete round judged once more out of its stored answers, draw by draw. Reads the pool; writes nothing.

Every draw that was judged is judged again. A round that is short then goes on with draws that were answered and
that nobody had needed, as far as all their answers are there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from selfinstruct_hub.judging import Again, Gates, Judge, Later
from selfinstruct_hub.judging.again import NOWHERE, Ruling, Spot
from selfinstruct_hub.novelty import Mode
from selfinstruct_hub.pool import Pool, encoding
from selfinstruct_hub.pool.again import StoredDraw
from selfinstruct_hub.records import Candidate, Round, Verdict, is_import
from selfinstruct_hub.replay.ahead import LEAST_DRAWS, OURS, read_ahead
from selfinstruct_hub.replay.answers import Missing, Reader

# Draws that are read and judged together, and candidates of an import.
_DRAWS, _CANDIDATES = 256, 1024
_REVISED = 13  # of a verdict's columns
# No candidate of an import is surplus: it had no number to be complete at.
_EVERYWHERE: Spot = (1 << 62, 0)


@dataclass
class Rejudged:
    """A stored draw with its new verdicts; `known` has for each how many instructions it was compared with,
    `rulings` what the rules had said before, where they had."""

    draw: StoredDraw
    verdicts: list[Verdict] = field(default_factory=list)
    known: list[int] = field(default_factory=list)
    rulings: Sequence[Ruling | None] = ()


class Rejudging:
    """One round on its way through a judge."""

    def __init__(
        self, pool: Pool, round_: Round, *, later: Sequence[Later] = (), until: int | None = None
    ) -> None:
        """`round_` has the settings to judge by. What revisions after number `until` did is not looked at; the
        pool must be read as it stood then (`Pool.as_of`). Call `begin` before anything else."""
        self._pool = pool
        self._round = round_
        self._imported = is_import(round_.settings)
        self._settled = pool.decided(round_.number, until)
        self._decided: dict[Spot, Verdict] = {}
        self._rulings: dict[Spot, Ruling] = {}
        end = pool.last_accepted(round_.number, until) or NOWHERE
        self._again = Again(
            complete_at=_EVERYWHERE if self._imported else end,
            decided=self._decided,
            rulings=self._rulings,
            known=pool.accepted_instructions(round_.number) if later else (),
            later=later,
        )
        self.judge: Judge

    def begin(self, gates: Gates, mode: Mode | None = None) -> None:
        """Reads the earlier rounds, which the pool must hold as they are to be compared with; `mode` is how,
        whatever the settings say."""
        self.judge = Judge.resumed(self._pool, self._round, gates, again=self._again, mode=mode)

    @property
    def short(self) -> int:
        """Tasks that the round lacks."""
        return 0 if self._imported else max(0, self._round.wanted - self.judge.accepted)

    def draws(self) -> Iterator[Rejudged]:
        """All judged draws, and then those that are needed and there."""
        if self._imported:
            yield from self._of_import()
            return
        with Reader(self._round, self.judge) as reader:
            judged = self._pool.judged_draws(self._round.number)
            batches = self._batches(judged, prompts=reader.prompts)
            if self._round.settings["recipe"] in OURS and judged >= LEAST_DRAWS:
                for some, found in read_ahead(self._round, batches):
                    yield from self._judged(
                        [(draw, candidates) for draw, (candidates, _) in zip(some, found, strict=True)],
                        rulings=[rulings for _, rulings in found],
                    )
            else:
                for some in batches:
                    yield from self._judged([(draw, reader.candidates(draw)) for draw in some])
            yield from self._unneeded(reader, judged)

    def _batches(self, judged: int, *, prompts: bool) -> Iterator[list[StoredDraw]]:
        for first in range(0, judged, _DRAWS):
            count = min(_DRAWS, judged - first)
            yield self._pool.stored_draws(self._round.number, first, count, prompts=prompts)

    def _unneeded(self, reader: Reader, number: int) -> Iterator[Rejudged]:
        while self.short:
            some = self._pool.stored_draws(self._round.number, number, 1, prompts=reader.prompts)
            try:
                found = [(draw, reader.candidates(draw)) for draw in some if not draw.dropped]
            except Missing:
                return
            if not found:
                return
            yield from self._judged(found)
            number += 1

    def _of_import(self) -> Iterator[Rejudged]:
        for number in range(self._pool.judged_draws(self._round.number)):
            first = 0
            while (draw := self._pool.stored_verdicts(self._round.number, number, first, _CANDIDATES)).verdicts:
                found = [encoding.candidate(json.loads(row[3]), row[9]) for row in draw.verdicts]
                yield from self._judged([(draw, found)], first)
                first += _CANDIDATES

    def _judged(
        self,
        draws: Sequence[tuple[StoredDraw, list[Candidate]]],
        first: int = 0,
        rulings: Sequence[Sequence[Ruling]] = (),
    ) -> Iterator[Rejudged]:
        """`first` is the position of the first candidate, `rulings` what the rules have said of each."""
        standing: list[dict[int, Verdict]] = []
        asked: list[tuple[int, list[Candidate]]] = []
        self._decided.clear()
        self._rulings.clear()
        for (draw, _), of_draw in zip(draws, rulings, strict=False):
            self._rulings.update({(draw.number, place): ruling for place, ruling in enumerate(of_draw)})
        for draw, found in draws:
            stands = self._standing(draw, found)
            if draw.number == self._again.complete_at[0]:
                self._find_end(draw, found)
            standing.append(stands)
            candidates = list(found)
            for place, verdict in stands.items():
                if (verdict.number, verdict.position) in self._settled:
                    self._decided[(draw.number, first + place)] = replace(verdict, position=first + place)
                else:
                    candidates[place] = _as_it_stands(candidates[place], verdict)
                    self._rulings.pop((draw.number, first + place), None)
            asked.append((draw.number, candidates))
        for (draw, found), stands, judged in zip(draws, standing, self.judge.again(asked, first), strict=True):
            said = [self._rulings.get((draw.number, first + place)) for place, _ in enumerate(found)]
            result = Rejudged(draw, known=[known for _, known in judged], rulings=said)
            for place, (verdict, _) in enumerate(judged):
                stood = stands.get(place)
                if stood is not None and (stood.number, stood.position) not in self._settled:
                    verdict = _revised(verdict, found[place], stood)
                result.verdicts.append(verdict)
            yield result

    def _find_end(self, draw: StoredDraw, found: Sequence[Candidate]) -> None:
        """Where a parser counts otherwise in the draw that completed the round, its last task is at another
        place."""
        accepted = {json.loads(row[4])["instruction"] for row in draw.verdicts if row[4]}
        places = [place for place, candidate in enumerate(found) if candidate.instruction in accepted]
        number, position = self._again.complete_at
        self._again.complete_at = number, max(position, *places, 0)

    def _standing(self, draw: StoredDraw, found: Sequence[Candidate]) -> dict[int, Verdict]:
        """The verdicts that revisions have changed, by the place among those `found` that has their
        instruction now."""
        stood: Mapping[int, Verdict] = {
            at: encoding.verdict(row)
            for at, row in enumerate(draw.verdicts)
            if row[_REVISED] is not None or row[1:3] in self._settled
        }
        stands: dict[int, Verdict] = {}
        for at, verdict in stood.items():
            instruction = verdict.candidate.instruction
            places = sorted(range(len(found)), key=lambda place, at=at: place != at)  # type: ignore[misc]
            here = [p for p in places if found[p].instruction == instruction and p not in stands]
            if here:
                stands[here[0]] = verdict
        return stands


def _as_it_stands(candidate: Candidate, verdict: Verdict) -> Candidate:
    """What there is to judge of a candidate whose rows were revised: its instruction, and its rows as they are."""
    assert verdict.task is not None, "only tasks have revised rows"
    return replace(candidate, instances=verdict.task.instances, lost=(), missing=None, failure=None)


def _revised(verdict: Verdict, candidate: Candidate, stood: Verdict) -> Verdict:
    """The verdict on `candidate`, whose rows were judged as they stood in `stood`."""
    if verdict.task is None:
        return replace(verdict, candidate=candidate)
    assert stood.task is not None
    left = list(zip(stood.task.instances, stood.revised, strict=True))
    kept = []
    for instance in verdict.task.instances:
        place = next(place for place, (one, _) in enumerate(left) if one == instance)
        kept.append(left.pop(place)[1])
    return replace(verdict, candidate=candidate, revised=tuple(kept), lost=(*stood.lost, *verdict.lost))
