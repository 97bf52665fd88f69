"""Runs every measurement that the README quotes: `make bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

for name in ("startup", "novelty", "busy", "throughput", "acceptance", "output_first", "engine"):
    print(f"\n== {name}", flush=True)
    subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{name}"], check=True, cwd=Path(__file__).resolve().parents[2]
    )
