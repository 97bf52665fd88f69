"""Chat templates for instruction-tuned models behind /generate, which takes a prompt as it is.

A template is asked for once, with a stand-in for the user's message, and put around every prompt without a round
trip. It comes from the server (POST /chat_tokenize) or from a tokenizer that the settings name.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfinstruct_hub.endpoint.asking import Answer, Asker
from selfinstruct_hub.errors import ConfigError

# Stands for the user's message. Letters only: templates trim white space, and none of them changes a word.
_STAND_IN = "selfinstructmessage"
# Texts that begin a sequence, for servers that do not tell what they add to a prompt (Llama 2, Mistral; Llama 3;
# Gemma; DeepSeek; Cohere; Falcon, Phi and others of GPT-2's kind have none).
USUAL_BEGINNINGS = (
    "<s>",
    "<|begin_of_text|>",
    "<bos>",
    "<｜begin▁of▁sentence｜>",
    "<BOS_TOKEN>",
    "<|startoftext|>",
    "[BOS]",
)


@dataclass(frozen=True)
class ChatTemplate:
    """What stands `before` the user's message and `behind` it, up to where the assistant begins to speak."""

    before: str
    behind: str
    source: str = ""  # where it came from, as a person reads it

    def wrap(self, prompt: str) -> str:
        """`prompt` as a chat: its last line is where the answer begins, so it becomes the assistant's first words;
        what is above it is the user's message. A prompt of one line is the user's message."""
        message, _, begun = prompt.rpartition("\n")
        if not message.strip():
            message, begun = prompt, ""
        return f"{self.before}{message.strip()}{self.behind}{begun}"


async def of_server(asker: Asker, url: str) -> tuple[ChatTemplate | None, Answer]:
    """The template that the server at `url` has for its model, None where it has none (a base model, or a route
    that is not there), and what it answered. Raises EndpointAuthError for a missing key."""
    messages = [{"role": "user", "content": _STAND_IN}]
    answer = await asker.post(f"{url}/chat_tokenize", "/chat_tokenize", {"messages": messages})
    if answer.denied:
        raise asker.denied(answer)
    document = answer.document if answer.status == 200 and isinstance(answer.document, dict) else {}
    text = document.get("templated_text")
    if not isinstance(text, str) or text.count(_STAND_IN) != 1:
        return None, answer
    plain = await asker.optional(f"{url}/tokenize", "/tokenize", {"inputs": _STAND_IN})
    if (added := _added(plain)) is not None:
        text = _without_ids(text, document.get("tokenize_response"), added)
    else:
        text = _without_usual(text)
    return _around(text, "POST /chat_tokenize"), answer


async def of_tokenizer(name: str) -> ChatTemplate:
    """The template of the tokenizer in a folder, or of that id on the Hub. Raises ConfigError in one line."""
    return await asyncio.to_thread(_of_tokenizer, name)


def _of_tokenizer(name: str) -> ChatTemplate:
    folder = Path(name).expanduser()
    local = folder.is_dir()
    if not local and (folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1):
        raise ConfigError(f"endpoint.tokenizer: there is no folder {name}")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that there is no PyTorch
    # Imported here: it takes seconds, and few runs need it.
    import transformers

    read: Any = transformers.AutoTokenizer  # the library's own types are not strict
    try:
        tokenizer = read.from_pretrained(str(folder) if local else name, local_files_only=local)
    except Exception as error:  # whatever a broken file or a missing network makes of it
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(f"endpoint.tokenizer: {name} cannot be read ({said})") from None
    if not tokenizer.chat_template:
        raise ConfigError(
            f"endpoint.tokenizer: {name} has no chat template; name the tokenizer of an instruction-tuned model"
        )
    messages = [{"role": "user", "content": _STAND_IN}]
    try:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # a template may raise anything
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(f"endpoint.tokenizer: the chat template of {name} fails ({said})") from None
    if not isinstance(text, str) or text.count(_STAND_IN) != 1:
        raise ConfigError(f"endpoint.tokenizer: the chat template of {name} does not hold the user's message")
    for added in tokenizer(_STAND_IN)["input_ids"]:
        if added not in tokenizer.all_special_ids:
            break
        text = text.removeprefix(tokenizer.convert_ids_to_tokens(added))
    return _around(text, f"the tokenizer {name}")


def _around(text: str, source: str) -> ChatTemplate:
    before, _, behind = text.partition(_STAND_IN)
    return ChatTemplate(before, behind, source)


# /generate adds the tokens that begin a sequence to every prompt; those of the template would come twice.


def _added(tokens: Any) -> list[int] | None:
    """The ids that the server puts before a plain text: those that stand for none of it. None where the answer
    does not say."""
    added: list[int] = []
    for token in tokens if isinstance(tokens, list) else ():
        if not isinstance(token, dict) or not isinstance(token.get("id"), int):
            return None
        text = token.get("text")
        if token.get("start") != token.get("stop") and isinstance(text, str) and _STAND_IN.startswith(text):
            return added
        added.append(token["id"])
    return None


def _without_ids(text: str, tokens: Any, added: list[int]) -> str:
    """`text` without the tokens `added` at its beginning, as its own tokens spell them."""
    shown = [token for token in tokens if isinstance(token, dict)] if isinstance(tokens, list) else []
    shown = [token for token in shown if isinstance(token.get("text"), str) and token["text"]]
    for id_, token in zip(added, shown, strict=False):
        if token.get("id") != id_:
            break
        text = text.removeprefix(token["text"])
    return text


def _without_usual(text: str) -> str:
    for beginning in USUAL_BEGINNINGS:
        if text.startswith(beginning):
            return text.removeprefix(beginning)
    return text
