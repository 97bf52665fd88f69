"""The one place that imports openvino, with its telemetry off and its console silent.

Anything else in this room asks `openvino_genai()` for the module, so that a missing installation becomes one
clear line and nothing about this machine is reported to anyone.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

from selfinstruct_hub.errors import LocalEngineError

PACKAGE_PARENT = Path(__file__).resolve().parents[2]
"""Where `python -m selfinstruct_hub...` must be started from, whether installed or in a checkout."""

ENGINE_PROPERTIES = {"EXECUTION_MODE_HINT": "ACCURACY"}
"""Float32 activations and cache. The default (8-bit cache) is no faster on small models, and makes a sampled
text depend on what else is in the batch from its first tokens on."""


def openvino_genai() -> Any:
    """The `openvino_genai` module. Raises LocalEngineError when it is not installed."""
    # `import openvino` sends a usage event to an analytics service and writes an id into the home directory
    # unless a consent file says no. It falls back to a stub when the telemetry package cannot be imported.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    os.environ.setdefault("OPENVINO_LOG_LEVEL", "0")
    try:
        import openvino_genai as module
    except ImportError as error:
        raise LocalEngineError(
            f'the embedded engine is not installed: run pip install "selfinstruct-hub[local]" ({one_line(error)})'
        ) from error
    return module


def one_line(error: object) -> str:
    """An openvino exception as one line: its text spans several and names the build machine's folders."""
    parts = [part.strip() for part in str(error).splitlines() if part.strip()]
    told = [part for part in parts if not part.startswith(("Exception from ", "Check '"))] or parts
    line = " ".join(told) or type(error).__name__
    # "/home/.../cpp/regex_converter.cc:75: Unclosed '['" tells a user nothing before the last colon.
    return re.sub(r"^.*\.(?:cc|cpp|hpp|h):\d+:?\s*", "", line)[:300] or line[:300]
