"""How long texts are, counted a column at a time: words, characters, estimated tokens. And what they begin with.

ASCII is counted over the bytes of the whole column; other texts one by one, as `languages` has it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfinstruct_hub import languages

_BYTES_PER_TOKEN = 4
_FEW = 1 << 16
_OPENING = 200  # characters in which the first word is looked for
# What `str.split` parts ASCII at, besides the space: two stretches of control characters, begin and length.
_SPACES = ((0x09, 5), (0x1C, 4))


class Lengths:
    """The lengths of texts, each with how often it occurs."""

    def __init__(self) -> None:
        self.words: Counter[int] = Counter()
        self.characters: Counter[int] = Counter()
        self.tokens: Counter[int] = Counter()

    def add(self, texts: Any) -> None:
        """Counts a column of texts without nulls."""
        add_counts(self.words, words_of(texts))
        add_counts(self.characters, pc.utf8_length(texts).to_numpy())
        add_counts(self.tokens, tokens_of(texts))


def tokens_of(texts: Any) -> Any:
    """Estimated tokens of each text of a column: one for four bytes of UTF-8, which is about what today's
    tokenizers need for English and for Chinese. An estimate, where `records.estimated_tokens` is a bound."""
    return -(-pc.binary_length(texts).to_numpy() // _BYTES_PER_TOKEN)


def words_of(texts: Any) -> Any:
    """The words of each text of a column, as `languages.words` counts them."""
    ascii_only = pc.string_is_ascii(texts).to_numpy(zero_copy_only=False)
    offsets, content = _content(texts)
    begins = content != ord(" ")
    for first, length in _SPACES:
        begins &= content - np.uint8(first) >= length
    # A word begins at a letter with a space before it, or with a text before it.
    inside = begins[:-1].copy()
    inside[offsets[(offsets > 0) & (offsets < len(content))] - 1] = False
    begins[1:] &= ~inside
    counts = np.diff(np.searchsorted(np.flatnonzero(begins), offsets))
    if not ascii_only.all():
        others = texts.filter(pa.array(~ascii_only)).to_pylist()
        counts[~ascii_only] = np.fromiter(map(languages.words, others), np.int64, len(others))
    return counts


def add_openings(counts: Counter[str], texts: Any) -> None:
    """Counts the first of a text's `languages.tokens`, where there is one."""
    ascii_only = pc.string_is_ascii(texts)
    begun = pc.ascii_lower(pc.utf8_slice_codeunits(texts.filter(ascii_only), 0, _OPENING))
    add_values(counts, pc.struct_field(pc.extract_regex(begun, "(?P<word>[a-z0-9]+)"), "word"))
    for text in texts.filter(pc.invert(ascii_only)).to_pylist():
        if tokens := languages.tokens(text[:_OPENING]):
            counts[tokens[0]] += 1


def add_values(counts: Counter[Any], column: Any) -> None:
    """Counts the values of a column, but for nulls."""
    found = pc.value_counts(column.drop_null())
    for value, count in zip(*(found.field(at).to_pylist() for at in (0, 1)), strict=True):
        counts[value] += count


def add_counts(counts: Counter[int], values: Any) -> None:
    """Counts the whole numbers of a NumPy array."""
    if len(values) and values.min() >= 0 and values.max() < _FEW:  # a tenth of the work of sorting them
        found = np.bincount(values)
        for value in np.flatnonzero(found).tolist():
            counts[value] += int(found[value])
        return
    for value, count in zip(*(part.tolist() for part in np.unique(values, return_counts=True)), strict=True):
        counts[value] += count


def _content(texts: Any) -> tuple[Any, Any]:
    """The bytes of a column's texts, one after the other, and where each begins (and the last ends)."""
    _, offsets, data = texts.buffers()
    if not len(texts):
        return np.zeros(1, np.int64), np.zeros(0, np.uint8)
    places = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    content = np.frombuffer(data, np.uint8)[places[0] : places[-1]] if data else np.zeros(0, np.uint8)
    return places - places[0], content
