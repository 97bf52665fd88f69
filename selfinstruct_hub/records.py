"""The records that pass through the rooms: seed or machine Task, Request, Completion, Candidate, Verdict, Round.

Frozen dataclasses and the digests that name them. No I/O, no rules, no clocks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# What a completion can end with, whatever the endpoint calls it.
FINISH_LENGTH = "length"
FINISH_STOP = "stop"  # a stop sequence matched
FINISH_EOS = "eos"  # the model ended by itself


# Stands for a recipe where a file brought the round's tasks.
IMPORT = "import"

# Why a candidate ends where the endpoint refused a request that was about it alone.
REQUEST_REFUSED = "request_refused"
# Why it ends where a request about it alone was tried as often as is allowed and never answered.
REQUEST_FAILED = "request_failed"
# Why it ends where a replay needs an answer that nobody had asked for: a rule was in the way then.
NEVER_ASKED = "never_asked"

# Why a candidate ends that is too near to something: a seed or an accepted task by ROUGE-L, a text of an
# evaluation set by ROUGE-L, a seed or an accepted task by meaning.
TOO_SIMILAR = "too_similar"
CONTAMINATED = "contaminated"
PARAPHRASE = "paraphrase"
# Why a row or a task ends that a person took out.
REJECTED_BY_REVIEWER = "rejected_by_reviewer"

# Why a try failed that another one may mend.
OVERLOADED = "overloaded"  # 429
SERVER_ERROR = "server_error"  # 424, 500, 502, 503
TIMEOUT = "timeout"  # 408, 504, or nothing at all
CONNECTION = "connection"  # refused, cut, no such host
BAD_ANSWER = "bad_answer"  # torn or empty, a proxy's page, or in another form
FAILURES = (OVERLOADED, SERVER_ERROR, TIMEOUT, CONNECTION, BAD_ANSWER)

# A tokenizer is not always at hand. Real ones need fewer tokens than this for any plain text of ours.
CHARACTERS_PER_TOKEN = 3


def estimated_tokens(text: str) -> int:
    """Tokens that a text is taken to have where nobody has counted them: one for three characters, and one more
    for every further byte of a character, because small models' vocabularies spell other scripts in bytes."""
    return -(-len(text) // CHARACTERS_PER_TOKEN) + len(text.encode()) - len(text)


# Made once: it is asked for many times for every candidate.
_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def canonical_json(value: Any) -> str:
    """`value` as JSON with sorted keys and no spaces: equal values give equal text."""
    return _CANONICAL.encode(value)


def digest(*parts: Any) -> str:
    """Sixteen hex digits of SHA-256 over the parts: the id of whatever the parts describe."""
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Instance:
    """One worked example of a task. `input` is empty where the instruction needs none."""

    input: str
    output: str


@dataclass(frozen=True)
class Task:
    """An instruction with its instances: a seed, or a candidate that was accepted.

    `id` is the seed file's own id for a seed and a digest of the content for a machine-made task.
    """

    id: str
    instruction: str
    instances: tuple[Instance, ...]
    is_classification: bool | None = None
    name: str = ""

    @property
    def rows(self) -> list[tuple[str, Instance]]:
        """(row id, instance) pairs: a row's id is a digest of its instruction, input and output."""
        return [(digest(self.instruction, i.input, i.output), i) for i in self.instances]


@dataclass(frozen=True)
class Decoding:
    """How a completion is sampled. None leaves a parameter out of the request, which is not the same as a
    neutral value on every server; `temperature=None` and no other sampling parameter means greedy.

    `max_new_tokens` counts tokens. `grammar` is ("regex", pattern) or ("json", schema as JSON text).
    """

    max_new_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    grammar: tuple[str, str] | None = None

    @property
    def greedy(self) -> bool:
        return self.temperature is None and self.top_p is None and self.top_k is None

    def as_dict(self) -> dict[str, Any]:
        """The parameters that are set, for storage and for the provenance of a row."""
        values = {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "repetition_penalty": self.repetition_penalty,
            "frequency_penalty": self.frequency_penalty,
            "stop": list(self.stop) or None,
            "seed": self.seed,
            "grammar": list(self.grammar) if self.grammar else None,
        }
        return {key: value for key, value in values.items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Decoding:
        grammar = values.get("grammar")
        return cls(
            **{
                **values,
                "stop": tuple(values.get("stop", ())),
                "grammar": (grammar[0], grammar[1]) if grammar else None,
            }
        )


@dataclass(frozen=True)
class Request:
    """One prompt sent to the endpoint. (`round`, `number`, `call`) names it: `number` counts the draws of
    demonstrations in a round from 0, `call` the completions a recipe asked for within one draw."""

    round: int
    number: int
    call: int
    stage: str
    prompt: str
    decoding: Decoding
    demonstrations: tuple[str, ...]  # ids of the tasks shown


@dataclass(frozen=True)
class Completion:
    """What the endpoint answered, as it answered (`text` is cut at the earliest stop sequence, nothing else).

    Token counts are None where the endpoint does not tell them. Times are seconds.
    """

    text: str
    finish_reason: str  # FINISH_LENGTH | FINISH_STOP | FINISH_EOS
    prompt_tokens: int | None = None
    generated_tokens: int | None = None
    model: str = ""
    endpoint_kind: str = ""
    queue_time: float | None = None
    inference_time: float | None = None
    total_time: float | None = None


@dataclass(frozen=True)
class Failure:
    """A request that was never answered: the last try's reason (one of FAILURES), what was said, and how often it
    was tried. `call` is the request's number within its draw."""

    call: int
    stage: str
    reason: str
    detail: str
    tries: int


@dataclass(frozen=True)
class Drop:
    """Why something was rejected: the rule's name and what it saw. `near` is what it was too near to, with the
    score that decided: an id, or a file and place of an evaluation set."""

    reason: str
    detail: str = ""
    near: Neighbour | None = None


@dataclass(frozen=True)
class Lost:
    """An instance that its task goes on without, and why."""

    instance: Instance
    drop: Drop


@dataclass(frozen=True)
class Candidate:
    """A task as a parser found it in a completion, before any rule has looked at it.

    A field the completion never gave is None (not the same as an empty one). `cut_off` says that the
    completion ended by its token limit inside this item. `stage` is the last stage of the recipe that it
    reached, `calls` the completions of its draw that made it. `failure` is why a stage gave it up; `lost` are
    instances that never became whole. `bare` marks an instruction that came without instances on purpose (an
    imported one); `extra` is what a file said of an imported task beyond our fields.
    """

    instruction: str | None
    instances: tuple[Instance, ...] = ()
    missing: str | None = None  # name of a field that never came
    cut_off: bool = False
    is_classification: bool | None = None
    stage: str = ""
    calls: tuple[int, ...] = (0,)
    failure: Drop | None = None
    lost: tuple[Lost, ...] = ()
    bare: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def well_formed(self) -> bool:
        return bool(self.instruction) and self.missing is None and not self.cut_off


@dataclass(frozen=True)
class Neighbour:
    """A task near a candidate, with its score (0 to 1): ROUGE-L F1, or the cosine of a paraphrase."""

    id: str
    score: float


@dataclass(frozen=True)
class Similarity:
    """How near a candidate's instruction is to the pool. `mean` is over the whole pool; None where the gate looked
    only for neighbours above its threshold."""

    nearest: tuple[Neighbour, ...] = ()  # the most similar first
    mean: float | None = 0.0

    @property
    def score(self) -> float:
        return self.nearest[0].score if self.nearest else 0.0


@dataclass(frozen=True)
class Lineage:
    """What a row was before a revision of `kind`, published as `version`, made it what it is. `replaces` is the id
    of that row, `note` what a person said. Of a regenerated row also the answer that brought it; `decoding` is
    canonical JSON, `shown` are the ids of the demonstrations."""

    version: str
    kind: str
    replaces: str
    note: str = ""
    model: str | None = None
    endpoint_kind: str | None = None
    decoding: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    generated_tokens: int | None = None
    shown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A judged candidate. `task` is set where it was accepted, `drop` where it was not. `similarity` is None
    where a rule spoke before novelty was measured; `lost` are the instances that did not stay. `revised` has for
    each instance of the task what revisions made of it, the earliest first; it is empty where none did."""

    round: int
    number: int
    position: int  # of the candidate within its draw, from 0
    candidate: Candidate
    task: Task | None = None
    drop: Drop | None = None
    similarity: Similarity | None = None
    lost: tuple[Lost, ...] = ()
    revised: tuple[tuple[Lineage, ...], ...] = ()


@dataclass(frozen=True)
class Round:
    """One round of growth. `settings` are what it was begun with, every `auto` resolved; `asked` is what the
    user had set, without what belongs to one machine. Both are plain data."""

    number: int
    version: str
    wanted: int  # accepted tasks that complete it
    complete: bool
    settings: Mapping[str, Any]
    asked: Mapping[str, Any] = field(default_factory=dict)


# What a revision does, and the states that it goes through.
REPLAY, REGENERATE, REVIEW, TOP_UP = "replay", "regenerate", "review", "top_up"
OPEN, COMPLETE, ABANDONED = "open", "complete", "abandoned"


@dataclass(frozen=True)
class Revision:
    """A change of complete `rounds`, published as a version of its own. `after_round` is the last round that the
    version holds. `settings` decide what it does, `asked` is the whole of what the user had set; `changes` say
    what became of each round: {round: {...}}, once it is complete. All plain data."""

    number: int
    version: str
    kind: str
    after_round: int
    rounds: tuple[int, ...]
    settings: Mapping[str, Any]
    asked: Mapping[str, Any] = field(default_factory=dict)
    state: str = OPEN
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """What a revision changes: an accepted or rejected candidate, or one `instance` of an accepted one (None: all
    of it). `before` are the ids of its rows, which are none for a rejected one. `item` numbers the places of a
    revision from 0."""

    item: int
    round: int
    number: int
    position: int
    instance: int | None
    before: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """What became of a place: a verdict in the place of the one that stood there, or None and why it stays.
    `after` are the ids of the rows that it has then; `marks` what a reviewer answered, plain data."""

    item: int
    verdict: Verdict | None
    after: tuple[str, ...] = ()
    reason: str | None = None
    detail: str = ""
    marks: Mapping[str, Any] | None = None


def prompt_text(instruction: str, given: str) -> str:
    """What a user would say: the instruction, and the input below it where there is one."""
    return f"{instruction}\n\n{given}" if given else instruction


def is_import(settings: Mapping[str, Any]) -> bool:
    """Whether a round with these settings was imported; otherwise a model wrote it."""
    return bool(settings["recipe"] == IMPORT)


def task_of(candidate: Candidate, instances: Iterable[Instance]) -> Task:
    """The accepted form of `candidate`, named by its content."""
    assert candidate.instruction is not None, "only a well-formed candidate becomes a task"
    kept = tuple(instances)
    return Task(
        id=digest(candidate.instruction, [[i.input, i.output] for i in kept]),
        instruction=candidate.instruction,
        instances=kept,
        is_classification=candidate.is_classification,
    )
