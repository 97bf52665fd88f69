"""Packaging a round, against pyarrow writing the same columns out of memory.

    python -m tests.benchmarks.packaging                    50,000 rows
    python -m tests.benchmarks.packaging --rows 1000000     the figure of the README (some minutes, 6 GB on disk)

The pool is made up: Alpaca-like lengths, one instance a task, five tasks and one rejected candidate a completion,
ten neighbours each. `freeze` is what `grow` calls at a round's end: counts, five configs, card, script, hashes,
manifest, all read from SQLite. What the card says of the rows is counted while the shards are written, and is part
of their time; reading, making and writing go on in several threads. The bare write has the values of the same
columns in Python's memory, as lists (nested ones of dicts), makes a table of every 8,192 rows and writes them with
one ParquetWriter a config, with the same codec and options, in one thread; only that is timed. `from tables` is
the same with finished Arrow tables: encoding and compressing alone. Memory is the highest of a process that does
nothing else; `at start` is what its imports take.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TASKS_PER_DRAW = 5
# Rows that are made up. More are these again: packaging looks at a few thousand at once and does not notice.
_DIFFERENT = 50_000
_SHOWN = 3


def make_pool(path: Path, rows: int) -> None:
    """A pool with one complete round of so many rows, a multiple of `_DIFFERENT` where they are more than that."""
    from selfinstruct_hub.config import Settings
    from selfinstruct_hub.pool import Pool
    from selfinstruct_hub.records import (
        Candidate,
        Completion,
        Decoding,
        Drop,
        Instance,
        Neighbour,
        Request,
        Round,
        Similarity,
        Verdict,
        task_of,
    )

    rng = random.Random(rows)
    # Drawn once and cut from: a million rows are made in minutes.
    words = ["".join(rng.choices("etaoinshrdlucmfwyp", k=rng.randint(2, 10))) for _ in range(20_000)]
    running = rng.choices(words, k=1_000_000)
    scores = [sorted((rng.random() * 0.6 for _ in range(10)), reverse=True) for _ in range(4096)]
    decoding = Decoding(max_new_tokens=3072, temperature=1.0, stop=("\n20", "20."))
    settings: dict[str, Any] = {"recipe": "alpaca", "novelty": {"threshold": 0.7}, "decoding": decoding.as_dict()}
    settings |= {"tasks_per_request": 20, "grammar": False, "demonstrations": {"human": 3, "machine": 0}}
    seeds: list[dict[str, Any]] = [
        {"id": f"seed_{n}", "name": "", "instruction": f"Do {n}.", "instances": [], "is_classification": False}
        for n in range(175)
    ]
    known: list[str] = [seed["id"] for seed in seeds]

    def text(mean: float) -> str:
        first = int(rng.random() * 990_000)
        return " ".join(running[first : first + 1 + int(rng.expovariate(1 / mean))])

    def candidate() -> Candidate:
        given = text(12) if rng.random() < 0.4 else ""
        return Candidate(instruction=f"{text(8)} {text(6)}.", instances=(Instance(given, text(45)),))

    def draw(number: int, tasks: int) -> tuple[Request, Completion, list[Verdict]]:
        shown = tuple(rng.sample(known[:175], _SHOWN))
        request = Request(1, number, 0, "tasks", "Come up with a task. " * 100, decoding, shown)
        answer = Completion("x" * 1500, "eos", 700, 350, "org/model", "tgi", 0.1, 1.5, 1.6)
        verdicts = []
        for position in range(tasks + 1):
            ten = scores[int(rng.random() * len(scores))]
            near = tuple(Neighbour(known[int(rng.random() * len(known))], score) for score in ten)
            found = candidate()
            similarity = Similarity(near, 0.1)
            if position == tasks:
                drop = Drop("too_similar", "ROUGE-L 0.74")
                verdicts.append(Verdict(1, number, position, found, drop=drop, similarity=similarity))
            else:
                task = task_of(found, found.instances)
                known.append(task.id)
                verdicts.append(Verdict(1, number, position, found, task, similarity=similarity))
        return request, answer, verdicts

    with Pool.create(path) as pool:
        pool.set_seeds(seeds, "made up")
        asked = Settings().model_dump(mode="json")
        pool.begin_round(Round(1, "v1.0.0", rows, False, settings, asked))
        left, number = min(rows, _DIFFERENT), 0
        while left:
            made: list[tuple[Request, Completion, list[Verdict]]] = []
            while left and len(made) < 2000:
                tasks = min(TASKS_PER_DRAW, left)
                made.append(draw(number, tasks))
                left -= tasks
                number += 1
            pool.add_completions([(request, answer) for request, answer, _ in made])
            pool.add_draws(1, [(request.number, verdicts, ()) for request, _, verdicts in made])
        pool.complete_round(1)
    database = sqlite3.connect(path, isolation_level=None)
    for copy in range(1, rows // _DIFFERENT):
        database.execute("BEGIN")
        for table in ("draws", "completions", "verdicts"):
            names = [name for _, name, *_ in database.execute(f"PRAGMA table_info({table})")]
            values = ", ".join("number + ?" if name == "number" else name for name in names)
            database.execute(
                f"INSERT INTO {table} SELECT {values} FROM {table} WHERE number < ?", (copy * number, number)
            )
        database.execute("COMMIT")
    database.close()


def package(pool_file: Path, folder: Path) -> dict[str, float]:
    """Freezes the pool's round, and says how long all of it and the shards alone took."""
    from selfinstruct_hub import release
    from selfinstruct_hub.config import CardSettings
    from selfinstruct_hub.pool import Pool
    from selfinstruct_hub.rounds import editions

    imported = _peak()
    shards_alone = shards_cpu = 0.0
    write = release.shards.write

    def timed(*values: Any, **named: Any) -> Any:
        nonlocal shards_alone, shards_cpu
        began, worked = time.perf_counter(), time.process_time()
        try:
            return write(*values, **named)
        finally:
            shards_alone, shards_cpu = time.perf_counter() - began, time.process_time() - worked
            print(f"peak after the shards {_peak():,.0f} MB", file=sys.stderr)

    release.shards.write = timed
    with Pool.open(pool_file, read_only=True) as pool:
        began, worked = time.perf_counter(), time.process_time()
        release.freeze(folder, pool, editions(pool)[0], CardSettings(), "made up")
    took = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - worked, "shards": shards_alone}
    took["shards_cpu"] = shards_cpu
    return {**took, "imported": imported, "peak": _peak()}


