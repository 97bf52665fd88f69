"""Folders that `datasets` wrote with `save_to_disk`: one dataset, or a DatasetDict of splits.

Their shards are Arrow streams with the features in the schema, named by a state.json beside them. They are read as
such, without the library, which would take two seconds to come and put copies into its cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfinstruct_hub.datafiles.parts import failed
from selfinstruct_hub.datafiles.tables import ShardPart
from selfinstruct_hub.errors import DataFileError

STATE, INFO, DICT = "state.json", "dataset_info.json", "dataset_dict.json"
# What dataset_info.json says of the sizes before; the library does without.
_SIZES = (
    *("splits", "download_checksums", "download_size", "post_processing_size", "dataset_size"),
    "size_in_bytes",
)


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote `folder`."""
    return any((folder / name).is_file() for name in (STATE, DICT))


class Saved:
    """Such a folder: its shards in the order of splits and rows, and what belongs beside them."""

    def __init__(self, folder: Path) -> None:
        self.several = (folder / DICT).is_file()
        self._dict: dict[str, Any] = {}
        splits = [""]
        if self.several:
            self._dict = _object(folder / DICT)
            splits = _names(self._dict.get("splits"), folder / DICT, "splits")
        self._states: dict[str, dict[str, Any]] = {}
        self._infos: dict[str, dict[str, Any]] = {}
        self._shards: dict[str, list[ShardPart]] = {}
        for split in splits:
            below = folder / split
            self._states[split] = state = _object(below / STATE)
            self._infos[split] = _object(below / INFO)
            if state.get("_indices_data_files"):
                raise DataFileError(
                    f"{below}: saved by a version of `datasets` before 2.0; load and save it again"
                )
            self._shards[split] = _shards(below, state, split)

    @property
    def parts(self) -> Sequence[ShardPart]:
        return [shard for shards in self._shards.values() for shard in shards]

    def finish(self, folder: Path) -> None:
        """Writes what belongs beside the shards that were written to `folder`."""
        if self.several:
            _write(folder / DICT, self._dict)
        for split, state in self._states.items():
            digest = hashlib.sha256(str(state.get("_fingerprint")).encode())
            for shard in self._shards[split]:
                digest.update(shard.digest.digest())
            # Caches go by the fingerprint: other rows need another.
            _write(folder / split / STATE, {**state, "_fingerprint": digest.hexdigest()[:16]})
            info = {name: value for name, value in self._infos[split].items() if name not in _SIZES}
            _write(folder / split / INFO, info)


def _shards(folder: Path, state: dict[str, Any], split: str) -> list[ShardPart]:
    files = state.get("_data_files")
    named = [one.get("filename") if isinstance(one, dict) else one for one in files or ()]
    found: list[ShardPart] = []
    for name in _names(named, folder / STATE, "_data_files"):
        first = 1 + sum(shard.rows for shard in found)
        found.append(ShardPart(folder / name, f"{split}/{name}" if split else name, split, first))
    return found


def _names(found: Any, place: Path, field: str) -> list[str]:
    """Names of files or folders beside `place`, none of which leads away from there."""
    if not isinstance(found, list) or not all(isinstance(n, str) and Path(n).name == n for n in found):
        raise DataFileError(f"{place}, field `{field}`: expected names; save the dataset again with `datasets`")
    return found


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise failed(path, error) from None
    if not isinstance(value, dict):
        raise DataFileError(f"{path}: expected a JSON object; save the dataset again with `datasets`")
    return value


def _write(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
