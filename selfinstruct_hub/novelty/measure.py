"""ROUGE-L F1 out of the length of a longest common subsequence, and which length takes it above a threshold.

rapidfuzz computes the length, an integer; F1 follows from it by rouge-score's own floating-point expression, so
that every score is rouge-score's to the last bit; where the threshold is met exactly, rouge-score itself decides.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

# Nearer to the threshold than this, rouge-score is asked. Two scores of texts of any length that are not the same
# number lie farther apart: their denominators would have to be above 10 ** 5.
_TIE = 1e-10


def f1(common: Any, length: Any, lengths: Any) -> Any:
    """rouge-score's F-measure, operation by operation, over arrays that broadcast: the length of the longest
    common subsequence and those of both texts, in tokens. float64. Empty texts score 0."""
    precision = common / np.maximum(length, 1)
    recall = common / np.maximum(lengths, 1)
    total = precision + recall
    return np.where(total > 0, 2 * precision * recall / np.where(total > 0, total, 1), 0.0)


def required(length: Any, lengths: Any, threshold: float) -> Any:
    """The least common length with which texts of so many tokens score above `threshold`: an array of int64; more
    than the shorter text has where none does. F1 grows with the common length, so all longer ones do too."""
    length, lengths = np.broadcast_arrays(np.asarray(length, np.int64), np.asarray(lengths, np.int64))
    shape, length, lengths = length.shape, length.ravel(), lengths.ravel()
    # One below what the plain formula says, F1 being 2 * common / (length + lengths), then upwards.
    common = np.maximum(np.floor(threshold * (length + lengths) / 2).astype(np.int64) - 1, 1)
    while True:
        short = (common <= np.minimum(length, lengths)) & ~_above(common, length, lengths, threshold)
        if not short.any():
            return common.reshape(shape)
        common = common + short


def _above(common: Any, length: Any, lengths: Any, threshold: float) -> Any:
    scores = f1(common, length, lengths)
    above = scores > threshold
    real = common <= np.minimum(length, lengths)
    for place in np.flatnonzero(real & (np.abs(scores - threshold) < _TIE)).tolist():
        above[place] = _rouge_score(int(common[place]), int(length[place]), int(lengths[place])) > threshold
    return above


@lru_cache(maxsize=65_536)
def _rouge_score(common: int, length: int, lengths: int) -> float:
    from rouge_score import scoring  # a third of a second, and only where the threshold is met exactly

    return float(scoring.fmeasure(common / length, common / lengths))


def shortest_partner(length: int, threshold: float) -> int:
    """How few tokens a text may have that scores above `threshold` with one of `length`, which is not shorter;
    `length` + 1 where none can."""
    bound = int(threshold * length / (2 - threshold))
    for partner in range(max(1, bound - 1), length + 1):
        if required(partner, length, threshold) <= partner:
            return partner
    return length + 1
