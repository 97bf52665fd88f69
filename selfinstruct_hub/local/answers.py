"""What a finished or running generation looks like in TGI's JSON and headers. Pure."""

from typing import Any

from selfinstruct_hub.local.engine import Generation, Token
from selfinstruct_hub.local.protocol import Parameters


def token(taken: Token) -> dict[str, Any]:
    return {"id": taken.id, "text": taken.text, "logprob": taken.logprob, "special": taken.special}


def generated_text(generation: Generation, inputs: str, parameters: Parameters) -> str:
    return inputs + generation.text if parameters.return_full_text else generation.text


def seed(generation: Generation) -> int | None:
    """TGI tells a seed only where one was used."""
    return generation.decoding.seed if generation.decoding.do_sample else None


def response(generation: Generation, inputs: str, parameters: Parameters) -> dict[str, Any]:
    answer: dict[str, Any] = {"generated_text": generated_text(generation, inputs, parameters)}
    if parameters.details or parameters.decoder_input_details:
        answer["details"] = {
            "finish_reason": generation.finish_reason,
            "generated_tokens": len(generation.tokens),
            "seed": seed(generation),
            "prefill": [],  # as every TGI that was not started with --enable-prefill-logprobs
            "tokens": [token(taken) for taken in generation.tokens],
        }
    return answer


def stream_event(
    taken: Token, index: int, generation: Generation, inputs: str, parameters: Parameters, *, last: bool
) -> dict[str, Any]:
    return {
        "index": index,
        "token": token(taken),
        "generated_text": generated_text(generation, inputs, parameters) if last else None,
        "details": {
            "finish_reason": generation.finish_reason,
            "generated_tokens": len(generation.tokens),
            "seed": seed(generation),
            "input_length": len(generation.input_ids),
        }
        if last
        else None,
    }


def headers(generation: Generation) -> dict[str, str]:
    """Times in milliseconds."""
    inference = generation.finished_at - generation.started_at
    return {
        "x-compute-type": "cpu+openvino",
        "x-compute-time": f"{generation.finished_at - generation.queued_at:.3f}",
        "x-compute-characters": str(len(generation.text)),
        "x-prompt-tokens": str(len(generation.input_ids)),
        "x-generated-tokens": str(len(generation.tokens)),
        "x-total-time": str(round(1000 * (generation.finished_at - generation.queued_at))),
        "x-validation-time": "0",
        "x-queue-time": str(round(1000 * (generation.started_at - generation.queued_at))),
        "x-inference-time": str(round(1000 * inference)),
        "x-time-per-token": str(round(1000 * inference / max(1, len(generation.tokens)))),
    }
