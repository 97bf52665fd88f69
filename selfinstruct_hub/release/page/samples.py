"""The rows that the card shows: chosen by a rule that anybody can repeat, not by hand.

Those whose SHA-256 over the version and the row's id is lowest. Rows are looked at as they are
written, or in the shards as a stream.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from selfinstruct_hub.release.page.escaping import cut, fenced, visible, wrapped
from selfinstruct_hub.release.page.statistics import Files, batches

MOST_CHARACTERS = 1200  # shown of one text
_COLUMNS = ["id", "round", "instruction", "input", "output"]


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
    choice = Choice(version, count)
    for batch in batches(folder, files, "default", _COLUMNS):
        choice.add(batch)
    return choice.found()


class Choice:
    """Chooses `count` rows for a version among those that it is shown, in whatever order."""

    def __init__(self, version: str, count: int) -> None:
        self._begun, self._count = sha256(version.encode()), count
        self._best: list[tuple[bytes, str, Sample]] = []

    def add(self, default: Any) -> None:
        """Looks at the rows of a table, or batch, of `default`."""
        if not self._count:
            return
        ids = default.column("id").to_pylist()
        ranks = [self._rank(key) for key in ids]
        known = len(self._best) == self._count
        places = [at for at, rank in enumerate(ranks) if rank <= self._best[-1][0]] if known else range(len(ids))
        for at in heapq.nsmallest(self._count, places, key=lambda at: (ranks[at], ids[at])):
            (row,) = default.select(_COLUMNS).slice(at, 1).to_pylist()
            self._best.append((ranks[at], ids[at], Sample(**row)))
        self._best = sorted(self._best, key=lambda one: one[:2])[: self._count]

    def _rank(self, key: str) -> bytes:
        digest = self._begun.copy()  # a third less work than to begin anew, for every row of a release
        digest.update(key.encode())
        return digest.digest()

    def found(self) -> list[Sample]:
        """The rows, in the order of the rule."""
        return [sample for _, _, sample in self._best]


def _lines(text: str) -> list[str]:
    broken = (wrapped(line) for line in visible(cut(text, MOST_CHARACTERS)).split("\n"))
    return "\n".join(broken).split("\n")


def rule(manifest: Mapping[str, Any]) -> str:
    """The rule in words, for the card."""
    return f"the SHA-256 of `{manifest['version']}` and its id, written together, is lowest"
