"""The catalog at one snapshot. All look-ups of one reading or one transaction go through one View, so that they see the
same state."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import icechunk
import numpy as np

from trimtab.store.catalog import nodes
from trimtab.store.catalog.aliases import AliasHistory, AliasMove
from trimtab.store.catalog.artifact import Artifact
from trimtab.store.catalog.payload import LazyArrays
from trimtab.store.catalog.records import checked, checked_move, entries_of, parents_of
from trimtab.store.catalog.refs import CAPTURE, LATEST, Ref, check_name, is_name, number
from trimtab.store.catalog.remarks import Remarks, read_remarks
from trimtab.store.catalog.search import Searchable, searchable
from trimtab.store.catalog.signatures import Signature, read_signatures
from trimtab.store.digests import JSON, plain
from trimtab.store.errors import Corrupt, NotFound, nearest

NamedVersion = tuple[str, int]


@dataclass(frozen=True)
class Defect:
    """Something in the catalog that is damaged, or that no publisher wrote.

    ref: the version, the move or the alias.  wrong: what is wrong with it, and after "; " how to repair it.
    """

    ref: str
    wrong: str


@dataclass(frozen=True)
class VersionRecord:
    """A version as it is stored. attributes: its record. payload: the bytes of all its arrays, uint8 [bytes]."""

    attributes: Mapping[str, JSON]
    payload: np.ndarray

    @property
    def pair(self) -> NamedVersion:
        """(name, version)."""
        return self.attributes["name"], self.attributes["version"]


@dataclass(frozen=True)
class Inventory:
    """Everything in a catalog.

    artifacts: the sound versions, oldest first.
    aliases: name -> alias -> version.
    record_defects: versions with a damaged record, and nodes that lie where a name or version should be.
    alias_defects: moves and remarks that cannot be read, and aliases of versions that do not exist.
    """

    artifacts: Sequence[Artifact]
    aliases: dict[str, dict[str, int]]
    record_defects: Sequence[Defect]
    alias_defects: Sequence[Defect]

    @property
    def defects(self) -> Sequence[Defect]:
        """Everything that is damaged."""
        return [*self.record_defects, *self.alias_defects]


@dataclass(frozen=True)
class View:
    """One snapshot of a catalog.

    place: the catalog's URL, for messages.
    session: of the snapshot; None when nothing was ever published.
    records: cache of records that were read and found sound, by (name, version). Versions never change, so the cache is
    shared between views; whether a version exists is looked up in the session.
    """

    place: str
    session: icechunk.Session | None
    records: dict[NamedVersion, dict[str, JSON]] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Every name that has a version, sorted."""
        return sorted({name for name, _ in self.pairs})

    def versions(self, name: str) -> list[int]:
        """Version numbers of a name, ascending; [] when there are none."""
        return self._numbers(f"artifacts/{name}")

    def last_number(self, name: str) -> int:
        """The highest version number that `name` ever had, deleted ones included; 0 before the first."""
        return max([*self.versions(name), *self._numbers(f"deleted/{name}")], default=0)

    def resolve(self, ref: str) -> NamedVersion:
        """The name and version of "name", "name@3", "name@latest", "name@<alias>" or "capture:<digest>".

        Raises NotFound, naming what there is instead, and Corrupt for an alias that is not certain.
        """
        if str(ref).startswith(CAPTURE):
            return self._capture(str(ref).removeprefix(CAPTURE))
        reference = Ref.parse(ref)
        name, versions = reference.name, self.versions(reference.name)
        version = self._selected(reference, versions)
        if version in versions:
            return name, version
        self._refuse_deleted(name, version)
        if not versions:
            raise NotFound(f"{self.place} has no {name!r}: {nearest(name, self.names())}")
        raise NotFound(f"{name} has versions {_span(versions)}; there is no {reference}.")

    def _selected(self, reference: Ref, versions: Sequence[int]) -> int:
        """The version number that a reference selects, whether or not it exists; 0 when the name has no versions."""
        if reference.number is not None:
            return reference.number
        if reference.selector == LATEST or not versions:
            return max(versions, default=0)
        history, alias = self.history(reference.name), reference.selector
        if alias in history.aliases:
            return history.aliases[alias]
        if None in history.moves:
            raise Corrupt(
                f"what {reference} names is not certain, a move of it is damaged; promote a version to it again."
            )
        raise NotFound(f"{reference.name} has no alias {alias!r}: {nearest(alias, history.aliases)}")

    def _refuse_deleted(self, name: str, version: int) -> None:
        tombstone = self.tombstone(name, version)
        if tombstone:
            who, when = (str(tombstone.get(field))[:80] for field in ("who", "when"))
            raise NotFound(f"{name}@{version} was deleted by {who} at {when}; its number is not used again.")

    def _capture(self, digest: str) -> NamedVersion:
        for artifact in reversed(self.inventory("capture").artifacts):
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
        note = self.attributes(nodes.key_path(key))
        try:
            return self.get(str(note["ref"])) if note else None
        except (KeyError, NotFound, Corrupt):  # the version that the key gave was deleted or damaged
            return None

    def with_digest(self, name: str, digest: str) -> Artifact | None:
        """The version of `name` that has this content, or None."""
        versions = self._sound([(name, version) for version in self.versions(name)])
        return next((artifact for artifact in versions if artifact.digest == digest), None)

    def last_move(self, name: str) -> int:
        """The number of the last move of `name`; 0 before the first."""
        return max(self._numbers(f"moves/{name}"), default=0)

    def history(self, name: str) -> AliasHistory:
        """Every move of every alias of a name."""
        paths = [f"moves/{name}/{number}" for number in self._numbers(f"moves/{name}")]
        return AliasHistory([_move(record) for record in self._all_attributes(paths)])

    def remarks(self, name: str) -> Remarks:
        """Everything that was said of a name and its versions."""
        return read_remarks(self._all_attributes([f"remarks/{name}/{n}" for n in self._numbers(f"remarks/{name}")]))

    def last_remark(self, name: str) -> int:
        """The number of the last remark about `name`; 0 before the first."""
        return max(self._numbers(f"remarks/{name}"), default=0)

    def searchables(self, kind: str | None = None) -> list[Searchable]:
        """Every sound version (of one kind), oldest first, with what can be searched for."""
        inventory = self.inventory(kind)
        remarks = {name: self.remarks(name) for name in {artifact.name for artifact in inventory.artifacts}}
        return [
            searchable(a, remarks[a.name].about(a.version), _naming(inventory.aliases.get(a.name, {}), a.version))
            for a in inventory.artifacts
        ]

    def artifact(self, name: str, version: int) -> Artifact:
        """A version that exists. Raises Corrupt when its record is damaged."""
        record = self._read([(name, version)])[0]
        if isinstance(record, Corrupt):
            raise record
        return self._artifact_of(record)

    def record(self, name: str, version: int) -> VersionRecord:
        """A version as it is stored: its record, checked, and its payload, whose arrays are compared with their
        digests. Raises Corrupt."""
        artifact = self.artifact(name, version)
        for array in artifact.arrays:
            artifact.arrays[array]
        assert self.session is not None
        payload = nodes.open_payload(self.session, f"artifacts/{name}/{version}")[:]
        return VersionRecord(dict(self.records[name, version]), np.asarray(payload))

    def signatures(self, name: str) -> list[Signature]:
        """Every signature of a version of `name`."""
        paths = [f"signatures/{name}/{n}" for n in self._numbers(f"signatures/{name}")]
        return read_signatures(self._all_attributes(paths))

    def last_signature(self, name: str) -> int:
        """The number of the last signature of a version of `name`; 0 before the first."""
        return max(self._numbers(f"signatures/{name}"), default=0)

    def left_at(self, name: str, version: int) -> str | None:
        """The home where the rows of a capture stayed when its version was copied here without them, else None."""
        note = self.attributes(f"elsewhere/{name}/{version}")
        return None if note is None else str(note.get("home"))

    def tombstone(self, name: str, version: int) -> dict[str, JSON] | None:
        """Who deleted a version, and when; None when nobody did."""
        return self.attributes(f"deleted/{name}/{version}")

    def attributes(self, path: str) -> dict[str, JSON] | None:
        """The record of any node, unchecked; None when there is no such node."""
        return None if self.session is None else nodes.attributes(self.session, path)

    # ---- everything

    def inventory(self, kind: str | None = None) -> Inventory:
        """Every version (of one kind) and everything that is damaged (of any)."""
        records = self._read(self.pairs)
        damaged = [
            Defect(f"{name}@{version}", str(wrong).partition(" is damaged: ")[2])
            for (name, version), wrong in zip(self.pairs, records, strict=True)
            if isinstance(wrong, Corrupt)
        ]
        artifacts = [self._artifact_of(r) for r in records if isinstance(r, dict) and kind in (None, r["kind"])]
        artifacts.sort(key=lambda a: (a.created, a.name, a.version))
        histories = {name: self.history(name) for name in self._children("moves") if is_name(name)}
        aliases = {name: history.aliases for name, history in histories.items()}
        moves = [*self._damaged_moves(histories), *self._damaged_remarks()]
        return Inventory(artifacts, aliases, [*damaged, *self._strays()], moves)

    def needing(self, name: str, version: int) -> list[str]:
        """References of the versions that have this one as a parent, and of the aliases that name it.

        Raises Corrupt when a damaged record may need it, too.
        """
        others = [pair for pair in self.pairs if pair != (name, version)]
        damaged = next((record for record in self._read(others) if isinstance(record, Corrupt)), None)
        if damaged is not None:
            raise Corrupt(f"whether anything needs {name}@{version} is not certain: {damaged}")
        last = {move.alias: move.after for move in self.history(name).sound}
        naming = [f"{name}@{alias}" for alias, named in last.items() if named == version]
        return sorted(self.children(name, version) + naming)

    def children(self, name: str, version: int) -> list[str]:
        """References of the sound versions that were made from this one, sorted."""
        ref = f"{name}@{version}"
        return sorted(one.ref for one in self._sound(self.pairs) if any(parent.ref == ref for parent in one.parents))

    @cached_property
    def pairs(self) -> list[NamedVersion]:
        """(name, version) of every version."""
        below = self._children("artifacts")
        return [(n, v) for n in below if is_name(n) for v in sorted(filter(None, map(number, below[n])))]

    def _strays(self) -> Iterator[Defect]:
        for name, below in self._children("artifacts").items():
            if not is_name(name):
                yield Defect(f"artifacts/{name[:80]!r}", "it lies where a name should be")
            else:
                yield from (
                    Defect(f"{name}@{text[:80]!r}", "it lies where a version should be")
                    for text in below
                    if not number(text)
                )

    def _damaged_moves(self, histories: dict[str, AliasHistory]) -> Iterator[Defect]:
        pairs = set(self.pairs)
        for name, history in histories.items():
            for place, move in enumerate(history.moves, 1):
                if move is None:
                    yield Defect(f"moves/{name}/{place}", "it is no move of an alias; promote its aliases again")
            for alias, version in history.aliases.items():
                if (name, version) not in pairs:
                    yield Defect(f"{name}@{alias}", f"it names {name}@{version}, which is not there; promote another")

    def _damaged_remarks(self) -> Iterator[Defect]:
        for name in filter(is_name, self._children("remarks")):
            for place, remark in enumerate(self.remarks(name).records, 1):
                if remark is None:
                    yield Defect(f"remarks/{name}/{place}", "it is no remark; say it again")

    # ---- reading

    def _sound(self, pairs: Sequence[NamedVersion]) -> Iterator[Artifact]:
        return (self._artifact_of(record) for record in self._read(pairs) if isinstance(record, dict))

    def _read(self, pairs: Sequence[NamedVersion]) -> Sequence[dict[str, JSON] | Corrupt]:
        """For each pair its record, or the reason why it cannot be used. Those not in the cache are read together."""
        unread = [pair for pair in pairs if pair not in self.records]
        records = self._all_attributes([f"artifacts/{name}/{version}" for name, version in unread])
        damaged: dict[NamedVersion, Corrupt] = {}
        for pair, record in zip(unread, records, strict=True):
            try:
                self.records[pair] = checked(record, *pair)
            except Corrupt as error:
                damaged[pair] = error
        return [damaged.get(pair) or self.records[pair] for pair in pairs]

    def _artifact_of(self, record: dict[str, JSON]) -> Artifact:
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


def _naming(aliases: dict[str, int], version: int) -> list[str]:
    return [alias for alias, named in aliases.items() if named == version]


def _move(record: JSON) -> AliasMove | None:
    try:
        return checked_move(record)
    except Corrupt:
        return None


def _span(versions: Sequence[int]) -> str:
    return f"{min(versions)}..{max(versions)}" if len(versions) > 1 else f"only {versions[0]}"
