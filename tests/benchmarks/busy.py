"""How busy a run keeps a GPU server, by the server's own record: share of slot-time, ramp-up, refusals.

    python -m tests.benchmarks.busy [--slots 8 --places 128 ...] [--recipe alpaca] [--seconds 40]
        [--others 16] [--beside 8] [--concurrency auto] [--api openai]

Each row is one `grow` of one round against tests/support/gpu.py in a process of its own, whose answers are
heavy-tailed (bounded Pareto, the longest about ten times the mean). `concurrency` is `auto`, unless given.

The window that counts begins at the first moment when every slot was busy, and ends when the last request that
the round needed reached the server: the first request of the last draw that was judged. Until then there was work
to be sent at any moment, so that an idle slot is the client's doing; what comes after is the round's tail, whose
length is the longest answer's. Ramp-up is what comes before the window, from the first request on. Where the
slots were never all busy (there are not as many places) nine tenths of them count as all, marked with a star.

`--others` puts a second load of so many requests on the server for the middle third; `--beside` adds a second
server of so many slots to the run. Slots that serve the second load count as busy. With `--api openai` the server
speaks that protocol only, and tells neither how many requests it takes nor how long they waited.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfinstruct_hub import config, run
from selfinstruct_hub.grow import Progress
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.workspace import Workspace
from tests.support import gpu

_MAX_NEW_TOKENS = 3000
_SHORTEST, _TAIL = 100, 1.1
# (slots, places): text-generation-inference's own 128 places where they are enough, and where they are not.
_ROWS = ((8, 128), (32, 128), (128, 256), (128, 128))


@dataclass(frozen=True)
class Run:
    """One grown round as the server and the client saw it. Times are seconds."""

    busy: float
    window: float
    whole: float
    ramp_up: float
    ever_full: bool
    busy_in_all: float
    requests: int
    refused: int
    most_in_flight: int
    answers_per_second: float
    capacities: list[int]


def mean_tokens(most: int) -> float:
    """The mean length of answers that may have `most` tokens."""
    drawn = (
        gpu.tokens("", {"seed": seed, "max_new_tokens": most}, shortest=_SHORTEST, tail=_TAIL)
        for seed in range(5000)
    )
    return statistics.fmean(drawn)


def tokens_per_task(recipe: str, items: int) -> float:
    """What an accepted task costs, about: to make a round as long as it should be."""
    writing = mean_tokens(_MAX_NEW_TOKENS) / items
    # Of Self-Instruct's, a third is lost on the way.
    return writing if recipe == "alpaca" else 1.5 * (writing + 3 + mean_tokens(350))


def measure(folder: Path, given: argparse.Namespace, slots: int, places: int) -> Run:
    """Grows one round against a server with `slots` and `places`."""
    all_slots = slots + (given.beside or 0)
    tasks = round(given.seconds * all_slots * given.tokens_per_second / tokens_per_task(given.recipe, given.items))
    options = [f"--tokens-per-second={given.tokens_per_second}", f"--shortest={_SHORTEST}", f"--tail={_TAIL}"]
    options += [f"--items={given.items}", *(["--chat-only"] if given.api == "openai" else [])]
    others = [
        *(f"--others={given.others}", f"--others-from={given.seconds / 3}"),
        f"--others-until={2 * given.seconds / 3}",
    ]
    with ExitStack() as stack:
        urls = [
            stack.enter_context(
                gpu.process(f"--slots={slots}", f"--max-concurrent-requests={places}", *options, *others)
            )
        ]
        if given.beside:
            urls.append(stack.enter_context(gpu.process(f"--slots={given.beside}", *options)))
        workspace = Workspace.create(folder, config.with_overrides(config.Settings(), {"recipe": given.recipe}))
        overrides = {
            "tasks": tasks,
            "tasks_per_request": given.items,
            "decoding.max_new_tokens": _MAX_NEW_TOKENS,
            "endpoint.url": urls,
            "endpoint.concurrency": given.concurrency,
        }
        capacities: list[int] = []

        def observe(progress: Progress) -> None:
            if progress.capacity and capacities[-1:] != [progress.capacity]:
                capacities.append(progress.capacity)

        run.grow(
            workspace, config.with_overrides(workspace.settings(), overrides), hooks=run.Hooks(observe=observe)
        )
        records = [statistics_of(url) for url in urls]
    with Pool.open(workspace.pool_file, read_only=True) as pool:
        last = pool.completion(1, pool.judged_draws(1) - 1, 0)
    assert last is not None
    return _seen(records, last[0].decoding.seed or 0, capacities)


def statistics_of(url: str) -> gpu.Record:
    """The record of the server at `url`."""
    with urllib.request.urlopen(f"{url}/statistics") as answer:
        return gpu.Record.read(json.load(answer))


def _seen(records: list[gpu.Record], last: int, capacities: list[int]) -> Run:
    """What the servers' records say; `last` is the sampling seed of the last request that was needed."""
    answered = [one for record in records for one in record.answered]
    whole = gpu.Record(
        slots=sum(record.slots for record in records),
        generated=[one for record in records for one in record.generated],
    )
    first, finished = min(came for _, came, _ in answered), max(left for _, _, left in answered)
    ever_full = all(record.first_full() is not None for record in records)
    fulls = [record.first_full(1.0 if ever_full else 0.9) for record in records]
    start = max(first if moment is None else moment for moment in fulls)
    (end,) = [came for seed, came, _ in answered if seed == last]
    return Run(
        busy=whole.busy_share(start, end) if end > start else float("nan"),
        window=end - start,
        whole=finished - first,
        ramp_up=start - first,
        ever_full=ever_full,
        busy_in_all=whole.busy_share(first, finished),
        requests=sum(record.tries for record in records),
        refused=sum(record.overloaded for record in records),
        most_in_flight=sum(record.most_in_flight for record in records),
        answers_per_second=len(answered) / (finished - first),
        capacities=capacities,
    )


