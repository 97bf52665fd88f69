"""What is asked for each place, and what an answer says.

A request follows from the revision's settings, the seeds and the place alone, so that it is the same whenever it
is made; `parsed` is a pure function of what is stored. Knows neither endpoint nor verdicts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from selfinstruct_hub import languages, sampling
from selfinstruct_hub.languages import Language
from selfinstruct_hub.parsing import continuation, single_output
from selfinstruct_hub.plan import INSTANCE, OUTPUT
from selfinstruct_hub.recipes import outputs, self_instruct, wording
from selfinstruct_hub.records import (
    FINISH_LENGTH,
    Candidate,
    Completion,
    Decoding,
    Place,
    Request,
    Revision,
    Task,
)
from selfinstruct_hub.sampling import fitting

# The stages of a request; which of the two ways to write instances it is decides how an answer is read.
LABEL_FIRST, INPUT_FIRST = "label_first", "input_first"
# So many places in a row show the same seeds, which a server then keeps in its prefix cache.
_PLACES_OF_A_PROMPT = 16


class Prompts:
    """Makes the requests of a revision; `seeds` are all that there are."""

    def __init__(self, revision: Revision, seeds: Sequence[Task]) -> None:
        self._revision = revision
        self._settings = revision.settings
        self._language = language_of(revision.settings)
        self._words = wording.of(self._language)
        longest = revision.settings["max_characters"]
        fit = [t for t in seeds if t.instances and (longest is None or sampling.length(t) <= longest)]
        yes = [task for task in fit if task.is_classification]
        no = [task for task in fit if not task.is_classification]
        # Where one kind is missing, the other shows what an instance looks like.
        self._seeds = {OUTPUT: fit, LABEL_FIRST: yes, INPUT_FIRST: no or yes}
        # The seeds of a block of places are drawn once: blocks follow one another.
        self._drawn = lru_cache(maxsize=64)(self._draw)

    def request(self, place: Place, task: Task) -> Request:
        """What to ask for `place`, which stands in `task`."""
        settings, chat = self._settings, self._settings["chat"]
        decoding = dict(settings["decoding"])
        if settings["part"] == OUTPUT:
            assert place.instance is not None
            stage = OUTPUT
            given = task.instances[place.instance].input
            shown = self._with_room_for(place.item, outputs.own_cost(task.instruction, given))
            prompt = outputs.prompt(shown, task.instruction, given, self._language, chat=chat)
            decoding["stop"] = outputs.stops(self._language)
            grammar = outputs.grammar() if settings["grammar"] else None
        else:
            assert settings["part"] == INSTANCE
            label_first = bool(task.is_classification and self._seeds[LABEL_FIRST])
            stage = LABEL_FIRST if label_first else INPUT_FIRST
            shown = self._drawn(stage, place.item // _PLACES_OF_A_PROMPT)
            words = self._words
            prompt = self_instruct.instances_prompt(
                words, self._language.name, shown, task.instruction, label_first=label_first, chat=chat
            )
            decoding["stop"] = self_instruct.instances_stop(words)
            grammar = (
                self_instruct.instances_grammar(words, label_first=label_first) if settings["grammar"] else None
            )
        revision = self._revision.number
        decoding["seed"] = sampling.revision_seed(settings["seed"], revision, place.item, 0)
        decoding["grammar"] = ("regex", grammar) if grammar else None
        return Request(
            round=0,
            number=place.item,
            call=0,
            stage=stage,
            prompt=prompt,
            decoding=Decoding.from_dict(decoding),
            demonstrations=tuple(task.id for task in shown),
        )

    def _draw(self, stage: str, block: int) -> tuple[Task, ...]:
        cost = outputs.cost if stage == OUTPUT else self_instruct.tokens_with_instances
        settings = self._settings
        short, number = fitting(self._seeds[stage], settings["shown"][stage], settings["room"], cost)
        rng = sampling.rng_of(settings["seed"], self._revision.number, block, f"revision {stage}")
        return tuple(rng.sample(short, number))

    def _with_room_for(self, item: int, tokens: int) -> tuple[Task, ...]:
        """The seeds of `item`'s block, without the last ones where `tokens` of its own take their room: what comes
        first stays the same."""
        shown, room = self._drawn(OUTPUT, item // _PLACES_OF_A_PROMPT), self._settings["room"]
        while shown and room is not None and sum(map(outputs.cost, shown)) + tokens > room:
            shown = shown[:-1]
        return shown


def parsed(
    request: Request, completion: Completion, settings: Mapping[str, Any], task: Task, place: Place
) -> Candidate:
    """What an answer to `request` says: a candidate with the instruction of `task` and the instances that were
    found. `settings` are the revision's."""
    language, chat = language_of(settings), settings["chat"]
    words = wording.of(language)
    if request.stage == OUTPUT:
        assert place.instance is not None
        text = completion.text
        if chat:
            text = continuation(text, words.labels.output, unwrap=False)
        cut_off = completion.finish_reason == FINISH_LENGTH
        instances, lost = single_output(text, task.instances[place.instance].input, cut_off=cut_off)
    else:
        label_first = request.stage == LABEL_FIRST
        instances, lost = self_instruct.found_instances(completion, words, label_first=label_first, chat=chat)
    return Candidate(
        instruction=task.instruction,
        instances=instances,
        is_classification=task.is_classification,
        stage=request.stage,
        calls=(request.call,),
        lost=lost,
    )


def language_of(settings: Mapping[str, Any]) -> Language:
    return languages.of(settings["language"], settings.get("language_name"))
