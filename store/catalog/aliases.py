"""Moves of aliases: an alias names the version that its last move says, if it says one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trimtab.store.digests import JSON


@dataclass(frozen=True)
class AliasMove:
    """One recorded move of an alias.

    before: the version it named until then; None when it named none.  after: the version it names since,
    or None.
    who: user@host.  when: ISO time, UTC.  note: why, where somebody said so; "" in moves from before notes.
    """

    alias: str
    before: int | None
    after: int | None
    who: str
    when: str
    note: str = ""

    def as_json(self) -> dict[str, JSON]:
        """The fields as they are recorded; records.py reads them back."""
        record: dict[str, JSON] = {"alias": self.alias, "from": self.before, "to": self.after}
        return record | {"who": self.who, "when": self.when} | ({"note": self.note} if self.note else {})


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

    def before_present(self, alias: str) -> int | None:
        """What an alias named before it first named the version that it names now; None for nothing."""
        present = self.aliases.get(alias)
        moves = (move for move in self.sound if move.alias == alias and move.after == present is not None)
        first = next(moves, None)
        return None if first is None else first.before


def _last(moves: Iterable[AliasMove]) -> dict[str, int]:
    last = {move.alias: move.after for move in moves}
    return {alias: version for alias, version in last.items() if version is not None}
