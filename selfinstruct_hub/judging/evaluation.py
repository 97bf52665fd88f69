"""Evaluation sets: texts that no task may be near to, read from anybody's files into a gate of their own.

Says how near a text is and to which place of which file. What becomes of the task is for others to decide.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

from selfinstruct_hub import datafiles
from selfinstruct_hub.novelty import FULL_UP_TO, NoveltyGate, mode_for
from selfinstruct_hub.records import Similarity

# Texts that are read and indexed together.
BATCH = 4096


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


@dataclass(frozen=True)
class Found:
    """A text of an evaluation set that another is too near to: its file, its place there, itself, and the ROUGE-L
    F1 of the two."""

    file: Path
    place: str
    text: str
    score: float


class EvaluationSets:
    """The texts of `files`: those of `columns`, or of the first usual one that a file has. What scores above
    `threshold` with one of them is too near.

    `observe` hears how many texts are held while they are read. Raises DataFileError, one line, for a file that is
    not there or cannot be read.
    """

    def __init__(
        self,
        files: Sequence[Path],
        threshold: float,
        *,
        columns: Sequence[str] = (),
        gate: Callable[[float], Gate] = novelty_gate,
        observe: Callable[[int], None] = lambda held: None,
    ) -> None:
        self._files = files
        self._threshold = threshold
        self._ends: list[int] = []  # how many texts there are after each file
        self._places: list[str] = []
        self._texts: list[str] = []
        self._gate = gate(threshold)
        for file in files:
            texts = datafiles.texts(file, columns, lenient=True)
            while batch := list(islice(texts, BATCH)):
                self._gate.extend((str(len(self._texts) + n), text) for n, (_, text) in enumerate(batch))
                self._places += [place for place, _ in batch]
                self._texts += [text for _, text in batch]
                observe(len(self._texts))
            self._ends.append(len(self._texts))

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def counts(self) -> Mapping[str, int]:
        """Texts of each file."""
        begins = [0, *self._ends[:-1]] if self._ends else []
        spans = zip(self._files, begins, self._ends, strict=True)
        return {str(file): end - first for file, first, end in spans}

    def near(self, texts: Sequence[str]) -> Iterator[Found | None]:
        """For each of `texts`, in order, the nearest one that it is too near to."""
        comparison = self._gate.comparison(texts)
        for at in range(len(texts)):
            similarity = comparison[at] if self._texts else Similarity()
            if similarity.score <= self._threshold:
                yield None
                continue
            number = int(similarity.nearest[0].id)
            file = self._files[bisect_right(self._ends, number)]
            yield Found(file, self._places[number], self._texts[number], similarity.score)
