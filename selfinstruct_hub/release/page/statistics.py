"""What the card says in figures, counted from the rows of a release: lengths, novelty, first words, rounds.

Tables are counted as they are written, or read again from the shards, always in pieces: everything is kept as
counts, so memory does not grow with a release, and the same rows give the same figures in whatever order. Nothing
is taken from the pool but what no row holds: requests and their tokens."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from selfinstruct_hub.errors import ReleaseError
from selfinstruct_hub.records import CONTAMINATED, PARAPHRASE
from selfinstruct_hub.release.page.lengths import (
    Lengths,
    add_counts,
    add_openings,
    add_values,
    tokens_of,
)

FIRST_WORDS = 20
SCORE_BIN = 0.05
# Reasons whose score is no ROUGE-L with the pool: a cosine, or a nearness to another file.
OTHER_SCORES = frozenset({PARAPHRASE, CONTAMINATED})

_BATCH = 1024
_BINS = 30
_DIGITS = 10_000  # scores are counted to four
_PERCENTILES = {"p5": 5, "p25": 25, "median": 50, "p75": 75, "p95": 95}
_OF_A_ROUND = (
    *("round", "version", "requests", "completions", "parsed", "candidates", "tasks", "rows", "acceptance"),
    *("similarity", "drops", "tokens"),
)

Files = Sequence[Mapping[str, Any]]


_TEXTS = ("id", "instruction", "input", "output", "round")
_ORIGINS = ("id", "instance", "is_classification", "endpoint_kind", "mean_similarity", "nearest")
_REJECTED = ("round", "reason", "score")


def measured(folder: Path, files: Files, rounds: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The statistics of the release in `folder` whose shards are `files`, see `Tally.found`. Raises ReleaseError
    where the shards do not fit one another."""
    tally = Tally()
    for some in tables(folder, files):
        if "rejected" in some:
            tally.add_rejected(some["rejected"])
        else:
            tally.add_accepted(some["default"], some["provenance"])
    return tally.found(rounds)


def tables(folder: Path, files: Files) -> Iterator[dict[str, Any]]:
    """What is counted, in batches, streamed: of `default` and `provenance`, which have the same rows, then of
    `rejected`. Raises ReleaseError where the shards do not fit one another."""
    for default, provenance in aligned(folder, files):
        yield {"default": default, "provenance": provenance}
    for batch in batches(folder, files, "rejected", _REJECTED):
        yield {"rejected": batch}


