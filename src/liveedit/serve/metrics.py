"""Metrics of a server, for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Metrics"]

BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The counts of one server."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.registry = registry
        self.requests = Counter(
            "liveedit_requests", "Requests", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "liveedit_request_seconds", "Time of requests", ["route"], registry=registry
        )
        self.batch = Histogram(
            "liveedit_batch_size", "Questions answered together", buckets=BATCHES, registry=registry
        )
        self.tokens = Counter("liveedit_tokens", "Tokens", ["kind"], registry=registry)
        self.firings = Counter("liveedit_firings", "Firings of edits", registry=registry)
        self.queue = Gauge("liveedit_queue", "Questions that wait", registry=registry)
        self.edits = Gauge("liveedit_edits_in_force", "Edits in force", registry=registry)

    def watch(self, queue: Callable[[], int], edits: Callable[[], int]) -> None:
        """Ask these functions for the present values."""
        self.queue.set_function(queue)
        self.edits.set_function(edits)

    def text(self) -> bytes:
        """All values, in Prometheus' text format."""
        return generate_latest(self.registry)
