"""Kills every command again and again, and prints what came of it.

python -m tests.survival [--kills 200] [--seed 1] [--only grow --only push] [--json]
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.survival.kills import Tally, killed, stand, uninterrupted
from tests.survival.scenarios import available


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.survival", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="in all, shared among the commands")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--only", action="append", help="a command by its name here")
    parser.add_argument("--json", action="store_true", help="the table as JSON")
    asked = parser.parse_args()
    scenarios = [one for one in available() if not asked.only or one.name in asked.only]
    tallies = [Tally(one.name) for one in scenarios]
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # it tells of every connection that a kill cuts
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary, stand(Path(temporary)) as there:
        for place, (scenario, tally) in enumerate(zip(scenarios, tallies, strict=True)):
            rng = random.Random(f"{asked.seed}/{scenario.name}")
            folder = Path(temporary) / scenario.name
            whole = uninterrupted(there, scenario, folder)
            share = asked.kills // len(scenarios) + (place < asked.kills % len(scenarios))
            while tally.kills < share:
                killed(there, whole, folder / str(tally.runs), rng, tally, share - tally.kills)
            said = f"{scenario.name}: {tally.kills} kills, {whole.seconds:.1f} s uninterrupted"
            print(said, file=sys.stderr, flush=True)
    if asked.json:
        print(json.dumps([asdict(tally) for tally in tallies], indent=2))
    else:
        heads = ("kills", "runs", "resumed", "identical", "paid twice", "in flight")
        print(f"{'command':<12}{heads[0]:>7}{heads[1]:>7}{heads[2]:>9}{heads[3]:>11}{heads[4]:>12}{heads[5]:>11}")
        for one in tallies:
            print(
                f"{one.name:<12}{one.kills:>7}{one.runs:>7}{one.resumed:>9}{one.identical:>11}{one.paid_twice:>12}"
                f"{one.flying:>11}"
            )
        print(f"{sum(one.late for one in tallies)} of the kills came when the command had ended;", end=" ")
        print(f"{time.monotonic() - began:.0f} s in all")
    for tally in tallies:
        for failure in tally.failures:
            print(failure, file=sys.stderr)
    return 0 if all(tally.whole for tally in tallies) else 1


if __name__ == "__main__":
    sys.exit(main())
