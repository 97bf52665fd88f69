"""Which verbs the instructions ask with, and what for: Self-Instruct's picture of diversity, counted with spaCy.

As in the paper (https://arxiv.org/abs/2212.10560, section 3): of an instruction's first sentence the verb nearest
to the root, and its first direct noun object, both as lemmas. spaCy and a model of the language are optional;
nothing is ever downloaded."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import entry_points, version
from importlib.util import find_spec
from itertools import islice
from typing import Any

VERBS, OBJECTS = 20, 4  # in the picture
# Labels of a direct object: spaCy's English and Chinese models, Universal Dependencies, German.
_OBJECTS = frozenset({"dobj", "obj", "oa"})
_VERBS = frozenset({"VERB"})
_NOUNS = frozenset({"NOUN", "PROPN"})
_SIZES = ("sm", "md", "lg", "trf")
_BATCH = 256
_MOST_CHARACTERS = 500
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


def pipeline_for(language: str) -> str | None:
    """The installed spaCy model for a language's code, the smallest where there are several; None without one, or
    without spaCy."""
    if find_spec("spacy") is None:
        return None
    code = language.partition("-")[0].lower()
    # A model's package says that it is one. Asking spaCy would take seconds where there is none.
    fitting = {model.name for model in entry_points(group="spacy_models") if model.name.split("_")[0] == code}
    return min(fitting, key=lambda name: (_size(name), name), default=None)


def measured(
    instructions: Callable[[], Iterable[str]], pipeline: str | None, known: Iterable[Mapping[str, Any]] = ()
) -> dict[str, Any] | None:
    """Counts the verbs and objects of what `instructions` gives, which is called twice. `pipeline` is a model's
    name (see `pipeline_for`); without one there is nothing to count with, and the answer is None. `known` are
    earlier answers: where one is of the same model and of the instructions that these begin with, only the others
    are counted.

    Keys: pipeline, digest (of the instructions, in order), instructions (how many), with_verb, pairs
    {verb: {object: instructions}}.
    """
    if pipeline is None:
        return None
    import spacy

    package = spacy.util.get_package_version(pipeline) or ""
    named = f"{pipeline} {package}".strip() + f", spaCy {version('spacy')}"
    lengths = {one["instructions"]: one for one in known if one["pipeline"] == named}
    begun: Mapping[str, Any] = {"instructions": 0, "with_verb": 0, "pairs": {}}
    digest = hashlib.sha256()
    for number, text in enumerate(instructions(), start=1):
        data = text.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
        if number in lengths and lengths[number]["digest"] == digest.hexdigest():
            begun = lengths[number]
    head = {"pipeline": named, "digest": digest.hexdigest()}
    if begun.get("digest") == head["digest"]:
        return {**begun}
    # Entities are not needed, and take as long as the rest.
    nlp = spacy.load(pipeline, exclude=["ner"])
    return {**head, **counted(islice(instructions(), begun["instructions"], None), nlp, begun)}


def counted(instructions: Iterable[str], nlp: Any, begun: Mapping[str, Any]) -> dict[str, Any]:
    """The counts that `measured` gives, by the spaCy pipeline `nlp`, added to those of `begun`. Streamed: memory
    grows with the vocabulary only."""
    pairs = {verb: Counter(things) for verb, things in begun["pairs"].items()}
    total, with_verb = begun["instructions"], begun["with_verb"]
    for document in nlp.pipe(map(_opening, instructions), batch_size=_BATCH):
        total += 1
        verb, thing = verb_and_object(document)
        with_verb += verb is not None
        if verb and thing:
            pairs.setdefault(verb, Counter())[thing] += 1
    return {
        "instructions": total,
        "with_verb": with_verb,
        "pairs": {verb: dict(sorted(pairs[verb].items())) for verb in sorted(pairs)},
    }


def summary(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the card shows of the answer of `measured`.

    Keys: pipeline, digest, instructions, with_verb, with_object, different (pairs), verbs [{verb, instructions,
    objects [{object, instructions}]}], commonest first: `VERBS` with `OBJECTS` each. `instructions` of a verb
    counts those with an object."""
    pairs = found["pairs"]
    totals = {verb: sum(things.values()) for verb, things in pairs.items()}
    commonest = sorted(totals, key=lambda verb: (-totals[verb], verb))[:VERBS]
    return {
        **{key: found[key] for key in ("pipeline", "digest", "instructions", "with_verb")},
        "with_object": sum(totals.values()),
        "different": sum(map(len, pairs.values())),
        "verbs": [
            {
                "verb": verb,
                "instructions": totals[verb],
                "objects": [
                    {"object": thing, "instructions": count}
                    for thing, count in sorted(pairs[verb].items(), key=lambda one: (-one[1], one[0]))[:OBJECTS]
                ],
            }
            for verb in commonest
        ],
    }


def verb_and_object(document: Any) -> tuple[str | None, str | None]:
    """The lemmas of the verb nearest to the root of the first sentence and of its first direct object; None where
    there is none."""
    root = next((token for token in document if token.head == token), None)
    if root is None:
        return None, None
    for token in _nearest_first(root):
        if token.pos_ in _VERBS:
            # What is no word (an address, a number, a bracket) would be no help to a reader, or do harm.
            if (verb := _lemma(token)) is None:
                return None, None
            things = (child for child in token.children if child.dep_ in _OBJECTS and child.pos_ in _NOUNS)
            return verb, next((lemma for child in things if (lemma := _lemma(child))), None)
    return None, None


def _nearest_first(root: Any) -> Iterator[Any]:
    waiting = deque([root])
    while waiting:
        token = waiting.popleft()
        yield token
        waiting.extend(token.children)


def _lemma(token: Any) -> str | None:
    # Models of languages without inflection have no lemmas.
    text = (token.lemma_ or token.text).lower()
    return text if len(text) <= 30 and _WORD.fullmatch(text) else None


def _opening(instruction: str) -> str:
    """Where the first sentence is: parsing a pasted page takes long and says nothing of what is asked."""
    return instruction.lstrip().partition("\n")[0][:_MOST_CHARACTERS]


def _size(name: str) -> int:
    size = name.rpartition("_")[2]
    return _SIZES.index(size) if size in _SIZES else len(_SIZES)
