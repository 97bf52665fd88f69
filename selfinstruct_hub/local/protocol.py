"""text-generation-inference's requests, its validation rules and its words for a refusal.

Pure: no HTTP, no engine. The rules and messages are those of TGI 3 (router/src/validation.rs); what the embedded
engine cannot do is refused in the same form rather than ignored.
"""

import json
import random
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from selfinstruct_hub.local.engine import Decoding
from selfinstruct_hub.local.grammar import Grammar

MAX_STOP_SEQUENCES = 4
MAX_TOP_N_TOKENS = 5
MAX_BEST_OF = 1

U32 = Annotated[int, Field(strict=True, ge=0, lt=2**32)]
U64 = Annotated[int, Field(strict=True, ge=0, lt=2**64)]
I32 = Annotated[int, Field(strict=True, ge=-(2**31), lt=2**31)]
F32 = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(strict=True)]


class Refusal(Exception):
    """An answer that is an error: `status` and, as JSON, the message and TGI's `error_type`."""

    def __init__(self, status: int, error_type: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type

    @property
    def body(self) -> dict[str, str]:
        return {"error": str(self), "error_type": self.error_type}


class PlainRefusal(Exception):
    """A body that is no request at all: TGI's web framework answers it in plain text."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def invalid(message: str) -> Refusal:
    return Refusal(422, "validation", f"Input validation error: {message}")


def unsupported(what: str) -> Refusal:
    return invalid(f"{what} is not supported by the embedded engine")


def overloaded() -> Refusal:
    return Refusal(429, "overloaded", "Model is overloaded")


def failed(error: object) -> Refusal:
    return Refusal(424, "generation", f"Request failed during generation: {error}")


class GrammarField(BaseModel):
    type: Literal["json", "json_object", "json_schema", "regex"]
    # OpenAI's clients nest the schema under the type's own name.
    value: Any = Field(default=None, validation_alias=AliasChoices("value", "json_schema"))


class Parameters(BaseModel):
    """TGI's GenerateParameters; unknown fields are ignored there, and so here."""

    best_of: U32 | None = None
    temperature: F32 | None = None
    repetition_penalty: F32 | None = None
    frequency_penalty: F32 | None = None
    presence_penalty: F32 | None = None  # not TGI's: the chat route's, which the engine can do
    top_k: I32 | None = None
    top_p: F32 | None = None
    typical_p: F32 | None = None
    do_sample: Flag = False
    max_new_tokens: U32 | None = None
    return_full_text: Flag | None = None
    stop: list[Text] = []
    truncate: U64 | None = None
    watermark: Flag = False
    details: Flag = False
    decoder_input_details: Flag = False
    seed: U64 | None = None
    top_n_tokens: U32 | None = None
    grammar: GrammarField | None = None
    adapter_id: Text | None = None


class GenerateBody(BaseModel):
    """The body of /generate, /generate_stream and /. Without `parameters`, TGI samples."""

    inputs: Text
    parameters: Parameters = Parameters(do_sample=True)
    add_special_tokens: Flag = True
    stream: Flag = False


class Message(BaseModel):
    model_config = ConfigDict(extra="allow")

    role: Text
    content: Any = None


class ChatTokenizeBody(BaseModel):
    messages: list[Message]


Body = TypeVar("Body", bound=BaseModel)


def parse_body(kind: type[Body], content_type: str, raw: bytes) -> Body:
    """Raises PlainRefusal, as axum's JSON extractor does."""
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise PlainRefusal(415, "Expected request with `Content-Type: application/json`")
    try:
        document = json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
        # JSON can spell half a character; nothing behind this point can.
        json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise PlainRefusal(400, f"Failed to parse the request body as JSON: {error}") from None
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = f"missing field `{where}`" if first["type"] == "missing" else f"{where}: {first['msg']}"
        message = f"Failed to deserialize the JSON body into the target type: {what}"
        raise PlainRefusal(422, message) from None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


@dataclass(frozen=True)
class Limits:
    """What the model and the server allow, in tokens."""

    max_input_tokens: int
    max_total_tokens: int


@dataclass(frozen=True)
class Wanted:
    """A request that passed every rule but those which need its tokens; see `fit`."""

    decoding: Decoding
    max_new_tokens: int | None
    truncate: int | None


def check_parameters(inputs: str, parameters: Parameters, limits: Limits, *, stream: bool) -> Wanted:
    """Raises Refusal (422). The order of the rules is TGI's: the first that fails is the one that is told."""
    given = parameters
    if given.best_of is not None and given.best_of != 1:
        raise invalid(
            "`best_of` != 1 is not supported when streaming tokens"
            if stream
            else "`best_of` != 1 is not allowed for this endpoint"
        )
    if stream and given.decoder_input_details:
        raise invalid("`decoder_input_details` == true is not supported when streaming tokens")
    if given.temperature is not None and given.temperature <= 0:
        raise invalid("`temperature` must be strictly positive")
    if given.repetition_penalty is not None and given.repetition_penalty <= 0:
        raise invalid("`repetition_penalty` must be strictly positive")
    for name in ("frequency_penalty", "presence_penalty"):
        value = getattr(given, name)
        if value is not None and not -2 <= value <= 2:
            raise invalid(f"`{name}` must be >= -2.0 and <= 2.0")
    if given.top_p is not None and not 0 < given.top_p < 1:
        raise invalid("`top_p` must be > 0.0 and < 1.0")
    if given.typical_p is not None and not 0 < given.typical_p < 1:
        raise invalid("`typical_p` must be > 0.0 and < 1.0")
    if given.top_k is not None and given.top_k <= 0:
        raise invalid("`top_k` must be strictly positive")
    if given.max_new_tokens == 0:
        raise invalid("`max_new_tokens` must be strictly positive")
    if len(given.stop) > MAX_STOP_SEQUENCES:
        raise invalid(f"`stop` supports up to {MAX_STOP_SEQUENCES} stop sequences. Given: {len(given.stop)}")
    if given.top_n_tokens is not None and given.top_n_tokens > MAX_TOP_N_TOKENS:
        raise invalid(f"`top_n_tokens` must be >= 0 and <= {MAX_TOP_N_TOKENS}. Given: {given.top_n_tokens}")
    if not inputs:
        raise invalid("`inputs` cannot be empty")
    if given.truncate is not None and not 0 < given.truncate <= limits.max_input_tokens:
        raise invalid(
            f"`truncate` must be strictly positive and less than {limits.max_input_tokens}. "
            f"Given: {given.truncate}"
        )
    for name in ("typical_p", "watermark", "top_n_tokens", "adapter_id"):
        if getattr(given, name):
            raise unsupported(f"`{name}`")
    return Wanted(_decoding(given), given.max_new_tokens, given.truncate)


def fit(input_tokens: int, max_new_tokens: int | None, limits: Limits) -> int:
    """How many tokens to generate. Raises Refusal (422) when the request does not fit the model."""
    total = limits.max_total_tokens
    wanted = max(0, total - input_tokens) if max_new_tokens is None else max_new_tokens
    if input_tokens + wanted > total:
        raise invalid(
            f"`inputs` tokens + `max_new_tokens` must be <= {total}. "
            f"Given: {input_tokens} `inputs` tokens and {wanted} `max_new_tokens`"
        )
    if input_tokens > limits.max_input_tokens:
        raise invalid(f"`inputs` must have less than {limits.max_input_tokens} tokens. Given: {input_tokens}")
    return wanted


def _decoding(given: Parameters) -> Decoding:
    # Any of these turns sampling on, whatever do_sample says.
    samples = given.do_sample or given.top_k is not None or given.top_p is not None
    samples = samples or (given.temperature is not None and given.temperature != 1.0)
    return Decoding(
        max_new_tokens=0,  # known when the input's length is: see `fit`
        do_sample=samples,
        temperature=1.0 if given.temperature is None else given.temperature,
        top_p=1.0 if given.top_p is None else given.top_p,
        top_k=given.top_k,
        repetition_penalty=1.0 if given.repetition_penalty is None else given.repetition_penalty,
        frequency_penalty=given.frequency_penalty or 0.0,
        presence_penalty=given.presence_penalty or 0.0,
        seed=random.getrandbits(64) if given.seed is None else given.seed,
        stop=tuple(stop for stop in given.stop if stop),
        grammar=None if given.grammar is None else _grammar(given.grammar),
    )


def _grammar(given: GrammarField) -> Grammar:
    value = given.value
    if given.type == "regex":
        if not isinstance(value, str):
            raise invalid("grammar is not supported")
        if not value:
            raise invalid("grammar is not valid: `value` cannot be empty for `regex` grammar")
        return Grammar.from_regex(value)
    if given.type == "json_schema" and isinstance(value, dict):
        value = value.get("schema")
    if isinstance(value, str):
        try:
            value = json.loads(value, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise invalid(f"grammar is not valid: {error}") from None
    if not isinstance(value, dict):
        raise invalid("grammar is not supported")
    if "properties" not in value:
        raise invalid("grammar is not valid: Grammar must have a 'properties' field")
    return Grammar.from_schema(value)
