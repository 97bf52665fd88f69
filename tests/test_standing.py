"""What a card may say of gates: only what all rows of a round have passed, after every revision."""

from __future__ import annotations

from typing import Any

import pytest

from selfinstruct_hub.release.page.standing import standing

SETS = {"against": [{"file": "bench.jsonl"}], "threshold": 0.7}
MODEL = {"model": "small", "threshold": 0.8}
NONE = {"decontamination": {"against": []}, "paraphrases": {"model": None}}


def rules(threshold: float = 0.7, **gates: Any) -> dict[str, Any]:
    return {"novelty": {"threshold": threshold}, **NONE, **gates}


def revision(kind: str, **settings: Any) -> dict[str, Any]:
    return {"kind": kind, "rounds": [1], "settings": settings}


GUARDED = rules(decontamination=SETS, paraphrases=MODEL)


@pytest.mark.parametrize(
    ("revisions", "thresholds", "sets", "model"),
    [
        ([], [0.7], SETS, MODEL),
        ([revision("replay", judged=[1], **rules(0.6))], [0.6], None, None),
        ([revision("replay", judged=[1], **rules(0.6, decontamination=SETS))], [0.6], SETS, None),
        ([revision("replay", judged=[2], **rules(0.6))], [0.7], SETS, MODEL),
        ([revision("top_up", judging={"1": GUARDED})], [0.7, 0.7], SETS, MODEL),
        ([revision("top_up", judging={"1": rules(0.5, paraphrases=MODEL)})], [0.7, 0.5], None, MODEL),
        ([revision("top_up", judging={"2": rules(0.5)})], [0.7], SETS, MODEL),
        ([revision("regenerate", part="output", **NONE)], [0.7], SETS, MODEL),
        ([revision("regenerate", part="instance", decontamination={"against": []})], [0.7], None, MODEL),
        ([revision("regenerate", part="instance", decontamination=SETS)], [0.7], SETS, MODEL),
        ([revision("review")], [0.7], SETS, MODEL),
    ],
)
def test_a_gate_stands_where_all_rows_have_passed_it(
    revisions: list[dict[str, Any]], thresholds: list[float], sets: Any, model: Any
) -> None:
    (found,) = standing({"rounds": [{"round": 1, "settings": GUARDED}], "revisions": revisions})
    assert found == {"round": 1, "thresholds": thresholds, "decontamination": sets, "paraphrases": model}
