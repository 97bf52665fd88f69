"""What changed from one release to another, by round: rows that were added, removed, or have another output.

Reads the Parquet shards as streams. Memory holds the ids of a round that differs, and no texts.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfinstruct_hub import published, versions
from selfinstruct_hub.errors import ReleaseError, UsageError, WorkspaceError
from selfinstruct_hub.records import digest
from selfinstruct_hub.release import read_manifest
from selfinstruct_hub.workspace import is_release

_CONFIG = "default"
_COLUMNS = ("id", "instruction", "input")


@dataclass(frozen=True)
class RoundDifference:
    """A round of two releases. `added`, `removed` and both sides of `changed` are ids of rows, in their order;
    `same` counts the rows that both have."""

    round: int
    same: int
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[tuple[str, str], ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "round": self.round,
            "same": self.same,
            "added": list(self.added),
            "removed": list(self.removed),
            "changed": [{"from": before, "to": after} for before, after in self.changed],
        }


@dataclass(frozen=True)
class Difference:
    """Two releases, the rounds of either in order."""

    before: str  # version
    after: str
    rounds: tuple[RoundDifference, ...]

    @property
    def totals(self) -> dict[str, int]:
        """Rows by what became of them: same, added, removed, changed."""
        return {
            "same": sum(round_.same for round_ in self.rounds),
            "added": sum(len(round_.added) for round_ in self.rounds),
            "removed": sum(len(round_.removed) for round_ in self.rounds),
            "changed": sum(len(round_.changed) for round_ in self.rounds),
        }

    def as_dict(self) -> dict[str, Any]:
        rounds = [round_.as_dict() for round_ in self.rounds]
        return {"from": self.before, "to": self.after, **self.totals, "rounds": rounds}


def sides(directory: Path, first: str, second: str | None) -> tuple[Path, Path]:
    """The two release folders that are named: by two versions of the workspace `directory`, or as `directory` and
    another folder. Raises UsageError where they are not there."""
    if second is not None:
        return release_of(directory, first), release_of(directory, second)
    if _order(first) and not Path(first).exists():
        raise UsageError(
            f"{first}: expected two versions, as in `selfinstruct-hub diff {directory} {first} V2`, or two folders"
        )
    return directory, Path(first)


def release_of(directory: Path, version: str) -> Path:
    """The folder of a version in the workspace `directory`. Raises UsageError where there is none."""
    folder = directory / "releases" / version
    try:
        places = list((directory / "releases").iterdir()) if (directory / "releases").is_dir() else []
        there = sorted((p.name for p in places if not p.name.startswith(".") and is_release(p)), key=_order)
    except OSError as error:
        raise WorkspaceError(f"{error.filename or directory}: cannot be read ({error.strerror})") from None
    if version not in there:
        known = ", ".join(there[-8:]) or "none"
        raise UsageError(f"{directory}: has no release {version}; it has: {known}")
    return folder


def difference(before: Path, after: Path) -> Difference:
    """What changed from the release folder `before` to `after`.

    A row is the same where instruction, input and output are; it is changed where the same round has its
    instruction and input with another output, or, if there is none, its instruction with another input. A round
    whose shards are the same bytes is not read. Raises ReleaseError for a folder that is no release.
    """
    try:
        manifests = [read_manifest(folder) for folder in (before, after)]
        numbers = sorted({int(entry["round"]) for manifest in manifests for entry in manifest["rounds"]})
        shards = [
            {number: published.shards(manifest, _CONFIG, number) for number in numbers} for manifest in manifests
        ]
        rounds = tuple(
            _round(number, (before, after), (shards[0][number], shards[1][number])) for number in numbers
        )
        return Difference(str(manifests[0]["version"]), str(manifests[1]["version"]), rounds)
    except (KeyError, TypeError, ValueError) as error:
        raise ReleaseError(f"{before} or {after}: its manifest is none of a release ({error!r})") from None
    except OSError as error:
        raise ReleaseError(f"{error.filename or before}: cannot be read ({error.strerror})") from None


def _order(name: str) -> tuple[int, ...]:
    try:
        return versions.parse(name)
    except ValueError:
        return ()


def _round(
    number: int, folders: tuple[Path, Path], files: tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]
) -> RoundDifference:
    if [file["sha256"] for file in files[0]] == [file["sha256"] for file in files[1]]:
        return RoundDifference(number, sum(file["rows"] for file in files[0]), (), (), ())
    gone = Counter(row["id"] for row in published.rows(folders[0], files[0], ("id",)))
    new: Counter[str] = Counter()
    same = 0
    for row in published.rows(folders[1], files[1], ("id",)):
        if gone[row["id"]] > 0:
            gone[row["id"]] -= 1
            same += 1
        else:
            new[row["id"]] += 1
    left = list(_marked(folders[0], files[0], gone))
    come = list(_marked(folders[1], files[1], new))
    changed: dict[int, int] = {}
    for level in (1, 2):  # instruction and input, then the instruction alone
        places: defaultdict[Hashable, deque[int]] = defaultdict(deque)
        for place, marks in enumerate(left):
            if place not in changed:
                places[marks[level]].append(place)
        taken = set(changed.values())
        for place, marks in enumerate(come):
            if place not in taken and places[marks[level]]:
                changed[places[marks[level]].popleft()] = place
    kept = set(changed.values())
    return RoundDifference(
        round=number,
        same=same,
        added=tuple(marks[0] for place, marks in enumerate(come) if place not in kept),
        removed=tuple(marks[0] for place, marks in enumerate(left) if place not in changed),
        changed=tuple((left[a][0], come[b][0]) for a, b in sorted(changed.items())),
    )


def _marked(
    folder: Path, files: Sequence[Mapping[str, Any]], wanted: Counter[str]
) -> Iterator[tuple[str, str, str]]:
    """(id, digest of instruction and input, digest of the instruction) of the rows that are wanted, so many of
    each id."""
    if not wanted.total():
        return
    left = Counter(wanted)
    for row in published.rows(folder, files, _COLUMNS):
        if left[row["id"]] > 0:
            left[row["id"]] -= 1
            yield row["id"], digest(row["instruction"], row["input"]), digest(row["instruction"])
