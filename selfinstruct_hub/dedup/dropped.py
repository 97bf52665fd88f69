"""A row that was dropped as a line of JSON: why, what it was too near to, and the row itself.

    {"row": "line 12", "reason": "too_similar", "score": 0.83,
     "neighbour": {"file": null, "row": "line 7", "instruction": "..."}, "dropped": {...}}

What no JSON holds stands in a form of its own: bytes as {"base64": "..."}, dates and times in ISO 8601, durations
in seconds, decimals and identifiers as texts, and "NaN", "Infinity" and "-Infinity".
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, time, timedelta
from typing import Any


@dataclass(frozen=True)
class Near:
    """The row that a dropped one was too near to. `file` is the name of the file it is in; None where that is the
    dropped one's own."""

    file: str | None
    row: str
    instruction: str


def line(place: str, reason: str, score: float, near: Near, row: Mapping[str, Any]) -> bytes:
    """The line, with its end."""
    value = {
        "row": place,
        "reason": reason,
        "score": score,
        "neighbour": {"file": near.file, "row": near.row, "instruction": near.instruction},
        "dropped": _plain(row),
    }
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a character, which JSON can only spell out
        return json.dumps(value, allow_nan=False).encode() + b"\n"


def _plain(value: Any) -> Any:
    """`value` in what JSON holds."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value)
