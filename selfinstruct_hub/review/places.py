"""Where a line's row or candidate stands in the pool now, and what became of one that stands there no more.

Reads only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from selfinstruct_hub.pool import Pool
from selfinstruct_hub.pool.identities import separate
from selfinstruct_hub.records import COMPLETE, Instance, Verdict, canonical_json
from selfinstruct_hub.reviewed import candidate_id

_CANDIDATE = re.compile(r"c([1-9]\d{0,8})/(\d{1,9})/(\d{1,9})(?:/([0-9a-f]{8}))?")

Key = tuple[int, int, int]  # of a verdict: round, number, position


@dataclass(frozen=True)
class Fate:
    """What a revision made of a row: `after` is the id that it has since, None where the row went."""

    version: str
    after: str | None


def rows_of(pool: Pool, wanted: Collection[str]) -> dict[str, tuple[Key, int]]:
    """Of the row ids that are `wanted`, the place of each that is a row of a complete round: its verdict, and the
    number of its instance."""
    found: dict[str, tuple[Key, int]] = {}
    for round_ in pool.rounds():
        if not round_.complete or len(found) == len(wanted):
            continue
        for number, position, joined in pool.row_ids(round_.number):
            for instance, row in enumerate(separate(joined)):
                if row in wanted:
                    found[row] = ((round_.number, number, position), instance)
    return found


def fates(pool: Pool) -> dict[str, Fate]:
    """What became last of the rows that revisions changed one by one, by the id that each had."""
    found: dict[str, Fate] = {}
    for revision in pool.revisions():
        if revision.state == COMPLETE:
            for one in pool.changed(revision.number):
                after = one["after"][0] if one["after"] else None
                for before in one["before"]:
                    if before != after:
                        found[before] = Fate(revision.version, after)
    return found


def left_out(verdict: Verdict) -> list[tuple[str, Instance]]:
    """What of a candidate is no row, and could be one: (id, instance) pairs. A rejected candidate without any
    instance has an empty one."""
    of_candidate = [*verdict.candidate.instances, *(one.instance for one in verdict.lost)]
    there = set(verdict.task.instances) if verdict.task else set()
    instances = [one for one in dict.fromkeys(of_candidate) if one not in there]
    key = candidate_id(verdict.round, verdict.number, verdict.position)
    if verdict.task is None and len(instances) < 2:
        return [(key, instances[0] if instances else Instance("", ""))]
    # By its texts, so that an id never comes to mean another instance.
    return [(f"{key}/{_suffix(one)}", one) for one in instances]


def key_of(text: str) -> Key | None:
    """The place that a candidate's id names; None for what is none."""
    found = _CANDIDATE.fullmatch(text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def chain(row: str, known: dict[str, Fate]) -> Iterator[tuple[str, Fate]]:
    """What became of a row, revision by revision: (id until then, its fate)."""
    seen = set()
    while row in known and row not in seen:
        seen.add(row)
        fate = known[row]
        yield row, fate
        if fate.after is None:
            return
        row = fate.after


def _suffix(instance: Instance) -> str:
    return hashlib.sha256(canonical_json([instance.input, instance.output]).encode()).hexdigest()[:8]
