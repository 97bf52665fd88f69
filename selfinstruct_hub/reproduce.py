"""The `reproduce` command whole: a release held against its own stored answers, byte for byte. Writes nothing.

What each round was judged by is in the pool with its answers, so every verdict can be given again, every revision
made again, and the release built anew beside. What cannot be checked is said, and not passed over.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from selfinstruct_hub import __version__, config, published, release, seeds
from selfinstruct_hub.config import SeedDataset, Settings
from selfinstruct_hub.errors import ReleaseError, UsageError
from selfinstruct_hub.figures import counted
from selfinstruct_hub.judging import Gates
from selfinstruct_hub.pool import Pool, encoding
from selfinstruct_hub.records import REGENERATE, REPLAY, Instance, Revision, Round, Task
from selfinstruct_hub.regenerate.asking import parsed
from selfinstruct_hub.regenerate.judging import Answered, judged
from selfinstruct_hub.release.verify import check
from selfinstruct_hub.replay import Replaying, not_replayable
from selfinstruct_hub.replay.rejudging import Rejudging
from selfinstruct_hub.rounds import Edition, editions
from selfinstruct_hub.workspace import SEEDS_FILE, Workspace

Row = tuple[Any, ...]
_PICTURES = "assets/"
_DRAWN_BY, _COUNTED_BY = "matplotlib", "spacy"
_GATES = ("decontamination", "paraphrases")


@dataclass(frozen=True)
class Part:
    """Something of a release that was checked, or why it could not be. `differs` says in one line what is not as
    it was."""

    name: str
    said: str
    checked: bool = True
    differs: str | None = None


@dataclass(frozen=True)
class Reproduced:
    """What was found. `note` names files that differ without another row: pictures."""

    folder: Path
    version: str
    parts: tuple[Part, ...]
    note: str = ""

    @property
    def differs(self) -> str | None:
        """The first thing that is not as it was."""
        return next((part.differs for part in self.parts if part.differs), None)

    def as_dict(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "version": self.version,
            "reproduced": self.differs is None,
            "differs": self.differs,
            "parts": [vars(part) for part in self.parts],
            "note": self.note,
        }


@dataclass(frozen=True)
class Hooks:
    """What the caller wants to hear: (verdicts given again, of about so many)."""

    observe: Callable[[int, int], None] = lambda done, total: None


def reproduce(folder: Path, hooks: Hooks | None = None) -> Reproduced:
    """Checks the release in `folder`, which is that of a workspace, against the workspace's pool.

    Raises ReleaseError where the folder is not as it was released, UsageError where it belongs to no workspace.
    What the stored answers say otherwise than the release is in the result.
    """
    hooks = hooks or Hooks()
    place = folder.absolute()
    workspace = _workspace_of(place)
    manifest = release.read_manifest(place)
    check(place, load=False)
    settings = workspace.settings()
    with Pool.open(workspace.pool_file, read_only=True) as pool:
        made = editions(pool)
        edition = next((one for one in made if one.version == place.name), None)
        if edition is None or edition.version != manifest["version"]:
            raise UsageError(f"{folder}: the pool of {workspace.path} knows no version {manifest['version']}")
        reproducing = _Reproducing(pool, _gates(workspace, settings), manifest, hooks)
        parts = []
        for one in made[: made.index(edition) + 1]:
            parts.append(reproducing.edition(one))
            if parts[-1].differs:
                return Reproduced(folder, edition.version, tuple(parts))
        built, note = _rebuilt(place, pool, edition, manifest, workspace)
        return Reproduced(folder, edition.version, (*parts, built), note)


def _workspace_of(folder: Path) -> Workspace:
    if folder.parent.name != "releases" or not (folder.parent.parent / config.FILE_NAME).is_file():
        raise UsageError(
            f"{folder}: expected a release of a workspace, such as my-tasks/releases/v1.0.0, where its answers are"
        )
    return Workspace.at(folder.parent.parent)


def _gates(workspace: Workspace, settings: Settings) -> Gates:
    """Evaluation sets and model of today's settings; what a round was judged by may be others."""
    try:
        return Gates.opened(settings, workspace.path.absolute())
    except UsageError:
        return Gates()


