"""The Parquet shards of a release: a round's rows in files of a limited size, written as a stream.

Memory does not grow with a round. Files carry no library metadata: `datasets` reads the features from the card,
and a shard that is written again is the same bytes. What decides a file's bytes is set here, not left to pyarrow.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from selfinstruct_hub.digests import sha256_of
from selfinstruct_hub.errors import ReleaseError
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import Round
from selfinstruct_hub.release import rejections, rows
from selfinstruct_hub.release.columns import ALIGNED, COLUMNS, SPLIT, schema
from selfinstruct_hub.release.threads import Behind, Several

__all__ = ["COLUMNS", "ROWS_PER_SHARD", "SPLIT", "Known", "Watch", "measure", "write"]

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
MEND = (
    "restore it from a copy, or move the release away and have it built anew (`selfinstruct-hub grow --rounds 0`)"
)

# Shards of earlier releases by config and round (None: of no round), each with its manifest entry.
Known = Mapping[tuple[str, int | None], Sequence[tuple[Path, dict[str, Any]]]]
# Is shown the tables of the configs named, which tell of the same rows, as they are written: those of
# `rejected` by one thread, all others by another.
Watch = Callable[[Mapping[str, Any]], None]


def write(
    folder: Path,
    pool: Pool,
    rounds: list[Round],
    *,
    known: Known,
    rows_per_shard: int = ROWS_PER_SHARD,
    watch: Watch | None = None,
) -> list[dict[str, Any]]:
    """Writes every shard of `rounds` below `folder`, copying those that are `known`; `watch` sees all tables but
    these. Returns their manifest entries: path, config, round, rows, memory_bytes, bytes, sha256.

    The configs of accepted rows, and what was rejected, are written beside one another.
    """
    # A release has all shards of a round, or the round has none.
    whole = {number for _, number in known}
    new = [round_ for round_ in rounds if round_.number not in whole]
    found: dict[tuple[str, int | None], list[dict[str, Any]]] = {
        place: [_copied(folder, file) for file in files]
        for place, files in known.items()
        if place[1] in (None, *(round_.number for round_ in rounds))
    }
    with pool.beside() as reader, Behind("rejections") as behind:
        rejected = []
        try:
            for round_ in new:
                rejected.append(behind.do(_rejected, folder, reader, round_, rows_per_shard, watch))
                found |= _accepted(folder, pool, round_, rows_per_shard, watch)
            for one in rejected:
                found |= one.result()
        except BaseException:
            reader.interrupt()
            raise
    if None not in whole:
        with _grown(folder, None, rows_per_shard, "seeds") as shards:
            for table in rows.seeds(pool):
                shards["seeds"].add(table)
            found["seeds", None] = shards["seeds"].finish()
    order = [(name, round_.number) for round_ in rounds for name in (*ALIGNED, "rejected")]
    return [entry for place in [*order, ("seeds", None)] for entry in found.get(place, ())]


def _accepted(
    folder: Path, pool: Pool, round_: Round, limit: int, watch: Watch | None
) -> dict[tuple[str, int | None], list[dict[str, Any]]]:
    """Writes the aligned shards of a round. The pool is read here; a thread reads the batches' JSON, and each
    config has one that makes, encodes and compresses its tables."""
    with (
        _grown(folder, round_.number, limit, *ALIGNED) as shards,
        Several("batches", "watch", *ALIGNED) as threads,
    ):
        for make in rows.accepted(pool, round_):
            makers = threads["batches"].do(make)
            tables = {name: threads[name].do(_add, shards[name], name, makers) for name in ALIGNED}
            if watch:
                threads["watch"].do(_show, watch, tuple(tables), *tables.values())
    return {(name, round_.number): one.finish() for name, one in shards.items()}


def _rejected(
    folder: Path, pool: Pool, round_: Round, limit: int, watch: Watch | None
) -> dict[tuple[str, int | None], list[dict[str, Any]]]:
    """Writes the shards of what a round rejected, in the same way."""
    with (
        _grown(folder, round_.number, limit, "rejected") as shards,
        Several("batches", "watch", "rejected") as threads,
    ):
        for make in rejections.rejected(pool, round_):
            made = threads["batches"].do(make)
            threads["rejected"].do(shards["rejected"].add, made)
            if watch:
                threads["watch"].do(_show, watch, ("rejected",), made)
    return {("rejected", round_.number): shards["rejected"].finish()}


def measure(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file."""
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def settle(place: Path) -> None:
    """Waits until a file, or what a folder names, is on the disk."""
    if place.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return  # Windows keeps its folders itself
    number = os.open(place, os.O_RDONLY if place.is_dir() else os.O_RDWR)
    try:
        os.fsync(number)
    finally:
        os.close(number)


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
        settle(self._part(len(self._entries) - 1))  # while others work
        self._entries[-1].update(measure(self._part(len(self._entries) - 1)))

    def _part(self, number: int) -> Path:
        return self._folder / f"{self._begin}-{number:05d}.unfinished"


@contextmanager
def _grown(folder: Path, round_number: int | None, limit: int, *names: str) -> Iterator[dict[str, _Shards]]:
    """Shards of some configs that are added to, and closed whatever happens."""
    with ExitStack() as stack:
        shards = {name: _Shards(folder, name, round_number, limit) for name in names}
        for one in shards.values():
            stack.callback(one.abandon)
        yield shards


def _add(shards: _Shards, name: str, makers: Mapping[str, rows.Maker]) -> Any:
    """Makes and writes the next table of a config, and gives it back."""
    table = makers[name]()
    shards.add(table)
    return table


def _show(watch: Watch, names: Sequence[str], *tables: Any) -> None:
    watch(dict(zip(names, tables, strict=True)))


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
