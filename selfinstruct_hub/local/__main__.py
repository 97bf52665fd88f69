"""The server as a child process: `child.LocalServer` starts it, and reads one JSON line from it.

For people there is `selfinstruct-hub serve`; this file only announces and ends with its parent.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable

from selfinstruct_hub.errors import SelfInstructError

# How long an orphan may take to stop by itself.
ORPHAN_SECONDS = 10.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m selfinstruct_hub.local")
    parser.add_argument("--announce", action="store_true", help="one JSON line on stdout; end when stdin ends")
    parser.add_argument("--model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--max-batch-size", type=int, default=16)
    parser.add_argument("--max-concurrent-requests", type=int, default=128)
    given = parser.parse_args()
    # What the engine prints must not end up beside the announcement.
    stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**line: object) -> None:
        print(json.dumps(line), file=stdout, flush=True)

    # A key on a command line is there for everyone to see.
    api_key = os.environ.get("SELFINSTRUCT_LOCAL_API_KEY") or None
    stops: list[Callable[[], object]] = []
    if given.announce:
        threading.Thread(target=_end_with_parent, args=(stops,), daemon=True).start()
    try:
        from selfinstruct_hub.local.serve import run_server

        run_server(
            given.model,
            given.host,
            given.port,
            api_key=api_key,
            max_concurrent_requests=given.max_concurrent_requests,
            max_batch_size=given.max_batch_size,
            ready=lambda url, engine: say(url=url, model_id=engine.weights.model_id),
            stops=stops,
        )
    except SelfInstructError as error:
        say(error=str(error), kind=type(error).__name__)
        return error.exit_code
    except ImportError as error:
        say(
            error=f'the embedded engine is not installed: run pip install "selfinstruct-hub[local]" ({error})',
            kind="LocalEngineError",
        )
        return 1
    return 0


def _end_with_parent(stops: list[Callable[[], object]]) -> None:
    """The parent holds the other end of stdin: it ends when the parent does, even after a kill -9."""
    while sys.stdin.buffer.read(4096):
        pass
    for stop in stops:
        stop()
    if stops:
        time.sleep(ORPHAN_SECONDS)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
