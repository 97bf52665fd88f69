"""What a release publishes of a round, as plain columns in batches: texts and JSON as they are stored, not parsed.

A release may have millions of rows, so no record is made of them here, and no query holds a round in memory.
Reads only.
"""

from __future__ import annotations

# What decided, where something did; the nearest by ROUGE-L otherwise.
_NEAREST = "coalesce(json_extract(v.near, '$[0]'), json_extract(v.nearest, '$[0][0]'))"

# Mostly it is the first call alone, and what comes after it is empty: found at a candidate's end, without reading
# all of it as JSON.
_USUAL_END = '"calls":[0],"failure":null,"lost":[],"bare":false,"extra":{}}'
_CALLS = (
    f"CASE WHEN substr(CAST(candidate AS BLOB), -{len(_USUAL_END)}) <> CAST('{_USUAL_END}' AS BLOB)"
    " THEN json_extract(candidate, '$.calls') END"
)
ACCEPTED = (
    f"SELECT number, position, task, nearest, mean, {_CALLS}, revised, ids FROM verdicts"
    " WHERE round = ? AND task IS NOT NULL ORDER BY number, position"
)
# A draw without a verdict, one that is not judged yet, has nothing to do with a row.
ANSWERS = (
    "SELECT c.number, c.call, c.stage, c.decoding, c.demonstrations, c.finish_reason, c.prompt_tokens,"
    " c.generated_tokens, c.model, c.endpoint_kind FROM completions c JOIN draws d USING (round, number)"
    " WHERE c.round = ? ORDER BY c.number, c.call"
)
# A neighbour that a revision has changed since has another id, and stands among the verdicts of before. These are
# asked for in the pool itself, whatever it reads as: an id is a digest of what it names.
_INSTRUCTION = (
    "coalesce("
    + ", ".join(
        f"(SELECT json_extract(found.task, '$.instruction') FROM main.{table} found WHERE found.task_id ="
        f" {_NEAREST} LIMIT 1)"
        for table in ("verdicts", "past_verdicts")
    )
    + ", seed.instruction)"
)
# The limit, which is none, has SQLite make an indexed table of the seeds instead of reading them all each time.
_SEEDS = (
    "SELECT json_extract(task, '$.id') AS id, json_extract(task, '$.instruction') AS instruction"
    " FROM seeds LIMIT -1"
)
REJECTED = (
    "SELECT number, position, stage, candidate, task, reason, detail,"
    " CASE WHEN near IS NOT NULL THEN '[' || near || ']' WHEN score IS NULL AND mean IS NOT NULL THEN '[]'"
    " WHEN nearest = '[]' THEN nearest ELSE '[' || json_extract(nearest, '$[0]') || ']' END, lost,"
    f" CASE WHEN task IS NULL THEN {_INSTRUCTION} END"
    f" FROM verdicts v LEFT JOIN ({_SEEDS}) seed ON task IS NULL AND seed.id = {_NEAREST}"
    " WHERE round = ? AND (task IS NULL OR lost <> '[]') ORDER BY number, position"
)
