"""What stands at an address: text-generation-inference or an OpenAI-compatible server, its model and its limits.

Found by asking. No optional route has to exist: where /info and /v1/models are hidden, one token asked for with
either protocol decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from selfinstruct_hub.endpoint import Limits, tgi
from selfinstruct_hub.endpoint.asking import Answer, Asker
from selfinstruct_hub.errors import ConfigError, EndpointProtocolError, EndpointRefusedError

OPENAI = "openai"
# Servers behind OpenAI's protocol, which differ where it has no words.
TGI, VLLM, SGLANG, LLAMA_CPP = "tgi", "vllm", "sglang", "llama.cpp"
MOST_STOPS = 4  # what OpenAI takes
UNKNOWN = "unknown"
_CHAT = "/chat/completions"
_MOST_NAMED = 8
_LIMITS = ("max_total_tokens", "max_input_tokens", "max_concurrent_requests", "max_stop_sequences")
# What servers call themselves in the entries of /v1/models.
_OWNERS = {"vllm": VLLM, "sglang": SGLANG, "llamacpp": LLAMA_CPP}
_TITLES = {TGI: "text-generation-inference", VLLM: "vLLM", SGLANG: "SGLang", LLAMA_CPP: "llama.cpp"}


@dataclass(frozen=True)
class Address:
    """An address as it was given, and what follows from it: `root` has /info and /generate, `base` /models and
    /chat/completions. `versioned` says that it ends in /v1, as OpenAI-compatible ones are given."""

    root: str
    base: str
    versioned: bool

    @classmethod
    def of(cls, url: str) -> Address:
        parts = urlsplit(url)
        path = parts.path.rstrip("/")
        path = path.removesuffix("/generate")
        versioned = path.endswith(_CHAT)
        path = path.removesuffix(_CHAT)
        base = path if versioned or path.endswith("/v1") else f"{path}/v1"
        versioned = versioned or path.endswith("/v1")
        root = base.removesuffix("/v1")
        return cls(_with(parts.scheme, parts.netloc, root), _with(parts.scheme, parts.netloc, base), versioned)


@dataclass(frozen=True)
class Found:
    """A server as it showed itself. `kind` is tgi.KIND or OPENAI; `info` is what GET /info said, `limits` are
    those of an OpenAI-compatible one, and `dialect` is the server behind that protocol (TGI, VLLM, SGLANG,
    LLAMA_CPP), empty where it does not say. `asked_as` is the model's name in requests; `how` says how it was
    recognised."""

    kind: str
    model: str
    how: str
    info: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    version: str = ""
    dialect: str = ""
    asked_as: str = ""

    @property
    def embedded(self) -> bool:
        """Whether it is our own engine."""
        return self.info.get("docker_label") == tgi.EMBEDDED_LABEL


async def detect(
    asker: Asker, address: Address, *, api: Literal["auto", "tgi", "openai"] = "auto", model: str | None = None
) -> Found:
    """Asks what stands at `address`; `api` says what may, `model` what it must serve.

    Raises EndpointUnreachableError, EndpointAuthError, EndpointProtocolError (neither protocol),
    EndpointRefusedError (another model than `model`) or ConfigError (several models, and none was chosen), each
    in one line with what to do.
    """
    answers: list[Answer] = []

    async def get(url: str, route: str) -> Answer:
        answers.append(await asker.get(url, route))
        return answers[-1]

    async def post(url: str, route: str, body: dict[str, Any]) -> Answer:
        answers.append(await asker.post(url, route, body, generates=True))
        return answers[-1]

    may_be_tgi = api == "tgi" or (api == "auto" and not address.versioned)
    if may_be_tgi:
        info = _info(await get(f"{address.root}/info", "/info"))
        if info:
            return _tgi(asker, info, model)
    if api != "tgi":
        listed = _listed(await get(f"{address.base}/models", "/v1/models"))
        if listed:
            return await _openai(asker, address, listed, model)
        answer = await post(f"{address.base}{_CHAT}", f"/v1{_CHAT}", _one_token(model))
        if answer.status == 200 and isinstance(_field(answer.document, "choices"), list):
            return _unlisted(answer, model)
    if may_be_tgi:
        answer = await post(
            f"{address.root}/generate", "/generate", {"inputs": "1, 2,", "parameters": {"max_new_tokens": 1}}
        )
        if answer.status == 200 and isinstance(_field(answer.document, "generated_text"), str):
            return Found(tgi.KIND, model or UNKNOWN, "POST /generate answers")
    if denied := next((answer for answer in answers if answer.denied), None):
        raise asker.denied(denied)
    for answer in answers:
        _check_model(asker, answer, model)
    told = ", ".join(map(_told, answers))
    what = {
        "tgi": "is not text-generation-inference",
        "openai": "is not OpenAI-compatible",
        "auto": "is neither text-generation-inference nor OpenAI-compatible",
    }[api]
    raise EndpointProtocolError(f"{asker.name} {what}: {told}; check the address")


def _told(answer: Answer) -> str:
    return f"{answer} without a model_id" if answer.route == "GET /info" and answer.status == 200 else str(answer)


def _info(answer: Answer) -> dict[str, Any] | None:
    info = answer.document
    return info if answer.status == 200 and isinstance(_field(info, "model_id"), str) else None


def _tgi(asker: Asker, info: dict[str, Any], model: str | None) -> Found:
    served: str = info["model_id"]
    if model is not None and model != served:
        raise EndpointRefusedError(f"{asker.name} serves {served}, not {model}; change --model or the endpoint")
    version = str(info.get("version") or "")
    return Found(tgi.KIND, served, f"GET /info names {_title(TGI, version)}", info, version=version)


# OpenAI-compatible servers.


def _listed(answer: Answer) -> list[dict[str, Any]]:
    """The entries of /v1/models, which is OpenAI's {"data": [{"id"}]}."""
    entries = _field(answer.document, "data") if answer.status == 200 else None
    if not isinstance(entries, list):
        return []
    return [entry for entry in entries if isinstance(_field(entry, "id"), str)]


