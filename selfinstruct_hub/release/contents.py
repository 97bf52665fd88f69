"""Looks into a release's files: rows against the manifest, the card and the script against the rows.

Every function raises ReleaseError in one line. What the manifest says of the files' bytes has been checked before,
so what is wrong here was written so, or written again together with its manifest.
"""

from __future__ import annotations

import ast
import errno
import hashlib
import json
import logging
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from selfinstruct_hub import assets
from selfinstruct_hub.errors import ReleaseError
from selfinstruct_hub.release.columns import ALIGNED, SPLIT, arrow

CARD = "README.md"
SCRIPT = assets.SCRIPT
_ANEW = "move the release away and have it built anew (`selfinstruct-hub grow`)"
_CONSTANTS = ("VERSION", "RELEASE", "FILES")


def digest_of(files: Sequence[dict[str, Any]]) -> str:
    """The digest that names a release: of the paths and digests of its shards."""
    content = [(file["path"], file["sha256"]) for file in files if "config" in file]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def shards_of(manifest: dict[str, Any], config: str) -> list[dict[str, Any]]:
    """The manifest's entries of a config's shards, in the order of their rows."""
    return [file for file in manifest["files"] if file.get("config") == config]


def check_shards(folder: Path, manifest: dict[str, Any]) -> dict[str, int]:
    """The rows of each config, as the Parquet files' own metadata counts them."""
    rows: Counter[str] = Counter()
    for file in manifest["files"]:
        if "config" in file:
            count = _opened(folder / file["path"]).metadata.num_rows
            if count != file["rows"]:
                raise ReleaseError(
                    f"{folder / file['path']}: holds {count:,} rows, expected {file['rows']:,} as the manifest "
                    f"says; {_ANEW}"
                )
            rows[file["config"]] += count
    return dict(rows)


def check_ids(folder: Path, manifest: dict[str, Any]) -> None:
    """Ids are unique, and the same in the same order in each of the configs that tell of the same rows."""
    first, *others = ALIGNED
    if not shards_of(manifest, first):
        return
    seen = array("Q")
    for name in others:
        found = zip_longest(_ids(folder, manifest, first), _ids(folder, manifest, name))
        for row, (expected, other) in enumerate(found):
            if expected != other:
                raise ReleaseError(
                    f"{folder / 'data' / name}: row {row:,} has the id {other}, expected {expected} as in "
                    f"`{first}`; {_ANEW}"
                )
            if name == others[0]:
                seen.append(int.from_bytes(hashlib.blake2b(str(expected).encode(), digest_size=8).digest(), "big"))
    # Eight bytes an id: a set of a million texts would take ten times as much.
    ordered = np.sort(np.frombuffer(seen, np.uint64))
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        raise ReleaseError(
            f"{folder / 'data' / first}: an id occurs twice ({len(twice):,} rows too many); {_ANEW}"
        )


