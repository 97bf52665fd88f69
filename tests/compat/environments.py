"""One virtual environment for every version of `datasets` that releases are read with, below .venv-compat/.

    python -m tests.compat.environments              makes those that are missing, all of them
    python -m tests.compat.environments 2.14.7 5.2.0   these only

What decides how a file is read is pinned, each version with libraries of its own time; the rest comes as it is. An
environment is kept until its pins change. `uv` makes them where there is one (seconds each), pip otherwise.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / ".venv-compat"
_STAMP = "pins.json"  # written last, so an environment that has it is whole

_BEFORE_NUMPY_2 = {"numpy": "1.26.4", "pandas": "2.2.3", "dill": "0.3.8", "multiprocess": "0.70.16"}
_SINCE = {"numpy": "2.2.6", "pandas": "2.3.3"}
NEWEST = "5.2.0"
PINS: dict[str, dict[str, str]] = {
    "2.14.7": {
        **_BEFORE_NUMPY_2,
        "pyarrow": "14.0.2",
        "huggingface-hub": "0.20.3",
        "fsspec": "2023.10.0",
        "dill": "0.3.7",
        "multiprocess": "0.70.15",
    },
    "2.21.0": {**_BEFORE_NUMPY_2, "pyarrow": "17.0.0", "huggingface-hub": "0.24.7", "fsspec": "2024.6.1"},
    "3.6.0": {**_BEFORE_NUMPY_2, "pyarrow": "20.0.0", "huggingface-hub": "0.33.5", "fsspec": "2025.3.0"},
    "4.4.2": {**_SINCE, "pyarrow": "22.0.0", "huggingface-hub": "0.36.2", "fsspec": "2025.10.0"},
    "4.8.5": {**_SINCE, "pyarrow": "24.0.0", "huggingface-hub": "1.17.0", "fsspec": "2026.2.0"},
    "5.0.1": {**_SINCE, "pyarrow": "26.0.1", "huggingface-hub": "1.33.0"},
    # No pins but itself and the readers beside it: this is what somebody gets who installs it today.
    NEWEST: {"polars": "", "duckdb": "", "pandas": ""},
}


def python_of(version: str) -> Path:
    """The interpreter of the environment with `version` of datasets, whether it is there or not."""
    return FOLDER / version / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def is_made(version: str) -> bool:
    """Whether the environment is there, whole, with today's pins."""
    stamp = FOLDER / version / _STAMP
    return stamp.is_file() and json.loads(stamp.read_text()) == _wanted(version)


def make(version: str) -> None:
    """Makes the environment anew. Raises subprocess.CalledProcessError where a package cannot be had."""
    place = FOLDER / version
    shutil.rmtree(place, ignore_errors=True)
    packages = [f"{name}=={pin}" if pin else name for name, pin in _wanted(version).items()]
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv:
        _run(uv, "venv", "--quiet", "--python", sys.executable, str(place))
        _run(uv, "pip", "install", "--quiet", "--python", str(python_of(version)), *packages)
    else:
        _run(sys.executable, "-m", "venv", str(place))
        quiet = ("--quiet", "--disable-pip-version-check")
        _run(str(python_of(version)), "-m", "pip", "install", *quiet, "--prefer-binary", *packages)
    (place / _STAMP).write_text(json.dumps(_wanted(version)))


def _wanted(version: str) -> dict[str, str]:
    return {"datasets": version, **PINS[version]}


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def main(versions: list[str]) -> None:
    for version in versions or list(PINS):
        if version not in PINS:
            sys.exit(f"{version}: not among {', '.join(PINS)}")
        if not is_made(version):
            began = time.perf_counter()
            make(version)
            print(f"datasets {version}: made in {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
