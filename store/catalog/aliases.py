"""Moves of aliases: an alias names the version that its last move says."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class AliasMove:
    """One recorded move of an alias.

    before: the version it named until then; None at its first move.  after: the version it names since.
    who: user@host.  when: ISO time, UTC.
    """

    alias: str
    before: int | None
    after: int
    who: str
    when: str


@dataclass(frozen=True)
class AliasHistory:
    """Every move of every alias of a name, oldest first; None in the place of a move that cannot be read."""

    moves: Sequence[AliasMove | None]

    @property
    def sound(self) -> list[AliasMove]:
        """The moves that can be read."""
        return [move for move in self.moves if move is not None]

    @property
    def aliases(self) -> dict[str, int]:
        """alias -> version, of aliases that were moved after the last move that cannot be read: that one may have moved
        any alias."""
        certain = 0
        if None in self.moves:
            certain = len(self.moves) - list(reversed(self.moves)).index(None)
        return _last(move for move in self.moves[certain:] if move is not None)

    @property
    def uncertain(self) -> set[str]:
        """Aliases that were last moved before a move that cannot be read."""
        return _last(self.sound).keys() - self.aliases.keys()


def _last(moves: Iterable[AliasMove]) -> dict[str, int]:
    return {move.alias: move.after for move in moves}