def write_bare(release: Path, folder: Path, *, tables: bool) -> dict[str, float]:
    """Writes the columns of a release again, as the module's first lines say."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from selfinstruct_hub.release.columns import COLUMNS, schema
    from selfinstruct_hub.release.rows import BATCH
    from selfinstruct_hub.release.shards import PARQUET

    seconds = cpu = 0.0
    for name in COLUMNS:
        kinds = schema(name)
        with pq.ParquetWriter(folder / f"{name}.parquet", kinds, **PARQUET) as writer:
            for table in _tables(release / "data" / name, BATCH):
                columns = {column: table[column].to_pylist() for column in kinds.names}
                began, worked = time.perf_counter(), time.process_time()
                if not tables:
                    table = pa.table(columns, schema=kinds)
                writer.write_table(table)
                seconds += time.perf_counter() - began
                cpu += time.process_time() - worked
    return {"seconds": seconds, "cpu": cpu}


def _tables(folder: Path, size: int) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in sorted(folder.glob("*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(size):
            yield pa.Table.from_batches([batch])


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _apart(what: str, *paths: Path) -> dict[str, float]:
    """Does one measurement in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.packaging", "--apart", what, *map(str, paths)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=50_000)
    options.add_argument("--repeat", type=int, default=1, help="of the measurements at the full size")
    options.add_argument("--apart", nargs="+", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.apart:
        what, first, second = given.apart
        if what == "package":
            print(json.dumps(package(Path(first), Path(second))))
        else:
            print(json.dumps(write_bare(Path(first), Path(second), tables=what == "tables")))
        return
    memory = []
    for rows in (given.rows // 10, given.rows):
        with tempfile.TemporaryDirectory() as name:
            place = Path(name)
            began = time.perf_counter()
            make_pool(place / "pool.sqlite3", rows)
            size = (place / "pool.sqlite3").stat().st_size / 1e6
            took = time.perf_counter() - began
            print(f"{rows:,} rows: a pool of {size:,.0f} MB, made in {took:.0f} s", flush=True)
            for turn in range(given.repeat if rows == given.rows else 1):
                packaged = _apart("package", place / "pool.sqlite3", place / f"releases-{turn}")
                if rows == given.rows:
                    _compare(rows, packaged, place / f"releases-{turn}" / "v1.0.0", place)
            memory.append((rows, packaged["imported"], packaged["peak"]))
    for rows, imported, peak in memory:
        print(f"{rows:>10,} rows: at most {peak:,.0f} MB ({imported:,.0f} at start)")


def _compare(rows: int, packaged: dict[str, float], release: Path, place: Path) -> None:
    bare = _apart("bare", release, place)
    tables = _apart("tables", release, place)
    compared = [
        ("freeze", packaged["seconds"], packaged["cpu"]),
        ("of it the shards", packaged["shards"], packaged["shards_cpu"]),
        ("bare, from lists", bare["seconds"], bare["cpu"]),
        ("bare, from tables", tables["seconds"], tables["cpu"]),
    ]
    for name, seconds, cpu in compared:
        print(f"{name:>18}: {seconds:6.1f} s, {rows / seconds:>8,.0f} rows/s, {cpu:.1f} s of a processor")
    for name, other in (("from lists", bare), ("from tables", tables)):
        print(
            f"speed of freeze against the bare write {name}: {other['seconds'] / packaged['seconds']:.2f} "
            f"(the shards alone: {other['seconds'] / packaged['shards']:.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
