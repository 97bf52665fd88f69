"""The chat route: OpenAI's request and answers in TGI's dialect.

Pure: no HTTP, no engine. Turns a chat request into TGI's parameters and a finished generation into an answer.
"""

import time
from typing import Any

from pydantic import BaseModel

from selfinstruct_hub.local.engine import Generation, Token
from selfinstruct_hub.local.protocol import (
    F32,
    U32,
    U64,
    Flag,
    GrammarField,
    Message,
    Parameters,
    Text,
    invalid,
    unsupported,
)

FINGERPRINT = "selfinstruct-hub"
# What TGI, OpenAI's clients and huggingface_hub send for "the model that is there".
ANY_MODEL = {"tgi", "dummy", ""}


class StreamOptions(BaseModel):
    include_usage: Flag = False


class ChatBody(BaseModel):
    messages: list[Message]
    model: Text | None = None
    frequency_penalty: F32 | None = None
    presence_penalty: F32 | None = None
    logit_bias: Any = None
    logprobs: Flag | None = None
    top_logprobs: U32 | None = None
    max_tokens: U32 | None = None
    max_completion_tokens: U32 | None = None
    n: U32 | None = None
    stop: list[Text] | Text | None = None
    stream: Flag = False
    stream_options: StreamOptions | None = None
    seed: U64 | None = None
    temperature: F32 | None = None
    top_p: F32 | None = None
    tools: Any = None
    response_format: Any = None


def parameters_of(body: ChatBody, model_id: str) -> Parameters:
    """Raises Refusal (422) for what the engine cannot do; TGI ignores some of it."""
    for name in ("logit_bias", "top_logprobs", "tools"):
        if getattr(body, name):
            raise unsupported(f"`{name}`")
    if body.n is not None and body.n != 1:
        raise unsupported("`n` != 1")
    if body.model is not None and body.model not in ANY_MODEL | {model_id}:
        raise unsupported(f"the model or adapter {body.model!r}: this server has {model_id}, and it")
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    greedy = body.temperature == 0
    return Parameters(
        do_sample=not greedy,
        temperature=None if greedy else body.temperature,
        # OpenAI's clients send 1 for "not used", which TGI's chat route would refuse like /generate.
        top_p=body.top_p,
        frequency_penalty=body.frequency_penalty,
        presence_penalty=body.presence_penalty,
        max_new_tokens=body.max_completion_tokens if body.max_tokens is None else body.max_tokens,
        stop=stop,
        seed=body.seed,
        grammar=_grammar_field(body.response_format),
    )


def _grammar_field(given: Any) -> GrammarField | None:
    if given is None or given == {"type": "text"}:
        return None
    try:
        return GrammarField.model_validate(given)
    except ValueError:
        raise invalid("grammar is not supported") from None


def messages_of(messages: list[Message]) -> list[dict[str, str]]:
    """Role and text of each message. Raises Refusal (422)."""
    if not messages:
        raise invalid("`messages` cannot be empty")
    return [{"role": message.role, "content": _text_of(message.content)} for message in messages]


def _text_of(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise unsupported("message content other than text")
    return "".join(part["text"] for part in parts)


def continue_last(prompt: str, messages: list[dict[str, str]]) -> str:
    """A chat that ends with the assistant's words is one to go on from there, not to answer."""
    last = messages[-1]
    if last["role"] != "assistant" or not last["content"]:
        return prompt
    at = prompt.rfind(last["content"])
    return prompt if at < 0 else prompt[: at + len(last["content"])]


def completion(generation: Generation, model_id: str, version: str, *, logprobs: bool) -> dict[str, Any]:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": generation.text},
        "logprobs": _logprobs(generation.tokens) if logprobs else None,
        "finish_reason": finish_reason(generation),
    }
    return _envelope("chat.completion", model_id, version, choice, usage(generation))


def chunk(
    token: Token, model_id: str, version: str, *, finish_reason: str | None, logprobs: bool
) -> dict[str, Any]:
    choice = {
        "index": 0,
        "delta": {"role": "assistant", "content": "" if token.special else token.text},
        "logprobs": _logprobs([token]) if logprobs else None,
        "finish_reason": finish_reason,
    }
    return _envelope("chat.completion.chunk", model_id, version, choice, None)


def _envelope(
    kind: str, model_id: str, version: str, choice: dict[str, Any], used: dict[str, int] | None
) -> dict[str, Any]:
    return {
        "object": kind,
        "id": "",
        "created": int(time.time()),
        "model": model_id,
        "system_fingerprint": f"{version}-{FINGERPRINT}",
        "choices": [choice],
        "usage": used,
    }


def finish_reason(generation: Generation) -> str:
    """OpenAI's words; TGI says `stop_sequence` for a stop text, which clients do not know."""
    return "length" if generation.finish_reason == "length" else "stop"


def usage(generation: Generation) -> dict[str, int]:
    prompt, generated = len(generation.input_ids), len(generation.tokens)
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}


def _logprobs(tokens: list[Token]) -> dict[str, Any]:
    return {"content": [{"token": t.text, "logprob": t.logprob, "top_logprobs": []} for t in tokens]}
