"""The child process that compiles grammars, so that one which hangs or crashes takes nothing with it.

Reads one JSON line a grammar, answers {"error": null or why}; ends when its standard input does.
"""

import json
import os
import queue
import sys
import threading

from selfinstruct_hub.local.runtime import one_line, openvino_genai


def main(weights: str) -> None:
    # What the engine prints would end up between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)  # whoever asked is gone, and the main thread may be compiling for minutes

    threading.Thread(target=read, daemon=True).start()
    genai = openvino_genai()
    # Not the batching pipeline: that one cannot be used again after a grammar that does not compile.
    pipeline = genai.LLMPipeline(weights, "CPU", ATTENTION_BACKEND="SDPA")
    print("ready", file=answers, flush=True)
    while True:
        kind, text = json.loads(lines.get())
        error = None
        try:
            config = genai.GenerationConfig()
            config.max_new_tokens = 1
            config.apply_chat_template = False
            config.structured_output_config = genai.StructuredOutputConfig(
                **{"json_schema" if kind == "json" else "regex": text}
            )
            pipeline.generate("a", config)
        except Exception as failure:  # pybind11 turns every C++ exception into RuntimeError and kin
            error = one_line(failure)
        print(json.dumps({"error": error}), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
