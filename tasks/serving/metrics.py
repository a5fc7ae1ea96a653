"""What a server counts, in the words of Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """One registry per server, so that several can live in a process."""

    def __init__(self) -> None:
        here = self._registry = CollectorRegistry()
        self.requests = Counter("trimtab_requests", "Requests by path and status", ["path", "status"], registry=here)
        self.tokens = Counter("trimtab_tokens", "Tokens of prompts and answers", ["kind"], registry=here)
        self.nats = Counter("trimtab_nats", "Nats spent by steered answers, where measured", registry=here)
        self.acts = Counter("trimtab_governor_acts", "Tokens at which a governor held back", registry=here)
        self.answers = Counter("trimtab_answers", "Choices by plan and how they ended", ["plan", "end"], registry=here)
        self.running = Gauge("trimtab_requests_running", "Requests being answered", registry=here)
        self.waiting = Gauge("trimtab_requests_waiting", "Requests waiting for their turn", registry=here)
        self.first = Histogram("trimtab_first_token_seconds", "Until the first text", buckets=SECONDS, registry=here)
        self.whole = Histogram("trimtab_answer_seconds", "Until an answer ends", buckets=SECONDS, registry=here)

    def text(self) -> bytes:
        """As `/metrics` shows it."""
        return generate_latest(self._registry)
