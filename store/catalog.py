"""The catalog: every product is an immutable numbered version of a name.

On disk one Icechunk repository:

    /artifacts/<name>/<version>    uint8 payload of all arrays; its attributes hold the record (header, ...)
    /moves/<name>/<number>         one move of an alias: alias, from, to, who, when
    /keys/<sha256 of key>          a stage key whose content was published before under another key
    /deleted/<name>/<version>      who deleted a version, and when; its number is never given again

A version's number is the path of a new node. Two publishers who take the same number meet in Icechunk's
conflict detection, and the second takes the next one. Nothing is ever overwritten.
"""

import getpass
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import TypeVar

import icechunk
import numpy as np

from trimtab.store import nodes
from trimtab.store.activations import ActivationStore
from trimtab.store.artifact import Artifact, Content, Parent, libraries, seal
from trimtab.store.captures import Captures
from trimtab.store.digests import JSON, frozen_json, plain
from trimtab.store.errors import Conflict, NotFound, nearest
from trimtab.store.location import BRANCH, Location, readable, sound
from trimtab.store.payload import Entry, LazyArrays, pack
from trimtab.store.refs import CAPTURE, LATEST, Ref, check_alias, check_name

TRIES = 200
T = TypeVar("T")


@dataclass(frozen=True)
class Move:
    """One recorded move of an alias. before: the version it named, or None. when: ISO time, UTC."""

    alias: str
    before: int | None
    after: int
    who: str
    when: str


@dataclass(frozen=True)
class _Draft:
    """All of a record but its number."""

    name: str
    content: Content
    payload: np.ndarray
    metrics: JSON
    key: str | None

    def record(self, version: int) -> dict[str, JSON]:
        content = self.content
        record: dict[str, JSON] = {
            "name": self.name,
            "version": version,
            "kind": content.kind,
            "digest": content.digest,
            "created": _now(),
            "arrays": {name: entry.as_json() for name, entry in content.entries.items()},
            "header": dict(content.header),
            "parents": [{"ref": p.ref, "digest": p.digest} for p in content.parents],
            "recipe": content.recipe,
            "metrics": self.metrics,
            "libraries": dict(libraries()),
            "key": self.key,
        }
        return record | {"seal": seal(record)}


