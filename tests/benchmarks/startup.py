"""Seconds until `selfinstruct-hub --help` has answered, beside an interpreter that does nothing.

python -m tests.benchmarks.startup [--runs 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time


def seconds(command: list[str], runs: int) -> list[float]:
    """Wall-clock seconds of each run, after one that is not counted."""
    found = []
    for number in range(runs + 1):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        if number:
            found.append(time.perf_counter() - started)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    tool = seconds([sys.executable, "-m", "selfinstruct_hub", "--help"], runs)
    bare = seconds([sys.executable, "-c", "pass"], runs)
    print(
        f"--help {statistics.median(tool):.2f} s (median of {runs}; {min(tool):.2f} to {max(tool):.2f}), "
        f"of which the interpreter alone {statistics.median(bare):.2f} s"
    )


if __name__ == "__main__":
    main()
