"""How models say that a task has no input."""

from __future__ import annotations

import re

# How models say that there is no input. Compared without case, brackets and final dots.
_NO_INPUT = frozenset(
    {
        "",
        "-",
        "--",
        "—",
        "empty",
        "n/a",
        "na",
        "nil",
        "no input",
        "no input is needed",
        "no input is required",
        "no input necessary",
        "no input needed",
        "no input provided",
        "no input required",
        "noinput",
        "none",
        "none needed",
        "none required",
        "not applicable",
        "not needed",
        "not required",
        "null",
        "without input",
        "不需要",
        "不需要输入",
        "无",
        "无输入",
        "无需输入",
        "没有",
        "没有输入",
    }
)


def normalise_input(text: str) -> str:
    """`text`, or "" where it only says that there is no input."""
    bare = text.strip().strip("<>()[]{}\"'`*_").strip().rstrip(".。").strip()
    return "" if re.sub(r"[\s_-]+", " ", bare).casefold() in _NO_INPUT or bare in _NO_INPUT else text.strip()
