"""What a release publishes of a round, as plain columns in batches: texts and JSON as they are stored, not parsed.

A release may have millions of rows, so no record is made of them here, and no query holds a round in memory.
Reads only, but for one temporary table outside the pool's file.
"""

from __future__ import annotations

# An id of ours is sixteen digits, and stands first where tasks are canonical JSON.
_ID = (
    """CASE WHEN substr(task, 1, 7) = '{"id":"' AND substr(task, 24, 2) = '",'"""
    " AND instr(substr(task, 8, 16), '\\') = 0 THEN substr(task, 8, 16) ELSE json_extract(task, '$.id') END"
)
# What decided, where something did; the nearest by ROUGE-L otherwise.
_NEAREST = "coalesce(json_extract(near, '$[0]'), json_extract(nearest, '$[0][0]'))"

# Mostly it is the first call alone, and what comes after it is empty: found at a candidate's end, without reading
# all of it as JSON.
_USUAL_END = '"calls":[0],"failure":null,"lost":[],"bare":false,"extra":{}}'
_CALLS = (
    f"CASE WHEN substr(CAST(candidate AS BLOB), -{len(_USUAL_END)}) <> CAST('{_USUAL_END}' AS BLOB)"
    " THEN json_extract(candidate, '$.calls') END"
)
ACCEPTED = (
    f"SELECT number, position, task, nearest, mean, {_CALLS}, revised FROM verdicts"
    " WHERE round = ? AND task IS NOT NULL ORDER BY number, position"
)
# A draw without a verdict, one that is not judged yet, has nothing to do with a row.
ANSWERS = (
    "SELECT c.number, c.call, c.stage, c.decoding, c.demonstrations, c.finish_reason, c.prompt_tokens,"
    " c.generated_tokens, c.model, c.endpoint_kind FROM completions c JOIN draws d USING (round, number)"
    " WHERE c.round = ? ORDER BY c.number, c.call"
)
REJECTED = (
    "SELECT number, position, stage, candidate, task, reason, detail,"
    " CASE WHEN near IS NOT NULL THEN '[' || near || ']' WHEN score IS NULL AND mean IS NOT NULL THEN '[]'"
    " WHEN nearest = '[]' THEN nearest ELSE '[' || json_extract(nearest, '$[0]') || ']' END, lost,"
    " neighbours.instruction"
    f" FROM verdicts LEFT JOIN neighbours ON task IS NULL AND neighbours.id = {_NEAREST}"
    " WHERE round = ? AND (task IS NULL OR lost <> '[]') ORDER BY number, position"
)
# The instructions that candidates rejected since a round were too near to: only these, and on disk, since there
# may be as many as a pool has tasks. Sorted, so that the table is written from one end to the other.
NEIGHBOURS = (
    "DROP TABLE IF EXISTS temp.neighbours",
    "CREATE TEMP TABLE neighbours (id TEXT PRIMARY KEY, instruction TEXT) WITHOUT ROWID",
    "DROP TABLE IF EXISTS temp.wanted",
    "CREATE TEMP TABLE wanted (id TEXT PRIMARY KEY) WITHOUT ROWID",
    f"INSERT INTO wanted SELECT DISTINCT {_NEAREST} FROM verdicts"
    " WHERE round >= ? AND task IS NULL AND (nearest <> '[]' OR near IS NOT NULL) ORDER BY 1",
    *(
        "INSERT OR REPLACE INTO neighbours"
        f" SELECT {_ID} AS key, json_extract(task, '$.instruction')"
        f" FROM {table} WHERE task IS NOT NULL AND key IN (SELECT id FROM wanted) ORDER BY key"
        # A neighbour that a revision has changed since has another id.
        for table in ("seeds", "past_verdicts", "verdicts")
    ),
    "DROP TABLE wanted",
)
