"""`dedup`: the novelty gate for anybody's rows. The first of near-duplicates stays, what is too near to other
files goes, and every row that goes is told with its reason, its neighbour and the score that decided.

How rows are read and written is for `datafiles` to know, what is similar for the gate.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from selfinstruct_hub import datafiles, languages
from selfinstruct_hub.datafiles import Batch, DataFile, Part, Unusable
from selfinstruct_hub.datafiles.held import Held
from selfinstruct_hub.datafiles.outputs import Output, whole
from selfinstruct_hub.dedup.dropped import Near, line
from selfinstruct_hub.dedup.gates import cluster_gates
from selfinstruct_hub.dedup.places import check_beside, places
from selfinstruct_hub.errors import BadRowError, DataFileError
from selfinstruct_hub.judging.evaluation import EvaluationSets
from selfinstruct_hub.languages import Language
from selfinstruct_hub.novelty.seam import Comparison, Gate, novelty_gate
from selfinstruct_hub.records import CONTAMINATED, TOO_SIMILAR

__all__ = [
    "CONTAMINATED",
    "TOO_SIMILAR",
    "Comparison",
    "Deduplicated",
    "Gate",
    "Progress",
    "cluster_gates",
    "dedup",
    "novelty_gate",
]

# Rows that are read, compared and written together.
BATCH = 4096
# Rows that are left out are named up to here, and only counted beyond.
_BAD_NAMED = 20


@dataclass(frozen=True)
class Progress:
    """How far it is. `share` is the part of the file that is read, 0 to 1; None where that cannot be known, and
    while the texts of `against` are read, of which there are `held` by then."""

    rows: int
    kept: int
    dropped: int
    held: int
    share: float | None


@dataclass(frozen=True)
class Deduplicated:
    """What became of a file. `rows` are all rows, `bad` those that were left out, the first of which `bad_rows`
    tells; `drops` are the others that did not stay, by reason. `tokenless` kept rows have not one letter or digit.
    `foreign` rows do not show the script of the language that was named. `against` are the other files' texts."""

    file: Path
    kind: str
    column: str | None
    threshold: float
    rows: int
    kept: int
    drops: Mapping[str, int]
    bad: int
    bad_rows: Sequence[str]
    tokenless: int
    foreign: int
    against: Mapping[str, int]
    seconds: float
    out: Path
    dropped: Path

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds if self.seconds else 0.0


def dedup(
    path: Path,
    *,
    out: Path | None = None,
    against: Sequence[Path] = (),
    threshold: float = 0.7,
    column: str | None = None,
    language: Language | None = None,
    overwrite: bool = False,
    skip_bad: bool = False,
    gate: Callable[[float], Gate] = novelty_gate,
    observe: Callable[[Progress], None] = lambda progress: None,
) -> Deduplicated:
    """Writes the rows of `path` that are new to `out`, as they were, and the others beside it.

    A row goes as CONTAMINATED where its instruction scores above `threshold` with a text of the files `against`,
    or else as TOO_SIMILAR with a row that was kept before it. `column` holds the instructions; the first of
    `datafiles.USUAL` where None. `gate` makes an empty gate for a threshold; it is called for `against` too.

    Nothing appears unless everything is written. Raises DataFileError for what cannot be read or written, and
    BadRowError for a row without an instruction (`skip_bad` leaves such rows out of both).
    """
    began = time.monotonic()
    check_beside(path, out)
    data = datafiles.open_data(path)
    kept_out, dropped_out = places(data, out, against, overwrite=overwrite)
    _check_against(path, against)
    others = None
    if against:
        others = EvaluationSets(
            against,
            threshold,
            columns=(column,) if column else (),
            gate=gate,
            observe=lambda held: observe(Progress(0, 0, 0, held, None)),
        )
    work = _Work(data, column, language, skip_bad, gate(threshold), others, threshold)
    with whole([dropped_out, kept_out]), dropped_out.stream() as tell:
        before = 0
        for part in data.parts:
            with ExitStack() as stack:
                write = stack.enter_context(part.written(stack.enter_context(kept_out.stream(part.relative))))
                for batch in part.batches(BATCH):
                    kept, told = work.judged(part, batch)
                    write(batch, kept)
                    tell.writelines(told)
                    share = (before + batch.share * part.size) / data.size if batch.share and data.size else None
                    observe(work.progress(share))
            before += part.size
        data.finish(kept_out.unfinished)
    return work.result(kept_out, dropped_out, time.monotonic() - began)


