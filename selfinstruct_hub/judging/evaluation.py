"""Evaluation sets: texts that no task may be near to, read from anybody's files into a gate of their own.

Says how near a text is and to which place of which file. What becomes of the task is for others to decide.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from selfinstruct_hub import datafiles
from selfinstruct_hub.datafiles.held import Held
from selfinstruct_hub.novelty.seam import Gate, novelty_gate
from selfinstruct_hub.records import Similarity

# Texts that are read and indexed together.
BATCH = 4096


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

    `option` is where a user says which columns. `observe` hears how many texts are held while they are read.
    Raises DataFileError, one line, for a file that is not there or cannot be read.
    """

    def __init__(
        self,
        files: Sequence[Path],
        threshold: float,
        *,
        columns: Sequence[str] = (),
        option: str = "--column",
        gate: Callable[[float], Gate] = novelty_gate,
        observe: Callable[[int], None] = lambda held: None,
    ) -> None:
        self._files = files
        self._threshold = threshold
        self._ends: list[int] = []  # how many texts there are after each file
        self._held = Held()
        self._read: set[str] = set()
        self._gate = gate(threshold)
        for file in files:
            texts = datafiles.texts(file, columns, lenient=True, option=option, read=self._read)
            while batch := list(islice(texts, BATCH)):
                self._gate.extend((str(len(self._held) + n), text) for n, (_, text) in enumerate(batch))
                for place, text in batch:
                    self._held.append(place, text)
                observe(len(self._held))
            self._ends.append(len(self._held))

    def __len__(self) -> int:
        return len(self._held)

    @property
    def columns(self) -> frozenset[str]:
        """The columns that were read."""
        return frozenset(self._read)

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
            similarity = comparison[at] if len(self._held) else Similarity()
            if similarity.score <= self._threshold:
                yield None
                continue
            number = int(similarity.nearest[0].id)
            file = self._files[bisect_right(self._ends, number)]
            yield Found(file, *self._held[number], similarity.score)
