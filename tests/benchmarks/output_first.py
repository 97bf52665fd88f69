"""Does writing the label first spread the labels? The same tasks both ways on the embedded model.

    python -m tests.benchmarks.output_first [--samples 3] [--temperature 0.7] [--language en] [--picture FILE]

For each classification seed, the instances step is asked as the recipe asks it, once with the label first and
once with the input first, over the same draws of demonstrations (other seeds), greedily as in the paper unless a
temperature is given. A label counts where the task names it (in its instruction or its own instances): small
models also write labels that no task has, above all after an input. Of the counted ones: how many different ones a
task got, the share of its commonest one, and their entropy in bits. --picture needs matplotlib (extra `report`).
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfinstruct_hub import config, languages, plan, seeds
from selfinstruct_hub.endpoint import Endpoint
from selfinstruct_hub.endpoint.connect import opened
from selfinstruct_hub.parsing import labelled_instances
from selfinstruct_hub.recipes import self_instruct, wording
from selfinstruct_hub.records import FINISH_LENGTH, Decoding, Task

SIDES = ("label first", "input first")


@dataclass(frozen=True)
class Spread:
    """The labels of one task: `written` in all, of which `named` belong to it; of those the rest."""

    written: int
    named: int
    distinct: int
    commonest: float
    entropy: float


def plain(label: str) -> str:
    return label.strip().strip("\"'“”*").rstrip(".。").casefold()


def spread(task: Task, labels: list[str]) -> Spread:
    """How `labels` are spread over those that `task` has; `entropy` is in bits."""
    own = {plain(instance.output) for instance in task.instances}
    words = languages.tokens(task.instruction)
    named = [
        label
        for label in map(plain, labels)
        if label in own or (label and _within(languages.tokens(label), words) and len(label) < 40)
    ]
    shares = [count / len(named) for count in Counter(named).values()]
    return Spread(
        written=len(labels),
        named=len(named),
        distinct=len(shares),
        commonest=max(shares, default=0.0),
        entropy=-sum(share * math.log2(share) for share in shares),
    )


def _within(label: list[str], words: list[str]) -> bool:
    places = range(len(words) - len(label) + 1)
    return bool(label) and any(words[place : place + len(label)] == label for place in places)


async def labels_of(
    endpoint: Endpoint, task: Task, shown: list[list[Task]], settings: Any, *, label_first: bool
) -> list[str]:
    """The labels that the model gives to `task`, in one completion for each draw of demonstrations."""
    words = wording.of(plan.plan_of(settings).language)
    options = settings["options"]
    grammar = self_instruct.instances_grammar(words, label_first=label_first)
    found: list[str] = []
    for number, demonstrations in enumerate(shown, start=1):
        prompt = self_instruct.instances_prompt(
            words, settings["language_name"], demonstrations, task.instruction, label_first=label_first
        )
        decoding = Decoding(
            max_new_tokens=options["instance_max_new_tokens"],
            temperature=options["instance_temperature"],
            frequency_penalty=options["instance_frequency_penalty"],
            stop=(f"\n{words.labels.task}",),
            seed=number,
            grammar=("regex", grammar) if settings["grammar"] else None,
        )
        async with endpoint.turn() as turn:
            completion = await turn.complete(prompt, decoding)
        instances, _ = labelled_instances(
            completion.text,
            prefilled=self_instruct.beginning(words, label_first),
            cut_off=completion.finish_reason == FINISH_LENGTH,
        )
        found += [instance.output for instance in instances]
    return found


async def measure(given: argparse.Namespace) -> dict[str, list[Spread]]:
    """For each side the spread of every task."""
    settings = config.with_overrides(
        config.Settings(self_instruct=config.SelfInstructSettings(instance_temperature=given.temperature)),
        {"recipe": "self-instruct", "language": given.language, "endpoint.url": given.endpoint},
    )
    own = seeds.read(Path(str(seeds.locate(None, given.language, Path()))), languages.of(given.language))
    tasks = [task for task in own if task.is_classification]
    found: dict[str, list[Spread]] = {side: [] for side in SIDES}
    async with opened(settings.endpoint) as endpoint:
        resolved = plan.resolve(settings, endpoint)
        many = resolved["options"]["label_first_demonstrations"]

        async def both(task: Task) -> list[list[str]]:
            others = [other for other in tasks if other.id != task.id]
            shown = [random.Random(f"{task.id}/{n}").sample(others, many) for n in range(given.samples)]
            asked = (labels_of(endpoint, task, shown, resolved, label_first=first) for first in (True, False))
            return list(await asyncio.gather(*asked))

        answers = await asyncio.gather(*(both(task) for task in tasks))
    for task, pair in zip(tasks, answers, strict=True):
        for side, labels in zip(SIDES, pair, strict=True):
            found[side].append(spread(task, labels))
    return found


def draw(found: dict[str, list[Spread]], path: Path) -> None:
    """How many of its labels each task got, label first and input first, as two rows of bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.6), constrained_layout=True)
    most = max(one.distinct for side in SIDES for one in found[side])
    for place, (side, colour) in enumerate(zip(SIDES, ("#1b6ca8", "#d98032"), strict=True)):
        counts = Counter(one.distinct for one in found[side])
        xs = [number + (place - 0.5) * 0.4 for number in range(most + 1)]
        axes.bar(xs, [counts[number] for number in range(most + 1)], width=0.38, color=colour, label=side)
    axes.set_xticks(range(most + 1))
    axes.set_xlabel("different labels of its own that a task got")
    axes.set_ylabel("tasks")
    axes.legend(frameon=False)
    for edge in ("top", "right"):
        axes.spines[edge].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=3, help="draws of demonstrations for each task")
    parser.add_argument("--temperature", type=float, help="default: greedy")
    parser.add_argument("--language", default="en")
    parser.add_argument("--endpoint", help="default: the embedded engine")
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    found = asyncio.run(measure(given))
    print(
        "| written | tasks | instances | the task's labels | different ones | commonest's share | entropy, bits |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    # Shares only say something where there are two labels to compare, on both sides.
    both = [n for n in range(len(found[SIDES[0]])) if all(found[side][n].named > 1 for side in SIDES)]
    for side in SIDES:
        rows = found[side]
        written, named = sum(row.written for row in rows), sum(row.named for row in rows)
        distinct = sum(row.distinct for row in rows) / len(rows)
        commonest, entropy = (
            sum(getattr(rows[n], name) for n in both) / max(1, len(both)) for name in ("commonest", "entropy")
        )
        print(
            f"| {side} | {len(rows)} | {written} | {named} ({named / written:.0%}) | {distinct:.2f} "
            f"| {commonest:.0%} | {entropy:.2f} |"
        )
    print(f"\nThe last two columns are over the {len(both)} tasks with two labels of their own on both sides.")
    if given.picture:
        draw(found, given.picture)


if __name__ == "__main__":
    main()
