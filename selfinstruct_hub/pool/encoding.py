"""Records as the values of a table's row, and back. No queries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from selfinstruct_hub.records import (
    Candidate,
    Completion,
    Decoding,
    Drop,
    Instance,
    Lineage,
    Lost,
    Neighbour,
    Request,
    Similarity,
    Task,
    Verdict,
    canonical_json,
)

# The columns that `completion_values` fills and `completion` reads, in that order.
COMPLETION = (
    "round, number, call, stage, prompt, decoding, demonstrations, text, finish_reason, prompt_tokens,"
    " generated_tokens, model, endpoint_kind, queue_time, inference_time, total_time"
)


def completion_values(request: Request, completion: Completion) -> tuple[Any, ...]:
    return (
        *(request.round, request.number, request.call, request.stage, request.prompt),
        *(canonical_json(request.decoding.as_dict()), canonical_json(list(request.demonstrations))),
        *(completion.text, completion.finish_reason, completion.prompt_tokens, completion.generated_tokens),
        *(completion.model, completion.endpoint_kind),
        *(completion.queue_time, completion.inference_time, completion.total_time),
    )


def completion(row: tuple[Any, ...]) -> tuple[Request, Completion]:
    round_number, number, call, stage, prompt, decoding, demonstrations, *answer = row
    request = Request(
        round=round_number,
        number=number,
        call=call,
        stage=stage,
        prompt=prompt,
        decoding=Decoding.from_dict(json.loads(decoding)),
        demonstrations=tuple(json.loads(demonstrations)),
    )
    return request, Completion(*answer)


def answer_values(request: Request, completion: Completion) -> tuple[Any, ...]:
    """Of a completion, all but its place."""
    return completion_values(request, completion)[3:]


def task_values(task: Task) -> dict[str, Any]:
    return {
        "id": task.id,
        "instruction": task.instruction,
        "instances": [[i.input, i.output] for i in task.instances],
        "is_classification": task.is_classification,
    }


def task(values: dict[str, Any]) -> Task:
    return Task(**{**values, "instances": tuple(Instance(*i) for i in values["instances"])})


def candidate_values(candidate: Candidate) -> dict[str, Any]:
    return {
        "instruction": candidate.instruction,
        "instances": [[i.input, i.output] for i in candidate.instances],
        "missing": candidate.missing,
        "cut_off": candidate.cut_off,
        "is_classification": candidate.is_classification,
        "calls": list(candidate.calls),
        "failure": [candidate.failure.reason, candidate.failure.detail] if candidate.failure else None,
        "lost": lost_values(candidate.lost),
        "bare": candidate.bare,
        "extra": dict(candidate.extra),
    }


# In the order it has: what a file said of an imported task comes out as it went in.
_AS_IT_IS = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def candidate_text(candidate: Candidate) -> str:
    """A candidate, but for its stage, as JSON."""
    return _AS_IT_IS.encode(candidate_values(candidate))


def candidate(values: dict[str, Any], stage: str) -> Candidate:
    found = {**values, "stage": stage, "instances": tuple(Instance(*i) for i in values["instances"])}
    # Format 1 held none of these.
    found["calls"] = tuple(values.get("calls", (0,)))
    found["failure"] = Drop(*values["failure"]) if values.get("failure") else None
    found["lost"] = lost(values.get("lost", []))
    return Candidate(**found)


def lost_values(lost: Sequence[Lost]) -> list[list[str]]:
    return [[one.instance.input, one.instance.output, one.drop.reason, one.drop.detail] for one in lost]


def lost(values: list[list[str]]) -> tuple[Lost, ...]:
    return tuple(Lost(Instance(given, output), Drop(reason, detail)) for given, output, reason, detail in values)


def revised_values(revised: Sequence[Sequence[Lineage]]) -> str | None:
    """Each change without what it does not say; None where there is none."""
    if not any(revised):
        return None
    return canonical_json(
        [[{k: v for k, v in asdict(one).items() if v not in (None, "", ())} for one in row] for row in revised]
    )


def revised(text: str | None) -> tuple[tuple[Lineage, ...], ...]:
    return tuple(
        tuple(Lineage(**{**one, "shown": tuple(one.get("shown", ()))}) for one in row)
        for row in json.loads(text or "[]")
    )


def verdict_values(verdict: Verdict) -> tuple[Any, ...]:
    similarity = verdict.similarity or Similarity()
    return (
        *(verdict.round, verdict.number, verdict.position),
        candidate_text(verdict.candidate),
        canonical_json(task_values(verdict.task)) if verdict.task else None,
        verdict.drop.reason if verdict.drop else None,
        verdict.drop.detail if verdict.drop else None,
        canonical_json([[n.id, n.score] for n in similarity.nearest]) if similarity.nearest else "[]",
        similarity.mean,
        verdict.candidate.stage,
        # Unknown, too, where the gate found nothing above its threshold and looked no further.
        similarity.score if verdict.similarity and (similarity.nearest or similarity.mean is not None) else None,
        canonical_json(lost_values(verdict.lost)) if verdict.lost else "[]",
        canonical_json([near.id, near.score]) if verdict.drop and (near := verdict.drop.near) else None,
        revised_values(verdict.revised),
    )


def verdict(row: tuple[Any, ...]) -> Verdict:
    round_number, number, position, found, made, reason, detail, nearest, mean, stage, score, left, near, by = row
    measured = Similarity(tuple(Neighbour(key, value) for key, value in json.loads(nearest)), mean)
    return Verdict(
        round=round_number,
        number=number,
        position=position,
        candidate=candidate(json.loads(found), stage),
        task=task(json.loads(made)) if made else None,
        drop=Drop(reason, detail or "", Neighbour(*json.loads(near)) if near else None) if reason else None,
        similarity=None if score is None and mean is not None else measured,
        lost=lost(json.loads(left)),
        revised=revised(by),
    )
