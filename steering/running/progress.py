"""Progress of long computations, told to whoever started them."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, steps done, and steps in all."""


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""
