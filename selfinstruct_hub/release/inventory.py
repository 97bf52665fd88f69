"""Whether the releases of a workspace are still what was released, as far as a glance tells: for every start.

Looks for each file and its size, and at its digest where all of them together are small; `verify.py` looks into
one release and believes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from selfinstruct_hub import versions
from selfinstruct_hub.digests import sha256_of
from selfinstruct_hub.errors import ReleaseError
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.release import read_manifest
from selfinstruct_hub.release.shards import MEND
from selfinstruct_hub.rounds import editions
from selfinstruct_hub.workspace import MANIFEST, is_release

# So much is read in a fraction of a second.
_SMALL = 64 << 20  # bytes


def check(releases: Path, pool: Pool) -> None:
    """Raises ReleaseError for the first release that cannot be built upon, in one line that says what to do."""
    for problem in problems(releases, pool, shards_only=True):
        raise ReleaseError(problem)


def problems(
    releases: Path, pool: Pool, *, shards_only: bool = False, digests: bool | None = None
) -> Iterator[str]:
    """What is wrong with the releases in the folder `releases`, a line each, in the order of their versions.

    `shards_only` leaves out files that no later release is made of; `digests` says whether every file is read
    (None: where that takes no time worth mentioning).
    """
    folders = _folders(releases)  # before the pool: who grows it beside us completes a round there first
    if digests is None:
        digests = sum(map(_size, folders)) <= _SMALL
    source = pool.pulled()
    known = {edition.version for edition in editions(pool)}
    for folder in folders:
        pulled = source is not None and source.version == folder.name
        mend = MEND
        if source is not None and pulled:
            mend = f"restore it from a copy, or `selfinstruct-hub pull {source.repo}` into another folder has it"
        elif folder.name not in known and is_release(folder):
            yield (
                f"{folder}: is released, and {pool.path.name} has not come so far; restore {pool.path.name} from "
                "a backup, or move the release away and have it made anew"
            )
            continue
        yield from _problems(folder, mend, shards_only=shards_only, digests=digests)


def _folders(releases: Path) -> list[Path]:
    """The folders that have a version's name, by version."""
    if not releases.is_dir():
        return []
    found = []
    for folder in releases.iterdir():
        try:
            found.append((versions.parse(folder.name), folder))
        except ValueError:
            continue
    return [folder for _, folder in sorted(found)]


def _size(folder: Path) -> int:
    """Bytes of a release as its manifest says; what is wrong with it is told when it is looked at."""
    try:
        return sum(int(file["bytes"]) for file in read_manifest(folder)["files"])
    except (ReleaseError, KeyError, TypeError, ValueError, OSError):
        return 0


def _problems(folder: Path, mend: str, *, shards_only: bool, digests: bool) -> Iterator[str]:
    if not is_release(folder):
        yield f"{folder}: is no whole release ({MANIFEST} is missing); {mend}"
        return
    try:
        files = [
            (folder / file["path"], int(file["bytes"]), str(file["sha256"]))
            for file in read_manifest(folder)["files"]
            if "config" in file or not shards_only
        ]
    except ReleaseError as error:
        yield str(error)
        return
    except (KeyError, TypeError, ValueError):
        yield f"{folder / MANIFEST}: is damaged; {mend}"
        return
    except OSError as error:
        yield f"{folder / MANIFEST}: cannot be read ({error.strerror}); {mend}"
        return
    for path, size, sha256 in files:
        try:
            found = path.stat().st_size
            if found != size:
                yield f"{path}: has {found:,} bytes, and {size:,} were released; {mend}"
            elif digests and sha256_of(path) != sha256:
                yield f"{path}: has changed since it was released; {mend}"
        except FileNotFoundError:
            yield f"{path}: is missing, and {MANIFEST} names it; {mend}"
        except OSError as error:
            yield f"{path}: cannot be read ({error.strerror}); {mend}"
