"""One line of a review's file: which columns there are, and what a person may write into them. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from selfinstruct_hub.errors import ReviewError
from selfinstruct_hub.reviewed import NO, QUESTIONS, YES

TEXTS = ("instruction", "input", "output")
# What a person may change, and what has to be there when the file comes back.
EDITABLE = ("verdict", *TEXTS, "note", *QUESTIONS)
NEEDED = ("id", *EDITABLE)
# For reading only; nobody looks at it when the file comes back.
CONTEXT = ("reason", "detail", "score", "neighbour")
COLUMNS = ("id", "round", *EDITABLE, *CONTEXT)

KEEP, REJECT, ACCEPT = "keep", "reject", "accept"
VERDICTS = ("", KEEP, REJECT, ACCEPT)


@dataclass(frozen=True)
class Line:
    """What stands in one line: `texts` are instruction, input and output, `answers` the questions that have one.
    `place` is where it stands, for messages: "FILE, line 3"."""

    place: str
    id: str
    verdict: str
    texts: Mapping[str, str]
    note: str = ""
    answers: Mapping[str, str] = field(default_factory=dict)
    # Whether line breaks may have become others on the way, as spreadsheets do.
    any_breaks: bool = False

    @property
    def at(self) -> str:
        """The place within the file."""
        return self.place.rpartition(", ")[2]

    def wrong(self, name: str, said: str) -> ReviewError:
        """What to raise about one field."""
        return ReviewError(f"{self.place}, field `{name}`: {said}")

    def gone(self, why: str) -> ReviewError:
        """What to raise where the row or candidate is not there."""
        return ReviewError(f"{self.place}: {self.id} {why}")


def line_of(place: str, values: Mapping[str, str], *, any_breaks: bool = False) -> Line:
    """The line with `values`, texts by column. Raises ReviewError for a verdict or an answer that is none, and for
    a line without an id."""
    key = values["id"].strip()
    if not key:
        raise ReviewError(f"{place}, field `id`: empty; expected the id that `review --export` wrote")
    verdict = values["verdict"].strip().casefold()
    if verdict not in VERDICTS:
        raise ReviewError(
            f"{place}, field `verdict`: expected {KEEP}, {REJECT}, {ACCEPT} or nothing, got "
            f"{shortened(values['verdict'])}"
        )
    answers = {}
    for question in QUESTIONS:
        answer = values[question].strip().casefold()
        if answer not in ("", YES, NO):
            raise ReviewError(
                f"{place}, field `{question}`: expected {YES}, {NO} or nothing, got {shortened(values[question])}"
            )
        if answer:
            answers[question] = answer
    texts = {name: values[name] for name in TEXTS}
    return Line(place, key, verdict, texts, values["note"].strip(), answers, any_breaks)


def shortened(text: str) -> str:
    """A text of the file for a message of one line."""
    return repr(text if len(text) <= 40 else text[:39] + "…")


def row(
    key: str,
    round_number: int,
    texts: Mapping[str, str],
    *,
    marks: Mapping[str, str] | None = None,
    reason: str = "",
    detail: str = "",
    score: float | None = None,
    neighbour: str = "",
) -> dict[str, Any]:
    """The values of one line to be written, by column; what was said before stands in it."""
    said = marks or {}
    return {
        "id": key,
        "round": round_number,
        "verdict": said.get("verdict", ""),
        **texts,
        "note": said.get("note", ""),
        **{question: said.get(question, "") for question in QUESTIONS},
        "reason": reason,
        "detail": detail,
        "score": None if score is None else round(score, 4),
        "neighbour": neighbour,
    }
