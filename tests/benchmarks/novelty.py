"""The novelty gate against a plain rouge-score scan: the same rows kept, and how much faster.

    python -m tests.benchmarks.novelty                    5,000 and 52,000 instructions made from the seeds
    python -m tests.benchmarks.novelty --exact 5000       first checks every verdict on so many (an hour)
    python -m tests.benchmarks.novelty --million          a million in fast mode, and 1,000 against that pool
    python -m tests.benchmarks.novelty FILE               the instructions of a JSONL file

The reference compares a candidate with every kept row by rouge-score's own `_score_lcs`, all texts tokenised once,
as Alpaca's script does. Its pairs per second are measured in the same run, before and after the gate; its time is
the pairs that the scan would compare, by that speed. The gate's time includes tokenising. Verdicts are checked one
by one, each candidate against what the gate had kept before it: as long as all agree, that is the plain scan.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from rouge_score import rouge_scorer

from selfinstruct_hub import languages
from selfinstruct_hub.novelty import Mode, NoveltyGate
from tests.benchmarks.corpus import instructions

THRESHOLD = 0.7
_BATCH = 4096


@dataclass(frozen=True)
class Source:
    """Where the instructions of a run come from: made up in a language, or read from a file."""

    language: str
    count: int
    file: Path | None = None

    def texts(self) -> list[str]:
        if self.file is None:
            return instructions(self.count, self.language)
        lines = self.file.read_text(encoding="utf-8").split("\n")
        return [json.loads(line)["instruction"] for line in lines if line.strip()][: self.count or None]


@dataclass
class Sifted:
    """What a mode kept, in what time. `curve` has (rows, seconds)."""

    kept: list[int] = field(default_factory=list)
    seconds: float = 0.0
    megabytes: float = 0.0
    curve: list[tuple[int, float]] = field(default_factory=list)
    loading: float = 0.0
    asking: float = 0.0


def sift(source: Source, mode: Mode, questions: int = 0) -> Sifted:
    """Runs the gate over all texts in a process of its own; then, where asked, so many new ones against the pool
    that was kept, loaded into a gate as a resumed run does."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_sift, source, mode, questions).result()


def _sift(source: Source, mode: Mode, questions: int) -> Sifted:
    texts = source.texts()
    result = Sifted()
    began = time.perf_counter()
    gate = NoveltyGate(1, mode=mode, threshold=THRESHOLD) if mode == "fast" else NoveltyGate(10)
    for first in range(0, len(texts), _BATCH):
        some = texts[first : first + _BATCH]
        comparison = gate.comparison(some)
        for row in range(len(some)):
            if comparison[row].score <= THRESHOLD:
                comparison.accept(row, str(first + row))
                result.kept.append(first + row)
        result.curve.append((first + len(some), time.perf_counter() - began))
    result.seconds = time.perf_counter() - began
    result.megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if questions:
        del gate
        began = time.perf_counter()
        gate = NoveltyGate(1, mode=mode, threshold=THRESHOLD)
        gate.extend((str(place), texts[place]) for place in result.kept)
        # New ones, so that the pool need not have room for what it kept already.
        gate.extend((f"more {n}", text) for n, text in enumerate(_more(source, source.count - len(result.kept))))
        result.loading = time.perf_counter() - began
        asked = instructions(questions, source.language, seed=2)
        began = time.perf_counter()
        comparison = gate.comparison(asked)
        for row in range(len(asked)):
            if comparison[row].score <= THRESHOLD:
                comparison.accept(row, f"asked {row}")
        result.asking = time.perf_counter() - began
    return result


def _more(source: Source, count: int) -> list[str]:
    return instructions(count, source.language, seed=1)


def pairs_per_second(tokenised: Sequence[Sequence[str]], seconds: float, rng: random.Random) -> float:
    """How many pairs rouge-score compares, of texts drawn at random."""
    count, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        one = rng.choice(tokenised)
        for other in rng.choices(tokenised, k=100):
            rouge_scorer._score_lcs(other, one)
        count += 100
    return count / passed


def _highest(places: list[int], kept: list[int], source: Source) -> list[tuple[int, float]]:
    tokenised = [languages.tokens(text) for text in source.texts()]
    found = []
    for place in places:
        earlier = (tokenised[i] for i in kept if i < place)
        scores = (float(rouge_scorer._score_lcs(other, tokenised[place]).fmeasure) for other in earlier)
        found.append((place, max(scores, default=0.0)))
    return found


