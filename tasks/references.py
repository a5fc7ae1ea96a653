"""References: what tasks hand to each other instead of arrays. Small, JSON-able, and good on any machine that
reaches the home."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """A product in the catalog. ref: `name@version`. digest: of its content. reused: it was there already, so
    nothing was computed."""

    ref: str
    digest: str
    reused: bool = False


@dataclass(frozen=True)
class CaptureReference(Reference):
    """A capture: also where its rows lie. snapshot: the store's snapshot id. computed, given: tokens run through the
    model and tokens of all texts (the first is smaller when resumed or shared; both are 0 when reused)."""

    url: str = ""
    snapshot: str = ""
    computed: int = 0
    given: int = 0
