"""The rows of a release folder, read back as a stream: a shard at a time, in the order that they were written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfinstruct_hub.errors import ReleaseError

_BATCH = 1024


def shards(manifest: Mapping[str, Any], config: str, round_number: int | None = None) -> list[dict[str, Any]]:
    """The manifest's entries of a config's shards, all or those of a round, in order."""
    return [
        file
        for file in manifest["files"]
        if file.get("config") == config and round_number in (None, file.get("round"))
    ]


def rows(
    folder: Path, files: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of some shards of the release in `folder`, with those `columns` that they have. Memory holds a
    batch. Raises ReleaseError where a file cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in files:
        path = folder / file["path"]
        try:
            with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as parquet:
                names = [name for name in parquet.schema_arrow.names if columns is None or name in columns]
                for batch in parquet.iter_batches(_BATCH, columns=names):
                    yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            said = " ".join(str(error).split())
            raise ReleaseError(f"{path}: cannot be read ({said}); restore it from a copy") from None
