"""Reads a release in every way that there is, with whatever version of `datasets` is installed. Stands alone: run
as a script in an environment of `environments`, with what to read as JSON and a file for the answer.

    {"folder": a release, "other": another release of the same version, "repo": org/name on HF_ENDPOINT,
     "tags": its tags, "missing": a tag that it has not, "configs": [names], "cache": an empty folder}

Answers {way: {config: {"rows", "digest", "version"} or {"error"}}}; `version` is null where the way tells none.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets

MAJOR, MINOR = (int(part) for part in datasets.__version__.split(".")[:2])
# Before 4 a script needs leave to run, but the oldest do not know the word.
TRUST = {"trust_remote_code": True} if (2, 16) <= (MAJOR, MINOR) < (4, 0) else {}


Found = dict[str, Any]


def told(rows: list[Any], version: str | None = None) -> Found:
    content = json.dumps(rows, sort_keys=True).encode()
    return {"rows": len(rows), "digest": hashlib.sha256(content).hexdigest(), "version": version}


def loaded(path: str, name: str, **options: Any) -> Found:
    rows = datasets.load_dataset(path, name, split="train", **options)
    return told(rows.to_list(), str(rows.version))


def streamed(path: str, name: str, **options: Any) -> Found:
    return told(list(datasets.load_dataset(path, name, split="train", streaming=True, **options)))


def imported(folder: str) -> Any:
    """The class of a release's script, under the name that a plain import gives it."""
    spec = importlib.util.spec_from_file_location("loading_script", Path(folder) / "loading_script.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["loading_script"] = module
    spec.loader.exec_module(module)
    return module.InstructionDataset


def built(folder: str, name: str, cache: str) -> Found:
    builder = imported(folder)(config_name=name, cache_dir=cache)
    builder.download_and_prepare()
    return told(builder.as_dataset(split="train").to_list(), str(builder.info.version))


def built_streaming(folder: str, name: str, cache: str) -> Found:
    builder = imported(folder)(config_name=name, cache_dir=cache)
    return told(list(builder.as_streaming_dataset(split="train")))


def main(
    folder: str, other: str, repo: str, tags: list[str], missing: str, configs: list[str], cache: str
) -> dict[str, dict[str, Found]]:
    def of_tag(tag: str, read: Callable[..., Found]) -> Callable[[str], Found]:
        return lambda name: read(repo, name, revision=tag)

    script, other_script = (str(Path(place) / "loading_script.py") for place in (folder, other))
    ways: dict[str, Callable[[str], Found]] = {
        "folder": lambda name: loaded(folder, name),
        "folder, streamed": lambda name: streamed(folder, name),
        "script": lambda name: loaded(script, name, **TRUST),
        "script, streamed": lambda name: streamed(script, name, **TRUST),
        "class": lambda name: built(folder, name, cache),
        "class, streamed": lambda name: built_streaming(folder, name, cache),
        # In the same cache, where the version is the same and the rows are not.
        "class of other": lambda name: built(other, name, cache),
        "class again": lambda name: built(folder, name, cache),
        "script of other": lambda name: loaded(other_script, name, **TRUST),
        "folder of other": lambda name: loaded(other, name),
        **{f"Hub {tag}": of_tag(tag, loaded) for tag in tags},
        **{f"Hub {tag}, streamed": of_tag(tag, streamed) for tag in tags},
        "Hub without the tag": of_tag(missing, streamed),
    }
    found: dict[str, dict[str, Found]] = {}
    for way, read in ways.items():
        found[way] = {}
        for name in configs:
            try:
                found[way][name] = read(name)
            except Exception as error:
                said = "".join(traceback.format_exception(type(error), error, error.__traceback__))
                found[way][name] = {"error": f"{type(error).__name__}: {error}", "traceback": said}
    return found


if __name__ == "__main__":
    assert os.environ["HF_ENDPOINT"].startswith("http://127.0.0.1:")
    # All of it in a file: old versions print bars and notes wherever they like.
    answer = {"version": datasets.__version__, "ways": main(**json.loads(sys.argv[1]))}
    Path(sys.argv[2]).write_text(json.dumps(answer))
