"""The verdict that follows where people rejected, corrected or won rows of one candidate. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from selfinstruct_hub.records import (
    REJECTED_BY_REVIEWER,
    REVIEW,
    Drop,
    Instance,
    Lineage,
    Lost,
    Similarity,
    Task,
    Verdict,
    task_of,
)
from selfinstruct_hub.review.lines import ACCEPT, REJECT, Line


@dataclass(frozen=True)
class Item:
    """What a line wants of one row or of what is none yet: `texts` are to be its texts, `values` its marks, which
    were `before`. `row` is its id, None for what was rejected; `instance` its number in the task, `standing` what
    that is now."""

    line: Line
    key: tuple[int, int, int]
    instance: int | None
    row: str | None
    texts: Mapping[str, str]
    values: Mapping[str, str]
    before: Mapping[str, str]
    changes_row: bool
    standing: Instance

    @property
    def wins(self) -> bool:
        return self.row is None and self.line.verdict == ACCEPT

    @property
    def rejects(self) -> bool:
        return self.row is not None and self.line.verdict == REJECT

    @property
    def made(self) -> Instance:
        return Instance(self.texts["input"], self.texts["output"])


def decided(verdict: Verdict, items: Sequence[Item], version: str) -> tuple[Verdict, dict[str, str | None]]:
    """The verdict after `items`, and the row that each item's line (by its place) is about then.

    Raises ReviewError where rows of one task would have different instructions.
    """
    standing = verdict.task.instances if verdict.task else ()
    by_instance = {item.instance: item for item in items if item.instance is not None}
    rejected = {number: item for number, item in by_instance.items() if item.rejects}
    instruction = _instruction(verdict, items)
    lineages = verdict.revised or ((),) * len(standing)
    rows = verdict.task.rows if verdict.task else []
    instances: list[Instance] = []
    revised: list[tuple[Lineage, ...]] = []
    owners: list[Item | None] = []
    for number, (row, instance) in enumerate(rows):
        if number in rejected:
            continue
        item = by_instance.get(number)
        changed = item is not None and item.changes_row
        instances.append(item.made if item is not None and changed else instance)
        note = item.line.note if item is not None else ""
        lineage = lineages[number]
        revised.append((*lineage, Lineage(version, REVIEW, row, note)) if changed else lineage)
        owners.append(item)
    won = [item for item in items if item.wins]
    for item in won:
        instances.append(item.made)
        revised.append((Lineage(version, REVIEW, item.line.id, item.line.note),))
        owners.append(item)
    after: dict[str, str | None] = {item.line.place: item.row for item in items}
    after.update({item.line.place: None for item in rejected.values()})
    if not instances:
        return _without_rows(verdict, list(rejected.values())), after
    task = task_of(replace(verdict.candidate, instruction=instruction), instances)
    if verdict.task is not None:
        task = replace(task, is_classification=verdict.task.is_classification, name=verdict.task.name)
    for owner, (row, _) in zip(owners, task.rows, strict=True):
        if owner is not None:
            after[owner.line.place] = row
    return (
        replace(
            verdict,
            task=task,
            drop=None,
            # Unknown where a rule spoke before anything was compared.
            similarity=verdict.similarity or Similarity((), None),
            lost=_lost(verdict, won, rejected),
            revised=tuple(revised) if any(revised) else (),
        ),
        after,
    )


def _instruction(verdict: Verdict, items: Sequence[Item]) -> str:
    """The instruction of the task, which all of its rows share."""
    staying = [item for item in items if item.wins or (item.row is not None and not item.rejects)]
    old = verdict.task.instruction if verdict.task else None
    texts = {item.texts["instruction"] for item in staying}
    silent = len(verdict.task.instances) if verdict.task else 0
    silent -= sum(item.row is not None for item in items)
    if old is not None and silent:
        texts.add(old)
    if len(texts) > 1:
        first = next((item for item in staying if item.texts["instruction"] != old), staying[-1])
        others = next((i for i in staying if i.texts["instruction"] != first.texts["instruction"]), None)
        where = (
            f"{others.line.at} keeps another one" if others else f"{silent} more of its rows are not in the file"
        )
        raise first.line.wrong(
            "instruction", f"changed, but all rows of a task share it, and {where}; change it in each of them"
        )
    return texts.pop() if texts else old or ""


def _lost(verdict: Verdict, won: Sequence[Item], rejected: Mapping[int, Item]) -> tuple[Lost, ...]:
    """What the task goes on without."""
    back = {item.standing for item in won}
    lost = [one for one in verdict.lost if one.instance not in back]
    if verdict.drop is not None:
        # A candidate that is won in part loses the rest for the reason that it was dropped for.
        known = {one.instance for one in lost} | back
        others = [one for one in dict.fromkeys(verdict.candidate.instances) if one not in known]
        lost += [Lost(one, Drop(verdict.drop.reason, verdict.drop.detail)) for one in others]
    lost += [Lost(item.standing, Drop(REJECTED_BY_REVIEWER, item.line.note)) for item in rejected.values()]
    return tuple(lost)


def _without_rows(verdict: Verdict, rejected: Sequence[Item]) -> Verdict:
    """A task whose last row was rejected: a candidate again, with the texts that it had as a task."""
    task = verdict.task
    assert isinstance(task, Task)
    notes = "; ".join(dict.fromkeys(item.line.note for item in rejected if item.line.note))
    lost = dict.fromkeys(one.instance for one in verdict.lost)
    candidate = replace(
        verdict.candidate, instruction=task.instruction, instances=(*task.instances, *lost), missing=None
    )
    drop = Drop(REJECTED_BY_REVIEWER, notes)
    return replace(verdict, candidate=candidate, task=None, drop=drop, revised=())
