"""A tiny real model2vec model whose meanings a test chooses: words of one group point nearly the same way, words
of different groups in directions of their own.

It is made of model2vec's and tokenizers' own classes and saved by model2vec, so that a test reads it as a user
reads a model from the Hub. Nothing is drawn by chance: a word's vector depends on the word and its group alone.
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_UNKNOWN = "[UNK]"


def make(folder: Path, groups: Mapping[str, str], *, dimensions: int = 64, spread: float = 0.1) -> Path:
    """Writes a model into `folder` that knows the words of `groups` ({word: group}; lower case; Chinese ones, too)
    and returns the folder.

    A word's vector is its group's direction (two groups are at nearly right angles) and a `spread` of its own. The
    group "" has no direction: a text of such words, or of unknown ones, has no vector.
    """
    from model2vec import StaticModel

    tokenizers: Any = importlib.import_module("tokenizers")  # it has no types to check against
    splitting = tokenizers.pre_tokenizers
    words = [_UNKNOWN, *sorted(groups)]
    numbers = {word: number for number, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(numbers, unk_token=_UNKNOWN))
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    # Chinese has no spaces: its words are cut out first, the longest where several fit.
    unspaced = sorted((word for word in groups if not word.isascii()), key=lambda word: (-len(word), word))
    words_there = tokenizers.Regex("|".join(map(re.escape, unspaced)))
    cut = [splitting.Split(words_there, "isolated")] if unspaced else []
    tokenizer.pre_tokenizer = splitting.Sequence([*cut, splitting.Whitespace()])
    vectors = np.zeros((len(words), dimensions), np.float32)
    for number, word in enumerate(words[1:], start=1):
        if group := groups[word]:
            vectors[number] = _direction("group " + group, dimensions)
            vectors[number] += spread * _direction("word " + word, dimensions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # model2vec leaves closing its files to the interpreter
        StaticModel(vectors, tokenizer, normalize=True).save_pretrained(folder)
    return folder


def _direction(name: str, dimensions: int) -> Any:
    direction = np.random.default_rng(list(name.encode())).standard_normal(dimensions)
    return direction / np.linalg.norm(direction)
