"""What trainers read: messages, prompt and completion, ShareGPT's conversations.

One exchange a row: an optional system message, one text of the user's, one answer. No file of a reference
project is here. The user's text joins instruction and input by a blank line, and reads back as an instruction
with an empty input: nothing in these formats tells the two apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from selfinstruct_hub.formats.entry import Entry, Format, Rendered, beside, completed, note, noted
from selfinstruct_hub.records import Instance, prompt_text
from selfinstruct_hub.rows import Fields, shown


class Turns(Format):
    """A list of turns, each with who speaks and what is said.

    Cannot hold: where the input begins, an instruction without instances (nothing is written for it), several
    instances as one task, lost instances, whether the task is classification. Rows with an input are counted
    as not exact. A system message, and keys beside ours in the row and in its turns, come back.
    """

    _list: str  # the key of the turns
    _who: str
    _what: str
    _roles: tuple[str, str, str]  # how the system, the user and the assistant are called

    def recognises(self, row: Mapping[str, Any], array: bool) -> bool:
        return self._list in row

    def parse(self, fields: Fields) -> Entry:
        turns = fields.objects(self._list, f"{self._who} and {self._what}")
        said = [(self._role(turn), turn.text(self._what)) for turn in turns]
        system, user, assistant = self._roles
        extra: dict[str, Any] = {}
        if said and said[0][0] == system:
            extra["system"] = said.pop(0)[1]
        if [who for who, _ in said] != [user, assistant]:
            found = f"{len(said)} turn{'' if len(said) == 1 else 's'}"
            if len(said) == 2:
                found = f"`{said[0][0]}` and `{said[1][0]}`"
            wanted = f"expected one {user} and one {assistant} turn"
            raise fields.error(f"{fields.where}, field `{self._list}`: {wanted}, found {found}")
        extra |= note(self.name, fields.values, (self._list,), turns=beside(turns, (self._who, self._what)))
        return Entry(said[0][1], (Instance(input="", output=said[1][1]),), extra=extra)

    def render(self, entry: Entry, seed: int) -> Iterator[Rendered]:
        kept = noted(entry, self.name)
        system = [(self._roles[0], entry.extra["system"])] if "system" in entry.extra else []
        for instance in entry.instances:
            said = [
                *system,
                (self._roles[1], prompt_text(entry.instruction, instance.input)),
                (self._roles[2], instance.output),
            ]
            more = kept.get("turns", [])
            if len(more) != len(said):
                more = [{}] * len(said)
            turns = [{self._who: who, self._what: what, **b} for (who, what), b in zip(said, more, strict=True)]
            yield Rendered(completed({self._list: turns}, kept), exact=not instance.input)

    def _role(self, turn: Fields) -> str:
        role = turn.text(self._who)
        if role not in self._roles:
            expected = ", ".join(f"`{name}`" for name in self._roles)
            raise turn.error(
                f"{turn.where}, field `{self._who}`: expected one of {expected}, found `{shown(role)}`"
            )
        return role


class Messages(Turns):
    __doc__ = Turns.__doc__
    name = "messages"
    description = "chat messages: JSONL of role and content, one user and one assistant turn, maybe a system one"
    _list, _who, _what = "messages", "role", "content"
    _roles = ("system", "user", "assistant")


class Conversations(Turns):
    """ShareGPT's form, with the limits of `Turns`. Read from JSONL and arrays, written as an array, because
    that is the one container every trainer of ours reads it in."""

    name = "conversations"
    description = "ShareGPT conversations: from human and gpt, one turn each, maybe a system one"
    array = True
    _list, _who, _what = "conversations", "from", "value"
    _roles = ("system", "human", "gpt")


class PromptCompletion(Format):
    """One prompt, one completion. Cannot hold what `Turns` cannot, nor a system message."""

    name = "prompt_completion"
    description = "JSONL of prompt and completion, plain texts"

    def recognises(self, row: Mapping[str, Any], array: bool) -> bool:
        return "prompt" in row and "completion" in row

    def parse(self, fields: Fields) -> Entry:
        instances = (Instance(input="", output=fields.text("completion")),)
        rest = note(self.name, fields.values, ("prompt", "completion"))
        return Entry(fields.text("prompt"), instances, extra=rest)

    def render(self, entry: Entry, seed: int) -> Iterator[Rendered]:
        for instance in entry.instances:
            row = {"prompt": prompt_text(entry.instruction, instance.input), "completion": instance.output}
            yield Rendered(completed(row, noted(entry, self.name)), exact=not instance.input)
