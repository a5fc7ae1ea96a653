"""What a server is started with, and what it refuses."""

from dataclasses import dataclass


class Refused(Exception):
    """A request that gets an error instead of an answer. status: of HTTP. kind: as OpenAI's interface names it."""

    def __init__(self, message: str, status: int = 400, kind: str = "invalid_request_error"):
        super().__init__(message)
        self.status, self.kind = status, kind


@dataclass(frozen=True)
class Limits:
    """tokens: most of an answer. body: bytes of a request. running, waiting: answers that are written at once, and that
    may wait for their turn. seconds: until an answer is given up. choices: most of one request. strength: most times
    the published one. refresh: seconds for which an alias is taken to stay where it is."""

    tokens: int = 1024
    body: int = 1 << 20
    running: int = 32
    waiting: int = 128
    seconds: float = 300.0
    choices: int = 8
    strength: float = 20.0
    refresh: float = 1.0


@dataclass(frozen=True)
class Serving:
    """name: of the model, in `/v1/models`. plans: references that may be asked for; none means every plan of the
    catalog. keys: bearer tokens, one of which a request must bring; none lets everybody in. nats: measure what each
    steered answer spent, unless its request says otherwise."""

    name: str
    plans: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    nats: bool = True
    limits: Limits = Limits()
