"""Moves of aliases: which version an alias names is what its last move says."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Move:
    """One recorded move of an alias. before: the version it named, or None. when: ISO time, UTC."""

    alias: str
    before: int | None
    after: int
    who: str
    when: str


@dataclass(frozen=True)
class History:
    """Every move of every alias of a name, oldest first; None stands for one that cannot be read."""

    moves: Sequence[Move | None]

    @property
    def sound(self) -> list[Move]:
        """The moves that can be read."""
        return [move for move in self.moves if move is not None]

    @property
    def aliases(self) -> dict[str, int]:
        """alias -> version, as far as it is certain: a move that cannot be read may have moved any alias."""
        certain = 0
        if None in self.moves:
            certain = len(self.moves) - list(reversed(self.moves)).index(None)
        return _last(move for move in self.moves[certain:] if move is not None)

    @property
    def uncertain(self) -> set[str]:
        """Aliases that a move that cannot be read may have moved since."""
        return _last(self.sound).keys() - self.aliases.keys()


def _last(moves: Iterable[Move]) -> dict[str, int]:
    return {move.alias: move.after for move in moves}
