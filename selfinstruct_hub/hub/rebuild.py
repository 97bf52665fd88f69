"""A pool out of a release: its rounds, tasks, verdicts and what was published of the requests.

What a release does not hold is absent here too: prompts, the answers' texts, the candidates' raw form, draws that
brought nothing after the last one that did, accepted instructions without instances.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from selfinstruct_hub import published, seeds
from selfinstruct_hub.errors import ReleaseError
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.pool.pulled import Pulled
from selfinstruct_hub.records import (
    COMPLETE,
    CONTAMINATED,
    PARAPHRASE,
    TOO_SIMILAR,
    Candidate,
    Completion,
    Decoding,
    Drop,
    Instance,
    Lineage,
    Lost,
    Neighbour,
    Request,
    Revision,
    Round,
    Similarity,
    Task,
    Verdict,
)

_DRAWS_AT_A_TIME = 500
_BY_NEARNESS = (TOO_SIMILAR, CONTAMINATED, PARAPHRASE)
# What the manifest says of a round beyond its counts, models and cost.
_PLACE = ("round", "version", "settings", "revised")
Row = Mapping[str, Any]
Answers = list[tuple[Request, Completion]]


def rebuild(pool: Pool, folder: Path, manifest: Mapping[str, Any], *, repo: str, commit: str) -> list[Task]:
    """Fills the empty `pool` with the release in `folder`; returns its seeds.

    Raises ReleaseError where rows and manifest do not agree.
    """
    found = [_seed(row) for row in published.rows(folder, published.shards(manifest, "seeds"))]
    pool.set_seeds([seeds.as_row(task) for task in found], seeds.fingerprint(found))
    said = {
        int(entry["round"]): {key: value for key, value in entry.items() if key not in _PLACE}
        for entry in manifest["rounds"]
    }
    revisions = [_revision(number, entry) for number, entry in enumerate(manifest.get("revisions", ()), start=1)]
    pool.set_pulled(Pulled(repo, commit, str(manifest["version"]), said, len(revisions), manifest.get("review")))
    pool.set_revisions(revisions)
    for entry in sorted(manifest["rounds"], key=lambda entry: int(entry["round"])):
        round_ = Round(
            number=entry["round"],
            version=entry["version"],
            wanted=entry["tasks"],
            complete=True,
            settings=entry["settings"],
        )
        pool.begin_round(round_)
        rows = 0
        batch: list[tuple[int, list[Verdict], Answers]] = []
        for draw in _draws(folder, manifest, round_.number):
            rows += sum(len(verdict.task.instances) for verdict in draw[1] if verdict.task)
            batch.append(draw)
            if len(batch) == _DRAWS_AT_A_TIME:
                _store(pool, round_.number, batch)
                batch = []
        _store(pool, round_.number, batch)
        if rows != entry["rows"]:
            raise ReleaseError(
                f"{folder}: round {round_.number} has {rows:,} rows, and its manifest says {entry['rows']:,}"
            )
    return found


def _store(pool: Pool, round_number: int, draws: Sequence[tuple[int, list[Verdict], Answers]]) -> None:
    pool.add_completions([answer for *_, answers in draws for answer in answers])
    pool.add_draws(round_number, [(number, verdicts, ()) for number, verdicts, _ in draws])


def _draws(folder: Path, manifest: Mapping[str, Any], number: int) -> Iterator[tuple[int, list[Verdict], Answers]]:
    """The judged draws of a round, in order. One without a candidate is one between two others."""
    accepted = (
        (row["request"], row["candidate"], 0, {**row, **texts})
        for row, texts in zip(
            published.rows(folder, published.shards(manifest, "provenance", number)),
            published.rows(folder, published.shards(manifest, "default", number)),
            strict=True,
        )
    )
    rejected = (
        (row["request"], row["candidate"], 1, row)
        for row in published.rows(folder, published.shards(manifest, "rejected", number))
    )
    merged = heapq.merge(accepted, rejected, key=lambda item: item[:3])
    following = 0
    for draw, of_draw in groupby(merged, key=lambda item: item[0]):
        yield from ((empty, [], []) for empty in range(following, draw))
        following = draw + 1
        verdicts, answers = [], dict[int, tuple[Request, Completion]]()
        for position, of_candidate in groupby(of_draw, key=lambda item: item[1]):
            kept: list[Row] = []
            dropped: list[Row] = []
            for *_, kind, row in of_candidate:
                (dropped if kind else kept).append(row)
            if kept:
                verdicts.append(_accepted(number, draw, position, kept, dropped))
                answers.update((answer[0].call, answer) for answer in _answers(number, draw, kept[0]))
            elif dropped[0].get("task_id") is None:
                verdicts.append(_rejected(number, draw, position, dropped[0]))
        yield draw, verdicts, [answers[call] for call in sorted(answers)]


def _accepted(number: int, draw: int, position: int, rows: Sequence[Row], dropped: Sequence[Row]) -> Verdict:
    """An accepted candidate out of its rows, and those of the instances that it went on without."""
    first = rows[0]
    stages = first.get("stages") or []
    instances = tuple(Instance(row["input"], row["output"]) for row in rows)
    lost = tuple(
        Lost(Instance(one["input"], one["output"]), Drop(row["reason"], row["detail"] or ""))
        for row in dropped
        for one in row["instances"]
    )
    nearest = tuple(Neighbour(near["id"], near["score"]) for near in first["nearest"])
    return Verdict(
        round=number,
        number=draw,
        position=position,
        candidate=Candidate(
            instruction=first["instruction"],
            instances=(*instances, *(one.instance for one in lost)),
            is_classification=first["is_classification"],
            # An imported round has one stage, of its recipe's name.
            stage=dropped[0]["stage"] if dropped else stages[-1]["stage"] if stages else first["recipe"],
            calls=tuple(stage["call"] for stage in stages),
            lost=lost,
        ),
        task=Task(first["task_id"], first["instruction"], instances, first["is_classification"]),
        similarity=Similarity(nearest, first["mean_similarity"]),
        lost=lost,
        # Releases of format 2 had no revisions.
        revised=tuple(tuple(_lineage(one) for one in row.get("revisions") or ()) for row in rows),
    )


def _rejected(number: int, draw: int, position: int, row: Row) -> Verdict:
    instances = tuple(Instance(one["input"], one["output"]) for one in row["instances"])
    lost = tuple(
        Lost(Instance(one["input"], one["output"]), Drop(one["reason"]))
        for one in row["instances"]
        if one["reason"] is not None
    )
    # Only the neighbour that decided was published, or else the nearest one, and no mean.
    near = Neighbour(row["neighbour_id"], row["score"]) if row["neighbour_id"] is not None else None
    by_rouge = near is not None and row["reason"] not in (CONTAMINATED, PARAPHRASE)
    return Verdict(
        round=number,
        number=draw,
        position=position,
        candidate=Candidate(row["instruction"], instances, stage=row["stage"], calls=(), lost=lost),
        drop=Drop(row["reason"], row["detail"] or "", near if row["reason"] in _BY_NEARNESS else None),
        similarity=Similarity((near,), None) if near is not None and by_rouge else None,
        lost=lost,
    )


def _answers(number: int, draw: int, row: Row) -> Iterator[tuple[Request, Completion]]:
    """What was published of the requests that made a row: all but the texts."""
    for stage in row.get("stages") or []:
        request = Request(
            round=number,
            number=draw,
            call=stage["call"],
            stage=stage["stage"],
            prompt="",
            decoding=Decoding.from_dict(json.loads(stage["decoding"])),
            demonstrations=tuple(stage["shown"]),
        )
        yield (
            request,
            Completion(
                text="",
                finish_reason=stage["finish_reason"],
                prompt_tokens=stage["prompt_tokens"],
                generated_tokens=stage["generated_tokens"],
                model=row["model"],
                endpoint_kind=row["endpoint_kind"],
            ),
        )


def _lineage(one: Row) -> Lineage:
    return Lineage(**{**one, "note": one["note"] or "", "shown": tuple(one["shown"] or ())})


def _revision(number: int, entry: Mapping[str, Any]) -> Revision:
    """A revision as it was published. How its rounds stood before was not."""
    return Revision(
        number=number,
        version=entry["version"],
        kind=entry["kind"],
        after_round=entry["after_round"],
        rounds=tuple(entry["rounds"]),
        settings=entry["settings"],
        state=COMPLETE,
        changes=entry["changes"],
    )


def _seed(row: Row) -> Task:
    return Task(
        id=row["id"],
        name=row["name"],
        instruction=row["instruction"],
        instances=tuple(Instance(one["input"], one["output"]) for one in row["instances"]),
        is_classification=row["is_classification"],
    )
