"""What came of a round of shares that ran somewhere else."""

from collections.abc import Sequence
from typing import Any

from trimtab.steering.errors import SteeringError
from trimtab.store.errors import StoreError
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.progress import report

STAGE = "capturing activations, in shares"


def outcome(futures: Sequence[Any]) -> tuple[int, Exception | None]:
    """The sum of what the shares returned, and the first loss: a worker that was killed, or could not be reached.

    Raises what a share raised because of what was asked of it (a value that does not fit, a full disk): a second try
    would end the same way.
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
