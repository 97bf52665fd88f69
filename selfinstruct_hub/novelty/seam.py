"""What a gate must do to be asked for verdicts alone: the seam behind which one process or a cluster compares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from selfinstruct_hub.novelty.gate import FULL_UP_TO, NoveltyGate, mode_for
from selfinstruct_hub.records import Similarity


class Comparison(Protocol):
    """Texts that are compared one after the other, each when it has its turn."""

    def __getitem__(self, place: int, /) -> Similarity:
        """What the text at `place` is nearest to, of all that the gate holds then."""

    def accept(self, place: int, key: str, /) -> None:
        """Adds the text at `place`, which has had its turn, to the gate under the id `key`."""


class Gate(Protocol):
    """Texts that others are compared with. Of what scores above its threshold, the nearest is reported."""

    def __len__(self) -> int: ...

    def extend(self, instructions: Iterable[tuple[str, str]], /) -> None:
        """Adds (id, text) pairs."""

    def comparison(self, instructions: Sequence[str], /) -> Comparison:
        """Compares several texts."""


def novelty_gate(threshold: float) -> Gate:
    """A gate in this process, made for texts that may be many: the verdict is the same in both modes."""
    return NoveltyGate(1, mode=mode_for(FULL_UP_TO + 1, threshold), threshold=threshold)
