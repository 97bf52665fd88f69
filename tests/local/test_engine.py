"""The engine by itself: batches, seeds, and what is left after a step that fails."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfinstruct_hub.errors import LocalEngineError
from selfinstruct_hub.local.engine import Decoding, Engine, Generation
from selfinstruct_hub.local.grammar import Grammar
from selfinstruct_hub.local.weights import find_weights

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("engine")]

PROMPT = "Once upon a time"
# Does not compile; only the guard, which these tests go around, keeps such a thing from the engine.
BROKEN = Grammar("regex", "[a-")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine(find_weights(None), max_batch_size=8, cache_gb=1)
    yield engine
    engine.close()


async def run(engine: Engine, prompt: str = PROMPT, **decoding: Any) -> Generation:
    ids = engine.vocabulary.encode(prompt, add_special_tokens=True)
    generation = engine.submit(ids, Decoding(**{"max_new_tokens": 16, **decoding}))
    async for _ in generation:
        pass
    return generation


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to that")


async def test_tokens_spell_the_text_and_the_times_are_in_order(engine: Engine) -> None:
    generation = await run(engine, "Write in Japanese: 日本", do_sample=True, temperature=1.5, seed=3)
    assert len(generation.tokens) == 16
    assert generation.finish_reason == "length"
    assert "".join(token.text for token in generation.tokens if not token.special) == generation.text
    assert all(token.logprob <= 0 for token in generation.tokens)
    assert generation.queued_at <= generation.started_at < generation.finished_at


async def test_the_same_seed_gives_the_same_text_and_another_seed_another(engine: Engine) -> None:
    sampled: dict[str, Any] = {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "max_new_tokens": 24}
    texts = [(await run(engine, seed=seed, **sampled)).text for seed in (1, 1, 2, 1 + 2**32)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


async def test_greedy_texts_do_not_depend_on_the_batch(engine: Engine) -> None:
    prompts = [f"The {word} is" for word in ("sky", "sea", "old house", "best book", "river", "answer")]
    alone = [(await run(engine, prompt)).text for prompt in prompts]
    together = await asyncio.gather(*(run(engine, prompt) for prompt in prompts))
    assert [generation.text for generation in together] == alone


async def test_requests_share_steps_and_the_rest_waits(engine: Engine) -> None:
    before = engine.load.steps
    generations = await asyncio.gather(
        *(run(engine, do_sample=True, temperature=0.7, seed=seed) for seed in range(24))
    )
    steps = engine.load.steps - before
    made = sum(len(generation.tokens) for generation in generations)
    assert made / steps > 4, f"{made} tokens in {steps} steps, eight at a time"
    assert max(g.started_at - g.queued_at for g in generations) > 10 * (
        generations[0].started_at - generations[0].queued_at
    )


async def test_a_stop_text_ends_the_answer_and_stays_in_it(engine: Engine) -> None:
    whole = (await run(engine, max_new_tokens=12)).text
    words = whole.split()
    generation = await run(engine, max_new_tokens=12, stop=("never", words[3]))
    assert generation.finish_reason == "stop_sequence"
    assert generation.text == whole[: whole.index(words[3]) + len(words[3])]


async def test_the_models_own_end_is_told_from_the_limit(engine: Engine) -> None:
    digits = Grammar.from_regex("[0-9]{3}")
    ended = await run(engine, grammar=digits, max_new_tokens=20)
    assert ended.finish_reason == "eos_token"
    assert len(ended.text) == 3
    assert ended.text.isdigit()
    assert ended.tokens[-1].special
    cut = await run(engine, grammar=digits, max_new_tokens=len(ended.tokens))
    assert (cut.text, cut.finish_reason) == (ended.text, "length")


async def test_a_cancelled_request_is_not_decoded_further(engine: Engine) -> None:
    ids = engine.vocabulary.encode(PROMPT, add_special_tokens=True)
    running = engine.submit(ids, Decoding(max_new_tokens=4000))
    await anext(aiter(running))
    engine.cancel(running)
    await until(lambda: engine.load.running == 0)
    made = len(running.tokens)
    await run(engine)  # the engine goes on with others
    assert len(running.tokens) == made < 4000
    assert engine.load.running == 0


async def test_a_request_the_engine_refuses_harms_no_other(engine: Engine) -> None:
    good = asyncio.create_task(run(engine, max_new_tokens=40))
    await asyncio.sleep(0.1)
    with pytest.raises(LocalEngineError, match=r"refuses the request: .*temperature"):
        await run(engine, do_sample=True, temperature=-1.0)
    assert len((await good).tokens) == 40


def test_weights_that_are_none_are_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(LocalEngineError, match="cannot load") as caught:
        Engine(replace(find_weights(None), path=broken))
    assert "\n" not in str(caught.value)


async def test_a_failed_step_costs_its_batch_and_too_many_cost_the_engine(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The last test, because nothing is left of the engine after it."""
    innocent = asyncio.create_task(run(engine, max_new_tokens=400))
    await until(lambda: engine.load.running == 1)
    for failing in (run(engine, grammar=BROKEN), innocent):
        with pytest.raises(LocalEngineError, match=r"a decoding step failed: .*Unclosed"):
            await failing
    assert len((await run(engine)).tokens) == 16, "the pipeline was built anew"

    def cannot() -> None:
        raise LocalEngineError("cannot load it again")

    monkeypatch.setattr(engine, "_build", cannot)
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    with pytest.raises(LocalEngineError, match="a decoding step failed"):
        await run(engine, grammar=BROKEN)
    engine._thread.join(10)
    assert "cannot load it again" in str(engine.failure)
    with pytest.raises(LocalEngineError, match="cannot load it again"):
        await run(engine)
    assert capfd.readouterr().out == "", "nothing of the engine's reaches stdout"