def disagreements(source: Source, kept: list[int], processes: int = 2) -> tuple[int, int]:
    """How many verdicts a plain scan would give otherwise, and how many scores lie exactly at the threshold."""
    there, wrong, ties = set(kept), 0, 0
    parts = [list(range(first, source.count, 8 * processes)) for first in range(8 * processes)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for part in pool.map(_highest, parts, [kept] * len(parts), [source] * len(parts)):
            wrong += sum((score <= THRESHOLD) != (place in there) for place, score in part)
            ties += sum(abs(score - THRESHOLD) < 1e-12 for _, score in part)
    return wrong, ties


def throughput(source: Source, modes: Sequence[Mode], reference_seconds: float) -> Iterator[str]:
    """A row of the table for each mode."""
    tokenised = [languages.tokens(text) for text in source.texts()]
    rng = random.Random(0)
    before = pairs_per_second(tokenised, reference_seconds, rng)
    results = {mode: sift(source, mode) for mode in modes}
    speed = (before + pairs_per_second(tokenised, reference_seconds, rng)) / 2
    if len({tuple(result.kept) for result in results.values()}) > 1:
        raise SystemExit("the modes kept different rows")
    for mode, result in results.items():
        kept = set(result.kept)
        pairs = sum(_running(len(tokenised), kept))
        projected = pairs / speed
        yield (
            f"| {source.language} | {len(tokenised):,} | {mode} | {len(kept):,} | {speed:,.0f} | "
            f"{projected / 3600:,.1f} h | {result.seconds:,.1f} s | {projected / result.seconds:,.0f} | "
            f"{result.megabytes:,.0f} |"
        )


def _running(count: int, kept: set[int]) -> Iterator[int]:
    """How many rows each candidate is compared with."""
    before = 0
    for place in range(count):
        yield before
        before += place in kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, help="JSONL with a field `instruction`")
    parser.add_argument("--sizes", type=int, nargs="*", default=[5_000, 52_000])
    parser.add_argument("--languages", nargs="*", default=["en"])
    parser.add_argument("--exact", type=int, default=0, metavar="N", help="check every verdict on N, en and zh")
    parser.add_argument("--million", action="store_true", help="a million in fast mode (some minutes, 2 GB)")
    parser.add_argument("--reference-seconds", type=float, default=10.0, help="how long the reference is timed")
    given = parser.parse_args()
    if given.exact:
        print("| language | candidates | mode | kept | verdicts unlike the plain scan's | highest scores at 0.7 |")
        print("| --- | ---: | --- | ---: | ---: | ---: |")
        for language in ("en", "zh"):
            source = Source(language, given.exact)
            full, fast = sift(source, "full"), sift(source, "fast")
            wrong, ties = disagreements(source, full.kept)
            for mode, result in (("full", full), ("fast", fast)):
                unlike = wrong if result.kept == full.kept else "other rows than in full mode"
                print(
                    f"| {language} | {given.exact:,} | {mode} | {len(result.kept):,} | {unlike} | {ties} |",
                    flush=True,
                )
        print()
    print("| language | candidates | mode | kept | pairs/s of rouge-score | its time | gate's time | times | MB |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    sources = [Source(language, size) for language in given.languages for size in given.sizes]
    for source in [Source("file", 0, given.file)] if given.file else sources:
        for line in throughput(source, ("full", "fast"), given.reference_seconds):
            print(line, flush=True)
    if given.million:
        result = sift(Source("en", 1_000_000), "fast", questions=1_000)
        print("\n| candidates, fast mode | seconds |\n| ---: | ---: |")
        step = max(1, len(result.curve) // 10)
        for rows, seconds in [*result.curve[step - 1 : -1 : step], result.curve[-1]]:
            print(f"| {rows:,} | {seconds:,.0f} |")
        print(
            f"\npeak {result.megabytes:,.0f} MB, {len(result.kept):,} kept; a pool of 1,000,000 loaded in", end=" "
        )
        print(f"{result.loading:,.1f} s, then 1,000 candidates in {result.asking:,.2f} s")


if __name__ == "__main__":
    main()
