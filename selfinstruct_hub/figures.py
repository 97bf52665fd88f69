"""Numbers as a sentence says them."""

from __future__ import annotations

from collections.abc import Iterable


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: "1 row", "2,000 rows". `many` where an s is not enough."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def spans(numbers: Iterable[int]) -> str:
    """Whole numbers with those in a row drawn together: 1-3, 5."""
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][-1] + 1:
            found[-1] = [found[-1][0], number]
        else:
            found.append([number])
    return ", ".join("-".join(map(str, span)) for span in found)
