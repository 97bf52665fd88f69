"""Instructions by the million for the measurements, made out of our own seeds: no data is downloaded.

A made-up instruction strings clauses of seeds together up to a length drawn as the paper's are spread (mean 15.9
words) and changes their content words for others drawn by Zipf's law from a vocabulary that begins with the seeds'
own words and goes on with words put together from halves of them. A fifth of all instructions repeat an earlier
one with up to half of its tokens replaced, left out, added or moved, so that scores fall on both sides of the
threshold and on it. What comes out means nothing; its lengths, word frequencies and near-duplicates are what the
gate sees.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from selfinstruct_hub import assets

SHARE_REPEATED = 0.2
# Heaps' law for a million English instructions; Chinese has no more characters in use.
_VOCABULARY = {"en": 150_000, "zh": 4_500}
_MEAN_LENGTH, _SPREAD = {"en": 15.9, "zh": 26.0}, 0.5
_SHORTEST, _LONGEST = 4, 120
_ZIPF, _MANDELBROT = 1.05, 5.0


def instructions(count: int, language: str = "en", seed: int = 0) -> list[str]:
    """`count` instructions in "en" or "zh", the same ones for the same arguments; the first n of more are those
    of n."""
    rng = random.Random(f"{language} {seed}")
    clauses, common, words = _material(language, rng)
    chosen = _zipf(len(words), random.Random(f"words {language} {seed}"))
    lengths = random.Random(f"lengths {language} {seed}")
    joint = " " if language == "en" else ""
    made: list[list[str]] = []
    for _ in range(count):
        if made and rng.random() < SHARE_REPEATED:
            made.append(_changed(made[rng.randrange(len(made))], rng, lambda: words[chosen()]))
            continue
        length = _length(language, lengths)
        row: list[str] = []
        while len(row) < length:
            row += (word if word in common else words[chosen()] for word in rng.choice(clauses))
        made.append(row[:length])
    return [joint.join(row) for row in made]


def _length(language: str, rng: random.Random) -> int:
    drawn = rng.lognormvariate(np.log(_MEAN_LENGTH[language]) - _SPREAD**2 / 2, _SPREAD)
    return min(max(_SHORTEST, round(drawn)), _LONGEST)


def _material(language: str, rng: random.Random) -> tuple[list[list[str]], set[str], list[str]]:
    """Clauses of the seeds as tokens, the tokens that stay as they are, and the vocabulary for the others."""
    lines = assets.text("seeds", f"{language}.jsonl").splitlines()
    seeds = [json.loads(line)["instruction"] for line in lines]
    token = re.compile(r"[a-z0-9]+" if language == "en" else r"[\u4e00-\u9fff]")
    texts = [part for seed in seeds for part in re.split(r"[,.:;?!，。：；？！、]", seed)]
    clauses = [found for text in texts if len(found := token.findall(text.lower())) >= 3]
    counts = Counter(word for clause in clauses for word in clause)
    ranked = [word for word, _ in counts.most_common()]
    # The words that hold sentences together are the commonest: about half of all running words in English.
    common = set(ranked[: 60 if language == "en" else 40])
    words = [word for word in ranked if word not in common]
    there = set(ranked)
    while len(words) < _VOCABULARY[language]:
        if language == "en":
            one, other = rng.choice(ranked), rng.choice(ranked)
            word = one[: rng.randint(2, 6)] + other[-rng.randint(2, 6) :]
        else:
            word = chr(rng.randint(0x4E00, 0x9FA5))
        if word not in there:
            there.add(word)
            words.append(word)
    return clauses, common, words


def _zipf(size: int, rng: random.Random) -> Callable[[], int]:
    """Draws ranks by Zipf and Mandelbrot's law: the n-th word comes with a weight of 1 / (n + c) ** s."""
    weights = 1 / (np.arange(1, size + 1) + _MANDELBROT) ** _ZIPF
    ends = np.cumsum(weights / weights.sum())
    drawn: list[int] = []

    def draw() -> int:
        if not drawn:
            points = np.random.default_rng(rng.getrandbits(64)).random(65_536)
            drawn.extend(np.minimum(np.searchsorted(ends, points), size - 1).tolist())
        return drawn.pop()

    return draw


def _changed(row: Sequence[str], rng: random.Random, word: Callable[[], str]) -> list[str]:
    """`row` with none to half of its tokens changed."""
    changed = list(row)
    for _ in range(rng.randint(0, len(row) // 2)):
        place = rng.randrange(len(changed))
        kind = rng.randrange(4)
        if kind == 0:
            changed[place] = word()
        elif kind == 1 and len(changed) > _SHORTEST:
            del changed[place]
        elif kind == 2:
            changed.insert(place, word())
        else:
            changed.insert(rng.randrange(len(changed)), changed.pop(place))
    return changed
