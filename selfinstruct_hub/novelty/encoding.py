"""How the gate keeps texts: every different token is a number, a text is the characters of these numbers.

rapidfuzz compares such strings faster than lists of words, and numpy reads many of them at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, count
from typing import Any

import numpy as np

from selfinstruct_hub import languages

# Surrogates are no characters; beyond the last one a text is a tuple of numbers, which rapidfuzz compares with
# strings all the same, only slower. chr(0) is left out.
_FIRST_SURROGATE, _AFTER_SURROGATES, _LAST = 0xD800, 0xE000, 0x10FFFF
# rapidfuzz is fastest with characters below this one, so the commonest tokens get them.
_FASTEST = 256

Encoded = str | tuple[int, ...]


class Alphabet(dict[str, str | int]):
    """What every token seen so far is written as: a character, or its number where there is none left.

    May be asked by several threads at a time: no two tokens get one number, and none gets two."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = count(1)

    def __missing__(self, token: str) -> str | int:
        code = next(self._numbers)
        if code >= _FIRST_SURROGATE:
            code += _AFTER_SURROGATES - _FIRST_SURROGATE
        # What another thread has written meanwhile stays.
        return self.setdefault(token, chr(code) if code <= _LAST else code)

    def encoded(self, text: str) -> Encoded:
        """The tokens of `text`, those never seen before with numbers of their own."""
        return self._written(languages.tokens(text))

    def encoded_all(self, texts: Sequence[str]) -> list[Encoded]:
        """The same for several, the sooner compared if they are the first ones."""
        tokens = [languages.tokens(text) for text in texts]
        if len(self) < _FASTEST:
            for token, _ in Counter(chain.from_iterable(tokens)).most_common(_FASTEST):
                self[token]
        return [self._written(some) for some in tokens]

    def _written(self, tokens: list[str]) -> Encoded:
        symbols = [self[token] for token in tokens]
        try:
            return "".join(symbols)  # type: ignore[arg-type]
        except TypeError:
            return tuple(symbol if isinstance(symbol, int) else ord(symbol) for symbol in symbols)


class Texts:
    """The instructions of a pool in the order they came: `ids` and `encoded`."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.encoded: list[Encoded] = []
        self._lengths = np.zeros(1024, np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def append(self, key: str, text: Encoded) -> None:
        """Adds `text` under the id `key`."""
        if len(self.ids) == len(self._lengths):
            self._lengths = np.concatenate([self._lengths, np.zeros_like(self._lengths)])
        self._lengths[len(self.ids)] = len(text)
        self.ids.append(key)
        self.encoded.append(text)

    def lengths(self, first: int, end: int) -> Any:
        """Tokens of each text from number `first` to before `end`."""
        return self._lengths[first:end]

    def between(self, first: int, end: int) -> list[Encoded]:
        """These texts themselves, in a list that nothing is added to."""
        return self.encoded[first:end]


def lengths(texts: Sequence[Encoded]) -> Any:
    """Tokens of each text: an array of int64."""
    return np.fromiter(map(len, texts), np.int64, len(texts))


def codes(texts: Iterable[Encoded]) -> Any:
    """The numbers of all tokens, text after text: an array of int64."""
    texts = list(texts)
    try:
        joined = "".join(texts)  # type: ignore[arg-type]
    except TypeError:  # a text with numbers beyond the characters is among them
        return np.fromiter(
            chain.from_iterable(t if isinstance(t, tuple) else map(ord, t) for t in texts), np.int64
        )
    return np.frombuffer(joined.encode("utf-32-le"), np.uint32).astype(np.int64)
