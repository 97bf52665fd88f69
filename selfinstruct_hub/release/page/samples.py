"""The rows that the card shows: chosen by a rule that anybody can repeat, not by hand.

Those whose SHA-256 over the version and the row's id is lowest. Reads the shards as a stream.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfinstruct_hub.release.page.escaping import cut, fenced, visible, wrapped
from selfinstruct_hub.release.page.statistics import Files, columns

MOST_CHARACTERS = 1200  # shown of one text


@dataclass(frozen=True)
class Sample:
    """A row of the release."""

    id: str
    round: int
    instruction: str
    input: str
    output: str

    @property
    def block(self) -> str:
        """The row as a fenced block. Texts are indented and names are not, so that no text can pass for a name."""
        parts = {"instruction": self.instruction, "input": self.input, "output": self.output}
        shown = [
            "\n".join([f"{name}:", *(f"  {line}" for line in _lines(text))])
            for name, text in parts.items()
            if text or name != "input"
        ]
        return fenced("\n".join(shown))


def chosen(folder: Path, files: Files, version: str, count: int) -> list[Sample]:
    """`count` rows of the release, or all where it has fewer, in the order of the rule."""
    rows = columns(folder, files, "default", ("id", "round", "instruction", "input", "output"))
    best = heapq.nsmallest(count, rows, key=lambda row: (_rank(version, row[0]), row[0]))
    return [Sample(*row) for row in best]


def _lines(text: str) -> list[str]:
    broken = (wrapped(line) for line in visible(cut(text, MOST_CHARACTERS)).split("\n"))
    return "\n".join(broken).split("\n")


def _rank(version: str, key: str) -> str:
    return hashlib.sha256(f"{version}{key}".encode()).hexdigest()


def rule(manifest: Mapping[str, Any]) -> str:
    """The rule in words, for the card."""
    return f"the SHA-256 of `{manifest['version']}` and its id, written together, is lowest"