class _Reproducing:
    """Gives verdicts again, and holds them against those that are stored."""

    def __init__(self, pool: Pool, gates: Gates, manifest: Mapping[str, Any], hooks: Hooks) -> None:
        self._pool = pool
        self._gates = gates
        self._made_with = manifest["made_with"]
        self._hooks = hooks
        self._total = sum(round_["candidates"] for round_ in manifest["rounds"])
        self._done = 0

    def edition(self, edition: Edition) -> Part:
        """Checks the round that was new in an edition, or its revision."""
        if (revision := edition.revision) is not None:
            name = f"{revision.version} ({revision.kind})"
            if revision.kind == REPLAY:
                return self._replay(name, revision)
            if revision.kind == REGENERATE:
                return self._regenerate(name, revision)
            return Part(name, "taken as it is stored", checked=False)
        return self._round(f"round {edition.round.number}", edition.round, edition.state)

    def _round(self, name: str, round_: Round, state: int) -> Part:
        if why := self._cannot([round_.number], round_.settings):
            return Part(name, why, checked=False)
        verdicts = 0
        with self._pool.as_of(state):
            rejudging = Rejudging(self._pool, round_, until=state)
            rejudging.begin(self._gates_of(round_.settings))
            for result in rejudging.draws():
                draw = result.draw
                place = f"{name}, request {draw.number}"
                if not draw.judged or len(result.verdicts) != len(draw.verdicts):
                    found = (
                        f"holds {counted(len(result.verdicts), 'candidate')}, and {len(draw.verdicts)} are stored"
                    )
                    return Part(name, found, differs=self._told(f"{place}: its answer {found}"))
                for old, verdict in zip(draw.verdicts, result.verdicts, strict=True):
                    new = encoding.verdict_values(verdict)
                    if old != new and encoding.verdict(old) != encoding.verdict(new):
                        differs = f"{place}, candidate {old[2]}: {_difference(old, new)}"
                        return Part(name, "differs", differs=self._told(differs))
                verdicts += len(draw.verdicts)
                self._note(len(draw.verdicts))
        return Part(name, f"{counted(verdicts, 'verdict')} given again, all the same")

    def _replay(self, name: str, revision: Revision) -> Part:
        numbers = revision.settings["judged"]
        if why := self._cannot(numbers, revision.settings):
            return Part(name, why, checked=False)
        pool, number = self._pool, revision.number
        replaying = Replaying(
            pool, revision.settings, self._gates_of(revision.settings), numbers, until=number - 1
        )
        verdicts = 0
        for round_ in [one for one in pool.rounds() if one.number in numbers]:
            with pool.as_of(number):
                stored = dict(_digests(pool, round_.number))
            with pool.as_of(number - 1):
                replaying.prepare(round_)
            with pool.as_of(number):
                replaying.begin()
            with pool.as_of(number - 1):
                for _, rows in replaying.draws():
                    for row in rows:
                        verdicts += 1
                        if stored.pop(row[1:3], b"") != _digest(row):
                            place = f"{name}, round {round_.number}, request {row[1]}, candidate {row[2]}"
                            said = (
                                f"{place}: a replay gives `{row[5] or 'accepted'}`, and another verdict is stored"
                            )
                            return Part(name, "differs", differs=self._told(said))
            if stored:
                at = min(stored)
                said = f"{name}, round {round_.number}, request {at[0]}, candidate {at[1]}: a replay has none"
                return Part(name, "differs", differs=self._told(said))
        return Part(name, f"{counted(verdicts, 'verdict')} given again, all the same")

    def _regenerate(self, name: str, revision: Revision) -> Part:
        if why := self._cannot([], revision.settings):
            return Part(name, why, checked=False)
        pool, number = self._pool, revision.number
        gates, answers = self._gates_of(revision.settings), 0
        with pool.beside() as before, before.as_of(number - 1), pool.as_of(number):
            # The places of a task follow one another.
            for at, places in groupby(
                pool.places(number, done=True), key=lambda one: (one.round, one.number, one.position)
            ):
                verdict = before.verdict_at(*at)
                assert verdict is not None, "a place is of a verdict"
                for place in places:
                    answer = pool.revision_completion(number, place.item, 0)
                    if answer is None:
                        continue  # given up: the row stays
                    request, completion = answer
                    if not request.prompt and not completion.text:
                        return Part(name, "its answers were dropped to save space (`gc`)", checked=False)
                    answers += 1
                    assert verdict.task is not None
                    candidate = parsed(request, completion, revision.settings, verdict.task, place)
                    answered = Answered(candidate, request, completion)
                    change = judged(
                        revision, place, verdict, answered, lambda one: next(gates.contaminated([one]))
                    )
                    verdict = change.verdict or verdict
                if pool.verdict_at(*at) != verdict:
                    said = (
                        f"{name}, round {at[0]}, request {at[1]}, candidate {at[2]}: its answer gives another row"
                    )
                    return Part(name, "differs", differs=self._told(said))
        return Part(name, f"{counted(answers, 'answer')} read again, the same rows")

    def _cannot(self, numbers: Sequence[int], settings: Mapping[str, Any]) -> str:
        """Why rounds cannot be judged by `settings`; empty where they can."""
        if missing := not_replayable(self._pool, numbers):
            number, why = next(iter(missing.items()))
            return why if len(numbers) == 1 else f"round {number}: {why}"
        for name in _GATES:
            if _asked(settings, name) and settings[name] != self._gates.settings[name]:
                return f"it was judged with another `{name}` than {config.FILE_NAME} names now"
        return ""

    def _gates_of(self, settings: Mapping[str, Any]) -> Gates:
        """What was asked beside rules and ROUGE-L: today's settings may ask more."""
        sets, paraphrases = (_asked(settings, name) for name in _GATES)
        return replace(
            self._gates,
            sets=self._gates.sets if sets else None,
            paraphrases=self._gates.paraphrases if paraphrases else None,
        )

    def _note(self, verdicts: int) -> None:
        self._done += verdicts
        self._hooks.observe(min(self._done, self._total), self._total)

    def _told(self, differs: str) -> str:
        """With the versions that may explain it."""
        others = _other_versions(self._made_with)
        return f"{differs}; made with {others}" if others else differs


