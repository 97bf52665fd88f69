"""Which rows are written anew: rounds, ids, and queries on where rows come from. Only reads the pool.

A query is a field, a comparison and a value: `model=org/old`, `output_words<5`. Of a row that a revision has
written anew already, the newer answer counts.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

from selfinstruct_hub import languages
from selfinstruct_hub.config import Settings
from selfinstruct_hub.errors import UsageError
from selfinstruct_hub.plan import INSTANCE
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import Place, Round, Verdict, digest

_BATCH = 4096
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_TEXT, _NUMBER, _TRUTH = "text", "number", "yes or no"
FIELDS: Mapping[str, str] = {
    "model": _TEXT,
    "recipe": _TEXT,
    "endpoint_kind": _TEXT,
    "finish_reason": _TEXT,
    "lost": _TEXT,  # why an instance of the row's task was left out
    "similarity": _NUMBER,  # of the nearest neighbour
    "input_words": _NUMBER,
    "input_characters": _NUMBER,
    "output_words": _NUMBER,
    "output_characters": _NUMBER,
    "is_classification": _TRUTH,
}
_UNKNOWN = "none"  # the value that nothing is known of


@dataclass(frozen=True)
class Query:
    """A field compared with a value. What is not known of a row is equal to nothing but `none`."""

    field: str
    comparison: str
    value: Any  # None: unknown
    text: str

    @classmethod
    def of(cls, text: str) -> Query:
        """Reads a query. Raises UsageError, one line that names the fields there are."""
        found = re.fullmatch(r"\s*([A-Za-z_]+)\s*(!=|<=|>=|==|=|<|>)\s*(.*?)\s*", text)
        if not found or not found[3]:
            raise UsageError(
                f"--where: expected FIELD, a comparison (= != < <= > >=) and a value, such as output_words<5, got "
                f"{text!r}; fields are {', '.join(FIELDS)}"
            )
        name, comparison, said = found[1], found[2].replace("==", "="), found[3]
        kind = FIELDS.get(name)
        if kind is None:
            raise UsageError(f"--where: there is no field `{name}`; fields are {', '.join(FIELDS)}")
        if kind != _NUMBER and comparison not in ("=", "!="):
            raise UsageError(f"--where: {name} is {_told(kind)}, which = and != compare, got {text!r}")
        return cls(name, comparison, _value(name, kind, said, text), f"{name}{comparison}{said}")

    def matches(self, known: Any) -> bool:
        """Whether a row's value, or any of several, is as asked."""
        values = known if isinstance(known, tuple) else (known,)
        if self.comparison == "!=":
            return all(value != self.value for value in values)
        if self.value is None or self.comparison == "=":
            return any(value == self.value for value in values) or (self.value is None and not values)
        return any(value is not None and _COMPARISONS[self.comparison](value, self.value) for value in values)


def _told(kind: str) -> str:
    return {_TEXT: "a text", _TRUTH: "yes or no"}[kind]


def _value(name: str, kind: str, said: str, text: str) -> Any:
    if said.casefold() == _UNKNOWN:
        return None
    if kind == _NUMBER:
        try:
            return float(said)
        except ValueError:
            raise UsageError(f"--where: {name} is a number, got {text!r}") from None
    if kind == _TRUTH:
        truths = {"yes": True, "true": True, "no": False, "false": False}
        if said.casefold() not in truths:
            raise UsageError(f"--where: {name} is yes, no or none, got {text!r}")
        return truths[said.casefold()]
    return said


@dataclass(frozen=True)
class Choice:
    """What a user has chosen. None: not said. `rounds` are the first and the last one; `ids` are ids of rows, in
    their file's order; `seed` is for sampling."""

    part: str | None = None
    rounds: tuple[int, int] | None = None
    where: tuple[Query, ...] | None = None
    ids: tuple[str, ...] | None = None
    seed: int | None = None

    def as_settings(self) -> dict[str, Any]:
        """What a revision keeps of it, to know it again."""
        ids = None if self.ids is None else {"rows": len(self.ids), "digest": digest(*sorted(self.ids))}
        return {
            "rounds": None if self.rounds is None else list(self.rounds),
            "where": None if self.where is None else [query.text for query in self.where],
            "ids": ids,
        }


def seeded(settings: Settings, choice: Choice) -> Settings:
    """The settings with the seed that was chosen."""
    return settings if choice.seed is None else settings.model_copy(update={"seed": choice.seed})


def rounds_of(pool: Pool, choice: Choice) -> list[Round]:
    """The complete rounds that are meant. Raises UsageError where one of them is not there."""
    complete = [round_ for round_ in pool.rounds() if round_.complete]
    if choice.rounds is None:
        return complete
    first, last = choice.rounds
    there = {round_.number: round_ for round_ in complete}
    if first > last or first not in there or last not in there:
        said = f"{first}" if first == last else f"{first}-{last}"
        whole = f"rounds 1 to {len(complete)}" if len(complete) > 1 else "round 1"
        raise UsageError(f"--rounds: the pool has {whole}, got {said}")
    return [there[number] for number in range(first, last + 1)]


