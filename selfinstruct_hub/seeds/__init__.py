"""Seeds: the tasks that people wrote, from a file, a dataset's folder or a dataset on the Hub, into Tasks.

A seed file has one JSON object a line (or is one JSON array of them), in Self-Instruct's seed format:

    {"id": "seed_task_0", "name": "...", "instruction": "...",
     "instances": [{"input": "...", "output": "..."}], "is_classification": false}

A dataset has one instance a row, in columns that `seed_dataset` names. Seeds are read whole or refused, with
place and field; nothing is repaired or skipped in silence.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from selfinstruct_hub import assets, languages
from selfinstruct_hub.config import Settings
from selfinstruct_hub.errors import SeedError
from selfinstruct_hub.records import Task, canonical_json, digest
from selfinstruct_hub.seeds.files import read

__all__ = ["as_row", "asked_of_hub", "fingerprint", "is_hub_id", "load", "locate", "read"]

_HUB_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_HUB_ID = re.compile(f"{_HUB_NAME}(?:/{_HUB_NAME})?")
# A name that ends like this means a file, though the Hub would allow it.
_FILE_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".yaml", ".yml", ".gz", ".zip")


def load(settings: Settings, beside: Path) -> list[Task]:
    """The seed tasks that `settings` name, with paths relative to the folder `beside`.

    Raises SeedError, one line with place and field, for whatever cannot be found, opened or used, and for an
    instruction in another script than the settings' language has; ConfigError for a language without a name.
    """
    found = locate(settings.seeds, settings.language, beside)
    language = languages.of(settings.language, settings.language_name)
    if isinstance(found, Path) and found.is_file():
        return read(found, language)
    from selfinstruct_hub.seeds import dataset

    return dataset.read(found, settings.seed_dataset, language)


def locate(seeds: str | None, language: str, beside: Path) -> Path | str:
    """Where the seeds are that the settings name: the path of a file or of a dataset's folder, relative to the
    folder `beside`, else the id of a dataset on the Hub; ours for `language` where they name none.

    Raises SeedError where there is none. Asks nobody whether the Hub has that dataset.
    """
    if seeds is not None:
        try:
            path = (beside / Path(seeds).expanduser()).resolve()
            there = path.is_file() or path.is_dir()
        except (OSError, RuntimeError, ValueError) as error:  # forbidden; no such home; no path at all
            raise SeedError(f"{seeds}: cannot be looked at ({error})") from None
        if there:
            return path
        if is_hub_id(seeds):
            return seeds
        raise SeedError(
            f"{path}: no such seed file; set `seeds` (init: --seeds) to a JSONL of seed tasks, or to a dataset's "
            "folder or id"
        )
    path = assets.folder("seeds") / f"{language.partition('-')[0].lower()}.jsonl"
    if not path.is_file():
        known = ", ".join(assets.seed_languages())
        raise SeedError(
            f"no seed tasks of ours for language `{language}` (there are: {known}); set `seeds` (init: --seeds) "
            "to a file of yours"
        )
    return path


def is_hub_id(seeds: str) -> bool:
    """Whether a text that is no path here has the form of a dataset's id: name or org/name."""
    return bool(
        _HUB_ID.fullmatch(seeds)
        and len(seeds) <= 96
        and not seeds.lower().endswith(_FILE_SUFFIXES)
        and not any(wrong in seeds for wrong in ("--", ".."))
    )


def asked_of_hub(settings: Settings, beside: Path) -> str | None:
    """What `settings` ask of the Hub, as a text to compare with another time's; None where seeds are files."""
    found = locate(settings.seeds, settings.language, beside)
    if isinstance(found, Path):
        return None
    return canonical_json([found, settings.seed_dataset.model_dump(), settings.language])


def fingerprint(tasks: list[Task]) -> str:
    """A digest of seed tasks and their order, to notice that they have changed."""
    return digest(*(as_row(task) for task in tasks))


def as_row(task: Task) -> dict[str, Any]:
    """`task` in the seed format, in which what nobody has called classification is none."""
    return {
        "id": task.id,
        "name": task.name,
        "instruction": task.instruction,
        "instances": [{"input": i.input, "output": i.output} for i in task.instances],
        "is_classification": bool(task.is_classification),
    }