def check_card(folder: Path, manifest: dict[str, Any], rows: dict[str, int]) -> None:
    """Every config stands in the card's YAML with its files, its version, its counts and the types that it has."""
    place = folder / CARD
    metadata = _metadata(place)
    configs, infos = _by_name(place, metadata, "configs"), _by_name(place, metadata, "dataset_info")

    def expect(name: str, what: str, found: Any, expected: Any) -> None:
        if found != expected:
            raise ReleaseError(f"{place}: config `{name}` says {what} {found}, expected {expected}; {_ANEW}")

    for key, known in (("configs", configs), ("dataset_info", infos)):
        if known.keys() != rows.keys():
            raise ReleaseError(
                f"{place}: `{key}` names {', '.join(known) or 'nothing'}, expected {', '.join(rows)}; {_ANEW}"
            )
    for name, count in rows.items():
        config, info = configs[name], infos[name]
        expect(name, "version", str(config.get("version")), manifest["version"].removeprefix("v"))
        expect(name, "default", bool(config.get("default")), name == "default")
        split, patterns = _one_split(place, name, info), _patterns(place, name, config)
        expect(name, "num_examples", split.get("num_examples"), count)
        expect(name, "split", split.get("name"), SPLIT)
        size = sum(file["bytes"] for file in shards_of(manifest, name))
        expect(name, "download_size", info.get("download_size"), size)
        there = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
        listed = sorted(folder / file["path"] for file in shards_of(manifest, name))
        expect(name, "data_files that match", len(there), len(listed))
        expect(name, "data_files", [path.name for path in there], [path.name for path in listed])
        features = pa.schema(_fields(place, info.get("features", [])))
        for file in shards_of(manifest, name):
            kinds = _opened(folder / file["path"]).schema_arrow
            if not kinds.equals(features):
                wrong = next((f.name for f in kinds if f.name not in features.names), None) or next(
                    (f.name for f in features if f.name not in kinds.names or kinds.field(f.name) != f),
                    "the order",
                )
                raise ReleaseError(
                    f"{place}: the features of config `{name}` are not the columns of {file['path']} "
                    f"(see {wrong}); {_ANEW}"
                )


def check_script(folder: Path, manifest: dict[str, Any]) -> None:
    """The script's constants are this release's."""
    place = folder / SCRIPT
    found: dict[str, Any] = {}
    try:
        for node in ast.parse(place.read_text(encoding="utf-8")).body:
            target = node.target if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [None])[0]
            if isinstance(target, ast.Name) and target.id in _CONSTANTS:
                found[target.id] = ast.literal_eval(node.value)  # type: ignore[attr-defined]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ReleaseError(f"{place}: is no script that could run ({error}); {_ANEW}") from None
    files = {
        name: {SPLIT: [file["path"] for file in shards_of(manifest, name)]}
        for name in dict.fromkeys(file["config"] for file in manifest["files"] if "config" in file)
    }
    expected = (manifest["version"].removeprefix("v"), manifest["release"], files)
    for name, value in zip(_CONSTANTS, expected, strict=True):
        if found.get(name) != value:
            raise ReleaseError(f"{place}: {name} is not that of this release; {_ANEW}")


def check_loading(folder: Path, manifest: dict[str, Any], rows: dict[str, int]) -> None:
    """`datasets` prepares every config, as a trainer would have it, in a cache that goes again."""
    import datasets

    if assets.is_taken(folder.resolve().name):
        raise ReleaseError(
            f"{folder}: `datasets` takes {SCRIPT} for the dataset of a folder of that name; call the folder "
            "something else"
        )
    for name, count in rows.items():
        with tempfile.TemporaryDirectory(prefix="selfinstruct-verify-", ignore_cleanup_errors=True) as cache:
            try:
                with _quiet(datasets):
                    loaded = datasets.load_dataset(str(folder.resolve()), name, split=SPLIT, cache_dir=cache)
                    found, version = len(loaded), str(loaded.version)
                    del loaded  # its file lies in the cache
            except Exception as error:  # of whatever part of the library
                if _is_full(error):
                    raise ReleaseError(
                        f"{folder}: whether `datasets` loads it cannot be told, because the disk of {cache} is "
                        "full; free some space, or let TMPDIR name a folder elsewhere"
                    ) from error
                said = " ".join(str(error.__cause__ or error).split())
                raise ReleaseError(
                    f"{folder}: `datasets` cannot load config `{name}` ({type(error).__name__}: {said[:300]}); "
                    f"{_ANEW}"
                ) from error
        if (found, version) != (count, manifest["version"].removeprefix("v")):
            raise ReleaseError(
                f"{folder}: `datasets` loads {found:,} rows of config `{name}` in version {version}, expected "
                f"{count:,} in {manifest['version'].removeprefix('v')}; {_ANEW}"
            )


