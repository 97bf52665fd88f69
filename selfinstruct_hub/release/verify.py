"""Whether a release folder is what was released: every file, every count, and whether `datasets` loads it.

Reads only, and believes nothing: what the manifest says is held against the files, and the card and the script
against both. `contents.py` looks into the files.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfinstruct_hub.errors import ReleaseError
from selfinstruct_hub.release import contents
from selfinstruct_hub.release.columns import ALIGNED
from selfinstruct_hub.release.shards import MEND, measure
from selfinstruct_hub.workspace import MANIFEST

# What a download of a version adds (the Hub's own file, and the client's notes about what it has), and what Python
# leaves where the loading script is imported.
_ADDED = (".gitattributes", ".cache/huggingface/", "__pycache__/loading_script.")
_KEYS = {"version": str, "release": str, "rows": int, "seeds": int, "rounds": list, "files": list, "format": int}
_FILE_KEYS = {"path": str, "bytes": int, "sha256": str}
_SHARD_KEYS = {"config": str, "rows": int}
_ROUND_KEYS: dict[str, type] = {"round": int, "rows": int}


@dataclass(frozen=True)
class Checked:
    """A release that is whole. `rows` counts those of each config that has any, `bytes` those of all files."""

    folder: Path
    version: str
    release: str
    files: int
    bytes: int
    rows: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "version": self.version,
            "release": self.release,
            "files": self.files,
            "bytes": self.bytes,
            "rows": self.rows,
        }


def check(folder: Path, *, load: bool = True) -> Checked:
    """Checks all of a release; `load` says whether `datasets` itself reads every config too, which takes most of
    the time and, for so long, about as much disk as the rows do.

    Raises ReleaseError in one line for the first thing that is not as it should be: the file, what was expected,
    what to do. Nothing outside of `folder` is looked at.
    """
    try:
        return _check(folder, load)
    except OSError as error:
        raise ReleaseError(f"{error.filename or folder}: cannot be read ({error.strerror or error})") from error


def _check(folder: Path, load: bool) -> Checked:
    manifest = _manifest(folder)
    files = {str(file["path"]): file for file in manifest["files"]}
    for path, file in files.items():
        _check_file(folder / path, file)
    for found in sorted(path for path in folder.rglob("*") if not path.is_dir()):
        name = found.relative_to(folder).as_posix()
        if name not in files and name != MANIFEST and not name.startswith(_ADDED):
            raise ReleaseError(
                f"{found}: is not among the {len(files)} files that {MANIFEST} names; move it out of the release"
            )
    rows = contents.check_shards(folder, manifest)
    _check_counts(folder, manifest, rows)
    _check_rounds(folder, manifest)
    contents.check_ids(folder, manifest)
    contents.check_card(folder, manifest, rows)
    contents.check_script(folder, manifest)
    if load:
        contents.check_loading(folder, manifest, rows)
    return Checked(
        folder=folder,
        version=manifest["version"],
        release=manifest["release"],
        files=len(files) + 1,
        bytes=sum(file["bytes"] for file in files.values()) + (folder / MANIFEST).stat().st_size,
        rows=rows,
    )


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest, in the form that the rest counts on."""
    place = folder / MANIFEST
    if not folder.is_dir():
        raise ReleaseError(f"{folder}: no such folder; name a release, such as my-tasks/releases/v1.0.0")
    if not place.is_file():
        raise ReleaseError(
            f"{place}: is missing, so the folder is no whole release; name one, such as "
            f"my-tasks/releases/v1.0.0, or {MEND}"
        )
    try:
        manifest = json.loads(place.read_bytes().decode())
    except (ValueError, RecursionError) as error:
        raise ReleaseError(f"{place}: is torn or no JSON ({error}); {MEND}") from None
    _check_keys(place, manifest, _KEYS, "the manifest")
    seen: set[str] = set()
    for number, file in enumerate(manifest["files"]):
        is_shard = isinstance(file, dict) and "config" in file
        _check_keys(place, file, _FILE_KEYS | (_SHARD_KEYS if is_shard else {}), f"files[{number}]")
        path = Path(file["path"])
        if path.is_absolute() or ".." in path.parts or file["path"] in seen or file["path"] == MANIFEST:
            raise ReleaseError(
                f"{place}: files[{number}] is {file['path']!r}; expected each file below the release once; {MEND}"
            )
        seen.add(file["path"])
    for needed in (contents.CARD, contents.SCRIPT):
        if needed not in seen:
            raise ReleaseError(f"{place}: names no {needed}, which every release has; {MEND}")
    return manifest  # type: ignore[no-any-return]


def _check_keys(place: Path, found: Any, keys: dict[str, type], what: str) -> None:
    if not isinstance(found, dict):
        raise ReleaseError(f"{place}: {what} is no object; {MEND}")
    for key, kind in keys.items():
        # True is an int to Python, and no count.
        if not isinstance(found.get(key), kind) or isinstance(found.get(key), bool):
            raise ReleaseError(f"{place}: {what} has no `{key}` that is {_NAMES[kind]}; {MEND}")


_NAMES = {str: "a text", int: "a number", list: "a list"}


def _check_file(path: Path, file: dict[str, Any]) -> None:
    if not path.is_file():
        raise ReleaseError(f"{path}: is missing, and {MANIFEST} names it; {MEND}")
    found = measure(path)
    if found["bytes"] != file["bytes"]:
        raise ReleaseError(
            f"{path}: has {found['bytes']:,} bytes, expected {file['bytes']:,} as {MANIFEST} says; {MEND}"
        )
    if found["sha256"] != file["sha256"]:
        raise ReleaseError(
            f"{path}: is not the file that was released (SHA-256 begins with {found['sha256'][:12]}, expected "
            f"{file['sha256'][:12]}); {MEND}"
        )


def _check_counts(folder: Path, manifest: dict[str, Any], rows: dict[str, int]) -> None:
    """The manifest's own totals against the rows of its files."""
    place = folder / MANIFEST
    totals = {**dict.fromkeys(ALIGNED, manifest["rows"]), "seeds": manifest["seeds"]}
    for name, total in totals.items():
        if rows.get(name, 0) != total:
            raise ReleaseError(
                f"{place}: says that there are {total:,} rows in `{name}`, and its files hold "
                f"{rows.get(name, 0):,}; {MEND}"
            )
    digest = contents.digest_of(manifest["files"])
    if digest != manifest["release"]:
        raise ReleaseError(
            f"{place}: `release` begins with {manifest['release'][:12]}, expected {digest[:12]} after the digests "
            f"of its shards; {MEND}"
        )


def _check_rounds(folder: Path, manifest: dict[str, Any]) -> None:
    """The rows of each round as the manifest tells them, and the card, against those of the round's files."""
    place = folder / MANIFEST
    found = Counter[Any]()
    for file in contents.shards_of(manifest, ALIGNED[0]):
        # Whatever else stands there is no round's number.
        found[file["round"] if isinstance(file.get("round"), int) else None] += file["rows"]
    for number, round_ in enumerate(manifest["rounds"]):
        _check_keys(place, round_, _ROUND_KEYS, f"rounds[{number}]")
        if (rows := found.pop(round_["round"], 0)) != round_["rows"]:
            raise ReleaseError(
                f"{place}: says that round {round_['round']} has {round_['rows']:,} rows, and its files hold "
                f"{rows:,}; {MEND}"
            )
    if found:
        raise ReleaseError(
            f"{place}: files belong to the round {next(iter(found))}, which it does not tell of; {MEND}"
        )
