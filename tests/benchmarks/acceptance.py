"""Shares of completions that parse and of candidates that are accepted on the embedded model, by recipe, language
and grammar.

    python -m tests.benchmarks.acceptance [--tasks 20] [--recipe alpaca] [--language zh] [--grammar on]
        [--frequency-penalty 0.2] [--keep FOLDER]

Each row is one workspace grown to the same number of accepted tasks (in one round, stopped after 400 requests at
the latest), or with --requests to the same number of answers.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

from selfinstruct_hub import config, run
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.workspace import Workspace


def measure(folder: Path, base: dict[str, Any], overrides: dict[str, Any], requests: int) -> dict[str, Any]:
    """Counts of one round, and its seconds."""
    workspace = Workspace.create(folder, config.with_overrides(config.Settings(), base))
    settings = config.with_overrides(workspace.settings(), overrides)
    started = time.monotonic()
    run.grow(workspace, settings, max_requests=requests)
    seconds = time.monotonic() - started
    with Pool.open(workspace.pool_file, read_only=True) as pool:
        return {**pool.counts(1), "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--requests", type=int, help="stop after so many answers instead")
    parser.add_argument("--recipe", choices=("alpaca", "self-instruct"), action="append")
    parser.add_argument("--language", action="append")
    parser.add_argument("--grammar", choices=("on", "off"), action="append")
    for name in ("temperature", "top-p", "frequency-penalty"):
        parser.add_argument(f"--{name}", type=float, help="default: what the tool uses for this model")
    parser.add_argument("--keep", type=Path, help="leave the workspaces in this folder")
    given = parser.parse_args()
    decoding = {f"decoding.{name}": getattr(given, name) for name in ("temperature", "top_p", "frequency_penalty")}
    print(
        "| recipe | language | grammar | completions | parse | candidates | accepted | tasks | rows | "
        "similarity mean / p90 | seconds | dropped because | instances lost |"
    )
    print("| --- | --- | --- " + "| ---: " * 8 + "| --- | --- |")
    combinations = itertools.product(
        given.recipe or ("alpaca", "self-instruct"), given.language or ("en", "zh"), given.grammar or ("on",)
    )
    with tempfile.TemporaryDirectory() as temporary:
        for recipe, language, grammar in combinations:
            folder = (given.keep or Path(temporary)) / f"{recipe}-{language}-{grammar}"
            wanted = 100_000 if given.requests else given.tasks
            overrides = {"tasks": wanted, "grammar": grammar, **decoding}
            base = {"recipe": recipe, "language": language}
            found = measure(folder, base, overrides, given.requests or 400)
            drops, lost = (
                ", ".join(f"{reason} {count}" for reason, count in found[key].items()) or "-"
                for key in ("drops", "lost_instances")
            )
            print(
                f"| {recipe} | {language} | {grammar} | {found['completions']} "
                f"| {found['parsed'] / found['completions']:.0%} "
                f"| {found['candidates']} | {found['acceptance'] or 0:.0%} | {found['tasks']} | {found['rows']} "
                f"| {found['similarity']['mean'] or 0:.2f} / {found['similarity']['p90'] or 0:.2f} "
                f"| {found['seconds']:.0f} | {drops} | {lost} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
