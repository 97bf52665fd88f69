"""What the card says in figures, counted from the Parquet shards of a release: lengths, novelty, first words,
rounds.

The shards are read as streams and everything is kept as counts, so memory does not grow with a release, and the
same shards give the same figures. Nothing is taken from the pool but what no shard holds: requests and their
tokens."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selfinstruct_hub import languages
from selfinstruct_hub.errors import ReleaseError
from selfinstruct_hub.records import CONTAMINATED, PARAPHRASE

FIRST_WORDS = 20
SCORE_BIN = 0.05
# Reasons whose score is no ROUGE-L with the pool: a cosine, or a nearness to another file.
OTHER_SCORES = frozenset({PARAPHRASE, CONTAMINATED})

_BATCH = 1024
_BINS = 30
_BYTES_PER_TOKEN = 4
_PERCENTILES = {"p5": 5, "p25": 25, "median": 50, "p75": 75, "p95": 95}
_OF_A_ROUND = (
    *("round", "version", "requests", "completions", "parsed", "candidates", "tasks", "rows", "acceptance"),
    *("similarity", "drops", "tokens"),
)

Files = Sequence[Mapping[str, Any]]


def measured(folder: Path, files: Files, rounds: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The statistics of the release in `folder` whose shards are `files`; `rounds` are the manifest's, with `cost`
    where it is known.

    Keys: rows, tasks, without_input {rows, share}, classification {known, tasks, share} (share of the tasks of
    which it is known, None without any), instruction, input, output (see `_Lengths`; inputs that are there),
    row_tokens (a row's estimated tokens in all) and tokens (their sum), novelty {accepted, rejected, unmeasured},
    first_words [{word, instructions}], different_first_words, endpoints {kind: rows}, rounds. A score is ROUGE-L
    F1 with the nearest neighbour, 0 to 1, to four digits; a length is a whole number. Shares have four digits.
    Raises ReleaseError where the shards do not fit one another."""
    instruction, given, output = _Lengths(), _Lengths(), _Lengths()
    row_tokens: Counter[int] = Counter()
    openings: Counter[str] = Counter()
    kinds: Counter[bool | None] = Counter()
    endpoints: Counter[str] = Counter()
    accepted: Counter[float] = Counter()
    without_input = unmeasured = 0
    full: set[int] = set()  # rounds whose gate measured every candidate
    for row, origin in _accepted(folder, files):
        if origin.first:
            instruction.add(row.instruction)
            if tokens := languages.tokens(row.instruction[:200]):
                openings[tokens[0]] += 1
            kinds[origin.is_classification] += 1
            if origin.score is None:
                unmeasured += 1
            else:
                accepted[round(origin.score, 4)] += 1
                full.add(row.round)
        if row.input:
            given.add(row.input)
        else:
            without_input += 1
        output.add(row.output)
        row_tokens[sum(map(tokens_of, (row.instruction, row.input, row.output)))] += 1
        if origin.endpoint_kind:
            endpoints[origin.endpoint_kind] += 1
    rejected, unmeasured_rejected = _rejected(folder, files, full)
    rows = row_tokens.total()
    known = kinds[True] + kinds[False]
    return {
        "rows": rows,
        "tasks": kinds.total(),
        "without_input": {"rows": without_input, "share": _share(without_input, rows)},
        "classification": {"known": known, "tasks": kinds[True], "share": _share(kinds[True], known)},
        "instruction": instruction.found(),
        "input": given.found(),
        "output": output.found(),
        "row_tokens": distribution(row_tokens, bins=False),
        "tokens": sum(tokens * count for tokens, count in row_tokens.items()),
        "novelty": {
            "accepted": distribution(accepted, SCORE_BIN),
            "rejected": distribution(rejected, SCORE_BIN),
            "unmeasured": {"accepted": unmeasured, "rejected": unmeasured_rejected},
        },
        "first_words": [{"word": w, "instructions": n} for w, n in _commonest(openings)[:FIRST_WORDS]],
        "different_first_words": len(openings),
        "endpoints": dict(_commonest(endpoints)),
        "rounds": [{**{key: r[key] for key in _OF_A_ROUND}, "cost": r.get("cost")} for r in rounds],
    }


