"""The page of a release: figures measured, verbs counted, pictures drawn, rows chosen, and the card over them.

What is optional (matplotlib, spaCy) is used where it is installed; without it the card says what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from selfinstruct_hub.config import CardSettings
from selfinstruct_hub.release import shards
from selfinstruct_hub.release.page import card, diversity, pictures, samples, statistics

README = "README.md"
VERBS = f"{pictures.FOLDER}/verbs.json"


def write(
    folder: Path, manifest: dict[str, Any], settings: CardSettings, title: str, *, earlier: Iterable[Path] = ()
) -> None:
    """Writes the card and its pictures into `folder`, which has the shards of `manifest`; adds `statistics` and
    the files' entries to `manifest`. `earlier` are folders of releases whose rows this one begins with: what was
    counted
    for one of them is not counted again."""
    if verbs := measure(folder, manifest, settings, earlier=earlier):
        (folder / VERBS).parent.mkdir(exist_ok=True)
        (folder / VERBS).write_text(json.dumps(verbs, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        _enter(folder, manifest, VERBS)
    wanted = settings.pictures == "auto" and manifest["statistics"]["tasks"] >= pictures.LEAST_TASKS
    drawn = pictures.draw(manifest["statistics"], folder) if wanted else []
    for path in drawn:
        _enter(folder, manifest, f"{pictures.FOLDER}/{path.name}")
    shown = samples.chosen(folder, manifest["files"], manifest["version"], settings.samples)
    described = pictures.described(manifest["statistics"], drawn)
    text = card.render(manifest, settings, title, shown=shown, pictures=described)
    (folder / README).write_text(text, encoding="utf-8")
    _enter(folder, manifest, README)


def measure(
    folder: Path, manifest: dict[str, Any], settings: CardSettings, *, earlier: Iterable[Path] = ()
) -> dict[str, Any] | None:
    """Adds `statistics` to `manifest`, whose shards are in `folder`, with `verbs` (see `diversity.summary`; None
    where they were not counted). Returns all pairs of verb and object (see `diversity.measured`). Writes
    nothing."""
    files = manifest["files"]
    pipeline = diversity.pipeline_for(manifest["language"]) if settings.verbs == "auto" else None
    verbs = diversity.measured(lambda: statistics.instructions(folder, files), pipeline, _counted(earlier))
    manifest["statistics"] = statistics.measured(folder, files, manifest["rounds"])
    manifest["statistics"]["verbs"] = diversity.summary(verbs) if verbs else None
    return verbs


def _enter(folder: Path, manifest: Mapping[str, Any], path: str) -> None:
    manifest["files"].append({"path": path, **shards.measure(folder / path)})


def _counted(releases: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """What earlier releases have counted. One that was changed since does not count."""
    for release in releases:
        file = release / VERBS
        if file.is_file():
            manifest = json.loads((release / "manifest.json").read_text(encoding="utf-8"))
            known = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
            if known.get(VERBS) == shards.measure(file)["sha256"]:
                yield json.loads(file.read_text(encoding="utf-8"))
