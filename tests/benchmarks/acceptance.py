"""Shares of completions that parse and of candidates that are accepted on the embedded model, with and without
the grammar.

    python -m tests.benchmarks.acceptance [--requests 48] [--frequency-penalty 0.2] [--keep FOLDER]

Both sides answer the same draws through `grow`, stopped after the same number of requests.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from selfinstruct_hub import config, run
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.workspace import Workspace


def measure(folder: Path, grammar: str, requests: int, decoding: dict[str, Any]) -> dict[str, Any]:
    """Counts of one run of `requests` draws."""
    workspace = Workspace.create(folder, config.Settings())
    settings = config.with_overrides(
        workspace.settings(),
        {"tasks": 100_000, "grammar": grammar, **{f"decoding.{name}": value for name, value in decoding.items()}},
    )
    run.grow(workspace, settings, max_requests=requests)
    with Pool.open(workspace.pool_file, read_only=True) as pool:
        return pool.counts(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=48)
    for name in ("temperature", "top-p", "frequency-penalty"):
        parser.add_argument(f"--{name}", type=float, help="default: what the tool uses for this model")
    parser.add_argument("--keep", type=Path, help="leave the workspaces in this folder")
    given = parser.parse_args()
    decoding = {name: getattr(given, name) for name in ("temperature", "top_p", "frequency_penalty")}
    print("| grammar | completions | parse | candidates | accepted | tasks per 1,000 tokens | dropped because |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    with tempfile.TemporaryDirectory() as temporary:
        for grammar in ("on", "off"):
            folder = (given.keep or Path(temporary)) / grammar
            found = measure(folder, grammar, given.requests, decoding)
            drops = ", ".join(f"{reason} {count}" for reason, count in found["drops"].items())
            print(
                f"| {grammar} | {found['completions']} | {found['parsed'] / found['completions']:.0%} "
                f"| {found['candidates']} | {found['tasks'] / found['candidates']:.0%} "
                f"| {1000 * found['tasks'] / found['tokens']['generated']:.1f} | {drops} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