def _asked(settings: Mapping[str, Any], name: str) -> bool:
    """Whether a round with these settings was judged with evaluation sets, or with a model for paraphrases."""
    was = settings.get(name) or {}
    return bool(was.get("against") or was.get("model"))


def _difference(old: Row, new: Row) -> str:
    """What is not the same of two verdicts."""
    said = [row[5] or "accepted" for row in (old, new)]
    if said[0] != said[1]:
        return f"`{said[0]}` is stored, and its answer is judged `{said[1]}`"
    names = (
        "candidate",
        "task",
        "reason",
        "detail",
        "nearest",
        "mean",
        "stage",
        "score",
        "lost",
        "near",
        "revised",
    )
    name = next(n for n, a, b in zip(names, old[3:], new[3:], strict=True) if a != b)
    return f"`{name}` of its verdict `{said[0]}` is another one now"


def _digests(pool: Pool, round_number: int) -> Iterator[tuple[tuple[int, int], bytes]]:
    for verdict in pool.verdicts(round_number):
        row = encoding.verdict_values(verdict)
        yield (row[1], row[2]), _digest(row)


def _digest(row: Row) -> bytes:
    text = repr(encoding.verdict_values(encoding.verdict(row)))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _rebuilt(
    folder: Path, pool: Pool, edition: Edition, manifest: Mapping[str, Any], workspace: Workspace
) -> tuple[Part, str]:
    """The release built anew in a temporary folder, against the one that is there; and what of its pictures is
    drawn otherwise here."""
    name = "release"
    source = pool.pulled()
    if source and source.version == edition.version:
        return Part(name, "it was pulled: it cannot be built here", checked=False), ""
    card = config.load(folder / config.FILE_NAME).card
    with tempfile.TemporaryDirectory(prefix="selfinstruct-hub-") as temporary:
        releases = Path(temporary) / "releases"
        releases.mkdir()
        if source and (folder.parent / source.version).is_dir():
            # What was pulled is copied from there, as it was when the release was made.
            (releases / source.version).symlink_to(folder.parent / source.version, target_is_directory=True)
        built = release.freeze(releases, pool, edition, card, _title(folder) or workspace.name)
        if built is None:
            return Part(name, "has no row now", differs=f"{folder}: the pool has no row for it"), ""
        again = release.read_manifest(built)
    was, now = ({file["path"]: file["sha256"] for file in one["files"]} for one in (manifest, again))
    differ = sorted(path for path in {**was, **now} if was.get(path) != now.get(path))
    pictures = [path for path in differ if path.startswith(_PICTURES)]
    missing = [package for package in (_DRAWN_BY, _COUNTED_BY) if _installed(package) is None]
    # Without its pictures or its verbs a card says so, and is another card.
    excused = set(pictures) | ({"README.md"} if missing and pictures else set())
    rest = [path for path in differ if path not in excused]
    note = ""
    if excused & set(differ):
        here = ", ".join(f"{one} {_installed(one) or 'not installed'}" for one in (_DRAWN_BY, _COUNTED_BY))
        note = f"not the same bytes here: {', '.join(sorted(excused & set(differ)))} (pictures and verbs; {here})"
    others = _other_versions(manifest["made_with"])
    versions = f" (made with {others})" if others else ""
    if rest:
        more = f" and {counted(len(rest) - 1, 'other file')}" if len(rest) > 1 else ""
        differs = f"{folder / rest[0]}{more}: built anew, it is not the file that was released{versions}"
        return Part(name, f"{counted(len(rest), 'file')} differ: {', '.join(rest)}", differs=differs), note
    same = len(was) - len(excused & set(differ))
    keys = sorted(key for key in {**manifest, **again} if manifest.get(key) != again.get(key))
    keys = [key for key in keys if key not in ("files", "made_with") and not (note and key == "statistics")]
    if keys:
        differs = f"{folder / 'manifest.json'}: `{keys[0]}` is another one when it is built anew{versions}"
        return Part(name, f"{counted(same, 'file')} built anew, the same bytes", differs=differs), note
    return Part(name, f"{counted(same, 'file')} built anew, the same bytes{versions}"), note