def distribution(counts: Counter[Any], width: float | None = None, *, bins: bool = True) -> dict[str, Any] | None:
    """What numbers that occurred so often are like; None without any.

    Keys: count, mean, min, p5, p25, median, p75, p95, max (nearest rank), and with `bins` histogram: {width,
    counts, above}. Bin i holds what is at least i * width and below (i + 1) * width, `above` what is beyond the
    last. Scores have a `width` and end at 1, which is in the last bin."""
    total = counts.total()
    if not total:
        return None
    values = sorted(counts)
    found = {
        "count": total,
        "mean": round(math.fsum(value * counts[value] for value in values) / total, 4),
        "min": values[0],
        **{name: _percentile(counts, values, share) for name, share in _PERCENTILES.items()},
        "max": values[-1],
    }
    if not bins:
        return found
    if width is None:
        step: float = _step(_percentile(counts, values, 99) / _BINS)
        places = [0] * min(_BINS, int(values[-1] // step) + 1)
    else:
        step, places = width, [0] * round(1 / width)
    above = 0
    for value in values:
        # Scores have four digits; 0.15 / 0.05 would be below 3.
        place = int(value // step) if width is None else min(int(value / step + 1e-9), len(places) - 1)
        if place < len(places):
            places[place] += counts[value]
        else:
            above += counts[value]
    return {**found, "histogram": {"width": step, "counts": places, "above": above}}


def tokens_of(text: str) -> int:
    """Estimated tokens: one for four bytes of UTF-8, which is about what today's tokenizers need for English and
    for Chinese. An estimate, where `records.estimated_tokens` is a bound."""
    return -(-len(text.encode()) // _BYTES_PER_TOKEN)


def instructions(folder: Path, files: Files) -> Iterator[str]:
    """The instruction of every accepted task of the release, once each, in order."""
    for row, origin in _accepted(folder, files):
        if origin.first:
            yield row.instruction


def columns(folder: Path, files: Files, config: str, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """The rows of a config as tuples of the columns `names`, streamed, in the order of its shards. Of `nearest`,
    the first one's score, or None. Raises ReleaseError where a shard is damaged."""
    for file in files:
        if file.get("config") != config:
            continue
        try:
            # By itself pyarrow reads all of a file before the first batch.
            with pq.ParquetFile(folder / file["path"], pre_buffer=False, buffer_size=1 << 20) as shard:
                for batch in shard.iter_batches(batch_size=_BATCH, columns=list(names)):
                    found = [_values(batch.column(name), name) for name in names]
                    yield from zip(*found, strict=True)
        except pa.ArrowException as error:
            raise ReleaseError(
                f"{folder / file['path']}: cannot be read ({error}); build the release anew"
            ) from None


class _Lengths:
    """The lengths of texts, in words, characters and estimated tokens."""

    def __init__(self) -> None:
        self._words: Counter[int] = Counter()
        self._characters: Counter[int] = Counter()
        self._tokens: Counter[int] = Counter()

    def add(self, text: str) -> None:
        self._words[languages.words(text)] += 1
        self._characters[len(text)] += 1
        self._tokens[tokens_of(text)] += 1

    def found(self) -> dict[str, Any]:
        """{words, characters, tokens}, each a `distribution`; tokens without a histogram."""
        return {
            "words": distribution(self._words),
            "characters": distribution(self._characters),
            "tokens": distribution(self._tokens, bins=False),
        }


class _Row:
    __slots__ = ("input", "instruction", "output", "round")

    def __init__(self, instruction: str, given: str, output: str, round_: int) -> None:
        self.instruction, self.input, self.output, self.round = instruction, given, output, round_


class _Origin:
    """What `provenance` says of a row. `first` is the first row of its task; `score` is None where the gate did
    not measure it."""

    __slots__ = ("endpoint_kind", "first", "is_classification", "score")

    def __init__(
        self, instance: int, kind: bool | None, endpoint: str | None, mean: float | None, near: float | None
    ):
        self.first = instance == 0
        self.is_classification = kind
        self.endpoint_kind = endpoint
        # A fast gate knows only neighbours above its threshold, and leaves the mean out. With nothing to compare
        # with, there is no neighbour and the mean is 0.
        self.score = None if mean is None else near or 0.0


def _accepted(folder: Path, files: Files) -> Iterator[tuple[_Row, _Origin]]:
    default = columns(folder, files, "default", ("id", "instruction", "input", "output", "round"))
    names = ("id", "instance", "is_classification", "endpoint_kind", "mean_similarity", "nearest")
    origins = columns(folder, files, "provenance", names)
    for row, origin in zip_longest(default, origins, fillvalue=(None,)):
        if row[0] != origin[0]:
            raise ReleaseError(
                f"{folder}: the configs `default` and `provenance` do not have the same rows; "
                "build the release anew"
            )
        yield _Row(*row[1:]), _Origin(*origin[1:])


def _rejected(folder: Path, files: Files, full: set[int]) -> tuple[Counter[float], int]:
    """How near rejected candidates came to the pool, where their round's gate measured all; and how many were
    compared elsewhere."""
    scores: Counter[float] = Counter()
    unmeasured = 0
    for number, reason, score in columns(folder, files, "rejected", ("round", "reason", "score")):
        if score is None or reason in OTHER_SCORES:
            continue
        if number in full:
            scores[round(score, 4)] += 1
        else:
            unmeasured += 1
    return scores, unmeasured


def _values(column: Any, name: str) -> list[Any]:
    if name != "nearest":
        values: list[Any] = column.to_pylist()
        return values
    # Ten neighbours a row, of which one is wanted: not made into Python objects.
    offsets = column.offsets.to_pylist()
    scores = column.values.field("score").to_numpy(zero_copy_only=False)
    return [float(scores[a]) if a < b else None for a, b in pairwise(offsets)]


def _percentile(counts: Counter[Any], ascending: Sequence[Any], share: int) -> Any:
    rank, seen = -(-share * counts.total() // 100), 0
    for value in ascending:
        seen += counts[value]
        if seen >= rank:
            return value
    raise AssertionError("the last value has the highest rank")


def _step(least: float) -> int:
    """The first of 1, 2, 5, 10, 20, 50, ... that is not below `least`."""
    step, factors = 1, (2, 2.5, 2)
    turn = 0
    while step < least:
        step = int(step * factors[turn % 3])
        turn += 1
    return step


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _commonest(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
