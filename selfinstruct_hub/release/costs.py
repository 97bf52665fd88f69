"""What a round's answers cost, where that is known: prices were set, and the endpoint told the tokens of every
answer."""

from __future__ import annotations

from typing import Any

from selfinstruct_hub.config import Prices
from selfinstruct_hub.endpoint.budget import price_of
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import Round, is_import

_BATCH = 4096
_TOKENS = slice(6, 8)  # of `Pool.answer_columns`: of the prompt, and generated


def of(pool: Pool, round_: Round) -> dict[str, Any] | None:
    """{amount, currency} of all answers of `round_`, those that were not needed included; None where it is not
    known. Prices are those that the round was begun with; a pulled round has what was published."""
    source = pool.pulled()
    if source and round_.number in source.rounds:
        return source.rounds[round_.number].get("cost")
    prices = Prices.model_validate(round_.asked.get("prices", {}))
    if is_import(round_.settings) or price_of(0, 0, prices) is None:
        return None
    for answers in pool.answer_columns(round_.number, _BATCH):
        if any(None in answer[_TOKENS] for answer in answers):
            return None
    _, prompt, generated = pool.cost(round_.number)
    amount = price_of(prompt, generated, prices)
    assert amount is not None, "both prices are known"
    return {"amount": round(amount, 6), "currency": prices.currency}
