"""What becomes of a place: the new row in the place of the old one, or why the old one stays. Pure functions.

One row is replaced by one row, so that nothing that was accepted is lost: what a rule of today drops, what would
repeat or contradict another instance of the task, and what was never answered leaves the old row where it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from selfinstruct_hub import filters
from selfinstruct_hub.filters import Rules
from selfinstruct_hub.records import (
    Candidate,
    Change,
    Completion,
    Drop,
    Instance,
    Lineage,
    Place,
    Request,
    Revision,
    Task,
    Verdict,
    canonical_json,
    task_of,
)
from selfinstruct_hub.regenerate.asking import language_of

# An answer had fewer instances than rows were chosen of its task.
FEWER = "fewer_instances"
# Why a candidate may not be: an evaluation set that it is near to.
Contaminated = Callable[[Candidate], Drop | None]


@dataclass(frozen=True)
class Answered:
    """What was asked for a place, and what came: without a completion the candidate says why there is none."""

    candidate: Candidate
    request: Request
    completion: Completion | None = None


def rules_of(settings: Mapping[str, Any]) -> Rules:
    """The rules on instances that a revision was begun with."""
    rules = settings["filters"]
    return Rules(**{**rules, "blocked_words": tuple(rules["blocked_words"])}, language=language_of(settings))


def judged(
    revision: Revision,
    place: Place,
    verdict: Verdict,
    answered: Answered,
    contaminated: Contaminated = lambda candidate: None,
) -> Change:
    """What becomes of `place`, where `verdict` stands now."""
    task, candidate = verdict.task, answered.candidate
    assert task is not None
    if candidate.failure is not None:
        return _stays(place, candidate.failure)
    kept, _, drop = filters.kept_instances(candidate, rules_of(revision.settings))
    clean = [instance for instance in kept if contaminated(replace(candidate, instances=(instance,))) is None]
    if drop is None and kept and not clean:
        drop = contaminated(replace(candidate, instances=kept))
    if drop is not None:
        return _stays(place, drop)
    if not task.instances:
        return _filled(revision, place, verdict, clean, answered)
    ids = [key for key, _ in task.rows]
    chosen = [at for at, key in enumerate(ids) if key in place.before]
    if place.instance is not None:
        chosen = [place.instance]
    assert [ids[at] for at in chosen] == list(place.before), "a place is changed once"
    assigned, drop = _assigned(task.instances, chosen, clean)
    fewer = len(assigned) < len(chosen)
    if drop is None and fewer:
        drop = Drop(FEWER, f"{len(assigned)} of {len(chosen)}")
    same = sum(task.instances[at] == new for at, new in assigned.items())
    marks = {"same": same} if fewer and same else None
    if same == len(assigned):
        return replace(_stays(place, drop if fewer else None), marks=marks)
    instances = tuple(assigned.get(at, old) for at, old in enumerate(task.instances))
    lineage = verdict.revised or ((),) * len(instances)
    revised = tuple(
        (*lineage[at], _lineage(revision, ids[at], answered)) if instance != task.instances[at] else lineage[at]
        for at, instance in enumerate(instances)
    )
    made = _renamed(verdict, instances)
    return Change(
        item=place.item,
        verdict=replace(verdict, task=made, revised=revised),
        after=tuple(made.rows[at][0] for at in chosen),
        reason=drop.reason if drop and fewer else None,
        detail=drop.detail if drop and fewer else "",
        marks=marks,
    )


def _assigned(
    old: Sequence[Instance], chosen: Sequence[int], new: Sequence[Instance]
) -> tuple[dict[int, Instance], Drop | None]:
    """Which new instance stands in which chosen place, and why one of them could not. None of them repeats or
    contradicts what stays beside it."""
    left, drop = list(new), None
    while True:
        assigned = dict(zip(chosen, left, strict=False))
        stays = [instance for at, instance in enumerate(old) if at not in assigned]
        wrong = None
        for instance in assigned.values():
            if instance in stays:
                wrong, drop = instance, Drop("duplicate_instance")
            elif conflict := next((c for o in stays if (c := filters.conflicting_outputs((o, instance)))), None):
                wrong, drop = instance, conflict
            if wrong is not None:
                break
        if wrong is None:
            return assigned, drop if len(assigned) < len(chosen) else None
        left.remove(wrong)


def _filled(
    revision: Revision, place: Place, verdict: Verdict, instances: Sequence[Instance], answered: Answered
) -> Change:
    """An instruction that was imported alone gets its instances."""
    assert verdict.task is not None
    made = _renamed(verdict, instances)
    lineage = _lineage(revision, verdict.task.id, answered)
    return Change(
        item=place.item,
        verdict=replace(verdict, task=made, revised=tuple((lineage,) for _ in instances)),
        after=tuple(key for key, _ in made.rows),
    )


def _renamed(verdict: Verdict, instances: Sequence[Instance]) -> Task:
    """The task with other instances, named by its content. What a review has changed of it stays."""
    assert verdict.task is not None
    return task_of(
        replace(
            verdict.candidate,
            instruction=verdict.task.instruction,
            is_classification=verdict.task.is_classification,
        ),
        instances,
    )


def _stays(place: Place, drop: Drop | None) -> Change:
    """The rows stay: because the new ones are the same, or because of `drop`."""
    return Change(
        item=place.item,
        verdict=None,
        after=place.before,
        reason=drop.reason if drop else None,
        detail=drop.detail if drop else "",
    )


def _lineage(revision: Revision, replaces: str, answered: Answered) -> Lineage:
    request, completion = answered.request, answered.completion
    assert completion is not None
    return Lineage(
        version=revision.version,
        kind=revision.kind,
        replaces=replaces,
        model=completion.model,
        endpoint_kind=completion.endpoint_kind,
        decoding=canonical_json(request.decoding.as_dict()),
        finish_reason=completion.finish_reason,
        prompt_tokens=completion.prompt_tokens,
        generated_tokens=completion.generated_tokens,
        shown=request.demonstrations,
    )


def changes(rounds: Sequence[int], changed: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What became of each round, counted in rows out of `Pool.changed`: won (of instructions that had none),
    replaced, same (the answer was the row that was there), kept {reason: n}."""
    counts: dict[int, Counter[str]] = {number: Counter() for number in rounds}
    kept: dict[int, Counter[str]] = {number: Counter() for number in rounds}
    for one in changed:
        before, after, number = one["before"] or [], one["after"] or [], one["round"]
        replaced = sum(old != new for old, new in zip(before, after, strict=True)) if before else 0
        stayed = len(before) - replaced
        same = (one["marks"] or {}).get("same", 0) if one["reason"] else stayed
        counts[number].update({"won": len(after) if not before else 0, "replaced": replaced, "same": same})
        if one["reason"]:
            # An instruction without instances has no row that could be counted: it is one that is kept.
            kept[number][one["reason"]] += stayed - same if before else 1
    return {
        str(number): {
            **{name: counts[number][name] for name in ("won", "replaced", "same") if counts[number][name]},
            **({"kept": _commonest_first(kept[number])} if kept[number].total() else {}),
        }
        for number in rounds
    }


def _commonest_first(counts: Counter[str]) -> dict[str, int]:
    found = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    return {reason: count for reason, count in found if count}