async def _openai(asker: Asker, address: Address, listed: Sequence[dict[str, Any]], model: str | None) -> Found:
    entry = _chosen(asker, listed, model)
    served: str = entry["id"]
    dialect = _dialect(entry)
    context = _number(entry, "max_model_len")
    version = ""
    asked_as = model or served
    # What some servers say elsewhere is asked for, and done without where it is hidden.
    if dialect == TGI:
        asked_as = "tgi"  # any other name is read as that of an adapter
        said = await asker.optional(f"{address.root}/info", "/info")
        info = said if isinstance(_field(said, "model_id"), str) else {}
        limits = Limits(**{name: _number(info, name) for name in _LIMITS})
        version = str(info.get("version") or "")
        return Found(OPENAI, served, _names(dialect, version), info, limits, version, dialect, asked_as)
    if dialect == VLLM:
        said = await asker.optional(f"{address.root}/version", "/version")
        version = str(_field(said, "version") or "")
    elif dialect == LLAMA_CPP:
        said = await asker.optional(f"{address.root}/props", "/props")
        version = str(_field(said, "build_info") or "")
        # What a request may have of it, not what the model was trained with.
        context = _number(entry.get("meta"), "n_ctx")
        context = context or _number(_field(said, "default_generation_settings"), "n_ctx")
    limits = Limits(max_total_tokens=context, max_stop_sequences=MOST_STOPS)
    return Found(OPENAI, served, _names(dialect, version), {}, limits, version, dialect, asked_as)


def _names(dialect: str, version: str) -> str:
    return f"GET /v1/models names {_title(dialect, version)}" if dialect else "GET /v1/models lists its models"


def _title(dialect: str, version: str) -> str:
    return f"{_TITLES[dialect]} {version}".rstrip()


def _dialect(entry: Mapping[str, Any]) -> str:
    owner = entry.get("owned_by")
    if owner == entry["id"]:
        return TGI  # it alone calls the model its own owner
    return _OWNERS.get(owner, "") if isinstance(owner, str) else ""


def _chosen(asker: Asker, listed: Sequence[dict[str, Any]], model: str | None) -> dict[str, Any]:
    names = [entry["id"] for entry in listed]
    if model is None:
        if len(listed) == 1:
            return listed[0]
        raise ConfigError(f"{asker.name} serves several models: {_some(names)}; choose one with --model")
    for entry in listed:
        # Ollama leaves out ":latest"; the Hub's router takes a provider behind the name.
        if entry["id"] in (model, f"{model}:latest", model.partition(":")[0]):
            return entry
    what = "change --model or the endpoint" if len(names) == 1 else "name one of them with --model"
    raise EndpointRefusedError(f"{asker.name} serves {_some(names)}, not {model}; {what}")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMED])
    return shown if len(names) <= _MOST_NAMED else f"{shown} and {len(names) - _MOST_NAMED} more"


def _one_token(model: str | None) -> dict[str, Any]:
    return {"model": model or "tgi", "messages": [{"role": "user", "content": "1, 2,"}], "max_tokens": 1}


def _unlisted(answer: Answer, model: str | None) -> Found:
    """What answered a chat completion and lists no models."""
    said = _field(answer.document, "model")
    served = model or (said if isinstance(said, str) and said else UNKNOWN)
    limits = Limits(max_stop_sequences=MOST_STOPS)
    return Found(OPENAI, served, f"{answer.route} answers", limits=limits, asked_as=model or "tgi")


def _check_model(asker: Asker, answer: Answer, model: str | None) -> None:
    """Raises EndpointRefusedError where the answer is OpenAI's error about the model that was asked for."""
    error = _field(answer.document, "error")
    if answer.status in (400, 404, 422) and isinstance(error, dict) and "model" in answer.said.lower():
        which = f"the model {model}" if model else "a request that names no model"
        known = f"{answer.status}: {answer.said}"
        raise EndpointRefusedError(
            f"{asker.name} refuses {which} ({known}); name the one it serves with --model", said=known
        )


def _field(document: Any, name: str) -> Any:
    return document.get(name) if isinstance(document, dict) else None


def _number(document: Any, name: str) -> int | None:
    value = _field(document, name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _with(scheme: str, netloc: str, path: str) -> str:
    return urlunsplit((scheme, netloc, path, "", ""))
