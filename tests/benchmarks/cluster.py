"""The gate on a cluster against the one on one machine: rows a second, over the same rows in one run.

    python -m tests.benchmarks.cluster [--rows 50000] [--pool 0] [--workers 2] [--language en]
        [--address HOST:6379]

Each row is compared with those of `--pool` and those accepted before it, and accepted if nothing is above 0.7.
Both gates must say the same of every row. Without `--address` all workers are on this machine and share its
processors with the driver, so that this shows what a cluster costs; what it is for, a pool that one machine does
not hold, takes several.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass

from selfinstruct_hub.novelty import NoveltyGate
from selfinstruct_hub.novelty.cluster import ClusterGate, Workers
from selfinstruct_hub.records import Similarity
from tests.benchmarks.corpus import instructions

THRESHOLD = 0.7


@dataclass(frozen=True)
class Run:
    """What was found, and the seconds it took to hold the pool and to compare the rows."""

    found: list[Similarity]
    pool: float
    rows: float


def measure(gate: NoveltyGate | ClusterGate, pool: list[str], rows: list[str]) -> Run:
    started = time.perf_counter()
    gate.extend((f"pool {number}", row) for number, row in enumerate(pool))
    gate.comparison(["nothing"])[0]  # workers index when they are first asked
    held = time.perf_counter()
    comparison = gate.comparison(rows)
    found = []
    for place in range(len(rows)):
        found.append(comparison[place])
        if not found[-1].nearest:
            comparison.accept(place, f"row {place}")
    return Run(found, held - started, time.perf_counter() - held)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000, help="rows that are compared")
    parser.add_argument("--pool", type=int, default=0, help="rows that are there before")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--language", default="en", choices=["en", "zh"])
    parser.add_argument("--address", help="of a Ray cluster; default: one of its own on this machine")
    given = parser.parse_args()
    made = instructions(given.pool + given.rows, given.language)
    pool, rows = made[: given.pool], made[given.pool :]
    one = measure(NoveltyGate(1, mode="fast", threshold=THRESHOLD), pool, rows)
    started = time.perf_counter()
    with Workers(given.workers, given.address) as workers:
        opened = time.perf_counter() - started
        several = measure(workers.gate(THRESHOLD), pool, rows)
    assert one.found == several.found, "the gates do not agree"
    accepted = sum(not similarity.nearest for similarity in one.found)
    print(f"{len(rows)} rows, {accepted} accepted, {len(pool)} there before; {os.cpu_count()} processors here.\n")
    print("| gate | seconds to start | seconds to hold the pool | rows/s | of one machine's |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, start, run in (("one machine", 0.0, one), (f"{given.workers} workers", opened, several)):
        print(
            f"| {name} | {start:.1f} | {run.pool:.1f} | {len(rows) / run.rows:.0f} | {one.rows / run.rows:.2f} |"
        )


if __name__ == "__main__":
    main()
