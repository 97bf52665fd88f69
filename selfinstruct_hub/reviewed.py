"""What people have said of rows: read out of the pool's reviews, computed, never typed. Writes nothing.

A review's marks belong to the row as it stands after the review. A row that another revision replaces since has
another id, and nobody has looked at it yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import COMPLETE, REVIEW, Revision

# The questions that Self-Instruct's authors asked people (https://arxiv.org/abs/2212.10560, section 4.3): does the
# instruction describe a valid task, does the input fit it, is the output a correct and acceptable answer?
QUESTIONS = ("valid_task", "appropriate_input", "acceptable_output")
YES, NO = "yes", "no"


@dataclass(frozen=True)
class Marks:
    """What was said last of a row, or of a rejected candidate: `values` by name. `round`, `number` and `position`
    are the place of its candidate."""

    round: int
    number: int
    position: int
    values: Mapping[str, str]


def reviews(pool: Pool, state: int | None = None) -> list[Revision]:
    """The complete reviews up to revision number `state`, or all."""
    return [
        one
        for one in pool.revisions()
        if one.kind == REVIEW and one.state == COMPLETE and (state is None or one.number <= state)
    ]


def marks(pool: Pool, state: int | None = None) -> dict[str, Marks]:
    """The latest marks by row id, up to revision number `state`; of a candidate that stays rejected by its id
    in a review (see `candidate_id`)."""
    found: dict[str, Marks] = {}
    for revision in reviews(pool, state):
        for one in pool.changed(revision.number):
            if one["marks"] is None:
                continue
            place = (one["round"], one["number"], one["position"])
            for before in one["before"]:
                found.pop(before, None)
            if one["after"]:
                found[one["after"][0]] = Marks(*place, one["marks"])
            elif not one["before"]:
                found[one["marks"]["id"]] = Marks(*place, one["marks"])
    return found


def candidate_id(round_number: int, number: int, position: int) -> str:
    """What names a candidate by its place. The letter in front keeps spreadsheets from reading a date."""
    return f"c{round_number}/{number}/{position}"


def shares(pool: Pool, state: int | None = None) -> dict[str, Any] | None:
    """What reviews say of the rows, up to revision number `state`; None where nobody has reviewed anything. The
    pool must read as it stood then (`pool.as_of`).

    `reviewed`: rows of the release that somebody decided about, corrected or answered for; `answered`: those with
    an answer to any question; `questions`: {name: {answered, yes, share}}; `all_yes`: the same of the rows with
    all three answers. `share` is of 1, and None without an answer. `rejected`, `corrected`, `won`: rows that the
    reviews took out, changed and brought in, in all.
    """
    done = reviews(pool, state)
    if not done:
        return None
    rejected = corrected = won = 0
    for revision in done:
        for one in pool.changed(revision.number):
            before, after = one["before"], one["after"]
            rejected += bool(before and not after)
            corrected += bool(before and after and before != after)
            won += bool(after and not before)
    said = [found.values for found in _of_rows(pool, marks(pool, state))]
    answers = [[values.get(question) for question in QUESTIONS] for values in said]
    whole = [row for row in answers if all(row)]
    return {
        "reviewed": len(said),
        "answered": sum(any(row) for row in answers),
        "questions": {
            question: _share([row[place] for row in answers if row[place]])
            for place, question in enumerate(QUESTIONS)
        },
        "all_yes": _share([YES if set(row) == {YES} else NO for row in whole]),
        "rejected": rejected,
        "corrected": corrected,
        "won": won,
    }


def _share(answers: list[str | None]) -> dict[str, Any]:
    yes = answers.count(YES)
    return {"answered": len(answers), "yes": yes, "share": round(yes / len(answers), 4) if answers else None}


def _of_rows(pool: Pool, found: Mapping[str, Marks]) -> Iterator[Marks]:
    """The marks of rows that are there now."""
    elsewhere: dict[int, set[str]] = {}
    for row, one in found.items():
        if "/" in row:
            continue
        verdict = pool.verdict_at(one.round, one.number, one.position)
        if verdict is not None and verdict.task and any(row == key for key, _ in verdict.task.rows):
            yield one
            continue
        # A replay may have found the same row at another place of its round.
        if one.round not in elsewhere:
            elsewhere[one.round] = {key for task in pool.tasks(one.round) for key, _ in task.rows}
        if row in elsewhere[one.round]:
            yield one
