"""The result of shares of a capture that ran on other workers."""

from collections.abc import Sequence
from typing import Any

from trimtab.steering.errors import SteeringError
from trimtab.store.errors import StoreError
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.progress import report

STAGE = "capturing activations, in shares"


def outcome(futures: Sequence[Any]) -> tuple[int, Exception | None]:
    """The sum of what the shares returned, and the first failure of a worker (killed, or not reachable).

    Raises a share's own error when it would occur again on every attempt (a value that the dtype cannot hold, a full
    disk).
    """
    total, lost = 0, None
    for number, future in enumerate(futures):
        report(STAGE, number, len(futures))
        try:
            total += future.result()
        except (RecipeError, SteeringError, StoreError):
            raise
        except Exception as error:
            lost = lost or error
    report(STAGE, len(futures), len(futures))
    return total, lost
