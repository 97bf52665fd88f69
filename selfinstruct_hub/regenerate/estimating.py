"""What a regeneration would take, by the pool alone: no endpoint is asked, and nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from selfinstruct_hub.config import Settings
from selfinstruct_hub.endpoint import Limits
from selfinstruct_hub.endpoint.budget import price_of
from selfinstruct_hub.plan import OUTPUT, Told, regeneration
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import REGENERATE, Revision, estimated_tokens
from selfinstruct_hub.regenerate.asking import Prompts
from selfinstruct_hub.regenerate.choosing import Choice, places, seeded
from selfinstruct_hub.regenerate.opened import opened_now
from selfinstruct_hub.regenerate.work import standing
from selfinstruct_hub.rounds import check_closed
from selfinstruct_hub.workspace import Workspace

# An estimate looks at so many prompts; the rest are taken to be like them.
_PROMPTS_LOOKED_AT = 500


@dataclass(frozen=True)
class Estimate:
    """What a regeneration would take, without asking anybody. `rows` by round; `generated_tokens` goes by the rows
    that are there, `most_generated` is what they could have at most. `cost` is None without prices."""

    part: str
    rows: Mapping[int, int]
    requests: int
    prompt_tokens: int
    generated_tokens: int
    most_generated: int
    cost: float | None
    most_cost: float | None
    goes_on: str | None = None  # the version that was begun and is not finished


def estimate(workspace: Workspace, settings: Settings, choice: Choice) -> Estimate:
    """What `regenerate` would take, by the pool alone: no endpoint is asked, and nothing is written.

    Raises SelfInstructError where `regenerate` would.
    """
    with Pool.open(workspace.pool_file, read_only=True) as pool:
        opened = opened_now(pool, choice)
        if opened is None:
            check_closed(pool)
        part = opened.settings["part"] if opened else choice.part or OUTPUT
        left = pool.places(opened.number, done=False) if opened else places(pool, choice, part)
        rows: Counter[int] = Counter()
        for place in left:
            rows[place.round] += len(place.before) or 1
        plan = opened.settings if opened else regeneration(seeded(settings, choice), _Unasked(settings), part)
        revision = opened or Revision(pool.next_revision_number(), "", REGENERATE, 0, (), plan)
        prompts = Prompts(revision, pool.seeds())
        looked_at = left[:: max(1, len(left) // _PROMPTS_LOOKED_AT)]
        prompt_tokens = old_tokens = 0
        for place in looked_at:
            task = standing(pool, place)
            prompt_tokens += estimated_tokens(prompts.request(place, task).prompt)
            old = task.instances if place.instance is None else (task.instances[place.instance],)
            texts = [one.output if part == OUTPUT else one.input + one.output for one in old]
            old_tokens += sum(map(estimated_tokens, texts))
        share = len(left) / len(looked_at) if looked_at else 0
        most = int(plan["decoding"]["max_new_tokens"])
        prompt_tokens, most_generated = round(prompt_tokens * share), most * len(left)
        generated = min(round(old_tokens * share), most_generated)
        return Estimate(
            part=part,
            rows=dict(sorted(rows.items())),
            requests=len(left),
            prompt_tokens=prompt_tokens,
            generated_tokens=generated,
            most_generated=most_generated,
            cost=price_of(prompt_tokens, generated, settings.prices),
            most_cost=price_of(prompt_tokens, most_generated, settings.prices),
            goes_on=opened.version if opened else None,
        )


class _Unasked:
    """What is known of an endpoint that nobody has asked."""

    def __init__(self, settings: Settings) -> None:
        self.embedded = settings.endpoint.url is None
        self.chat = settings.endpoint.chat == "on"
        self.limits = Limits()


_: type[Told] = _Unasked
