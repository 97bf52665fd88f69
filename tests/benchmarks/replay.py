"""How fast stored completions are judged again, storing included.

    python -m tests.benchmarks.replay [--completions 50000] [--items 2 --items 4] [--mode full]

A pool is made up with that many stored and judged completions in one round: answers as the Alpaca recipe gets
them, with 1 to 2 * ITEMS - 1 tasks each, instructions of `corpus` (a fifth of them near-duplicates) and outputs
of 10 to 60 words. They are compared in fast mode; or in full, as in any round that begins with up to 50,000 tasks,
and then a replay finds ten neighbours of each and not only those above the threshold of that time. Then, each in a
process of its own: a replay with the same settings, which changes nothing; one with other blocked words; and one
with the novelty threshold at 0.6. Seconds are those of the whole replay but for the packaging of the release;
megabytes are the most that the first process had.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from selfinstruct_hub import config, plan, sampling
from selfinstruct_hub.judging import Judge
from selfinstruct_hub.novelty import Mode
from selfinstruct_hub.parsing import labelled_tasks
from selfinstruct_hub.plan import plan_of
from selfinstruct_hub.recipes import alpaca
from selfinstruct_hub.records import Completion, Request, Round
from selfinstruct_hub.workspace import Workspace
from tests.benchmarks import corpus
from tests.benchmarks.throughput import peak_memory
from tests.support import gpu

_AT_A_TIME = 500
SCENARIOS = {
    "nothing changes": {},
    "two words blocked, others let in": {"filters.blocked_words": ["explain", "music"]},
    "threshold 0.6": {"novelty.threshold": 0.6},
}


def answers(completions: int, items: int) -> Iterator[str]:
    """Texts of Alpaca's step, after a prompt that shows three tasks."""
    rng = random.Random(7)
    sizes = [rng.randint(1, 2 * items - 1) for _ in range(completions)]
    instructions = iter(corpus.instructions(sum(sizes)))
    for size in sizes:
        parts = []
        for number in range(4, 4 + size):
            given = " ".join(rng.choices(gpu.VOCABULARY, k=12)) + "." if rng.random() < 0.4 else "<noinput>"
            output = " ".join(rng.choices(gpu.VOCABULARY, k=rng.randint(10, 60)))
            label = "" if number == 4 else f"{number}. Instruction:"
            parts.append(f"{label} {next(instructions).capitalize()}.\n{number}. Input: {given}\n")
            parts.append(f"{number}. Output: {output.capitalize()}.\n###\n")
        yield "".join(parts)


def filled(folder: Path, completions: int, items: int, mode: Mode = "fast") -> Workspace:
    """A workspace with a complete round of `completions` judged ones, compared in this mode."""
    workspace = Workspace.create(folder, config.Settings())
    settings = workspace.settings()
    with workspace.locked(), workspace.open_pool(settings) as pool:
        seeds = pool.seeds()
        round_ = Round(
            number=1,
            version="v1.0.0",
            wanted=10**9,
            complete=False,
            settings={
                **plan.judging(settings),
                "recipe": "alpaca",
                "domain": None,
                "seed": 42,
                "chat": False,
                "grammar": False,
                "tasks_per_request": items,
                "demonstrations": {"human": 3, "machine": 0, "max_characters": None, "max_tokens": None},
                "decoding": {"max_new_tokens": 3072, "temperature": 1.0},
            },
            asked=config.publishable(settings).model_dump(),
        )
        pool.begin_round(round_)
        judge = Judge.resumed(pool, round_, mode=mode)
        prepared = plan_of(round_.settings)
        texts = enumerate(answers(completions, items))
        while some := list(islice(texts, _AT_A_TIME)):
            stored = []
            for number, text in some:
                shown = sampling.rng_of(42, 1, number, "demonstrations").sample(seeds, 3)
                prompt = alpaca.prompt(shown, items, prepared.language)
                ids = tuple(task.id for task in shown)
                request = Request(1, number, 0, alpaca.TASKS, prompt, prepared.decoding, ids)
                stored.append((request, Completion(text, "eos", 700, 400, "made/up", "tgi", 0.0, 1.0, 1.0)))
            pool.add_completions(stored)
            found = [
                (
                    number,
                    [replace(c, stage=alpaca.TASKS) for c in labelled_tasks(text, prefilled="4. Instruction:")],
                )
                for number, text in some
            ]
            verdicts = judge.draws(found)
            pool.add_draws(1, [(number, one, ()) for (number, _), one in zip(found, verdicts, strict=True)])
        pool.set_wanted(1, pool.accepted_count(1))
        pool.complete_round(1)
    return workspace


def replayed(path: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    """Replays in the workspace at `path`, without packaging."""
    # Imported by its path: the package's own name is the function.
    room = importlib.import_module("selfinstruct_hub.replay")
    room.package_complete_rounds = lambda *_: []  # type: ignore[attr-defined]
    workspace = Workspace.at(path)
    settings = config.with_overrides(workspace.settings(), overrides)
    began, used = time.monotonic(), time.process_time()
    found = room.replay(workspace, settings)
    seconds = time.monotonic() - began
    (one,) = found.rounds
    return {
        "completions": one.completions / seconds,
        "candidates": one.candidates / seconds,
        "seconds": seconds,
        "won": one.won,
        "lost": one.lost,
        "same": one.same,
        "processor": time.process_time() - used,
        "memory": peak_memory(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--completions", type=int, default=50_000)
    parser.add_argument("--items", type=int, action="append", help="tasks of an answer on average: 2 and 4")
    parser.add_argument("--mode", choices=["fast", "full"], default="fast", help="how they were compared first")
    parser.add_argument("--replay", nargs=2, metavar=("DIR", "SETTINGS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.replay:
        path, overrides = given.replay
        print(json.dumps(replayed(Path(path), json.loads(overrides))))
        return
    print(
        "| candidates an answer | change | completions/s | candidates/s | seconds | rows won, lost, same "
        "| peak MB |"
    )
    print("| ---: | --- | ---: | ---: | ---: | --- | ---: |", flush=True)
    for items in given.items or (2, 4):
        with tempfile.TemporaryDirectory() as temporary:
            made = filled(Path(temporary) / "made", given.completions, items, given.mode)
            for name, overrides in SCENARIOS.items():
                copy = Path(temporary) / "copy"
                shutil.copytree(made.path, copy)
                command = [sys.executable, "-m", "tests.benchmarks.replay", "--replay", str(copy)]
                done = subprocess.run(
                    [*command, json.dumps(overrides)],
                    stdout=subprocess.PIPE,
                    check=True,
                    text=True,
                    cwd=Path(__file__).resolve().parents[2],
                )
                shutil.rmtree(copy)
                found = json.loads(done.stdout)
                print(
                    f"| {found['candidates'] / found['completions']:.1f} | {name} | {found['completions']:,.0f}"
                    f" | {found['candidates']:,.0f} | {found['seconds']:.1f}"
                    f" | {found['won']:,}, {found['lost']:,}, {found['same']:,} | {found['memory'] / 1e6:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
