"""A complete round judged once more out of its stored answers, draw by draw. Reads the pool; writes nothing.

Every draw that was judged is judged again. A round that is short then goes on with draws that were answered and
that nobody had needed, as far as all their answers are there.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from selfinstruct_hub.judging import Again, Beside, Gates, Judge
from selfinstruct_hub.judging.again import NOWHERE, Ruling, Spot
from selfinstruct_hub.novelty import Mode
from selfinstruct_hub.pool import Pool, encoding
from selfinstruct_hub.pool.again import Section, StoredDraw
from selfinstruct_hub.records import Candidate, Round, Verdict, is_import
from selfinstruct_hub.replay.ahead import LEAST_DRAWS, OURS, read_ahead
from selfinstruct_hub.replay.answers import Missing, Reader
from selfinstruct_hub.replay.recall import Recall, is_comparable

# Draws that are read and judged together, and candidates of an import.
_DRAWS, _CANDIDATES = 256, 1024
_REVISED = 13  # of a verdict's columns
# No candidate of an import is surplus: it had no number to be complete at.
_EVERYWHERE: Spot = (1 << 62, 0)


@dataclass
class Rejudged:
    """A stored draw with its new verdicts; `known` has for each how many instructions it was compared with,
    `rulings` what the rules had said before, where they had; at the places of `settled` a verdict stays as a
    person has decided."""

    draw: StoredDraw
    verdicts: list[Verdict] = field(default_factory=list)
    known: list[int] = field(default_factory=list)
    rulings: Sequence[Ruling | None] = ()
    settled: Container[int] = ()


@dataclass
class Others:
    """Tasks of other rounds that matter for one section of a round beside those that are known when it begins:
    `before` are more of them that were judged before it (what earlier sections had stays), `after` those that were
    judged after it and are not to be judged behind it now."""

    before: list[Beside] = field(default_factory=list)
    after: list[Beside] = field(default_factory=list)


class Rejudging:
    """One round on its way through a judge."""

    def __init__(self, pool: Pool, round_: Round, *, until: int | None = None) -> None:
        """`round_` has the settings to judge by. What revisions after number `until` did is not looked at; the
        pool must be read as it stood then (`Pool.as_of`). Call `begin` before anything else."""
        self._pool = pool
        self._round = round_
        self._imported = is_import(round_.settings)
        self._settled = pool.decided(round_.number, until)
        self._decided: dict[Spot, Verdict] = {}
        self._rulings: dict[Spot, Ruling] = {}
        self._rewritten = pool.rewritten(round_.number, until)
        end = pool.last_accepted(round_.number, until) or NOWHERE
        all_sections = pool.sections(until)
        self.sections = [one for one in all_sections if one.round == round_.number]
        began = self.sections[0].time
        self._again = Again(
            complete_at=_EVERYWHERE if self._imported else end,
            decided=self._decided,
            rulings=self._rulings,
            ends=[
                (one.before, (pool.last_accepted(round_.number, until, one.before) or NOWHERE))
                if one.filled
                else (one.before, _EVERYWHERE)
                for one in self.sections
                if one.before is not None
            ],
            sections=[one for one in all_sections if one.round < round_.number and one.time < began],
        )
        self._others: dict[int, Others] = {}
        self._recall: Recall | None = None
        self.judge: Judge

    def begin(
        self,
        gates: Gates,
        mode: Mode | None = None,
        others: Mapping[Section, Others] | None = None,
        *,
        reuse: bool = False,
    ) -> None:
        """Reads the earlier rounds, which the pool must hold as they are to be compared with; `mode` is how,
        whatever the settings say. `others` are there for sections of this round. With `reuse` what was
        compared when the round was judged first is not compared again, and nobody measures what is below the
        threshold."""
        self._others = {}
        for section, one in (others or {}).items():
            # A top-up that asked for nothing more begins where the next one does.
            earlier = self._others.get(section.first, Others()).before
            self._others[section.first] = Others([*earlier, *one.before], one.after)
        if any(one.after for one in self._others.values()):
            self._again.known = self._pool.accepted_instructions(self._round.number)
        self._again.reuse = reuse
        self.judge = Judge.resumed(self._pool, self._round, gates, again=self._again, mode=mode)
        self._recall = None
        if (gate := self.judge.reusing) is not None and is_comparable(self._pool, self._round.number):
            self._recall = Recall(self._pool, self._round, gate)

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
                    self._enter(some)
                    yield from self._judged(
                        [(draw, candidates) for draw, (candidates, _) in zip(some, found, strict=True)],
                        rulings=[rulings for _, rulings in found],
                    )
            else:
                for some in batches:
                    self._enter(some)
                    yield from self._judged([(draw, reader.candidates(draw)) for draw in some])
            yield from self._unneeded(reader, judged)

    def _batches(self, judged: int, *, prompts: bool) -> Iterator[list[StoredDraw]]:
        # A batch lies within a section.
        first, edges = 0, [*(one.first for one in self.sections[1:]), judged]
        while first < judged:
            count = min(_DRAWS, min(edge for edge in edges if edge > first) - first)
            yield self._pool.stored_draws(self._round.number, first, count, prompts=prompts)
            first += count

    def _enter(self, draws: Sequence[StoredDraw]) -> None:
        """Before anything of these draws is read: where a section begins, what it is compared with."""
        if self._recall is not None and draws and self._is_later(draws[0].number):
            # It was compared with what there was then of all rounds, and the round itself is one of them.
            self._recall.leave()
            self._recall = None
        if draws and (others := self._others.get(draws[0].number)) is not None:
            self._again.beside = [*self._again.beside, *others.before]
            self._again.later = others.after

    def _is_later(self, number: int) -> bool:
        """Whether a draw was not judged when the round was grown."""
        before = self.sections[0].before
        return before is not None and number >= before

    def _unneeded(self, reader: Reader, number: int) -> Iterator[Rejudged]:
        while self.short:
            some = self._pool.stored_draws(self._round.number, number, 1, prompts=reader.prompts)
            self._enter(some)
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
            self._enter([StoredDraw(number, True)])
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
            self._find_ends(draw, found)
            standing.append(stands)
            candidates = list(found)
            for place, verdict in stands.items():
                if (verdict.number, verdict.position) in self._settled:
                    self._decided[(draw.number, first + place)] = replace(verdict, position=first + place)
                else:
                    candidates[place] = _as_it_stands(candidates[place], verdict)
                    self._rulings.pop((draw.number, first + place), None)
            asked.append((draw.number, candidates))
        if self._recall is not None:
            self._recall.enter(draws, rulings, first if self._imported else None)
        for (draw, found), stands, judged in zip(draws, standing, self.judge.again(asked, first), strict=True):
            said = [self._rulings.get((draw.number, first + place)) for place, _ in enumerate(found)]
            settled = {place for place, one in stands.items() if (one.number, one.position) in self._settled}
            result = Rejudged(draw, known=[known for _, known in judged], rulings=said, settled=settled)
            for place, (verdict, _) in enumerate(judged):
                stood = stands.get(place)
                if stood is not None and (stood.number, stood.position) not in self._settled:
                    verdict = _revised(verdict, found[place], stood)
                result.verdicts.append(verdict)
            yield result

    def _find_ends(self, draw: StoredDraw, found: Sequence[Candidate]) -> None:
        """Where a parser counts otherwise in a draw that completed the round, its last task stands elsewhere."""
        again = self._again
        if draw.number not in (again.complete_at[0], *(end[0] for _, end in again.ends)):
            return
        accepted = {json.loads(row[4])["instruction"] for row in draw.verdicts if row[4]}
        places = [place for place, candidate in enumerate(found) if candidate.instruction in accepted]

        def moved(end: Spot) -> Spot:
            return (end[0], max(end[1], *places, 0)) if end[0] == draw.number else end

        again.complete_at = moved(again.complete_at)
        again.ends = [(before, moved(end)) for before, end in again.ends]

    def _standing(self, draw: StoredDraw, found: Sequence[Candidate]) -> dict[int, Verdict]:
        """The verdicts that revisions have changed, by the place among those `found` that has their
        instruction now."""
        stood: dict[int, Verdict] = {}
        for at, row in enumerate(draw.verdicts):
            spot: Spot = row[1:3]
            if spot in self._rewritten and spot not in self._settled:
                # As the answer had it, whatever a replay has made of it since: it was asked for to replace the
                # candidate's own rows.
                row = self._pool.past_verdict(self._rewritten[spot], self._round.number, *spot) or row
            if row[_REVISED] is not None or spot in self._settled:
                stood[at] = encoding.verdict(row)
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