def _is_full(error: BaseException | None) -> bool:
    """Whether there was no room for what was written. `datasets` looks beforehand, and then says so in words."""
    while error:
        if isinstance(error, OSError) and (error.errno == errno.ENOSPC or "Not enough disk space" in str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _opened(path: Path) -> Any:
    try:
        # By itself pyarrow reads all of a file before the first batch.
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
    except pa.ArrowException as error:
        raise ReleaseError(f"{path}: is torn or no Parquet ({' '.join(str(error).split())}); {_ANEW}") from None


def _ids(folder: Path, manifest: dict[str, Any], config: str) -> Iterator[str]:
    for file in shards_of(manifest, config):
        try:
            for batch in _opened(folder / file["path"]).iter_batches(columns=["id"]):
                yield from batch.column(0).to_pylist()
        except (pa.ArrowException, OSError) as error:
            said = " ".join(str(error).split())
            raise ReleaseError(f"{folder / file['path']}: cannot be read ({said}); {_ANEW}") from None


def _metadata(place: Path) -> dict[str, Any]:
    """The YAML at the head of the card."""
    try:
        head, ends, _ = place.read_text(encoding="utf-8").partition("\n---\n")
        begun = head.startswith("---\n") and ends
        metadata = yaml.safe_load(head.removeprefix("---\n")) if begun else None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ReleaseError(f"{place}: its head is no YAML ({' '.join(str(error).split())}); {_ANEW}") from None
    if not isinstance(metadata, dict):
        raise ReleaseError(f"{place}: does not begin with YAML between two lines of ---; {_ANEW}")
    return metadata


def _by_name(place: Path, metadata: dict[str, Any], key: str) -> dict[str, dict[str, Any]]:
    try:
        return {str(one["config_name"]): dict(one) for one in metadata.get(key, [])}
    except (TypeError, KeyError, ValueError):
        raise ReleaseError(f"{place}: `{key}` is no list of configs with their names; {_ANEW}") from None


def _one_split(place: Path, name: str, info: dict[str, Any]) -> dict[str, Any]:
    match info.get("splits"):
        case [dict(split)]:
            return split
    raise ReleaseError(
        f"{place}: config `{name}` has splits {info.get('splits')}, expected {SPLIT} alone; {_ANEW}"
    )


def _patterns(place: Path, name: str, config: dict[str, Any]) -> list[str]:
    """The patterns of a config's files, all below the release."""
    found = config.get("data_files")
    paths = (
        [one.get("path") if isinstance(one, dict) else None for one in found]
        if isinstance(found, list)
        else [None]
    )
    for path in paths:
        if not isinstance(path, str) or not path.startswith("data/") or ".." in Path(path).parts:
            raise ReleaseError(
                f"{place}: config `{name}` says data_files {found}, expected a list of splits with paths below "
                f"data/; {_ANEW}"
            )
    return [str(path) for path in paths]


def _fields(place: Path, fields: Any) -> list[tuple[str, Any]]:
    """Names and Arrow types of features."""
    try:
        return [(str(field["name"]), _type(place, field)) for field in fields]
    except (KeyError, TypeError):
        raise ReleaseError(f"{place}: the features are {fields}, and no list with names; {_ANEW}") from None


def _type(place: Path, field: Any) -> Any:
    """The Arrow type of a feature in the card: {dtype}, {list: a dtype or fields} or {struct: fields}."""
    try:
        if "dtype" in field:
            return arrow(field["dtype"])
        kind = field["list"] if "list" in field else field["struct"]
        if isinstance(kind, str):
            inner = arrow(kind)
        elif isinstance(kind, dict):
            inner = _type(place, kind)
        else:
            inner = pa.struct(_fields(place, kind))
        return pa.list_(inner) if "list" in field else inner
    except (KeyError, TypeError):
        raise ReleaseError(
            f"{place}: a feature is {field}, which is no type that a release has; {_ANEW}"
        ) from None


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Keeps the library's bars and notes from standard error, and what it is set to as it was."""
    bars = datasets.utils.logging.is_progress_bar_enabled()
    level = datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()
