"""Writes `loading_script.py` of a release: the builder with this release's constants in the marked block."""

from __future__ import annotations

import pprint
import re
from typing import Any

from selfinstruct_hub import assets
from selfinstruct_hub.errors import ReleaseError
from selfinstruct_hub.release import shards
from selfinstruct_hub.release.page import card

FILE_NAME = assets.SCRIPT
_BLOCK = re.compile(r"(?<=^# >>> release).*?(?=^# <<< release)", re.MULTILINE | re.DOTALL)


def check_name(name: str) -> None:
    """Refuses the name of a folder or repository (without its namespace) that would make `datasets` take the
    script for the dataset itself. Raises ReleaseError."""
    if assets.is_taken(name):
        raise ReleaseError(
            f"{name}: {FILE_NAME} is a file of every release, and `datasets` would run it or refuse to load a "
            "dataset of that name; choose another"
        )


def render(manifest: dict[str, Any]) -> str:
    """The script's text for the release that `manifest` describes."""
    files = {
        name: {shards.SPLIT: [file["path"] for file in manifest["files"] if file.get("config") == name]}
        for name in card.published_configs(manifest)
    }
    constants = {
        "VERSION": manifest["version"].removeprefix("v"),
        "RELEASE": manifest["release"],
        "DEFAULT_CONFIG": "default",
        "DESCRIPTION": f"{manifest['rows']} instruction rows, recipe {manifest['recipe']}.",
        "LICENSE": manifest["license"] or "",
        "FILES": files,
        "FEATURES": {name: shards.COLUMNS[name] for name in files},
    }
    lines = []
    for name, value in constants.items():
        kind = ": dict[str, Any]" if isinstance(value, dict) else ""
        lines.append(f"{name}{kind} = {pprint.pformat(value, width=100, sort_dicts=False)}")
    block = " (written when this release was packaged)\n" + "\n".join(lines) + "\n"
    text, count = _BLOCK.subn(lambda _: block, assets.text("builder", FILE_NAME))
    assert count == 1, "the builder has one block of constants"
    return text
