"""Tokens per second of the embedded engine: through the whole tool, and called directly.

    python -m tests.benchmarks.engine [--requests 32] [--pairs 2]

Both answer the same prompts with the same decoding, grammar and batch size. "Through the whole tool" is `grow`:
HTTP, server, pool, parser, filters and novelty, from the first request to the last verdict. "Directly" is
OpenVINO GenAI's pipeline in a process of its own, all requests handed over at once. The two take turns, and the
ratio is that of each pair, so that a machine that changes its speed does not decide it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from selfinstruct_hub import config, events, run
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.workspace import Workspace

BATCH = 16


def through_the_tool(folder: Path, requests: int) -> tuple[float, Path]:
    """Tokens a second of one `grow`, stopped by its cap; and the pool it leaves."""
    workspace = Workspace.create(folder, config.Settings())
    settings = config.with_overrides(workspace.settings(), {"tasks": 100_000})
    started = 0.0

    def report(event: events.Event) -> None:
        nonlocal started
        if isinstance(event, events.Connected):
            started = time.monotonic()

    run.grow(workspace, settings, max_requests=requests, hooks=run.Hooks(report=report))
    seconds = time.monotonic() - started
    with Pool.open(workspace.pool_file, read_only=True) as pool:
        tokens = sum(completion.generated_tokens or 0 for _, completion in pool.completions(1))
        judged = pool.counts(1)["completions"]
    assert judged == requests, f"{judged} of {requests} answers were judged"
    return tokens / seconds, workspace.pool_file


DIRECT = """
import json, sys, time
import numpy, openvino
from selfinstruct_hub.local.runtime import ENGINE_PROPERTIES, openvino_genai
from selfinstruct_hub.local.weights import find_weights
genai = openvino_genai()
scheduler = genai.SchedulerConfig()
scheduler.cache_size, scheduler.max_num_seqs, scheduler.enable_prefix_caching = 2, int(sys.argv[1]), True
properties = ENGINE_PROPERTIES if sys.argv[2] == "same" else {}
pipeline = genai.ContinuousBatchingPipeline(str(find_weights(None).path), scheduler, "CPU", properties)
tokenizer = pipeline.get_tokenizer()
requests = json.load(sys.stdin)
def add(number, prompt, decoding):
    c = genai.GenerationConfig()
    c.apply_chat_template = False
    c.set_eos_token_id(tokenizer.get_eos_token_id())
    c.do_sample, c.max_new_tokens = True, decoding["max_new_tokens"]
    c.temperature, c.top_p, c.rng_seed = decoding["temperature"], decoding["top_p"], decoding["seed"]
    if "grammar" in decoding:
        c.structured_output_config = genai.StructuredOutputConfig(regex=decoding["grammar"][1])
    c.frequency_penalty = decoding.get("frequency_penalty", 0.0)
    c.stop_strings = set(decoding["stop"])
    return pipeline.add_request(number, tokenizer.encode(prompt, add_special_tokens=False).input_ids, c)
started = time.monotonic()
handles = [add(number, *request) for number, request in enumerate(requests)]
while pipeline.has_non_finished_requests():
    pipeline.step()
tokens = sum(len(handle.read_all()[0].generated_ids) for handle in handles)
print(json.dumps(tokens / (time.monotonic() - started)))
"""


def directly(pool_file: Path, properties: str = "same") -> float:
    """Tokens a second of the engine alone on the very requests that the pool holds."""
    with Pool.open(pool_file, read_only=True) as pool:
        requests = [
            (request.prompt, {"stop": [], **request.decoding.as_dict()}) for request, _ in pool.completions(1)
        ]
    done = subprocess.run(
        [sys.executable, "-c", DIRECT, str(BATCH), properties],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=2)
    given = parser.parse_args()
    ratios = []
    pool_file = Path()
    with tempfile.TemporaryDirectory() as folder:
        for pair in range(given.pairs):
            tool, pool_file = through_the_tool(Path(folder) / str(pair), given.requests)
            direct = directly(pool_file)
            ratios.append(tool / direct)
            print(
                f"pair {pair + 1}: tool {tool:.0f} tokens/s, direct {direct:.0f} tokens/s, ratio {ratios[-1]:.2f}"
            )
        default = directly(pool_file, "default")
        print(f"for comparison, the engine's default precision, directly: {default:.0f} tokens/s")
    print(f"median ratio {statistics.median(ratios):.2f} (batch {BATCH}, {given.requests} requests a side)")


if __name__ == "__main__":
    main()