def _title(folder: Path) -> str | None:
    """The title on a card, whatever the workspace is called now."""
    _, _, behind = (folder / "README.md").read_text(encoding="utf-8").partition("---\n")
    header = yaml.safe_load(behind.partition("\n---\n")[0])
    title = header.get("pretty_name") if isinstance(header, dict) else None
    return title if isinstance(title, str) else None


def _other_versions(made_with: Mapping[str, str]) -> str:
    """The packages that a release was made with and that are others here; empty where none is."""
    here = {name: __version__ if name == "selfinstruct-hub" else _installed(name) for name in made_with}
    return ", ".join(
        f"{name} {was}, here {here[name] or 'none'}" for name, was in made_with.items() if here[name] != was
    )


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# A workspace that begins where a release did.


@dataclass(frozen=True)
class Beginning:
    """A new workspace with a release's settings and seeds. `tasks` counts the tasks of each round that a model
    wrote, `models` are those that did."""

    workspace: Workspace
    seeds: int
    tasks: tuple[int, ...]
    models: tuple[str, ...]


def begin_from(folder: Path, directory: Path) -> Beginning:
    """Makes the workspace `directory` with the settings of the release in `folder`, and its seeds beside.

    Raises ReleaseError where `folder` holds no release, WorkspaceError where `directory` is taken.
    """
    manifest = release.read_manifest(folder)
    try:
        settings = config.load(folder / config.FILE_NAME)
        rows = list(published.rows(folder, published.shards(manifest, "seeds")))
        own = [seeds.as_row(_seed(row)) for row in rows]
    except (KeyError, TypeError) as error:
        raise ReleaseError(f"{folder}: its seeds cannot be read ({error})") from None
    settings = settings.model_copy(update={"seeds": SEEDS_FILE, "seed_dataset": SeedDataset()})
    workspace = Workspace.create(directory, settings, own_seeds=own)
    grown = [entry for entry in manifest["rounds"] if entry["settings"].get("source") is None]
    models = Counter(model for entry in grown for model in entry["models"])
    return Beginning(workspace, len(own), tuple(entry["tasks"] for entry in grown), tuple(models))


def _seed(row: Mapping[str, Any]) -> Task:
    return Task(
        id=row["id"],
        name=row["name"],
        instruction=row["instruction"],
        instances=tuple(Instance(one["input"], one["output"]) for one in row["instances"]),
        is_classification=row["is_classification"],
    )