def _check_against(path: Path, against: Sequence[Path]) -> None:
    for other in against:
        if not other.exists():
            raise DataFileError(f"--against {other}: there is no such file or folder")
        if path.exists() and path.samefile(other):
            raise DataFileError(f"--against {other}: is FILE itself, of which no row would stay; leave it out")


@dataclass
class _Work:
    """What has been read, and what became of it."""

    data: DataFile
    named: str | None
    language: Language | None
    skip_bad: bool
    gate: Gate
    others: EvaluationSets | None
    threshold: float
    rows: int = 0
    bad: int = 0
    tokenless: int = 0
    foreign: int = 0
    column: str | None = None
    bad_rows: list[str] = field(default_factory=list)
    drops: Counter[str] = field(default_factory=Counter)
    _part: Part | None = None
    _held: Held = field(default_factory=Held)  # of kept rows

    def judged(self, part: Part, batch: Batch) -> tuple[list[int], list[bytes]]:
        """The numbers of the rows that stay, and a line for each that goes."""
        if part is not self._part:  # files of a folder may differ in what they have
            self._part = part
            self.column = datafiles.chosen(batch, part.place, self.column or self.named)
        assert self.column is not None
        self.rows += len(batch.places)
        numbers, texts = self._sound(batch, self.column)
        near: dict[int, tuple[str, float, Near]] = {}
        if self.others is not None:
            for number, found in zip(numbers, self.others.near(texts), strict=True):
                if found is not None:
                    near[number] = (CONTAMINATED, found.score, Near(str(found.file), found.place, found.text))
        left = [(number, text) for number, text in zip(numbers, texts, strict=True) if number not in near]
        comparison = self.gate.comparison([text for _, text in left])
        kept = []
        for at, (number, text) in enumerate(left):
            similarity = comparison[at]
            if similarity.score > self.threshold:
                other = Near(None, *self._held[int(similarity.nearest[0].id)])
                near[number] = (TOO_SIMILAR, similarity.score, other)
                continue
            comparison.accept(at, str(len(self._held)))
            self._held.append(batch.places[number], text)
            kept.append(number)
            self.tokenless += not any(map(str.isalnum, text)) and not languages.tokens(text)
        self.drops.update(reason for reason, _, _ in near.values())
        gone = sorted(near)
        rows = zip(gone, batch.rows(gone), strict=True)
        return kept, [line(batch.places[number], *near[number], row) for number, row in rows]

    def _sound(self, batch: Batch, column: str) -> tuple[list[int], list[str]]:
        """The numbers and instructions of the rows that have one."""
        numbers, texts = [], []
        for number, value in enumerate(batch.values(column)):
            text = datafiles.text_of(value)
            if isinstance(text, Unusable):
                self._bad(batch, number, text, column)
                continue
            numbers.append(number)
            texts.append(text)
            if self.language is not None:
                self.foreign += not self.language.has_own_script(text)
        return numbers, texts

    def _bad(self, batch: Batch, number: int, problem: Unusable, column: str) -> None:
        of_field = f", field `{column}`" if batch.rows([number]) else ""
        said = f"{self.data.path}, {batch.places[number]}{of_field}: {problem.reason}"
        if not self.skip_bad:
            raise BadRowError(f"{said}; mend the row, or leave out rows like it with --skip-bad")
        self.bad += 1
        if len(self.bad_rows) < _BAD_NAMED:
            self.bad_rows.append(said)

    @property
    def kept(self) -> int:
        return len(self._held)

    def progress(self, share: float | None) -> Progress:
        return Progress(self.rows, self.kept, self.drops.total(), len(self.others or ()), share)

    def result(self, out: Output, dropped: Output, seconds: float) -> Deduplicated:
        return Deduplicated(
            file=self.data.path,
            kind=self.data.kind,
            column=self.column,
            threshold=self.threshold,
            rows=self.rows,
            kept=self.kept,
            drops=dict(self.drops.most_common()),
            bad=self.bad,
            bad_rows=tuple(self.bad_rows),
            tokenless=self.tokenless,
            foreign=self.foreign,
            against={} if self.others is None else self.others.counts,
            seconds=seconds,
            out=out.path,
            dropped=dropped.path,
        )
