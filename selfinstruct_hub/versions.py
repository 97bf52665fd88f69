"""Version tags: vMAJOR.MINOR.PATCH. The first round is v1.0.0; each round adds one to MINOR; a change of recipe
or of columns adds one to MAJOR; a revision of rounds that are released adds one to PATCH. Pure."""

from __future__ import annotations

import re

FIRST = "v1.0.0"
# Counts up whenever the columns of a release change.
COLUMNS = 3
_TAG = re.compile(r"v(\d+)\.(\d+)\.(\d+)")


def parse(tag: str) -> tuple[int, int, int]:
    """`tag` as numbers, for sorting. Raises ValueError where it is no version tag."""
    match = _TAG.fullmatch(tag)
    if match is None:
        raise ValueError(f"{tag!r} is not a version such as {FIRST}")
    major, minor, patch = map(int, match.groups())
    return major, minor, patch


def next_round(previous: str | None, *, changed: bool = False) -> str:
    """The version of the round after `previous`; `changed` says that recipe or columns are others now."""
    if previous is None:
        return FIRST
    major, minor, _ = parse(previous)
    return f"v{major + 1}.0.0" if changed else f"v{major}.{minor + 1}.0"


def next_patch(previous: str, *, changed: bool = False) -> str:
    """The version of a revision after `previous`; `changed` says that the columns are others now."""
    major, minor, patch = parse(previous)
    return f"v{major + 1}.0.0" if changed else f"v{major}.{minor}.{patch + 1}"
