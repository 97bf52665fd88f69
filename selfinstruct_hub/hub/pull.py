"""A workspace out of a published version: its release byte for byte, its settings, and a pool to grow on from.

Everything is made beside its place, under the commit's name, and moved there whole; in a directory that is there
already it is made inside, because that may be a mounted disk, a link, or where the user stands. A pull that was
cut goes on with the files it has.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

from selfinstruct_hub import config, seeds, versions
from selfinstruct_hub.errors import HubError, SelfInstructError, UsageError, WorkspaceBusyError, WorkspaceError
from selfinstruct_hub.figures import counted
from selfinstruct_hub.hub.connection import (
    REPO_TYPE,
    AbsentError,
    Connection,
    FileAbsentError,
    RevisionAbsentError,
    check_name,
)
from selfinstruct_hub.hub.rebuild import rebuild
from selfinstruct_hub.hub.steps import Watch, size
from selfinstruct_hub.pool import FILE_NAME as POOL_FILE
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.release import read_manifest
from selfinstruct_hub.release.verify import check
from selfinstruct_hub.rounds import editions
from selfinstruct_hub.workspace import MANIFEST, SEEDS_FILE

# Columns of releases that were never published lack what a pool is made of.
_OLDEST_FORMAT = 2
# How the name of a workspace in the making begins, or goes on after its own.
_BUILDING = ".pulling-"
_LOCK = ".lock"
# What the client notes down about its downloads.
_NOTES = ".cache"


@dataclass(frozen=True)
class PulledVersion:
    """What was pulled. `unpublished_tasks` were accepted without instances, so that no row tells of them."""

    repo: str
    commit: str
    version: str
    next_version: str
    rounds: int
    tasks: int
    rows: int
    unpublished_tasks: int


def pull(
    name: str,
    directory: Path,
    *,
    revision: str | None = None,
    watch: Watch | None = None,
    connection: Connection | None = None,
) -> PulledVersion:
    """Makes the workspace `directory` out of version `revision` (the newest tag unless given) of dataset `name`.

    Raises UsageError for a name, revision or directory that cannot be used, HubError for a dataset that is not one
    of ours, ReleaseError where it is not as it was published.
    """
    check_name(name)
    _check_empty(directory)
    watch = watch or Watch()
    connection = connection or Connection(say=watch.say)
    commit = _commit(connection, name, revision)
    target = directory.absolute()
    inside = directory.exists()
    building = (
        target / f"{_BUILDING}{commit[:12]}"
        if inside
        else target.with_name(f".{target.name}{_BUILDING}{commit[:12]}")
    )
    try:
        with _alone(building, directory):
            manifest = _manifest(connection, name, commit, building)
            folder = building / "releases" / manifest["version"]
            _download(connection, name, commit, manifest, folder, building, watch)
            watch.say(f"{manifest['version']}: checking its files")
            try:
                check(folder, load=False)
                result = _assemble(building, folder, manifest, name, commit)
            except SelfInstructError:
                # What came is not what was published: asked for again, it is read anew.
                shutil.rmtree(building, ignore_errors=True)
                raise
            _check_empty(directory)
            (building / _LOCK).unlink()
            if inside:
                _empty_into(building, target)
            else:
                building.rename(target)
    except OSError as error:
        raise WorkspaceError(f"{error.filename or directory}: cannot be written ({error.strerror})") from None
    return result


@contextmanager
def _alone(building: Path, directory: Path) -> Iterator[None]:
    """`building` for this process alone: two that fill one folder would give one of them the other's half."""
    building.mkdir(parents=True, exist_ok=True)
    lock = FileLock(building / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise WorkspaceBusyError(f"{directory}: another pull is making it; wait for it or stop it") from None
    try:
        yield
    finally:
        lock.release()


def _empty_into(building: Path, target: Path) -> None:
    """Moves what was built up into `target`; the settings, which make it a workspace, come last. What pulls of
    other versions left there goes."""
    for place in sorted(building.iterdir(), key=lambda place: place.name == config.FILE_NAME):
        place.rename(target / place.name)
    for left in target.glob(f"{_BUILDING}*"):
        shutil.rmtree(left)


def _check_empty(directory: Path) -> None:
    try:
        if directory.exists() and (
            not directory.is_dir() or any(not place.name.startswith(_BUILDING) for place in directory.iterdir())
        ):
            raise WorkspaceError(f"{directory}: is not empty; name a new or empty directory")
    except OSError as error:
        raise WorkspaceError(f"{directory}: cannot be used ({error.strerror})") from None


def _commit(connection: Connection, name: str, revision: str | None) -> str:
    """The commit of the revision, or of the newest version."""
    place: dict[str, Any] = {"repo_id": name, "repo_type": REPO_TYPE}
    try:
        refs = connection.refs(name)
        tags = {ref.name: str(ref.target_commit) for ref in refs.tags}
        known = sorted((tag for tag in tags if _is_version(tag)), key=versions.parse)
        if revision is None:
            if not known:
                raise HubError(
                    f"{name}: has no version (a tag such as {versions.FIRST}); is it a dataset that "
                    "`selfinstruct-hub push` made?"
                )
            return tags[known[-1]]
        if revision in tags:
            return tags[revision]
        if not revision:
            raise RevisionAbsentError("a revision without a name is main to the client")
        # A branch, a commit or a pull request's reference may hold a release too.
        info = connection.call(f"looking at {name}", connection.api.repo_info, **place, revision=revision)
        return str(info.sha)
    except RevisionAbsentError:
        there = ", ".join(known[-8:]) or "none"
        raise UsageError(f"{name}: has no revision {revision}; its versions: {there}") from None
    except AbsentError:
        login = "" if connection.token else "; a private one needs HF_TOKEN or `hf auth login`"
        raise HubError(f"{name}: no such dataset at {connection.endpoint}, or not for you{login}") from None


def _is_version(tag: str) -> bool:
    try:
        versions.parse(tag)
    except ValueError:
        return False
    return True


def _manifest(connection: Connection, name: str, commit: str, building: Path) -> dict[str, Any]:
    """The manifest of a commit. Raises HubError where it is none of ours, or a newer one."""
    not_ours = HubError(f"{name}: is no dataset of selfinstruct-hub ({MANIFEST} is missing or of another kind)")
    try:
        path = _file(connection, name, commit, MANIFEST, building)
        manifest = json.loads(path.read_text(encoding="utf-8"))
        format_ = manifest["format"]
        if format_ > versions.COLUMNS:
            raise HubError(
                f"{name}: made by a newer selfinstruct-hub (format {format_}, this one reads up to "
                f"{versions.COLUMNS}); upgrade with `pip install --upgrade selfinstruct-hub`"
            )
        if format_ < _OLDEST_FORMAT:
            raise HubError(f"{name}: made by an older selfinstruct-hub (format {format_}), and cannot be grown on")
        versions.parse(manifest["version"])
        for file in manifest["files"]:
            place = PurePosixPath(file["path"])
            if place.is_absolute() or ".." in place.parts or "\\" in file["path"] or ":" in file["path"]:
                raise not_ours
            int(file["bytes"])
        for entry in manifest["rounds"]:
            int(entry["round"])
            versions.parse(entry["version"])
    except (FileAbsentError, KeyError, TypeError, ValueError):
        shutil.rmtree(building, ignore_errors=True)
        raise not_ours from None
    except HubError:
        if not (building / "releases").exists():
            shutil.rmtree(building, ignore_errors=True)
        raise
    return manifest  # type: ignore[no-any-return]


def _file(connection: Connection, name: str, commit: str, path: str, folder: Path) -> Path:
    """One file of a commit, in `folder` with its path there."""
    found = connection.call(
        f"reading {name}",
        connection.api.hf_hub_download,
        name,
        path,
        repo_type=REPO_TYPE,
        revision=commit,
        local_dir=folder,
    )
    return Path(found)


def _download(
    connection: Connection,
    name: str,
    commit: str,
    manifest: Mapping[str, Any],
    folder: Path,
    building: Path,
    watch: Watch,
) -> None:
    """The release of a commit as the folder `folder`; the manifest, which was read before, comes last."""
    files = manifest["files"]
    total = sum(file["bytes"] for file in files)
    watch.say(f"{manifest['version']}: reading {counted(len(files) + 1, 'file')}, {size(total)}")
    done = 0
    for file in files:
        try:
            _file(connection, name, commit, file["path"], folder)
        except FileAbsentError:
            shutil.rmtree(building, ignore_errors=True)
            raise HubError(
                f"{name}: {file['path']} is missing, and {MANIFEST} names it; it is not as it was published"
            ) from None
        done += file["bytes"]
        watch.sent(done, total)
    for notes in (folder / _NOTES, building / _NOTES):
        shutil.rmtree(notes, ignore_errors=True)
    (building / MANIFEST).replace(folder / MANIFEST)


def _assemble(building: Path, folder: Path, manifest: Mapping[str, Any], name: str, commit: str) -> PulledVersion:
    """Settings, seeds and pool beside the release."""
    assert read_manifest(folder) == manifest
    # Whoever published it may have put an address or a path into it by hand: growing on would go there.
    settings = config.publishable(config.load(folder / config.FILE_NAME))
    for left in building.glob(f"{POOL_FILE}*"):
        left.unlink()
    with Pool.create(building / POOL_FILE) as pool:
        found = rebuild(pool, folder, manifest, repo=name, commit=commit)
        rounds = pool.rounds()
        tasks = sum(pool.accepted_count(round_.number) for round_ in rounds)
        last = editions(pool)[-1].version
    if settings.seeds is not None:
        # A file of somebody's machine, or another dataset: the seeds that were used are here.
        rows = (json.dumps(seeds.as_row(task), ensure_ascii=False) for task in found)
        (building / SEEDS_FILE).write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        settings = settings.model_copy(update={"seeds": SEEDS_FILE, "seed_dataset": config.SeedDataset()})
    (building / config.FILE_NAME).write_text(config.render(settings), encoding="utf-8")
    return PulledVersion(
        repo=name,
        commit=commit,
        version=manifest["version"],
        next_version=versions.next_round(last),
        rounds=len(rounds),
        tasks=tasks,
        rows=manifest["rows"],
        unpublished_tasks=manifest["tasks"] - tasks,
    )
