"""Counts a round out of its judged draws. Reads only, and no verdict whole."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

# (query, values) -> all rows.
Rows = Callable[..., list[tuple[Any, ...]]]

_MALFORMED = ("missing_field", "cut_off")  # reasons that say that a completion could not be read


class _Group(NamedTuple):
    """Verdicts of one stage, reason and score. A task is one that was accepted, `lost` are those that go on
    without an instance; `measured` are candidates that were compared with everything."""

    stage: str
    reason: str | None
    score: float | None
    measured: int
    candidates: int
    tasks: int
    rows: int
    lost: int


# Reading a round's verdicts would take the time, so only what stands in the index `counted` is looked at, and in
# its order.
_GROUPS = (
    "SELECT stage, reason, score, count(mean), count(*), count(instances), coalesce(sum(instances), 0),"
    " count(short) FROM verdicts WHERE round = ? GROUP BY stage, reason, score"
)


def counts(rows: Rows, round_number: int) -> dict[str, Any]:
    """What there is to say of a round, counted from its judged draws.

    Keys: tasks, rows, requests (answered or given up), completions, failed {reason: n} (requests that were given
    up), candidates, parsed (completions that held something well-formed), acceptance (share of the candidates,
    None without any), drops {reason: n}, lost_instances {reason: n} (of tasks that go on without them), similarity
    {mean, p90} (ROUGE-L of candidates with their nearest neighbour, where it was measured, else None), tokens
    {prompt, generated}, stages (see `_stages`).
    """
    groups = [_Group(*row) for row in rows(_GROUPS, round_number)]
    stages = _stages(rows, round_number, groups)
    candidates, tasks = sum(one.candidates for one in groups), sum(one.tasks for one in groups)
    drops: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for stage in stages.values():
        drops.update(stage["drops"])
        failed.update(stage["failed"])
    requests = sum(stage["requests"] for stage in stages.values())
    lost = any(one.lost for one in groups) and rows(
        "SELECT json_extract(l.value, '$[2]'), count(*) FROM verdicts, json_each(lost) l"
        " WHERE round = ? AND task IS NOT NULL AND lost <> '[]' GROUP BY 1 ORDER BY 2 DESC, 1",
        round_number,
    )
    return {
        "tasks": tasks,
        "rows": sum(one.rows for one in groups),
        "requests": requests,
        "completions": requests - failed.total(),
        "failed": _commonest_first(failed),
        "parsed": sum(stage["parsed"] for stage in stages.values()),
        "candidates": candidates,
        "acceptance": round(tasks / candidates, 4) if candidates else None,
        "drops": _commonest_first(drops),
        "lost_instances": dict(lost or ()),
        "similarity": _similarity(groups),
        "tokens": {
            kind: sum(stage["tokens"][kind] for stage in stages.values()) for kind in ("prompt", "generated")
        },
        "stages": stages,
    }


def _stages(rows: Rows, round_number: int, groups: Sequence[_Group]) -> dict[str, dict[str, Any]]:
    """What each stage of a round took and what it cost, in the order a task passes them.

    For each: requests, failed {reason: n}, parsed, tokens {prompt, generated}, candidates (that reached it),
    drops {reason: n}.
    """
    asked = rows(
        "SELECT stage, count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(generated_tokens), 0)"
        " FROM completions JOIN draws USING (round, number) WHERE round = ?"
        " GROUP BY stage ORDER BY min(call)",
        round_number,
    )
    verdicts: Counter[tuple[str, str | None]] = Counter()
    for one in groups:
        verdicts[one.stage, one.reason] += one.candidates
    ordered = sorted(verdicts.items(), key=lambda item: (-item[1], item[0][1] is not None, item[0][1] or ""))
    judged = [(*name, count) for name, count in ordered]
    given_up = rows(
        "SELECT stage, reason, count(*) FROM failures WHERE round = ? GROUP BY stage, reason"
        " ORDER BY min(call), count(*) DESC, reason",
        round_number,
    )
    # Where a first stage was never answered, no other was asked for.
    names = list(dict.fromkeys(row[0] for row in [*asked, *given_up, *judged]))
    found: dict[str, dict[str, Any]] = {}
    cost = {name: (requests, prompt, generated) for name, requests, prompt, generated in asked}
    for place, name in enumerate(names):
        answered, prompt, generated = cost.get(name, (0, 0, 0))
        failed = {reason: count for stage, reason, count in given_up if stage == name}
        drops = {reason: count for stage, reason, count in judged if stage == name and reason}
        found[name] = {
            "requests": answered + sum(failed.values()),
            "failed": failed,
            "parsed": answered - sum(drops.get(reason, 0) for reason in _MALFORMED),
            "tokens": {"prompt": prompt, "generated": generated},
            "candidates": sum(count for stage, _, count in judged if stage in names[place:]),
            "drops": drops,
        }
    if names and cost.get(names[0]):
        # The first stage's completions hold several candidates each: one that is well-formed is enough.
        some = "TRUE"
        if any(reason in _MALFORMED for stage, reason, _ in judged if stage == names[0]):
            marks = ", ".join("?" * len(_MALFORMED))
            some = f"NOT (stage = ? AND reason IS NOT NULL AND reason IN ({marks}))"
        ((found[names[0]]["parsed"],),) = rows(
            f"SELECT count(DISTINCT number) FROM verdicts WHERE round = ? AND {some}",
            *(round_number, *(() if some == "TRUE" else (names[0], *_MALFORMED))),
        )
    return found


def _commonest_first(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _similarity(groups: Sequence[_Group]) -> dict[str, float | None]:
    """Mean and 90th percentile (nearest rank) of the candidates' scores with their nearest neighbour. None where
    the gate looked only for neighbours above its threshold: what is known then are the highest scores."""
    scores: Counter[float] = Counter()
    for one in groups:
        if one.measured and one.score is not None:
            scores[one.score] += one.measured
    count = scores.total()
    if not count:
        return {"mean": None, "p90": None}
    rank, seen, p90 = -(-9 * count // 10), 0, 0.0
    for score in sorted(scores):
        seen += scores[score]
        if seen >= rank:
            p90 = score
            break
    mean = math.fsum(score * times for score, times in scores.items()) / count
    return {"mean": round(mean, 4), "p90": round(p90, 4)}
