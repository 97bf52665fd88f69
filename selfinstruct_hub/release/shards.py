"""The Parquet shards of a release: a round's rows in files of a limited size, written as a stream.

Memory does not grow with a round. Files carry no library metadata: `datasets` reads the features from the card,
and a shard that is written again is the same bytes. What decides a file's bytes is set here, not left to pyarrow.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from selfinstruct_hub.digests import sha256_of
from selfinstruct_hub.errors import ReleaseError
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import Round
from selfinstruct_hub.release import rows
from selfinstruct_hub.release.columns import ALIGNED, COLUMNS, SPLIT, schema

__all__ = ["COLUMNS", "ROWS_PER_SHARD", "SPLIT", "Known", "measure", "write"]

# A shard of `provenance`, the widest config, stays below about 200 MB, and readers find files to share among
# themselves.
ROWS_PER_SHARD = 250_000
PARQUET = {
    "version": "2.6",
    "data_page_version": "1.0",
    "compression": "zstd",
    "compression_level": 3,
    # The Arrow schema that pyarrow would add is of one library and its version.
    "store_schema": False,
    # Pages end where the content says, so that a Hub that keeps pieces of files once finds those that it has.
    "use_content_defined_chunking": True,
}

# What helps where a file of a release is not what was released.
MEND = "restore it from a copy, or move the release away and have it built anew (`selfinstruct-hub grow`)"

# Shards of earlier releases by config and round (None: of no round), each with its manifest entry.
Known = Mapping[tuple[str, int | None], Sequence[tuple[Path, dict[str, Any]]]]
_Maker = Callable[[], Mapping[str, Any]]  # makes a table for each of some configs


def write(
    folder: Path, pool: Pool, rounds: list[Round], *, known: Known, rows_per_shard: int = ROWS_PER_SHARD
) -> list[dict[str, Any]]:
    """Writes every shard of `rounds` below `folder`, copying those that are `known`. Returns their manifest
    entries: path, config, round, rows, memory_bytes, bytes, sha256."""
    entries: list[dict[str, Any]] = []

    def written(round_number: int | None, tables: Iterable[_Maker], *names: str) -> None:
        """Appends the entries of the shards of some configs, which grow together by a table for each."""
        if round_number in whole:
            for name in names:
                entries.extend(_copied(folder, file) for file in known.get((name, round_number), ()))
            return
        with ExitStack() as stack:
            shards = {name: _Shards(folder, name, round_number, rows_per_shard) for name in names}
            for one in shards.values():
                stack.callback(one.abandon)
            with _Behind() as behind:
                for make in tables:
                    behind.do(partial(_add, shards, make))
            for one in shards.values():
                entries.extend(one.finish())

    # A release has all shards of a round, or the round has none.
    whole = {number for _, number in known}
    if new := [round_.number for round_ in rounds if round_.number not in whole]:
        pool.gather_neighbours(new[0])
    for round_ in rounds:
        written(round_.number, rows.accepted(pool, round_), *ALIGNED)
        written(round_.number, _made("rejected", rows.rejected(pool, round_)), "rejected")
    written(None, _made("seeds", rows.seeds(pool)), "seeds")
    return entries


def measure(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file."""
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


class _Shards:
    """The shards of one config and round. How many they are is known at the end, and stands in their names then.

    There is none where there is no row, because `datasets` refuses a config whose first shard is empty.
    """

    def __init__(self, folder: Path, name: str, round_number: int | None, limit: int) -> None:
        self._folder = folder / "data" / name
        self._name = name
        self._round = round_number
        self._limit = limit
        self._begin = SPLIT if round_number is None else f"{SPLIT}-round-{round_number:04d}"
        self._entries: list[dict[str, Any]] = []
        self._writer: Any = None

    def add(self, table: Any) -> None:
        while table.num_rows:
            if self._writer is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._writer = pq.ParquetWriter(self._part(len(self._entries)), schema(self._name), **PARQUET)
                self._entries.append({"rows": 0, "memory_bytes": 0})
            entry = self._entries[-1]
            part = table.slice(0, self._limit - entry["rows"])
            self._writer.write_table(part)
            entry["rows"] += part.num_rows
            entry["memory_bytes"] += part.nbytes
            if entry["rows"] == self._limit:
                self._end()
            table = table.slice(part.num_rows)

    def finish(self) -> list[dict[str, Any]]:
        """Ends the last shard and names them all. Returns their manifest entries."""
        if self._writer is not None:
            self._end()
        entries = []
        for number, entry in enumerate(self._entries):
            name = f"{self._begin}-{number:05d}-of-{len(self._entries):05d}.parquet"
            self._part(number).rename(self._folder / name)
            place = {"path": f"data/{self._name}/{name}", "config": self._name, "round": self._round}
            entries.append({**place, **entry})
        return entries

    def abandon(self) -> None:
        """Closes what is open after an error."""
        if self._writer is not None:
            # What is wrong with the disk has been told already.
            with suppress(OSError):
                self._writer.close()

    def _end(self) -> None:
        writer, self._writer = self._writer, None
        writer.close()
        self._entries[-1].update(measure(self._part(len(self._entries) - 1)))

    def _part(self, number: int) -> Path:
        return self._folder / f"{self._begin}-{number:05d}.unfinished"


class _Behind:
    """Does jobs one after another beside the caller, who waits where it is two ahead. Arrow holds no lock of
    Python's while it reads JSON, moves columns, encodes and compresses, so the pool is read at the same time."""

    def __enter__(self) -> _Behind:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shards")
        self._open: deque[Future[Any]] = deque()
        return self

    def do(self, job: Callable[[], Any]) -> None:
        """Raises what an earlier job raised."""
        self._open.append(self._thread.submit(job))
        if len(self._open) > 2:
            self._open.popleft().result()

    def __exit__(self, failed: object, *_: object) -> None:
        self._thread.shutdown(cancel_futures=failed is not None)
        if failed is None:
            for job in self._open:
                job.result()


def _made(name: str, tables: Iterable[Any]) -> Iterator[_Maker]:
    for table in tables:
        yield partial(dict, {name: table})


def _add(shards: Mapping[str, _Shards], make: _Maker) -> None:
    for name, table in make().items():
        shards[name].add(table)


def _copied(folder: Path, known: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    source, entry = known
    target = folder / entry["path"]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        raise ReleaseError(f"{source}: is missing, and a later release is made of it; {MEND}") from None
    if measure(target)["sha256"] != entry["sha256"]:
        raise ReleaseError(f"{source}: has changed since it was released; {MEND}")
    return entry
