"""Every setting, its default and what it means, as pydantic models. Reads and writes no file."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from selfinstruct_hub.errors import ConfigError

Auto = Literal["auto"]
_Share = Annotated[float, Field(ge=0.0, le=1.0)]
_Word = Annotated[str, Field(min_length=1, pattern=r"\S")]

# The recipes that come with the tool, and the names of those that were registered in this process.
RECIPES = ("alpaca", "self-instruct")
_registered: list[str] = []
REGISTER = "a recipe of your own is registered before it is used: `selfinstruct_hub.register_recipe`"


def allow_recipe(name: str) -> None:
    """Lets the settings name a recipe that is not ours. Raises ConfigError for a name that cannot be one."""
    if name in (*RECIPES, "import") or not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", name):
        raise ConfigError(
            f"recipe {name!r}: expected a name of lower-case letters, digits, - and _ that is none of "
            f"{', '.join(RECIPES)} and import"
        )
    if name not in _registered:
        _registered.append(name)


class Section(BaseModel):
    """A group of settings; one that it does not know is a mistake."""

    model_config = ConfigDict(extra="forbid", strict=False, validate_default=True, allow_inf_nan=False)


class SeedDataset(Section):
    """How a dataset of seeds is read, where `seeds` names one. The last five name its columns."""

    config: str | None = Field(None, description="its configuration; null: the only or default one")
    split: str = Field("train", description="its split")
    revision: str | None = Field(None, description="branch, tag or commit on the Hub; null: the newest")
    limit: int | None = Field(1000, ge=1, description="rows taken, from the top; null: all")
    instruction: _Word = Field("instruction", description="column with the instruction")
    input: _Word | None = Field("input", description="column with the input; null: none")
    output: _Word = Field("output", description="column with the answer")
    is_classification: _Word | None = Field(None, description="column that says whether it is classification")
    id: _Word | None = Field(None, description="column with ids of your own; null: numbered")


class Demonstrations(Section):
    """The tasks shown in the prompt that asks for new ones."""

    human: Auto | Annotated[int, Field(ge=1)] = Field(
        "auto", description="seed tasks in each prompt; auto: the recipe's, alpaca 3, self-instruct 6"
    )
    machine: Auto | Annotated[int, Field(ge=0)] = Field(
        "auto",
        description="tasks of earlier rounds (seeds while there are none); auto: alpaca 0, self-instruct 2",
    )
    max_characters: Auto | Annotated[int, Field(ge=200)] = Field(
        "auto",
        description="longer seed tasks are not shown; auto: what fits the endpoint's context",
    )


class DecodingSettings(Section):
    """How the completions that write new tasks are sampled. null leaves a parameter out of the request."""

    temperature: Auto | Annotated[float, Field(gt=0)] | None = Field(
        "auto",
        description="auto: the recipe's, 0.8 for the embedded engine; null with top_p and top_k null: greedy",
    )
    top_p: Auto | Annotated[float, Field(gt=0, lt=1)] | None = Field(
        "auto", description="auto: the recipe's, 0.9 for the embedded engine; null means 1.0"
    )
    top_k: int | None = Field(None, gt=0, description="null means the whole vocabulary")
    repetition_penalty: float | None = Field(None, gt=0, description="1.0 is neutral")
    frequency_penalty: Auto | Annotated[float, Field(gt=0, le=2)] | None = Field(
        "auto",
        description="above 0, up to 2; auto: null for alpaca, 0.2 for self-instruct and the embedded engine",
    )
    max_new_tokens: Auto | Annotated[int, Field(gt=0)] = Field(
        "auto",
        description="tokens it may have; auto: alpaca 150 a task, at most 3072; self-instruct 60 a task, 1024",
    )


class SelfInstructSettings(Section):
    """What only the recipe self-instruct has: the steps after the one that writes instructions."""

    only_classification: bool = Field(False, description="ask for classification tasks, and keep no others")
    classification_demonstrations: Auto | Annotated[int, Field(ge=2)] = Field(
        "auto", description="seeds shown when asking whether it is classification; auto: 31, 8 (embedded engine)"
    )
    instance_demonstrations: Auto | Annotated[int, Field(ge=1)] = Field(
        "auto", description="seeds shown when asking for instances; auto: 16 label-first, 11 others, 4 (embedded)"
    )
    instance_temperature: Auto | Annotated[float, Field(gt=0)] | None = Field(
        "auto", description="null: greedy; auto: greedy as in the paper, 0.7 for the embedded engine"
    )
    instance_max_new_tokens: Auto | Annotated[int, Field(gt=0)] = Field(
        "auto", description="tokens that a task's instances may have; auto: 350, 250 (embedded engine)"
    )


class Filters(Section):
    """The rules a candidate must pass before its novelty is measured."""

    min_words: Auto | Annotated[int, Field(ge=1)] = Field(
        "auto", description="words (Chinese: characters) an instruction must have; auto: 4, as in both papers"
    )
    max_words: Auto | Annotated[int, Field(ge=1)] = Field(
        "auto", description="words (Chinese: characters) it may have; auto: 150, 300 for Chinese"
    )
    blocked_words: list[_Word] | None = Field(
        None, description="words a text model cannot act on; null: the recipe's and the language's lists"
    )
    max_instances: int = Field(5, ge=1, description="instances a task may keep")
    max_repeated_share: _Share | None = Field(
        0.5,
        description="share of an output's words that may repeat an earlier run of 5 (a looping model); null: off",
    )


class Novelty(Section):
    """The gate against near-duplicates: ROUGE-L F1 with seeds and everything accepted."""

    threshold: float = Field(
        0.7, ge=0, lt=1, description="a candidate whose highest score is above this is dropped"
    )
    most_similar: int = Field(10, ge=1, le=100, description="neighbours kept with their scores")
    mode: Literal["auto", "full", "fast"] = Field(
        "auto",
        description="fast: neighbours above the threshold only, the same verdicts; auto: above 50,000 tasks",
    )


class Paraphrases(Section):
    """An optional second gate: instructions that say the same in other words, by the cosine of embeddings."""

    model: _Word | None = Field(
        None, description="a model2vec or sentence-transformers folder, relative to this file; null: off"
    )
    threshold: float = Field(
        0.8, ge=0, lt=1, description="a cosine above this is a paraphrase; for sentence-transformers rather 0.7"
    )


class Decontamination(Section):
    """Evaluation sets that no task may be near to, by ROUGE-L of its instruction and inputs with their texts."""

    against: list[_Word] = Field(
        [], description="JSONL, JSON, CSV, Parquet files or dataset folders, relative to this file"
    )
    columns: list[_Word] = Field(
        [], description="their columns with texts; []: instruction, question, prompt, ..."
    )
    threshold: float = Field(0.7, ge=0, lt=1, description="a task that scores above this is dropped")

    @field_validator("against")
    @classmethod
    def _once(cls, against: list[str]) -> list[str]:
        if len(set(against)) < len(against):
            raise ValueError("a file is given twice")
        return against


class Saturation(Section):
    """When growth stops because new tasks resemble the pool (exit 3). null: never for that reason."""

    mean_similarity: _Share | None = Field(
        None, description="mean ROUGE-L of a round's candidates with their nearest neighbour, this or above"
    )
    p90_similarity: _Share | None = Field(None, description="the 90th percentile of the same, this or above")
    acceptance: _Share | None = Field(None, description="accepted share of a round's candidates, this or below")
    rounds: int = Field(2, ge=1, description="so many last rounds must all cross one of these")

    @property
    def needs_similarity(self) -> bool:
        """Whether a limit looks at how near candidates are, which only a full comparison tells."""
        return self.mean_similarity is not None or self.p90_similarity is not None


class EndpointSettings(Section):
    """Where completions come from. The API key comes from HF_TOKEN or SELFINSTRUCT_API_KEY, never from here."""

    url: str | list[str] | None = Field(
        None, description="address, or a list of several that share the load; null: the embedded engine"
    )
    api: Literal["auto", "tgi", "openai"] = Field("auto", description="protocol: auto asks the endpoint")
    model: str | None = Field(
        None, description="with an endpoint: the model it must serve; without: weights (a path or an id)"
    )
    chat: Literal["auto", "on", "off"] = Field(
        "auto", description="wrap prompts in the model's chat template; auto: where the endpoint has one"
    )
    tokenizer: _Word | None = Field(
        None, description="a tokenizer's folder or Hub id, for the template; null: the endpoint's own"
    )
    concurrency: Auto | Annotated[int, Field(ge=1)] = Field(
        "auto", description="requests in flight; auto: as many as the endpoint keeps up with; 1: one by one"
    )
    attempts: int = Field(
        6, ge=1, description="tries a request gets when the failure is transient; a 429 is not counted"
    )
    timeout: float = Field(
        120.0, gt=0, description="seconds a try may take, plus 0.2 for every token it may generate"
    )
    stall: float = Field(1800.0, gt=0, description="seconds a request may be tried for, pauses included")
    max_failed_share: _Share = Field(
        0.5, description="share of recent requests that may fail for good before a run stops"
    )
    finish_seconds: float = Field(
        60.0, ge=0, description="seconds that answers on their way are given after Ctrl-C"
    )

    @field_validator("url")
    @classmethod
    def _http_urls(cls, url: str | list[str] | None) -> str | list[str] | None:
        if isinstance(url, list):
            if not url:
                raise ValueError("expected an address, or null for the embedded engine")
            urls = [_http_url(one) for one in url]
            if len(set(urls)) < len(urls):
                raise ValueError("an address is given twice")
            return urls if len(urls) > 1 else urls[0]
        return None if url is None else _http_url(url)

    @property
    def urls(self) -> list[str]:
        """The addresses; none for the embedded engine."""
        return [self.url] if isinstance(self.url, str) else list(self.url or ())


def _http_url(url: str) -> str:
    parts = urlsplit(url)
    _ = parts.port  # raises ValueError for a port that is none
    if parts.query or parts.fragment:
        raise ValueError("expected a plain address, without ? and #")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected a URL such as http://127.0.0.1:8080")
    if parts.username or parts.password:
        raise ValueError(
            "the URL carries credentials; take them out and set SELFINSTRUCT_API_KEY in the environment"
        )
    return url.rstrip("/")


class Prices(Section):
    """What a million tokens cost, for `grow --max-cost` and for forecasts. null: unknown."""

    prompt: Annotated[float, Field(ge=0)] | None = Field(None, description="a million tokens of prompts")
    generated: Annotated[float, Field(ge=0)] | None = Field(None, description="a million generated tokens")
    currency: _Word = Field("USD", description="as it is shown")


class CardSettings(Section):
    """What the dataset card says beyond what is computed. Texts are Markdown, and go into the card as they are."""

    pretty_name: str | None = Field(None, description="title of the dataset; null: the workspace's folder name")
    description: str = Field("", description="a paragraph at the top of the card")
    license: str | None = Field(None, description="licence identifier, as the Hub writes it; null: none stated")
    license_name: _Word | None = Field(None, description="its name, where `license` is other")
    license_link: _Word | None = Field(None, description="its address or file name, where `license` is other")
    model_terms: str = Field("", description="what the model's terms say of its output, in your words")
    limitations: list[_Word] = Field([], description="what a user should know beside what the card says")
    citation: str = Field("", description="how to cite the dataset (BibTeX); empty: made of title and version")
    tags: list[str] = Field([], description="tags beside `synthetic` and `instruction-tuning`")
    samples: int = Field(6, ge=0, le=50, description="rows shown, chosen by a rule that anybody can repeat")
    pictures: Literal["auto", "off"] = Field("auto", description="auto: drawn where matplotlib is installed")
    verbs: Literal["auto", "off"] = Field(
        "auto", description="auto: verbs and objects counted where spaCy has a model of the language installed"
    )


class Settings(Section):
    """Everything a workspace decides."""

    recipe: str = Field("alpaca", description="how tasks are asked for: alpaca (one step) or self-instruct (four)")
    language: Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]+)*$")] = Field(
        "en", description="ISO 639 code of the tasks' language; en and zh have seeds and prompts of ours"
    )
    language_name: _Word | None = Field(
        None, description="its name in English, as the prompt says it; null: known for the common ones"
    )
    domain: _Word | None = Field(
        None, description='what all tasks must be about, as the prompt says it ("medicine"); null: anything'
    )
    seeds: str | None = Field(
        None, description="a JSONL or dataset folder, relative to this file, or a Hub dataset's id; null: ours"
    )
    seed: int = Field(42, ge=0, lt=2**63, description="every draw and every sample follows from it")
    tasks: int = Field(100, ge=1, le=10**9, description="accepted tasks that complete a round")
    max_barren_requests: int | None = Field(
        100, ge=1, description="requests in a row without an accepted task that stop a run (exit 3); null: never"
    )
    tasks_per_request: Auto | Annotated[int, Field(ge=1, le=50)] = Field(
        "auto",
        description="tasks asked for in one prompt; auto: alpaca 20, self-instruct 8, embedded 4, or what fits",
    )
    grammar: Literal["auto", "on", "off"] = Field(
        "auto", description="hold answers to the recipe's form; auto: on for the embedded engine only"
    )
    seed_dataset: SeedDataset = Field(default_factory=SeedDataset)
    demonstrations: Demonstrations = Field(default_factory=Demonstrations)
    decoding: DecodingSettings = Field(default_factory=DecodingSettings)
    self_instruct: SelfInstructSettings = Field(default_factory=SelfInstructSettings)
    filters: Filters = Field(default_factory=Filters)
    novelty: Novelty = Field(default_factory=Novelty)
    paraphrases: Paraphrases = Field(default_factory=Paraphrases)
    decontamination: Decontamination = Field(default_factory=Decontamination)
    saturation: Saturation = Field(default_factory=Saturation)
    endpoint: EndpointSettings = Field(default_factory=EndpointSettings)
    prices: Prices = Field(default_factory=Prices)
    card: CardSettings = Field(default_factory=CardSettings)

    @field_validator("recipe")
    @classmethod
    def _recipe_known(cls, recipe: str) -> str:
        known = (*RECIPES, *_registered)
        if recipe not in known:
            listed = f"{', '.join(repr(name) for name in known[:-1])} or {known[-1]!r}"
            close = difflib.get_close_matches(recipe, known, n=1)
            raise ValueError(f"expected {listed} ({f'did you mean {close[0]}?' if close else REGISTER})")
        return recipe

    @field_validator("filters")
    @classmethod
    def _bounds_in_order(cls, filters: Filters) -> Filters:
        low, high = filters.min_words, filters.max_words
        if isinstance(low, int) and isinstance(high, int) and low > high:
            raise ValueError("min_words is above max_words: no instruction could pass")
        return filters

    @field_validator("saturation")
    @classmethod
    def _similarity_known(cls, saturation: Saturation, info: ValidationInfo) -> Saturation:
        novelty = info.data.get("novelty")
        if novelty and novelty.mode == "fast" and saturation.needs_similarity:
            raise ValueError("a limit of similarity needs novelty.mode full or auto: fast does not measure it")
        return saturation
