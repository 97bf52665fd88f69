"""What can go wrong at a chosen request: an answer with an error, a cut connection, or no answer at all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

# When the connection is cut or held: before the request counts, with half of its body read, or with its work done
# and only the answer missing.
BEFORE, MIDDLE, AFTER = "before", "middle", "after"


@dataclass
class Fault:
    """A fault of the requests whose "METHOD /path" `matches`. The first `skip` of them pass, then `times` are hit.

    With a `status` they get that answer; without one the connection is cut, or held open in silence where `hold`
    is set.
    """

    matches: str = ""
    skip: int = 0
    times: int = 1
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    text: str = "told to fail"
    body: bytes | None = None  # the whole answer, such as of a server that is no Hub
    hold: bool = False
    when: str = BEFORE
    seen: int = 0

    def hits(self, asked: str) -> bool:
        """Whether this request, which is counted, is one to hit."""
        if not re.search(self.matches, asked):
            return False
        self.seen += 1
        return self.skip < self.seen <= self.skip + self.times
