"""What a catalog holds at one moment: every look-up of one reading or one transaction goes through one View, so that
all of them are about the same state."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import icechunk

from trimtab.store.catalog import nodes
from trimtab.store.catalog.artifact import Artifact
from trimtab.store.catalog.moves import History, Move
from trimtab.store.catalog.payload import LazyArrays
from trimtab.store.catalog.records import checked, checked_move, entries_of, parents_of
from trimtab.store.catalog.refs import CAPTURE, LATEST, Ref, check_name, is_name, number
from trimtab.store.digests import JSON, plain
from trimtab.store.errors import Corrupt, NotFound, nearest

Pair = tuple[str, int]


@dataclass(frozen=True)
class Damaged:
    """Something in the catalog that no publisher wrote. ref: what it is; wrong: what is wrong with it."""

    ref: str
    wrong: str


@dataclass(frozen=True)
class Survey:
    """Everything at once. artifacts: oldest first. aliases: of every name that has some. records_damaged: versions
    whose record is not sound, and what lies where versions lie. moves_damaged: moves, and aliases without a version."""

    artifacts: Sequence[Artifact]
    aliases: dict[str, dict[str, int]]
    records_damaged: Sequence[Damaged]
    moves_damaged: Sequence[Damaged]

    @property
    def damaged(self) -> Sequence[Damaged]:
        """Everything damaged."""
        return [*self.records_damaged, *self.moves_damaged]


@dataclass(frozen=True)
class View:
    """place: for messages. session: None when nothing was ever published. known: records read before, by (name,
    version): versions never change, so they are read once; whether they are there is always looked up."""

    place: str
    session: icechunk.Session | None
    known: dict[Pair, dict[str, JSON]] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Every name that has a version, sorted."""
        return sorted({name for name, _ in self.pairs})

    def versions(self, name: str) -> list[int]:
        """Version numbers of a name, ascending; [] when there are none."""
        return self._numbers(f"artifacts/{name}")

    def last_number(self, name: str) -> int:
        """The highest version number that `name` ever gave, deleted ones included; 0 before the first."""
        return max([*self.versions(name), *self._numbers(f"deleted/{name}")], default=0)

    def resolve(self, ref: str) -> Pair:
        """The name and version of "name", "name@3", "name@latest", "name@<alias>" or "capture:<digest>".

        Raises NotFound, naming what there is instead, and Corrupt for an alias that is not certain.
        """
        if str(ref).startswith(CAPTURE):
            return self._capture(str(ref).removeprefix(CAPTURE))
        wanted = Ref.parse(ref)
        versions = self.versions(wanted.name)
        version = self._selected(wanted, versions)
        if version in versions:
            return wanted.name, version
        self._refuse_deleted(wanted.name, version)
        if not versions:
            raise NotFound(f"{self.place} has no {wanted.name!r}: {nearest(wanted.name, self.names())}")
        raise NotFound(f"{wanted.name} has versions {_span(versions)}; there is no {wanted}.")

    def _selected(self, wanted: Ref, versions: Sequence[int]) -> int:
        if wanted.number is not None:
            return wanted.number
        if wanted.selector == LATEST or not versions:
            return max(versions, default=0)
        history = self.history(wanted.name)
        if wanted.selector in history.aliases:
            return history.aliases[wanted.selector]
        if None in history.moves:
            raise Corrupt(
                f"what {wanted} names is not certain, a move of it is damaged; promote a version to it again."
            )
        raise NotFound(f"{wanted.name} has no alias {wanted.selector!r}: {nearest(wanted.selector, history.aliases)}")

    def _refuse_deleted(self, name: str, version: int) -> None:
        tombstone = self.tombstone(name, version)
        if tombstone:
            who, when = (str(tombstone.get(field))[:80] for field in ("who", "when"))
            raise NotFound(f"{name}@{version} was deleted by {who} at {when}; its number is not used again.")

    def _capture(self, digest: str) -> Pair:
        for artifact in reversed(self.survey("capture").artifacts):
            if artifact.header.get("digest") == digest or artifact.digest == digest:
                return artifact.name, artifact.version
        raise NotFound(f"{self.place} has no capture with digest {digest[:80]!r}; register it first.")

    def get(self, ref: str) -> Artifact:
        """The artifact that `ref` names. Raises NotFound, and Corrupt when its record is not what was published."""
        return self.artifact(*self.resolve(ref))

    def find(self, key: str) -> Artifact | None:
        """The newest sound artifact published with this stage key, or None."""
        keyed = [artifact for artifact in self._sound(self.pairs) if artifact.key == key]
        if keyed:
            return max(keyed, key=lambda artifact: (artifact.created, artifact.version))
        noted = self.attributes(nodes.key_path(key))
        try:
            return self.get(str(noted["ref"])) if noted else None
        except (KeyError, NotFound, Corrupt):  # what the key gave was deleted or damaged
            return None

    def with_digest(self, name: str, digest: str) -> Artifact | None:
        """The version of `name` that has this content, or None."""
        versions = self._sound([(name, version) for version in self.versions(name)])
        return next((artifact for artifact in versions if artifact.digest == digest), None)

    def last_move(self, name: str) -> int:
        """The number of the last move of `name`; 0 before the first."""
        return max(self._numbers(f"moves/{name}"), default=0)

    def history(self, name: str) -> History:
        """Every move of every alias of a name."""
        paths = [f"moves/{name}/{number}" for number in self._numbers(f"moves/{name}")]
        return History([_move(record) for record in self._all_attributes(paths)])

    def artifact(self, name: str, version: int) -> Artifact:
        """A version that is there. Raises Corrupt."""
        found = self._read([(name, version)])[0]
        if isinstance(found, Corrupt):
            raise found
        return self._made(found)

    def tombstone(self, name: str, version: int) -> dict[str, JSON] | None:
        """Who deleted a version, and when; None when nobody did."""
        return self.attributes(f"deleted/{name}/{version}")

    def attributes(self, path: str) -> dict[str, JSON] | None:
        """The record of any node, unchecked; None when there is no such node."""
        return None if self.session is None else nodes.attributes(self.session, path)

    # ---- everything at once

    def survey(self, kind: str | None = None) -> Survey:
        """Every version (of one kind) and everything that is damaged (of any)."""
        records = self._read(self.pairs)
        damaged = [
            Damaged(f"{name}@{version}", str(wrong).partition(" is damaged: ")[2])
            for (name, version), wrong in zip(self.pairs, records, strict=True)
            if isinstance(wrong, Corrupt)
        ]
        artifacts = [self._made(r) for r in records if isinstance(r, dict) and kind in (None, r["kind"])]
        artifacts.sort(key=lambda a: (a.created, a.name, a.version))
        histories = {name: self.history(name) for name in self._children("moves") if is_name(name)}
        aliases = {name: history.aliases for name, history in histories.items()}
        return Survey(artifacts, aliases, [*damaged, *self._strays()], list(self._damaged_moves(histories)))

    def needing(self, name: str, version: int) -> list[str]:
        """What was made from a version or names it. Raises Corrupt when a damaged record may need it, too."""
        pairs = [pair for pair in self.pairs if pair != (name, version)]
        records = self._read(pairs)
        damaged = next((record for record in records if isinstance(record, Corrupt)), None)
        if damaged is not None:
            raise Corrupt(f"whether anything needs {name}@{version} is not certain: {damaged}")
        children = [
            f"{record['name']}@{record['version']}"
            for record in records
            if isinstance(record, dict) and any(parent["ref"] == f"{name}@{version}" for parent in record["parents"])
        ]
        last = {move.alias: move.after for move in self.history(name).sound}
        return sorted(children + [f"{name}@{alias}" for alias, named in last.items() if named == version])

    @cached_property
    def pairs(self) -> list[Pair]:
        """(name, version) of every version."""
        below = self._children("artifacts")
        return [(n, v) for n in below if is_name(n) for v in sorted(filter(None, map(number, below[n])))]

    def _strays(self) -> Iterator[Damaged]:
        for name, below in self._children("artifacts").items():
            if not is_name(name):
                yield Damaged(f"artifacts/{name[:80]!r}", "it lies where a name should be")
            else:
                yield from (
                    Damaged(f"{name}@{text[:80]!r}", "it lies where a version should be")
                    for text in below
                    if not number(text)
                )

    def _damaged_moves(self, histories: dict[str, History]) -> Iterator[Damaged]:
        pairs = set(self.pairs)
        for name, history in histories.items():
            for place, move in enumerate(history.moves, 1):
                if move is None:
                    yield Damaged(f"moves/{name}/{place}", "it is no move of an alias; promote its aliases again")
            for alias, version in history.aliases.items():
                if (name, version) not in pairs:
                    yield Damaged(f"{name}@{alias}", f"it names {name}@{version}, which is not there; promote another")

    # ---- reading

    def _sound(self, pairs: Sequence[Pair]) -> Iterator[Artifact]:
        return (self._made(record) for record in self._read(pairs) if isinstance(record, dict))

    def _read(self, pairs: Sequence[Pair]) -> Sequence[dict[str, JSON] | Corrupt]:
        """Their records, or why they cannot be used; those not known yet are read at once."""
        new = [pair for pair in pairs if pair not in self.known]
        records = self._all_attributes([f"artifacts/{name}/{version}" for name, version in new])
        damaged: dict[Pair, Corrupt] = {}
        for pair, record in zip(new, records, strict=True):
            try:
                self.known[pair] = checked(record, *pair)
            except Corrupt as error:
                damaged[pair] = error
        return [damaged.get(pair) or self.known[pair] for pair in pairs]

    def _made(self, record: dict[str, JSON]) -> Artifact:
        session, path = self.session, f"artifacts/{record['name']}/{record['version']}"
        assert session is not None
        return Artifact(
            name=record["name"],
            version=record["version"],
            kind=record["kind"],
            digest=record["digest"],
            created=record["created"],
            arrays=LazyArrays(entries_of(record), lambda: nodes.open_payload(session, path)),
            header=plain(record["header"]),
            parents=parents_of(record),
            recipe=plain(record["recipe"]),
            metrics=plain(record["metrics"]),
            libraries=dict(record["libraries"]),
            key=record["key"],
        )

    def _numbers(self, path: str) -> list[int]:
        return [] if self.session is None else nodes.numbers(self.session, path)

    def _children(self, path: str) -> dict[str, list[str]]:
        return {} if self.session is None else nodes.names_below(self.session, path)

    def _all_attributes(self, paths: Sequence[str]) -> list[dict[str, JSON] | None]:
        return [] if self.session is None else nodes.attributes_of(self.session, paths)


def known_name(view: View, name: str) -> str:
    """`name`. Raises NotFound when it has no version, Invalid when it can be no name."""
    if not view.versions(check_name(name)):
        raise NotFound(f"{view.place} has no {name!r}: {nearest(name, view.names())}")
    return name


def _move(record: JSON) -> Move | None:
    try:
        return checked_move(record)
    except Corrupt:
        return None


def _span(versions: Sequence[int]) -> str:
    return f"{min(versions)}..{max(versions)}" if len(versions) > 1 else f"only {versions[0]}"
