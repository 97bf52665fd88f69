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


class Seen:
    """What a page says of the rows, counted and chosen while they pass by: as they are written (`add`), or read
    from shards (`read`). `samples` rows are chosen for `version`."""

    def __init__(self, version: str, samples_: int) -> None:
        self.tally = statistics.Tally()
        self.choice = samples.Choice(version, samples_)

    def add(self, tables: Mapping[str, Any]) -> None:
        """Looks at tables: of `default` and `provenance` with the same rows, or of `rejected`. Another thread may
        do the one while the other is done: they share nothing."""
        if "rejected" in tables:
            self.tally.add_rejected(tables["rejected"])
        else:
            self.tally.add_accepted(tables["default"], tables["provenance"])
            self.choice.add(tables["default"])

    def read(self, folder: Path, files: statistics.Files) -> Seen:
        """Looks at the rows of the shards `files`. Raises ReleaseError where they do not fit one another."""
        for tables in statistics.tables(folder, files):
            self.add(tables)
        return self


def write(
    folder: Path,
    manifest: dict[str, Any],
    settings: CardSettings,
    title: str,
    *,
    seen: Seen | None = None,
    earlier: Iterable[Path] = (),
) -> None:
    """Writes the card and its pictures into `folder`, which has the shards of `manifest`; adds `statistics` and
    the files' entries to `manifest`. `seen` has looked at all rows; without it they are read. `earlier` are
    folders of releases whose rows this one begins with: what was counted for one of them is not counted again."""
    seen = seen or Seen(manifest["version"], settings.samples).read(folder, manifest["files"])
    if verbs := measure(folder, manifest, settings, seen=seen, earlier=earlier):
        (folder / VERBS).parent.mkdir(exist_ok=True)
        (folder / VERBS).write_text(json.dumps(verbs, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        _enter(folder, manifest, VERBS)
    wanted = settings.pictures == "auto" and manifest["statistics"]["tasks"] >= pictures.LEAST_TASKS
    drawn = pictures.draw(manifest["statistics"], folder) if wanted else []
    for path in drawn:
        _enter(folder, manifest, f"{pictures.FOLDER}/{path.name}")
    described = pictures.described(manifest["statistics"], drawn)
    text = card.render(manifest, settings, title, shown=seen.choice.found(), pictures=described)
    (folder / README).write_text(text, encoding="utf-8")
    _enter(folder, manifest, README)


def measure(
    folder: Path,
    manifest: dict[str, Any],
    settings: CardSettings,
    *,
    seen: Seen | None = None,
    earlier: Iterable[Path] = (),
) -> dict[str, Any] | None:
    """Adds `statistics` to `manifest`, whose shards are in `folder`, with `verbs` (see `diversity.summary`; None
    where they were not counted). Returns all pairs of verb and object (see `diversity.measured`). Writes
    nothing."""
    files = manifest["files"]
    pipeline = diversity.pipeline_for(manifest["language"]) if settings.verbs == "auto" else None
    verbs = diversity.measured(lambda: statistics.instructions(folder, files), pipeline, _counted(earlier))
    rounds = manifest["rounds"]
    manifest["statistics"] = seen.tally.found(rounds) if seen else statistics.measured(folder, files, rounds)
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