def _concurrency(text: str) -> int | str:
    return text if text == "auto" else int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--slots", type=int, action="append", help="requests generated at a time")
    parser.add_argument("--places", type=int, action="append", help="max_concurrent_requests, for each --slots")
    parser.add_argument("--recipe", choices=("alpaca", "self-instruct"), default="alpaca")
    parser.add_argument(
        "--items", type=int, help="tasks in an answer that writes tasks: alpaca 1, self-instruct 4"
    )
    parser.add_argument("--api", choices=("tgi", "openai"), default="tgi", help="what the server speaks")
    parser.add_argument("--seconds", type=float, default=40.0, help="how long the slots should have work")
    parser.add_argument("--tokens-per-second", type=float, default=200.0, help="of each slot")
    parser.add_argument("--concurrency", type=_concurrency, default="auto")
    parser.add_argument("--others", type=int, default=0, help="requests of a second load in the middle third")
    parser.add_argument("--beside", type=int, help="slots of a second server in the same run")
    given = parser.parse_args()
    given.items = given.items or (1 if given.recipe == "alpaca" else 4)
    rows: Any = _ROWS
    if given.slots:
        rows = zip(
            given.slots, given.places or [256 if slots >= 128 else 128 for slots in given.slots], strict=True
        )
    print(
        "| recipe | slots | places | busy | window s | of the run | busy in all of it | ramp-up s | requests "
        "| refused (429) | most in flight | answers/s | in flight allowed |"
    )
    print("| --- " + "| ---: " * 11 + "| --- |")
    for slots, places in rows:
        with tempfile.TemporaryDirectory() as temporary:
            seen = measure(Path(temporary) / "w", given, slots, places)
        ramp_up = f"{seen.ramp_up:.1f}{'' if seen.ever_full else '*'}"
        beside = f" + {given.beside}" if given.beside else ""
        shown = (
            seen.capacities if len(seen.capacities) <= 12 else [*seen.capacities[:6], "...", *seen.capacities[-6:]]
        )
        print(
            f"| {given.recipe} | {slots}{beside} | {places} | {seen.busy:.1%} | {seen.window:.1f} "
            f"| {seen.window / seen.whole:.0%} | {seen.busy_in_all:.1%} | {ramp_up} | {seen.requests} "
            f"| {seen.refused} ({seen.refused / seen.requests:.2%}) | {seen.most_in_flight} "
            f"| {seen.answers_per_second:.0f} | {' '.join(map(str, shown))} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
