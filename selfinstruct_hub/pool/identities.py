"""What is stored beside an accepted task, so that nobody has to read it as JSON: its id, its rows' ids, its calls.

A task is stored as canonical JSON, so what a row's id is a digest of is cut out of it as it stands: reading and
writing it again would take several times as long. What is looked for is a key with its quotation marks and colon,
and no text can hold that: its own quotation marks are escaped. Pure.
"""

from __future__ import annotations

import hashlib
import json
from json.encoder import encode_basestring
from typing import Any

from selfinstruct_hub.records import canonical_json

DIGITS = 16  # of a row's id, and of a task's that is ours
# The columns that hold it.
COLUMNS = "task_id, ids, instances, short, calls"

_BEFORE_ID = '{"id":"'
_BEFORE_PAIRS = '","instances":[['
# What comes after the instances, and after the instruction; and where the instances begin where the id is ours.
_AFTER_PAIRS = ']],"instruction":'
_AFTER_INSTRUCTION = ',"is_classification":'
_PAIRS = len(_BEFORE_ID) + DIGITS + len(_BEFORE_PAIRS)
# What a candidate mostly ends with.
_USUAL_END = '"calls":[0],"failure":null,"lost":[],"bare":false,"extra":{}}'


def following(candidate: str, task: str | None, lost: str) -> tuple[Any, ...]:
    """What is stored beside a verdict, in the order of `COLUMNS`: id of the task, ids of its rows, how many they
    are, whether it goes on without others (1 or None), calls; nothing where there is no task. Raises ValueError,
    KeyError or TypeError where these are none."""
    if task is None:
        return (None,) * 5
    ids = row_ids(task)
    return (task_id(task), ids, len(ids) // DIGITS, 1 if lost != "[]" else None, calls(candidate))


def task_id(task: str) -> str:
    """The id of a stored task."""
    end = len(_BEFORE_ID) + DIGITS
    found = task[len(_BEFORE_ID) : end]
    if task.startswith(_BEFORE_ID) and task[end : end + 2] == '",' and found.isalnum():
        return found
    return str(json.loads(task)["id"])


def row_ids(task: str) -> str:
    """The ids of a stored task's rows, one after the other: each as `records.Task.rows` has it, a digest of the
    canonical JSON of instruction, input and output."""
    head, cut, tail = task.partition(_AFTER_PAIRS)
    # One instance: the only pair is all there is between the brackets. Ids of another length, and a text that
    # looks like the gap between two pairs, are for the slow way.
    if cut and head[_PAIRS - len(_BEFORE_PAIRS) : _PAIRS] == _BEFORE_PAIRS and '"],["' not in head:
        return _digest(f"[{tail[: tail.rindex(_AFTER_INSTRUCTION)]},{head[_PAIRS:]}]")
    values = json.loads(task)
    instruction = encode_basestring(values["instruction"])
    return "".join(
        _digest(f"[{instruction},{encode_basestring(given)},{encode_basestring(output)}]")
        for given, output in values["instances"]
    )


def calls(candidate: str) -> str | None:
    """The calls that made a stored candidate, as JSON; None where it was the first alone."""
    if candidate.endswith(_USUAL_END):
        return None
    found = json.loads(candidate).get("calls", [0])  # format 1 held none
    return None if found == [0] else canonical_json(found)


def separate(ids: str) -> list[str]:
    """Ids of rows that stand one after the other."""
    return [ids[at : at + DIGITS] for at in range(0, len(ids), DIGITS)]


def _digest(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()[:DIGITS]