def places(pool: Pool, choice: Choice, part: str) -> list[Place]:
    """What is to be changed, in the order of rounds, draws, candidates and instances: for outputs a place for each
    row, for instances one for each task with the ids of the rows that were chosen.

    Raises UsageError for a round or a row that is not there.
    """
    wanted = None if choice.ids is None else set(choice.ids)
    left = set(wanted or ())
    found: list[Place] = []
    # What came alone first and with its instances later is one task: see `exchange`.
    worked = _worked(pool) if part == INSTANCE and wanted is None and not choice.where else set()
    for round_ in rounds_of(pool, choice):
        for verdict, chosen in _chosen(pool, round_, choice.where or (), wanted, left):
            rows = verdict.task.rows if verdict.task else []
            at = (round_.number, verdict.number, verdict.position)
            if part == INSTANCE:
                # An instruction without instances gets its first ones.
                if chosen or (verdict.task and not rows and verdict.task.instruction not in worked):
                    found.append(Place(len(found), *at, None, tuple(rows[place][0] for place in chosen)))
            else:
                for place in chosen:
                    found.append(Place(len(found), *at, place, (rows[place][0],)))
    if left:
        assert choice.ids is not None
        place = next(number for number, key in enumerate(choice.ids, start=1) if key in left)
        more = f" (and {len(left) - 1:,} more are missing)" if len(left) > 1 else ""
        raise UsageError(f"--ids: line {place}: no row of these rounds has the id {choice.ids[place - 1]!r}{more}")
    return found


def _worked(pool: Pool) -> set[str]:
    """The instructions that have instances."""
    every = (entry for round_ in pool.rounds() for entry in pool.instructions(round_.number))
    return {instruction for _, instruction, has_instances in every if has_instances}


def _chosen(
    pool: Pool, round_: Round, where: Sequence[Query], wanted: set[str] | None, left: set[str]
) -> Iterator[tuple[Verdict, list[int]]]:
    """The accepted candidates of a round of which something is chosen, with the places of the chosen instances;
    ids that were found are taken out of `left`."""
    answers = _answers(pool, round_, where)
    for verdict in pool.verdicts(round_.number, accepted=True):
        assert verdict.task is not None
        if not verdict.task.instances:
            if wanted is None and not where:
                yield verdict, []
            continue
        origin = _origin(answers, verdict) if answers is not None else {}
        chosen = []
        for place, (key, _) in enumerate(verdict.task.rows):
            if wanted is not None and key not in wanted:
                continue
            left.discard(key)
            if all(query.matches(fact(query.field, round_, verdict, place, origin)) for query in where):
                chosen.append(place)
        if chosen:
            yield verdict, chosen


class _Answers:
    """What is known of a round's completions, passed by in request order."""

    def __init__(self, pool: Pool, round_number: int) -> None:
        rows = chain.from_iterable(pool.answer_columns(round_number, _BATCH))
        self._draws = groupby(rows, key=lambda row: int(row[0]))
        self._number = -1
        self._of_draw: dict[int, tuple[Any, ...]] = {}

    def of(self, number: int) -> Mapping[int, tuple[Any, ...]]:
        """The completions of a draw, by call. Draws are asked for in order."""
        while self._number < number:
            self._number, rows = next(self._draws, (number, iter(())))
            self._of_draw = {int(row[1]): row for row in rows} if self._number >= number else {}
        return self._of_draw if self._number == number else {}


def _answers(pool: Pool, round_: Round, where: Sequence[Query]) -> _Answers | None:
    asked = {"model", "endpoint_kind", "finish_reason"} & {query.field for query in where}
    return _Answers(pool, round_.number) if asked else None


def _origin(answers: _Answers, verdict: Verdict) -> dict[str, Any]:
    """Of the answer that brought a candidate's instances: the last of its calls."""
    of_draw = answers.of(verdict.number)
    found = next((of_draw[call] for call in reversed(verdict.candidate.calls) if call in of_draw), None)
    if found is None:
        return {}
    return {"finish_reason": found[5], "model": found[8], "endpoint_kind": found[9]}


def fact(name: str, round_: Round, verdict: Verdict, place: int, origin: Mapping[str, Any]) -> Any:
    """What is known of instance `place` of an accepted candidate; None where nothing is. Several values are a
    tuple."""
    assert verdict.task is not None
    if name in ("model", "endpoint_kind", "finish_reason"):
        lineage = verdict.revised[place] if verdict.revised else ()
        newer = next((one for one in reversed(lineage) if one.model is not None), None)
        return origin.get(name) if newer is None else getattr(newer, name)
    if name == "recipe":
        return round_.settings["recipe"]
    if name == "lost":
        return tuple(one.drop.reason for one in verdict.lost)
    if name == "similarity":
        measured = verdict.similarity
        return None if measured is None or (not measured.nearest and measured.mean is None) else measured.score
    if name == "is_classification":
        return verdict.task.is_classification
    text, _, unit = name.partition("_")
    value = getattr(verdict.task.instances[place], text)
    return languages.words(value) if unit == "words" else len(value)
