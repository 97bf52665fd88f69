"""What is stored beside a task, so that nobody has to read it as JSON: its id, and the ids of its rows.

A task is stored as canonical JSON, so what a row's id is a digest of is cut out of it as it stands: reading and
writing it again would take several times as long. What is looked for is a key with its quotation marks and colon,
and no text can hold that: its own quotation marks are escaped. Pure.
"""

from __future__ import annotations

import hashlib
import json
from json.encoder import encode_basestring

DIGITS = 16  # of a row's id, and of a task's that is ours

_BEFORE_ID = '{"id":"'
_BEFORE_PAIRS = '","instances":[['
# What comes after the instances, and after the instruction; and where the instances begin where the id is ours.
_AFTER_PAIRS = ']],"instruction":'
_AFTER_INSTRUCTION = ',"is_classification":'
_PAIRS = len(_BEFORE_ID) + DIGITS + len(_BEFORE_PAIRS)


def task_id(task: str | None) -> str | None:
    """The id of a stored task; None where there is none. Raises ValueError, KeyError or TypeError where it is no
    task."""
    if task is None:
        return None
    end = len(_BEFORE_ID) + DIGITS
    found = task[len(_BEFORE_ID) : end]
    if task.startswith(_BEFORE_ID) and task[end : end + 2] == '",' and found.isalnum():
        return found
    return str(json.loads(task)["id"])


def row_ids(task: str | None) -> str | None:
    """The ids of a stored task's rows, one after the other: each as `records.Task.rows` has it, a digest of the
    canonical JSON of instruction, input and output. None where there is no task. Raises like `task_id`."""
    if task is None:
        return None
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


def _digest(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()[:DIGITS]
