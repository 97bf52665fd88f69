"""Text that somebody else wrote, made harmless for a page: in a line or a cell, or as a block of its own.

Markdown is read by many parsers with extensions of their own, so a longer text goes into a fenced block, where
none of them looks for markup. What cannot be seen, or turns the direction of what follows, is shown by its number.
"""

from __future__ import annotations

import re
import unicodedata

WIDTH = 88  # what a page of the Hub shows without scrolling
# Joiners belong into words of Persian, Hindi and others, and into emoji; beside ASCII they only hide.
_JOINERS = "\u200c\u200d"
_MARKUP = re.compile(r"([\\`*_\[\]{}|#!~$@])")
# Cc, Cf, Cs, Co, Cn, Zl and Zp, without what a block keeps.
_HIDDEN = re.compile(r"[^\S\n ]|[^\w\s!-/:-@\[-`{-~]", re.UNICODE)


def visible(text: str) -> str:
    """`text` with its line ends as `\\n`, its tabs as spaces, and every invisible or direction-changing character
    as `<U+202E>`."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").expandtabs(4)
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return _HIDDEN.sub(lambda found: _shown(found[0], text, found.start()), text)


def cell(text: object) -> str:
    """`text` as harmless inline Markdown: on one line, with everything escaped that could open markup or that a
    parser would make a link of."""
    flat = " ".join(visible(str(text)).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    flat = _MARKUP.sub(r"\\\1", flat)
    return re.sub(r"(?i)(?<=:)(?=//)|(?<=www)(?=\.)", r"\\", flat)


def code(text: object) -> str:
    """`text` as a code span, also in a cell: on one line, without what would end either."""
    return "`" + (" ".join(re.sub(r"[`|]", " ", visible(str(text))).split()) or "-") + "`"


def fenced(text: str, kind: str = "text") -> str:
    """`text` as a fenced block that nothing in it can close, without a line end after it."""
    body = visible(text)
    longest = max(map(len, re.findall(r"`+", body)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{kind}\n{body}\n{fence}"


def wrapped(line: str, width: int = WIDTH) -> str:
    """One line broken at spaces so that no part is wider than `width`; characters of double width count twice.
    What has no spaces is broken where it is full."""
    if len(line) * 2 <= width:
        return line
    parts, start, room, space = [], 0, width, -1
    place = 0
    while place < len(line):
        character = line[place]
        cost = 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if cost > room:
            end = space if space > start else place
            parts.append(line[start:end])
            start = end + (1 if end == space else 0)
            place, room, space = start, width, -1
            continue
        if character == " ":
            space = place
        room -= cost
        place += 1
    return "\n".join([*parts, line[start:]])


def cut(text: str, characters: int) -> str:
    """`text`, or its first `characters` and how many were left out."""
    left = len(text) - characters
    return text if left <= 0 else f"{text[:characters]} [... {left:,} more characters]"


def _shown(character: str, text: str, place: int) -> str:
    if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        return character
    if character in _JOINERS and _beyond_ascii(text, place - 1) and _beyond_ascii(text, place + 1):
        return character
    return f"<U+{ord(character):04X}>"


def _beyond_ascii(text: str, place: int) -> bool:
    return 0 <= place < len(text) and not text[place].isascii()
