"""Counts what the server did, and prints it the way Prometheus reads it, under TGI's names."""

from collections import Counter

from selfinstruct_hub.local.engine import Generation, Load


class Metrics:
    def __init__(self) -> None:
        self.requests = 0
        self.successes = 0
        self.failures: Counter[str] = Counter()
        self._sums: Counter[str] = Counter()

    def finished(self, generation: Generation) -> None:
        self.successes += 1
        self._sums["tgi_request_generated_tokens"] += len(generation.tokens)
        self._sums["tgi_request_input_length"] += len(generation.input_ids)
        self._sums["tgi_request_max_new_tokens"] += generation.decoding.max_new_tokens
        seconds = {
            "tgi_request_duration": generation.finished_at - generation.queued_at,
            "tgi_request_queue_duration": generation.started_at - generation.queued_at,
            "tgi_request_inference_duration": generation.finished_at - generation.started_at,
        }
        for name, value in seconds.items():
            self._sums[name] += value  # type: ignore[assignment]

    def page(self, load: Load) -> str:
        lines: list[str] = []

        def add(kind: str, name: str, value: float, labels: str = "") -> None:
            header = f"# TYPE {name} {kind}"
            if header not in lines:
                lines.append(header)
            lines.append(f"{name}{labels} {value:g}" if isinstance(value, float) else f"{name}{labels} {value}")

        def add_sum(name: str, total: float, count: int) -> None:
            lines.extend([f"# TYPE {name} summary", f"{name}_sum {total}", f"{name}_count {count}"])

        add("counter", "tgi_request_count", self.requests)
        add("counter", "tgi_request_success", self.successes)
        for error, count in sorted(self.failures.items()):
            add("counter", "tgi_request_failure", count, f'{{err="{error}"}}')
        add("gauge", "tgi_queue_size", load.waiting)
        add("gauge", "tgi_batch_current_size", load.running)
        # One observation a decoding step: the mean is how many requests shared a step.
        add_sum("tgi_batch_next_size", load.batched, load.steps)
        for name, total in sorted(self._sums.items()):
            add_sum(name, total, self.successes)
        return "\n".join(lines) + "\n"