class Catalog:
    """All products at one place: `Catalog("folder")`, `Catalog("s3://bucket/prefix")`.

    The first publish creates it; reading one that does not exist finds nothing.
    """

    def __init__(self, url: str | os.PathLike[str] | Location) -> None:
        self.location = Location.parse(url)
        self._opened: icechunk.Repository | None = None
        self._records: dict[tuple[str, int], dict] = {}  # versions never change, so they are read once

    def __repr__(self) -> str:
        return f"Catalog({self.location.url!r})"

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return Catalog, (self.location.url,)

    # ---- publishing

    def publish(
        self,
        name: str,
        kind: str,
        arrays: Mapping[str, np.ndarray],
        header: Mapping[str, JSON],
        parents: Sequence[str] = (),
        recipe: JSON = None,
        metrics: JSON = None,
        key: str | None = None,
    ) -> Artifact:
        """Make the next version of `name`; content that a version of it already has gives that version.

        parents: "name@3", "name@alias" or "capture:<digest>"; they must exist, and are stored pinned.
        Raises Invalid (name, header, arrays), NotFound (a parent), Conflict after 200 lost races.
        """
        check_name(name)
        entries, payload = pack(arrays)
        pinned = tuple(Parent(a.ref, a.digest) for a in map(self.get, parents))
        content = Content(kind, frozen_json(header, f"the header of {name}"), entries, pinned, plain(recipe, "recipe"))
        draft = _Draft(name, content, payload, plain(metrics, "metrics"), key)
        return self.get(f"{name}@{self._retry(f'publish {name}', lambda session: self._add(session, draft))}")

    def publish_capture(
        self, name: str, store: ActivationStore, metrics: JSON = None, key: str | None = None
    ) -> Artifact:
        """Register a finished capture as a version of `name`, kind "capture": a header, no arrays.

        Raises StoreError when the capture is not complete.
        """
        header = Captures.beside(self.location).record(store)
        return self.publish(name, "capture", {}, header, metrics=metrics, key=key)

    def _add(self, session: icechunk.Session, draft: _Draft) -> int:
        versions = nodes.numbers(session, f"artifacts/{draft.name}")
        digest = draft.content.digest
        for record in self._some(session, [(draft.name, version) for version in versions]):
            if record["digest"] == digest:
                _note_key(session, draft.key, record)
                return record["version"]
        gone = nodes.numbers(session, f"deleted/{draft.name}")
        version = max([*versions, *gone], default=0) + 1
        nodes.add_array(session, f"artifacts/{draft.name}/{version}", draft.record(version), draft.payload)
        return version

    def _retry(self, what: str, act: Callable[[icechunk.Session], T]) -> T:
        """Run `act` in a session at the tip and commit what it changed, until nobody was in the way."""
        repository = self._repository(create=True)
        assert repository is not None
        for _ in range(TRIES):
            with self.location.lock():
                session = sound(repository.writable_session(BRANCH))
                result = act(session)
                if not session.has_uncommitted_changes:
                    return result
                try:
                    self.location.commit(session, what)
                    return result
                except Conflict:
                    continue
        raise Conflict(f"{self.location.url}: {what} lost {TRIES} races in a row; use fewer publishers at once.")

    # ---- reading

    def get(self, ref: str) -> Artifact:
        """The artifact of "name", "name@3", "name@latest", "name@<alias>" or "capture:<digest>".

        Raises NotFound, naming what there is instead.
        """
        if str(ref).startswith(CAPTURE):
            return self._capture(str(ref).removeprefix(CAPTURE))
        asked = Ref.parse(ref)
        session = self._session()
        versions = nodes.numbers(session, f"artifacts/{asked.name}") if session else []
        if session is None or not versions:
            raise NotFound(f"{self.location.url} has no {asked.name!r}: {nearest(asked.name, self.names())}")
        version = self._version(session, asked, versions)
        if version not in versions:
            raise NotFound(f"{asked.name} has versions {_span(versions)}; there is no {asked}.")
        return self._artifact(session, asked.name, version)

    def _version(self, session: icechunk.Session, asked: Ref, versions: Sequence[int]) -> int:
        if asked.selector == LATEST:
            return max(versions)
        if asked.number is not None:
            return asked.number
        aliases = _aliases(_moves(session, asked.name))
        if asked.selector not in aliases:
            raise NotFound(f"{asked.name} has no alias {asked.selector!r}: {nearest(asked.selector, aliases)}")
        return aliases[asked.selector]

    def _capture(self, digest: str) -> Artifact:
        for artifact in reversed(self.list("capture")):
            if artifact.header.get("digest") == digest or artifact.digest == digest:
                return artifact
        raise NotFound(f"{self.location.url} has no capture with digest {digest!r}; register it first.")

    def find(self, key: str) -> Artifact | None:
        """The newest artifact published with this stage key, or None."""
        session = self._session()
        if session is None:
            return None
        found = [record for record in self._all(session) if record["key"] == key]
        if found:
            newest = max(found, key=lambda record: (record["created"], record["version"]))
            return self._artifact(session, newest["name"], newest["version"])
        noted = nodes.attributes(session, _key_path(key))
        try:
            return None if noted is None else self.get(noted["ref"])
        except NotFound:  # what the key gave was deleted
            return None

    def names(self) -> list[str]:
        """Every name, sorted."""
        session = self._session()
        if session is None:
            return []
        return sorted(name for name, found in nodes.numbers_below(session, "artifacts").items() if found)

    def versions(self, name: str) -> list[int]:
        """The version numbers of a name, ascending. Raises NotFound for an unknown name."""
        session = self._session()
        versions = nodes.numbers(session, f"artifacts/{check_name(name)}") if session else []
        if not versions:
            raise NotFound(f"{self.location.url} has no {name!r}: {nearest(name, self.names())}")
        return sorted(versions)

    def list(self, kind: str | None = None) -> Sequence[Artifact]:
        """Every version of every name (of one kind), oldest first. Arrays are not read."""
        session = self._session()
        if session is None:
            return []
        records = [record for record in self._all(session) if kind in (None, record["kind"])]
        records.sort(key=lambda record: (record["created"], record["name"], record["version"]))
        return [self._artifact(session, record["name"], record["version"]) for record in records]

    # ---- aliases

    def promote(self, ref: str, alias: str, who: str | None = None) -> Move:
        """Let `name@alias` mean the version that `ref` names; the move is recorded for ever.

        Raises NotFound (ref), Invalid (alias).
        """
        check_alias(alias)
        artifact = self.get(ref)
        name, by = artifact.name, who or _who()

        def move(session: icechunk.Session) -> Move:
            moves = _moves(session, name)
            made = Move(alias, _aliases(moves).get(alias), artifact.version, by, _now())
            record = {"alias": alias, "from": made.before, "to": made.after, "who": by, "when": made.when}
            nodes.add_group(session, f"moves/{name}/{len(moves) + 1}", record)
            return made

        return self._retry(f"promote {artifact.ref} to {alias}", move)

    def aliases(self, name: str) -> dict[str, int]:
        """alias -> version. Raises NotFound for an unknown name."""
        return _aliases(self.history(name))

    def history(self, name: str) -> Sequence[Move]:
        """Every move of every alias of a name, oldest first. Raises NotFound for an unknown name."""
        self.versions(name)
        session = self._session()
        return _moves(session, name) if session else []

    # ---- deleting

    def delete(self, ref: str, who: str | None = None) -> Artifact:
        """Take a version out of the catalog; returns what it was. Its number is not used again.

        Raises NotFound, and Conflict naming what still needs it: products made from it, or aliases.
        """
        artifact = self.get(ref)
        path = f"{artifact.name}/{artifact.version}"

        def remove(session: icechunk.Session) -> None:
            self._refuse_needed(session, artifact)
            nodes.remove(session, f"artifacts/{path}")
            nodes.add_group(
                session, f"deleted/{path}", {"digest": artifact.digest, "who": who or _who(), "when": _now()}
            )

        self._retry(f"delete {artifact.ref}", remove)
        self._records.pop((artifact.name, artifact.version), None)
        return artifact

    def _refuse_needed(self, session: icechunk.Session, artifact: Artifact) -> None:
        made = [
            f"{record['name']}@{record['version']}"
            for record in self._all(session)
            if any(parent["ref"] == artifact.ref for parent in record["parents"])
        ]
        aliases = _aliases(_moves(session, artifact.name))
        named = [f"{artifact.name}@{alias}" for alias, version in aliases.items() if version == artifact.version]
        if made or named:
            needed = ", ".join(sorted(made + named)[:8])
            raise Conflict(f"{artifact.ref} cannot be deleted, {needed} still needs it; delete or move that first.")

    # ---- how

    def _repository(self, create: bool = False) -> icechunk.Repository | None:
        if self._opened is None and (create or self.location.exists()):
            self._opened = self.location.repository(create=create)
        return self._opened

    def _session(self) -> icechunk.Session | None:
        """A reading session at the tip, or None while nothing was ever published."""
        repository = self._repository()
        if repository is None:
            return None
        with readable(f"the catalog at {self.location.url}"):
            return sound(repository.readonly_session(BRANCH))

    def _all(self, session: icechunk.Session) -> Sequence[dict]:
        found = nodes.numbers_below(session, "artifacts")
        return self._some(session, [(name, version) for name in found for version in found[name]])

    def _some(self, session: icechunk.Session, wanted: Sequence[tuple[str, int]]) -> Sequence[dict]:
        """Records, read at once where they are not known yet. Raises NotFound."""
        missing = [pair for pair in wanted if pair not in self._records]
        found = nodes.attributes_of(session, [f"artifacts/{name}/{version}" for name, version in missing])
        for (name, version), record in zip(missing, found, strict=True):
            if record is None:
                raise NotFound(f"{name}@{version} is not in {self.location.url}.")
            self._records[name, version] = record
        return [self._records[pair] for pair in wanted]

    def _record(self, session: icechunk.Session, name: str, version: int) -> dict:
        return self._some(session, [(name, version)])[0]

    def _artifact(self, session: icechunk.Session, name: str, version: int) -> Artifact:
        record = self._record(session, name, version)
        entries = {label: Entry.from_json(entry) for label, entry in record["arrays"].items()}
        return Artifact(
            name=name,
            version=version,
            kind=record["kind"],
            digest=record["digest"],
            created=record["created"],
            arrays=LazyArrays(entries, lambda: nodes.open_payload(session, f"artifacts/{name}/{version}")),
            header=plain(record["header"]),
            parents=tuple(Parent(**parent) for parent in record["parents"]),
            recipe=plain(record["recipe"]),
            metrics=plain(record["metrics"]),
            libraries=dict(record["libraries"]),
            key=record["key"],
        )


def _moves(session: icechunk.Session, name: str) -> list[Move]:
    paths = [f"moves/{name}/{number}" for number in nodes.numbers(session, f"moves/{name}")]
    records = [record or {} for record in nodes.attributes_of(session, paths)]
    return [Move(r["alias"], r["from"], r["to"], r["who"], r["when"]) for r in records]


def _aliases(moves: Sequence[Move]) -> dict[str, int]:
    return {move.alias: move.after for move in moves}


def _note_key(session: icechunk.Session, key: str | None, record: Mapping[str, JSON]) -> None:
    """Remember that this key, too, gives the content of `record`, or the stage would run again and again."""
    if key is None or key == record["key"] or nodes.attributes(session, _key_path(key)) is not None:
        return
    nodes.add_group(session, _key_path(key), {"key": key, "ref": f"{record['name']}@{record['version']}"})


def _key_path(key: str) -> str:
    return f"keys/{sha256(key.encode()).hexdigest()}"


def _span(versions: Sequence[int]) -> str:
    return f"{min(versions)}..{max(versions)}" if len(versions) > 1 else f"only {versions[0]}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
