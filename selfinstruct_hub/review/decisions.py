"""From the lines of a file to what changes in the pool. Everything is checked before anything is changed.

What a person decided stands over the rules and the novelty gate; only an exact duplicate of another row is
refused, because a row is named by its content. Writes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import Change, Place, Verdict, digest
from selfinstruct_hub.review.lines import ACCEPT, KEEP, REJECT, TEXTS, Line
from selfinstruct_hub.review.places import Key, chain, fates, key_of, left_out, rows_of
from selfinstruct_hub.review.texts import changed_texts
from selfinstruct_hub.review.verdicts import Item, decided
from selfinstruct_hub.reviewed import Marks, marks

_ANEW = "export the rows again, and decide about what is there now"


@dataclass
class Decisions:
    """What a file changes. `said` counts rows by round, as `Revision.changes` has them; `done` are lines whose
    decisions stand already."""

    places: list[Place] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    rounds: set[int] = field(default_factory=set)
    said: dict[str, dict[str, int]] = field(default_factory=dict)
    done: int = 0

    def totals(self) -> dict[str, int]:
        """Rows by what became of them, over all rounds."""
        found: Counter[str] = Counter()
        for counts in self.said.values():
            found.update(counts)
        return dict(found)

    def add(self, item: Item, verdict: Verdict | None, after: tuple[str, ...], marks: Mapping[str, str]) -> None:
        """One place with its change; `verdict` stands there then, None: the one that stood."""
        number, before = len(self.places), () if item.row is None else (item.row,)
        self.places.append(Place(number, *item.key, item.instance, before))
        self.changes.append(Change(number, verdict, after, marks=dict(marks)))
        if verdict is not None:
            self.rounds.add(item.key[0])
        kind = "answered"
        if before != after:
            kind = "won" if not before else "replaced" if after else "lost"
        counts = self.said.setdefault(str(item.key[0]), {})
        counts[kind] = counts.get(kind, 0) + 1


def decide(pool: Pool, lines: Sequence[Line], version: str) -> Decisions:
    """What `lines` change, in a revision that is published as `version`.

    Raises ReviewError, one line with place and field, for the first line that cannot be followed: a row or a
    candidate that is not there, a verdict that does not fit it, an empty instruction or output, an instruction
    that is changed in some rows of its task only, a row that would be there twice.
    """
    reading = _Reading(pool, lines)
    groups: dict[Key, list[Item]] = {}
    result = Decisions()
    for line in lines:
        item = reading.item(line)
        if item is None:
            result.done += reading.states(line)
            continue
        groups.setdefault(item.key, []).append(item)
    _check_one_line_each(groups)
    new: dict[str, Item] = {}
    gone: set[str] = set()
    for key, items in groups.items():
        verdict, after = None, None
        if any(item.changes_row for item in items):
            verdict, after = decided(reading.verdict(key), items, version)
        for item in items:
            row = item.row if after is None else after.get(item.line.place)
            kept = () if row is None else (row,)
            if item.row is not None and row != item.row:
                gone.add(item.row)
            if row is not None and row != item.row:
                _check_unique(item, row, new)
                new[row] = item
            if (item.row,) == kept or (item.row is None and not kept):
                if item.values == item.before:
                    result.done += reading.states(item.line)
                    continue
                result.add(item, None, kept, item.values)
            else:
                result.add(item, verdict, kept, item.values)
    _check_new(pool, new, gone)
    return result


def _check_one_line_each(groups: Mapping[Key, Sequence[Item]]) -> None:
    for items in groups.values():
        lines: dict[str, Line] = {}
        for item in items:
            if item.row is not None and (first := lines.setdefault(item.row, item.line)) is not item.line:
                raise item.line.gone(f"is row {item.row} by now, which {first.at} is about; keep one of them")


def _check_unique(item: Item, row: str, new: Mapping[str, Item]) -> None:
    if (other := new.get(row)) is not None:
        raise item.line.gone(f"becomes the very row that {other.line.at} becomes; change one of them")


def _check_new(pool: Pool, new: Mapping[str, Item], gone: set[str]) -> None:
    for row, (key, _) in rows_of(pool, set(new) - gone).items():
        raise new[row].line.gone(
            f"becomes an exact duplicate of row {row} of round {key[0]}; change it in another way, or reject it"
        )


class _Reading:
    """The pool as the lines see it."""

    def __init__(self, pool: Pool, lines: Sequence[Line]) -> None:
        self._pool = pool
        self._marks: dict[str, Marks] = marks(pool)
        self._fates = fates(pool)
        self._complete = {round_.number for round_ in pool.rounds() if round_.complete}
        wanted = {line.id for line in lines}
        wanted |= {f.after for line in lines for _, f in chain(line.id, self._fates) if f.after is not None}
        self._rows = rows_of(pool, {row for row in wanted if key_of(row) is None})
        self._last: Verdict | None = None  # the rows of a task mostly stand together

    def verdict(self, key: Key) -> Verdict:
        found = self._at(key)
        assert found is not None
        return found

    def _at(self, key: Key) -> Verdict | None:
        last = self._last
        if last is None or (last.round, last.number, last.position) != key:
            self._last = last = self._pool.verdict_at(*key) if key[0] in self._complete else None
        return last

    @staticmethod
    def states(line: Line) -> bool:
        """Whether a line says anything beside its texts."""
        return bool(line.verdict or line.note or line.answers)

    def item(self, line: Line) -> Item | None:
        """What a line is about and wants; None where it wants nothing that is not so already."""
        key = key_of(line.id)
        if key is not None:
            return self._candidate(line, key)
        if line.id in self._rows:
            return self._row(line, line.id)
        return self._stale(line)

    def _row(self, line: Line, row: str) -> Item:
        key, instance = self._rows[row]
        task = self.verdict(key).task
        assert task is not None
        if line.verdict == ACCEPT:
            raise line.wrong("verdict", f"{row} is in the dataset already; expected {KEEP}, {REJECT} or nothing")
        before = self._before(row)
        found = task.instances[instance]
        texts = dict(zip(TEXTS, (task.instruction, found.input, found.output), strict=True))
        rejected = line.verdict == REJECT
        texts = texts if rejected else changed_texts(line, texts)
        changed = rejected or _digest(texts) != row
        # Also where nothing is said of it: the rows of a task have to agree.
        return Item(line, key, instance, row, texts, _values(line, before), before, changed, found)

    def _candidate(self, line: Line, key: Key) -> Item | None:
        verdict = self._at(key)
        if verdict is None:
            raise line.gone(
                "is no candidate of a complete round of this workspace; expected an id that `review --export` "
                "wrote here"
            )
        instance = dict(left_out(verdict)).get(line.id)
        if instance is None:
            return self._accepted_since(line, verdict)
        if line.verdict == KEEP:
            raise line.wrong(
                "verdict", f"{line.id} is a rejected candidate; expected {ACCEPT}, {REJECT} or nothing"
            )
        instruction = verdict.task.instruction if verdict.task else verdict.candidate.instruction or ""
        before = self._before(line.id)
        texts = dict(zip(TEXTS, (instruction, instance.input, instance.output), strict=True))
        accepted = line.verdict == ACCEPT
        new = changed_texts(line, texts, whole=accepted, check=accepted)
        if not accepted and not line.verdict and new != texts:
            raise line.wrong(
                "verdict", f"empty, and the texts are changed; expected {ACCEPT} to win {line.id}, or {REJECT}"
            )
        values = _values(line, before)
        if accepted:
            values.pop("id", None)
        elif values == before:
            return None
        else:
            values["id"] = line.id
        return Item(line, key, None, None, new if accepted else texts, values, before, accepted, instance)

    def _accepted_since(self, line: Line, verdict: Verdict) -> Item | None:
        """A candidate that is a row by now: what the line says of it holds for the row, if it means its texts."""
        key = (verdict.round, verdict.number, verdict.position)
        if not self.states(line):
            return None
        for instance, (row, found) in enumerate(verdict.task.rows if verdict.task else []):
            assert verdict.task is not None
            texts = dict(zip(TEXTS, (verdict.task.instruction, found.input, found.output), strict=True))
            if line.verdict != REJECT and changed_texts(line, texts) == texts:
                before = self._before(row)
                values = _values(line, before)
                return Item(line, key, instance, row, texts, values, before, False, found)
        what = "was accepted, and is a row now" if verdict.task else "is not there in this form any more"
        raise line.gone(f"{what}; {_ANEW}")

    def _stale(self, line: Line) -> Item | None:
        """A row that is not there under the id that the line has."""
        if not self.states(line) and _digest(line.texts) == line.id:
            return None  # nothing is said of it
        steps = list(chain(line.id, self._fates))
        if not steps:
            raise line.gone(
                "is no row of this workspace, or none any more; expected an id that `review --export` wrote: "
                f"{_ANEW}"
            )
        _, fate = steps[-1]
        if fate.after is None:
            if line.verdict == REJECT:
                return None
            raise line.gone(f"is not in the dataset any more: {fate.version} took it out; {_ANEW}")
        if fate.after in self._rows and line.verdict != REJECT:
            item = self._row(line, fate.after)
            if not item.changes_row:
                return item
        raise line.gone(f"is not in the dataset any more: {fate.version} replaced it by {fate.after}; {_ANEW}")

    def _before(self, row: str) -> Mapping[str, str]:
        found = self._marks.get(row)
        return found.values if found else {}


def _values(line: Line, before: Mapping[str, str]) -> dict[str, str]:
    """What is said of a row from now on: an empty cell leaves what was said before."""
    said: dict[str, Any] = {"verdict": KEEP if line.verdict == ACCEPT else line.verdict, "note": line.note}
    return {**before, **{name: value for name, value in said.items() if value}, **line.answers}


def _digest(texts: Mapping[str, str]) -> str:
    return digest(*(texts[name] for name in TEXTS))