class Tally:
    """Counts rows. A score is ROUGE-L F1 with the nearest neighbour, to four digits."""

    def __init__(self) -> None:
        self._instruction, self._input, self._output = Lengths(), Lengths(), Lengths()
        self._row_tokens: Counter[int] = Counter()
        self._openings: Counter[str] = Counter()
        self._kinds: Counter[bool] = Counter()
        self._endpoints: Counter[str] = Counter()
        self._accepted: Counter[int] = Counter()
        self._rejected: dict[int, Counter[int]] = {}  # by round
        self._tasks = self._without_input = self._unmeasured = 0
        self._full: set[int] = set()  # rounds whose gate measured every candidate

    def add_accepted(self, default: Any, provenance: Any) -> None:
        """Counts rows by their tables, or batches, of two configs."""
        texts, origin = _arrays(default, _TEXTS), _arrays(provenance, _ORIGINS)
        is_first = pc.equal(origin["instance"], 0)
        instructions = texts["instruction"].filter(is_first)
        self._tasks += len(instructions)
        self._instruction.add(instructions)
        add_openings(self._openings, instructions)
        add_values(self._kinds, origin["is_classification"].filter(is_first))
        # A fast gate knows only neighbours above its threshold, and leaves the mean out.
        told = pc.and_(is_first, pc.is_valid(origin["mean_similarity"])).to_numpy(zero_copy_only=False)
        self._unmeasured += len(instructions) - int(told.sum())
        add_counts(self._accepted, _rounded(_first_scores(origin["nearest"])[told]))
        self._full.update(texts["round"].filter(pa.array(told)).unique().to_pylist())
        given = texts["input"].filter(pc.not_equal(pc.fill_null(texts["input"], ""), ""))
        self._input.add(given)
        self._without_input += len(texts["input"]) - len(given)
        self._output.add(texts["output"])
        add_counts(self._row_tokens, sum(tokens_of(texts[name]) for name in ("instruction", "input", "output")))
        add_values(self._endpoints, origin["endpoint_kind"].filter(pc.not_equal(origin["endpoint_kind"], "")))

    def add_rejected(self, table: Any) -> None:
        """Counts rejected rows by their table or batch."""
        found = _arrays(table, _REJECTED)
        elsewhere = pc.is_in(found["reason"], pa.array(sorted(OTHER_SCORES)))
        compared = pc.and_(pc.is_valid(found["score"]), pc.invert(elsewhere))
        numbers, scores = (found[name].filter(compared).to_numpy() for name in ("round", "score"))
        for number in np.unique(numbers).tolist():
            add_counts(self._rejected.setdefault(number, Counter()), _rounded(scores[numbers == number]))

    def found(self, rounds: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
        """The statistics of what was counted; `rounds` are the manifest's, with `cost` where it is known.

        Keys: rows, tasks, without_input {rows, share}, classification {known, tasks, share} (share of the tasks of
        which it is known, None without any), instruction, input, output ({words, characters, tokens}, each a
        `distribution`, tokens without a histogram; inputs that are there), row_tokens (a row's estimated tokens in
        all) and tokens (their sum), novelty {accepted, rejected, unmeasured}, first_words [{word, instructions}],
        different_first_words, endpoints {kind: rows}, rounds. A score is 0 to 1; a length is a whole number.
        Shares have four digits."""
        rows = self._row_tokens.total()
        known = self._kinds.total()
        # How near rejected candidates came to the pool, where their round's gate measured all.
        near: Counter[int] = Counter()
        for number in self._full & self._rejected.keys():
            near.update(self._rejected[number])
        unmeasured = sum(one.total() for number, one in self._rejected.items() if number not in self._full)
        openings = _commonest(self._openings)[:FIRST_WORDS]
        return {
            "rows": rows,
            "tasks": self._tasks,
            "without_input": {"rows": self._without_input, "share": _share(self._without_input, rows)},
            "classification": {
                "known": known,
                "tasks": self._kinds[True],
                "share": _share(self._kinds[True], known),
            },
            "instruction": _lengths(self._instruction),
            "input": _lengths(self._input),
            "output": _lengths(self._output),
            "row_tokens": distribution(self._row_tokens, bins=False),
            "tokens": sum(tokens * count for tokens, count in self._row_tokens.items()),
            "novelty": {
                "accepted": distribution(_scores(self._accepted), SCORE_BIN),
                "rejected": distribution(_scores(near), SCORE_BIN),
                "unmeasured": {"accepted": self._unmeasured, "rejected": unmeasured},
            },
            "first_words": [{"word": word, "instructions": count} for word, count in openings],
            "different_first_words": len(self._openings),
            "endpoints": dict(_commonest(self._endpoints)),
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


def instructions(folder: Path, files: Files) -> Iterator[str]:
    """The instruction of every accepted task of the release, once each, in order."""
    for default, provenance in aligned(folder, files, ("id", "instruction"), ("id", "instance")):
        is_first = pc.equal(provenance.column("instance"), 0)
        yield from default.column("instruction").filter(is_first).to_pylist()


def aligned(
    folder: Path, files: Files, texts: Sequence[str] = _TEXTS, origins: Sequence[str] = _ORIGINS
) -> Iterator[tuple[Any, Any]]:
    """Batches of the columns `texts` of `default` and `origins` of `provenance`, which have the same ids. Raises
    ReleaseError where they have not."""
    left, right = batches(folder, files, "default", texts), batches(folder, files, "provenance", origins)
    default, provenance = next(left, None), next(right, None)
    while default is not None and provenance is not None:
        rows = min(default.num_rows, provenance.num_rows)
        some = default.slice(0, rows), provenance.slice(0, rows)
        if not some[0].column("id").equals(some[1].column("id")):
            break
        yield some
        default = default.slice(rows) if rows < default.num_rows else next(left, None)
        provenance = provenance.slice(rows) if rows < provenance.num_rows else next(right, None)
    if default is not None or provenance is not None:
        raise ReleaseError(
            f"{folder}: the configs `default` and `provenance` do not have the same rows; build the release anew"
        )


def batches(folder: Path, files: Files, config: str, names: Sequence[str]) -> Iterator[Any]:
    """Batches of the columns `names` of a config, streamed, in the order of its shards. Raises ReleaseError where
    a shard is damaged."""
    for file in files:
        if file.get("config") != config:
            continue
        try:
            # By itself pyarrow reads all of a file before the first batch.
            with pq.ParquetFile(folder / file["path"], pre_buffer=False, buffer_size=1 << 20) as shard:
                for batch in shard.iter_batches(batch_size=_BATCH, columns=list(names)):
                    if batch.num_rows:
                        yield batch
        except pa.ArrowException as error:
            raise ReleaseError(
                f"{folder / file['path']}: cannot be read ({error}); build the release anew"
            ) from None


def _arrays(table: Any, names: Sequence[str]) -> dict[str, Any]:
    """Columns of a table or batch, each as one array."""
    found = {name: table.column(name) for name in names}
    return {name: one.combine_chunks() if isinstance(one, pa.ChunkedArray) else one for name, one in found.items()}


def _first_scores(nearest: Any) -> Any:
    """Of each row the first neighbour's score; 0 where there was nothing to compare with."""
    offsets = nearest.offsets.to_numpy()
    scores = np.append(nearest.values.field("score").to_numpy(zero_copy_only=False), 0.0)
    return np.where(offsets[:-1] < offsets[1:], scores[offsets[:-1]], 0.0)


def _rounded(scores: Any) -> Any:
    """Scores in whole ten-thousandths, as `round` has them."""
    scaled = scores * _DIGITS
    found = np.rint(scaled).astype(np.int64)
    # So close to the middle between two, the product may be on its other side.
    for place in np.flatnonzero(np.abs(np.abs(scaled - found) - 0.5) < 1e-6).tolist():
        found[place] = round(round(float(scores[place]), 4) * _DIGITS)
    return found


def _scores(counts: Counter[int]) -> Counter[float]:
    return Counter({value / _DIGITS: count for value, count in counts.items()})


def _lengths(found: Lengths) -> dict[str, Any]:
    return {
        "words": distribution(found.words),
        "characters": distribution(found.characters),
        "tokens": distribution(found.tokens, bins=False),
    }


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
