"""The tables of a pool, and the way to them from older formats."""

from __future__ import annotations

SCHEMA_VERSION = 7
APPLICATION_ID = 0x53494842  # "SIHB", so that somebody else's SQLite file is not taken for a pool

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE seeds (position INTEGER PRIMARY KEY, task TEXT NOT NULL);
CREATE TABLE rounds (
    number INTEGER PRIMARY KEY, version TEXT NOT NULL UNIQUE, wanted INTEGER NOT NULL,
    complete INTEGER NOT NULL DEFAULT 0, settings TEXT NOT NULL, asked TEXT NOT NULL
);
CREATE TABLE completions (
    round INTEGER NOT NULL REFERENCES rounds, number INTEGER NOT NULL, call INTEGER NOT NULL,
    stage TEXT NOT NULL, prompt TEXT NOT NULL, decoding TEXT NOT NULL, demonstrations TEXT NOT NULL,
    text TEXT NOT NULL, finish_reason TEXT NOT NULL, prompt_tokens INTEGER, generated_tokens INTEGER,
    model TEXT NOT NULL, endpoint_kind TEXT NOT NULL, queue_time REAL, inference_time REAL, total_time REAL,
    revision INTEGER NOT NULL DEFAULT 0, prompt_estimate INTEGER, generated_estimate INTEGER,
    PRIMARY KEY (round, number, call)
);
CREATE TABLE draws (
    round INTEGER NOT NULL REFERENCES rounds, number INTEGER NOT NULL, candidates INTEGER NOT NULL,
    PRIMARY KEY (round, number)
);
CREATE TABLE verdicts (
    round INTEGER NOT NULL, number INTEGER NOT NULL, position INTEGER NOT NULL,
    candidate TEXT NOT NULL, task TEXT, reason TEXT, detail TEXT, nearest TEXT NOT NULL, mean REAL,
    stage TEXT NOT NULL, score REAL, lost TEXT NOT NULL, near TEXT, revised TEXT,
    task_id TEXT, ids TEXT, instances INTEGER, short INTEGER, calls TEXT,
    PRIMARY KEY (round, number, position), FOREIGN KEY (round, number) REFERENCES draws
);
CREATE TABLE failures (
    round INTEGER NOT NULL, number INTEGER NOT NULL, call INTEGER NOT NULL, stage TEXT NOT NULL,
    reason TEXT NOT NULL, detail TEXT NOT NULL, tries INTEGER NOT NULL,
    PRIMARY KEY (round, number, call), FOREIGN KEY (round, number) REFERENCES draws
);
CREATE INDEX accepted ON verdicts (round, number, position) WHERE task IS NOT NULL;
"""

# Beside an accepted task stands what it, its candidate and its lost instances say (see `identities`), so that
# packaging need not read them as JSON: a task is found by its id, and a round is counted out of an index alone.
# What was rejected stands among the rest, and of an answer
# its tokens behind its texts.
BESIDE = """
CREATE INDEX counted ON verdicts (round, stage, reason, score, mean, instances, short, number);
CREATE INDEX told ON completions (round, number, call, stage, prompt_tokens, generated_tokens, model, revision);
CREATE INDEX rejected ON verdicts (round, number, position) WHERE task IS NULL OR lost <> '[]';
CREATE INDEX named ON verdicts (task_id) WHERE task_id IS NOT NULL;
CREATE INDEX past_named ON past_verdicts (task_id) WHERE task_id IS NOT NULL;
"""

# Changes of rounds that are complete. `past_*` hold a round as it stood before the revision, so that every version
# can be built again; `revised` has what was chosen to be changed one by one, and what became of it.
REVISIONS = """
CREATE TABLE revisions (
    number INTEGER PRIMARY KEY, version TEXT NOT NULL, kind TEXT NOT NULL, after_round INTEGER NOT NULL,
    state TEXT NOT NULL, settings TEXT NOT NULL, asked TEXT NOT NULL, changes TEXT NOT NULL
);
CREATE TABLE revised_rounds (
    revision INTEGER NOT NULL REFERENCES revisions, round INTEGER NOT NULL, PRIMARY KEY (round, revision)
);
CREATE TABLE past_draws (
    revision INTEGER NOT NULL, round INTEGER NOT NULL, number INTEGER NOT NULL, candidates INTEGER NOT NULL,
    PRIMARY KEY (revision, round, number)
);
CREATE TABLE past_verdicts (
    revision INTEGER NOT NULL, round INTEGER NOT NULL, number INTEGER NOT NULL, position INTEGER NOT NULL,
    candidate TEXT NOT NULL, task TEXT, reason TEXT, detail TEXT, nearest TEXT NOT NULL, mean REAL,
    stage TEXT NOT NULL, score REAL, lost TEXT NOT NULL, near TEXT, revised TEXT,
    PRIMARY KEY (revision, round, number, position)
);
CREATE TABLE past_failures (
    revision INTEGER NOT NULL, round INTEGER NOT NULL, number INTEGER NOT NULL, call INTEGER NOT NULL,
    stage TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL, tries INTEGER NOT NULL,
    PRIMARY KEY (revision, round, number, call)
);
CREATE TABLE revised (
    revision INTEGER NOT NULL REFERENCES revisions, item INTEGER NOT NULL, round INTEGER NOT NULL,
    number INTEGER NOT NULL, position INTEGER NOT NULL, instance INTEGER, done INTEGER NOT NULL DEFAULT 0,
    before TEXT NOT NULL, after TEXT, reason TEXT, detail TEXT, marks TEXT,
    PRIMARY KEY (revision, item)
);
CREATE TABLE revision_completions (
    revision INTEGER NOT NULL REFERENCES revisions, item INTEGER NOT NULL, call INTEGER NOT NULL,
    stage TEXT NOT NULL, prompt TEXT NOT NULL, decoding TEXT NOT NULL, demonstrations TEXT NOT NULL,
    text TEXT NOT NULL, finish_reason TEXT NOT NULL, prompt_tokens INTEGER, generated_tokens INTEGER,
    model TEXT NOT NULL, endpoint_kind TEXT NOT NULL, queue_time REAL, inference_time REAL, total_time REAL,
    PRIMARY KEY (revision, item, call)
);
"""
# What a verdict ended with in format 6, which made these tables.
_LAST_OF_6 = "near TEXT, revised TEXT,"
SCHEMA += (
    REVISIONS.replace(
        _LAST_OF_6, f"{_LAST_OF_6} task_id TEXT, ids TEXT, instances INTEGER, short INTEGER, calls TEXT,"
    )
    + BESIDE
)

_OF_VERDICTS = ("candidate", "task", "nearest", "lost", "near", "revised")
STORED_AS_JSON = {
    "seeds": ("task",),
    "rounds": ("settings", "asked"),
    "completions": ("decoding", "demonstrations"),
    "verdicts": _OF_VERDICTS,
    "revisions": ("settings", "asked", "changes"),
    "past_verdicts": _OF_VERDICTS,
    "revised": ("before", "after", "marks"),
    "revision_completions": ("decoding", "demonstrations"),
}

# From each format to the next. Rules and novelty ran in another order in format 1, so that only these verdicts
# had measured how near the candidate was.
MIGRATIONS = {
    1: """
