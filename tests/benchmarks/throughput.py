"""What the client can do where the server answers at once: completions a second, and the memory of a large pool.

    python -m tests.benchmarks.throughput [--pool 20000] [--completions 3000] [--items 1 --items 4]
        [--memory-pool 50000]

A round is grown through client, store, parser, rules and novelty gate, in a workspace whose pool holds that many
accepted tasks already, against tests/support/gpu.py in a process of its own. The rate is that between the first
request and the last verdict: loading the pool before and packaging the round behind are seconds of their own.
Shares are of that time; novelty runs beside the event loop, so that they need not add up.

Memory is the peak of a process that grows such a round, packaging included.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selfinstruct_hub import config, filters, plan, run
from selfinstruct_hub.grow import Progress
from selfinstruct_hub.novelty import Comparison
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.recipes import alpaca
from selfinstruct_hub.records import IMPORT, Candidate, Instance, Round, Similarity, Verdict, task_of
from selfinstruct_hub.workspace import Workspace
from tests.support import gpu


def filled(folder: Path, tasks: int) -> Workspace:
    """A workspace whose pool has `tasks` accepted tasks in a first, released round. They go into the pool without
    being judged, which is what takes the time."""
    workspace = Workspace.create(folder, config.Settings())
    settings = workspace.settings()
    rng = random.Random(1)
    texts = dict.fromkeys(gpu.instruction(rng) for _ in range(tasks + tasks // 100))
    verdicts = []
    for position, text in enumerate(list(texts)[:tasks]):
        output = " ".join(rng.choices(gpu.VOCABULARY, k=rng.randint(10, 60)))
        candidate = Candidate(instruction=text, instances=(Instance("", output),), stage=IMPORT, calls=())
        task = task_of(candidate, candidate.instances)
        verdicts.append(Verdict(1, 0, position, candidate, task=task, similarity=Similarity()))
    assert len(verdicts) == tasks
    source = {"file": "made.jsonl", "format": "alpaca_data", "rows": tasks, "sha256": ""}
    round_ = Round(
        number=1,
        version="v1.0.0",
        wanted=tasks,
        complete=True,
        settings={"recipe": IMPORT, **plan.judging(settings), "source": source},
        asked=config.publishable(settings).model_dump(),
    )
    with workspace.locked(), workspace.open_pool(settings) as pool:
        pool.add_import(round_, verdicts)
        run.package_complete_rounds(workspace, pool, settings)
    return workspace


class Clock:
    """Seconds spent in functions, by the name given to them: of the thread's processor, and of the wall."""

    def __init__(self) -> None:
        self.processor: defaultdict[str, float] = defaultdict(float)
        self.wall: defaultdict[str, float] = defaultdict(float)

    def watch(self, owner: Any, function: str, name: str) -> None:
        """Replaces `function` of `owner` by one that is timed."""
        called: Callable[..., Any] = getattr(owner, function)

        @functools.wraps(called)
        def timed(*values: Any, **named: Any) -> Any:
            processor, wall = time.thread_time(), time.perf_counter()
            try:
                return called(*values, **named)
            finally:
                self.processor[name] += time.thread_time() - processor
                self.wall[name] += time.perf_counter() - wall

        setattr(owner, function, timed)


def grown(path: Path, url: str, tasks: int, items: int) -> dict[str, Any]:
    """Grows a round in the workspace at `path`. In a process of its own: it times functions by replacing them."""
    clock = Clock()
    clock.watch(Comparison, "__getitem__", "novelty")
    for function in ("add_completions", "add_draws", "completion"):
        clock.watch(Pool, function, "store")
    clock.watch(alpaca, "labelled_tasks", "parser")
    for function in ("instruction_drop", "kept_instances"):
        clock.watch(filters, function, "rules")
    seen: list[tuple[float, float, int, int]] = []  # clock, processor time, answers, candidates

    def observe(progress: Progress) -> None:
        if not seen or (progress.requests, progress.candidates) != seen[-1][2:]:
            seen.append((time.monotonic(), time.process_time(), progress.requests, progress.candidates))

    workspace = Workspace.at(path)
    overrides = {"tasks": tasks, "tasks_per_request": items, "endpoint.url": url}
    started = time.monotonic()
    run.grow(workspace, config.with_overrides(workspace.settings(), overrides), hooks=run.Hooks(observe=observe))
    ended = time.monotonic()
    (first, used_before, _, _), (last, used, answers, candidates) = seen[0], seen[-1]
    seconds = last - first
    with Pool.open(workspace.pool_file, read_only=True) as pool:
        counts = pool.counts(2)
    return {
        "completions": answers / seconds,
        "candidates": candidates / seconds,
        "accepted": counts["acceptance"],
        "processor": (used - used_before) / seconds,
        "shares": {name: (clock.processor[name] / seconds, clock.wall[name] / seconds) for name in clock.wall},
        "before": first - started,
        "behind": ended - last,
        "memory": peak_memory(),
    }


def peak_memory() -> int:
    """The most bytes that this process has had in memory."""
    status = Path("/proc/self/status")
    if status.exists():
        # ru_maxrss would be the parent's where that was larger: a child begins as its copy.
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(workspace: Workspace, tasks: int, items: int) -> dict[str, Any]:
    """`grown` in a process of its own, against a server in another."""
    with gpu.process(f"--items={items}", "--max-concurrent-requests=128") as url:
        command = [sys.executable, "-m", "tests.benchmarks.throughput", "--grow", str(workspace.path), url]
        done = subprocess.run(
            [*command, str(tasks), str(items)],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
            cwd=Path(__file__).resolve().parents[2],
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pool", type=int, default=20_000, help="accepted tasks in the pool before")
    parser.add_argument("--completions", type=int, default=3000, help="how many the round should take")
    parser.add_argument("--items", type=int, action="append", help="tasks in a completion: 1 and 4")
    parser.add_argument("--memory-pool", type=int, default=50_000, help="0: not measured")
    parser.add_argument("--grow", nargs=4, metavar=("DIR", "URL", "TASKS", "ITEMS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.grow:
        path, url, tasks, items = given.grow
        print(json.dumps(grown(Path(path), url, int(tasks), int(items))))
        return
    print(
        "| tasks in the pool | tasks a completion | completions/s | candidates/s | accepted | processors used "
        "| novelty, store, parser, rules: processor (wall) | seconds before | and behind | peak MB |"
    )
    print("| ---: " * 6 + "| --- | ---: | ---: | ---: |")
    rows = [(given.pool, items, given.completions) for items in given.items or (1, 4)]
    if given.memory_pool:
        rows.append((given.memory_pool, 1, given.completions // 3))
    for pool, items, completions in rows:
        with tempfile.TemporaryDirectory() as temporary:
            found = measure(filled(Path(temporary) / "w", pool), completions * items, items)
        shares = ", ".join(
            "{:.0%} ({:.0%})".format(*found["shares"].get(name, (0, 0)))
            for name in ("novelty", "store", "parser", "rules")
        )
        print(
            f"| {pool} | {items} | {found['completions']:.0f} | {found['candidates']:.0f} "
            f"| {found['accepted']:.0%} | {found['processor']:.2f} | {shares} "
            f"| {found['before']:.1f} | {found['behind']:.1f} | {found['memory'] / 1e6:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
