"""A round's rejected candidates and lost instances as Arrow tables, in batches. Writes nothing.

A candidate that was dropped whole, which most are, is read by Arrow; the others, row by row, are put between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import Round
from selfinstruct_hub.release import rows, stored
from selfinstruct_hub.release.columns import COLUMNS, arrow

_KINDS = COLUMNS["rejected"]
_NAMES = [name for name in _KINDS if name not in ("round", "instances")]  # in the order of `_one_by_one`


def rejected(pool: Pool, round_: Round) -> Iterator[Callable[[], Any]]:
    """Makers of tables of `rejected`: candidates that were dropped, and instances that accepted tasks (`task_id`)
    go on without."""
    for batch in pool.rejected_columns(round_.number, rows.BATCH):
        yield partial(_told, pool.path, round_.number, batch)


def _told(place: Path, round_number: int, batch: Sequence[tuple[Any, ...]]) -> Any:
    with stored.reading(place):
        return _rejected(round_number, batch)


def _rejected(round_number: int, batch: Sequence[tuple[Any, ...]]) -> Any:
    whole = [verdict for verdict in batch if verdict[4] is None and verdict[8] == "[]"]
    if not (whole and (plain := _plain(round_number, whole))):
        return _one_by_one(round_number, batch)[0]
    if len(whole) == len(batch):
        return plain
    others, counts = _one_by_one(round_number, [v for v in batch if v[4] is not None or v[8] != "[]"])
    # Where each verdict's rows are among those of both tables.
    places, of_plain, of_others, left = [], 0, plain.num_rows, iter(counts)
    for verdict in batch:
        if verdict[4] is None and verdict[8] == "[]":
            places.append(of_plain)
            of_plain += 1
        else:
            count = next(left)
            places += range(of_others, of_others + count)
            of_others += count
    mixed = pa.concat_tables([plain, others]).combine_chunks().take(pa.array(places))
    columns = {name: stored.unmarked(mixed[name].combine_chunks()) for name in _KINDS}
    return rows.table("rejected", columns)


def _plain(round_number: int, batch: Sequence[tuple[Any, ...]]) -> Any:
    """The table of candidates that were dropped with all their instances; None where Arrow cannot read one, for a
    file may have said anything of an imported one."""
    number, position, stage, found, _, reason, detail, nearest, _, neighbour = zip(*batch, strict=True)
    try:
        candidates = stored.candidates("\n".join(found).encode())
    except pa.ArrowInvalid:
        return None
    pairs = candidates["instances"].flatten().flatten()
    counts = pc.list_value_length(candidates["instances"]).to_numpy()
    given = pairs.take(pa.array(np.arange(0, len(pairs), 2)))
    output = pairs.take(pa.array(np.arange(1, len(pairs), 2)))
    why = pa.nulls(len(given), pa.string())
    texts = [stored.unmarked(given), stored.unmarked(output), why]
    instances = pa.StructArray.from_arrays(texts, list(_KINDS["instances"][0]))
    near = stored.Neighbours.of(nearest).column()
    first = pa.array([None if text == "[]" else 0 for text in nearest], pa.int64())
    at = pc.add(near.offsets.slice(0, len(near)).cast(pa.int64()), first)
    return rows.table(
        "rejected",
        {
            "round": stored.int32(np.full(len(batch), round_number)),
            "request": stored.int32(np.array(number)),
            "candidate": stored.int32(np.array(position)),
            "instruction": stored.unmarked(candidates["instruction"]),
            "instances": pa.ListArray.from_arrays(
                stored.offsets_of(counts), instances, type=arrow(_KINDS["instances"])
            ),
            "stage": pa.array(stage, pa.string()),
            "reason": pa.array(reason, pa.string()),
            "detail": pa.array([text or "" for text in detail], pa.string()),
            "task_id": pa.nulls(len(batch), pa.string()),
            "neighbour_id": stored.unmarked(near.values.field("id").take(at)),
            "neighbour": pa.array(neighbour, pa.string()),
            "score": stored.unmarked(near.values.field("score").take(at)),
        },
    )


def _one_by_one(round_number: int, batch: Sequence[tuple[Any, ...]]) -> tuple[Any, list[int]]:
    """The table of any verdicts, and the number of each one's rows."""
    _, _, _, candidates, _, _, _, nearest, lost, _ = zip(*batch, strict=True)
    found: list[tuple[Any, ...]] = []
    instances: list[list[tuple[Any, ...]]] = []
    counts = []
    for verdict, candidate, near, gone in zip(
        batch, stored.parsed(candidates), stored.parsed(nearest), stored.parsed(lost), strict=True
    ):
        number, position, stage, _, task, reason, detail, _, _, neighbour = verdict
        common = (number, position, candidate["instruction"], stage)
        marked = [(given, output, why) for given, output, why, _ in gone]
        before = len(found)
        if task:
            (task_id,) = stored.parsed([task])
            for one, (_, _, why, seen) in zip(marked, gone, strict=True):
                found.append((*common, why, seen, task_id["id"], None, None, None))
                instances.append([one])
        else:
            left_out = {(given, output) for given, output, *_ in gone}
            others = [(*pair, None) for pair in candidate["instances"] if tuple(pair) not in left_out]
            key, score = near[0] if near else (None, None)
            found.append((*common, reason, detail or "", None, key, neighbour, score))
            instances.append(others + marked)
        counts.append(len(found) - before)
    columns = dict(zip(_NAMES, zip(*found, strict=True), strict=True))
    table = rows.table(
        "rejected",
        {
            "round": stored.int32(np.full(len(found), round_number)),
            "instances": stored.lists(_KINDS["instances"], instances),
            **{name: pa.array(values, arrow(_KINDS[name])) for name, values in columns.items()},
        },
    )
    return table, counts