ALTER TABLE verdicts ADD COLUMN stage TEXT NOT NULL DEFAULT 'tasks';
ALTER TABLE verdicts ADD COLUMN score REAL;
ALTER TABLE verdicts ADD COLUMN lost TEXT NOT NULL DEFAULT '[]';
UPDATE verdicts SET score = coalesce(json_extract(nearest, '$[0][1]'), 0)
 WHERE reason IS NULL OR reason IN ('too_similar', 'surplus');
UPDATE rounds SET settings = json_set(settings, '$.demonstrations.machine', 0);
""",
    2: """
CREATE TABLE failures (
    round INTEGER NOT NULL, number INTEGER NOT NULL, call INTEGER NOT NULL, stage TEXT NOT NULL,
    reason TEXT NOT NULL, detail TEXT NOT NULL, tries INTEGER NOT NULL,
    PRIMARY KEY (round, number, call), FOREIGN KEY (round, number) REFERENCES draws
);
""",
    # A mean may be unknown. SQLite takes a NOT NULL away by making the table anew only.
    3: """
CREATE TABLE verdicts_4 (
    round INTEGER NOT NULL, number INTEGER NOT NULL, position INTEGER NOT NULL,
    candidate TEXT NOT NULL, task TEXT, reason TEXT, detail TEXT, nearest TEXT NOT NULL, mean REAL,
    stage TEXT NOT NULL, score REAL, lost TEXT NOT NULL,
    PRIMARY KEY (round, number, position), FOREIGN KEY (round, number) REFERENCES draws
);
INSERT INTO verdicts_4 SELECT
 round, number, position, candidate, task, reason, detail, nearest, mean, stage, score, lost FROM verdicts;
DROP TABLE verdicts;
ALTER TABLE verdicts_4 RENAME TO verdicts;
CREATE INDEX accepted ON verdicts (round, number, position) WHERE task IS NOT NULL;
""",
    # What a candidate was too near to is the first of its nearest in older pools.
    4: """
ALTER TABLE verdicts ADD COLUMN near TEXT;
""",
    5: """
ALTER TABLE completions ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;
ALTER TABLE completions ADD COLUMN prompt_estimate INTEGER;
ALTER TABLE completions ADD COLUMN generated_estimate INTEGER;
ALTER TABLE verdicts ADD COLUMN revised TEXT;
"""
    + REVISIONS,
    # What stands in the new columns is for `identities` to say, and then come the indexes (`BESIDE`).
    6: "".join(
        f"ALTER TABLE {table} ADD COLUMN {column};"
        for table in ("verdicts", "past_verdicts")
        for column in ("task_id TEXT", "ids TEXT", "instances INTEGER", "short INTEGER", "calls TEXT")
    ),
}
