"""Text to token ids and back, token by token: what streaming, stop sequences and /tokenize need.

Holds the engine's tokenizer; knows nothing of requests.
"""

import codecs
from dataclasses import dataclass
from typing import Any, Protocol

# Letters of two and three bytes, an emoji of four, a run of spaces and a special token: where a vocabulary
# that is not made of plain bytes gives itself away.
_PROBE = "Ünï 日本 🙂  x\n\t(y) 12."


class TextDecoder(Protocol):
    """Turns one generation's ids into text as they come."""

    def push(self, token: int) -> str: ...

    def flush(self) -> str: ...


@dataclass(frozen=True)
class Piece:
    """One token of a text; `start` and `stop` count characters."""

    id: int
    text: str
    start: int
    stop: int


class Vocabulary:
    """`eos` are the ids that end a text, `special` those that never appear in it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._bytes: dict[int, bytes] = {id_: raw for raw, id_ in tokenizer.get_vocab().items()}
        self.eos = int(tokenizer.get_eos_token_id())
        looks_special = [i for i, raw in self._bytes.items() if raw.startswith(b"<") and raw.endswith(b">")]
        self.special = frozenset(
            i for i in looks_special if not tokenizer.decode([i], skip_special_tokens=True)
        ) | {self.eos}
        probe = self.encode(_PROBE, add_special_tokens=False)
        self.is_plain_bytes = self._joined(probe) == _PROBE.encode()

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        ids = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).input_ids.data
        return [int(i) for i in ids.reshape(-1)]

    def render_chat(self, messages: list[dict[str, str]]) -> str:
        """The model's own chat template. Raises RuntimeError when the template refuses the messages."""
        return str(self._tokenizer.apply_chat_template(messages, add_generation_prompt=True))

    def name(self, token: int) -> str:
        """A special token's own spelling."""
        return self._bytes.get(token, b"").decode("utf-8", "replace")

    def decoder(self) -> TextDecoder:
        return _ByteDecoder(self._bytes) if self.is_plain_bytes else _PrefixDecoder(self._tokenizer)

    def pieces(self, text: str, ids: list[int]) -> list[Piece]:
        """Where each id lies in `text`; a character spread over several tokens belongs to all of them."""
        raw = text.encode()
        if self._joined(ids) != raw:
            return self._pieces_by_decoding(text, ids)
        character_at: list[int] = []
        for index, character in enumerate(text):
            character_at += [index] * len(character.encode())
        pieces, offset = [], 0
        for token in ids:
            size = len(self._bytes[token])
            start = character_at[offset] if size else len(text)
            stop = character_at[offset + size - 1] + 1 if size else start
            pieces.append(Piece(token, text[start:stop], start, stop))
            offset += size
        return pieces

    def _pieces_by_decoding(self, text: str, ids: list[int]) -> list[Piece]:
        decoder, pieces, offset = self.decoder(), [], 0
        for token in ids:
            spelled = decoder.push(token)
            found = text.find(spelled, offset) if spelled else -1
            start = found if found >= 0 else offset
            stop = start + len(spelled) if found >= 0 else start
            pieces.append(Piece(token, text[start:stop], start, stop))
            offset = stop
        return pieces

    def _joined(self, ids: list[int]) -> bytes:
        return b"".join(self._bytes.get(i, b"") for i in ids)


class _ByteDecoder:
    """For vocabularies whose entries are the text's own bytes: a table look-up for each token."""

    def __init__(self, table: dict[int, bytes]) -> None:
        self._table = table
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._utf8.decode(self._table.get(token, b""))

    def flush(self) -> str:
        return self._utf8.decode(b"", True)


class _PrefixDecoder:
    """For every other vocabulary: decode what there is so far, and hand out what came in addition."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._given = ""

    def push(self, token: int) -> str:
        self._ids.append(token)
        text = str(self._tokenizer.decode(self._ids))
        if text.endswith("\ufffd"):  # the character goes on in the next token
            return ""
        return self._take(text)

    def flush(self) -> str:
        return self._take(str(self._tokenizer.decode(self._ids))) if self._ids else ""

    def _take(self, text: str) -> str:
        new, self._given = text[len(self._given) :], text
        return new
