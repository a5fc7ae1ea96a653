"""The catalog: every product is an immutable numbered version of a name.

On disk one Icechunk repository:

    /artifacts/<name>/<version>    uint8 payload of all arrays; its attributes hold the record (header, ...)
    /moves/<name>/<number>         one move of an alias: alias, from, to, who, when, note
    /remarks/<name>/<number>       a description, tag, note or deprecation of a name or version: field, text, who, when
    /keys/<sha256 of key>          a stage key whose content was published before under another key
    /signatures/<name>/<number>    who vouches for a version: its number, public key, signature, who, when
    /elsewhere/<name>/<version>    the home where a capture's rows stayed, when its version was copied here without them
    /deleted/<name>/<version>      who deleted a version, and when; its number is never given again

A version's number is part of the path of its node, and nothing is ever overwritten. When two processes publish, promote
or delete at once, the second to commit starts again from what the first committed, look-ups included, so every alias
and every parent names a version that exists.
"""

import getpass
import os
import random
import socket
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import icechunk
import numpy as np

from trimtab.store.branch import restore_branch
from trimtab.store.captures.activations import ActivationStore
from trimtab.store.catalog import nodes
from trimtab.store.catalog.aliases import AliasHistory, AliasMove
from trimtab.store.catalog.artifact import Artifact
from trimtab.store.catalog.draft import Draft, now
from trimtab.store.catalog.places import Captures
from trimtab.store.catalog.refs import check_alias
from trimtab.store.catalog.remarks import DeprecatedVersion, Profile, Remark, check_remark, deprecation
from trimtab.store.catalog.search import search
from trimtab.store.catalog.signatures import Signature
from trimtab.store.catalog.view import Inventory, NamedVersion, VersionRecord, View, known_name
from trimtab.store.digests import JSON, plain
from trimtab.store.errors import Conflict, Corrupt, NotFound, nearest
from trimtab.store.location import BRANCH, Location
from trimtab.store.sessions import readable, sound

TRIES = 200
PAUSE = 0.02  # seconds, at most, after the first lost race; ten times that after the tenth
T = TypeVar("T")
Approval = Callable[[Artifact, int | None], str]
Target = Callable[[View, AliasHistory], tuple[int | None, str]]


class Catalog:
    """All products at one place: `Catalog("folder")`, `Catalog("s3://bucket/prefix")`.

    The first publish creates the repository; before that, the catalog is empty.
    """

    def __init__(self, url: str | os.PathLike[str] | Location) -> None:
        self.location = Location.parse(url)
        self._opened: icechunk.Repository | None = None
        self._records: dict[tuple[str, int], dict[str, JSON]] = {}  # versions never change, so they are read once
        self._snapshot: str | None = None  # the one that the records were read from

    def __repr__(self) -> str:
        return f"Catalog({self.location.url!r})"

    def __reduce__(self) -> tuple[type["Catalog"], tuple[str]]:
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
        """Publish the next version of `name`; when a version of it has this content already, that one is returned.

        parents: "name@3", "name@alias" or "capture:<digest>"; they must exist, and are recorded with version and
        digest.
        metrics: JSON that the digest does not cover. Durations (CLOCK_FIELDS) belong there, not in the header.
        key: a stage key, by which `find` finds the version.
        Raises Invalid (name, header, arrays), NotFound (a parent), Conflict after 200 lost races.
        """
        draft = replace(
            Draft.of(name, kind, arrays, header, parents),
            recipe=plain(recipe, "recipe"),
            metrics=plain(metrics, "metrics"),
            key=key,
        )
        view = self.view()
        for parent in draft.parents:  # a first publish creates the catalog, so nothing may be missing then
            view.get(parent)
        version, view = self._transact(f"publish {name}", draft.add)
        return view.artifact(name, version)

    def publish_capture(
        self,
        name: str,
        store: ActivationStore,
        recipe: JSON = None,
        metrics: JSON = None,
        key: str | None = None,
    ) -> Artifact:
        """Register a finished capture as a version of `name`, kind "capture": a header, no arrays. Its rows stay where
        they are.

        recipe, metrics, key: as in `publish`. Raises StoreError when the capture is not complete.
        """
        header = Captures.beside(self.location).record(store)
        return self.publish(name, "capture", {}, header, recipe=recipe, metrics=metrics, key=key)

    def adopt(self, records: Sequence[VersionRecord], left: Mapping[NamedVersion, str] | None = None) -> list[str]:
        """Take over versions of another catalog under their own names and numbers, in one commit; returns the
        references of those that were not here yet. Records stay as they are, seals and digests included.

        records: parents before what was made from them. left: (name, version) -> the home where a capture's rows stay.
        Raises Conflict when another version has that name and number, or had it and was deleted.
        """

        def add(session: icechunk.Session, view: View) -> list[str]:
            missing = [record for record in records if not _is_here(view, record)]
            for record in missing:
                path = "/".join(map(str, record.pair))
                nodes.add_array(session, f"artifacts/{path}", dict(record.attributes), record.payload)
                if record.pair in (left or {}):
                    nodes.add_group(session, f"elsewhere/{path}", {"home": (left or {})[record.pair], "when": now()})
            return [f"{name}@{version}" for name, version in (record.pair for record in missing)]

        return self._transact(f"adopt {len(records)} versions", add)[0]

    def _transact(self, what: str, act: Callable[[icechunk.Session, View], T]) -> tuple[T, View]:
        """Commit what `act` does in a session; returns its result, and a view of what was committed.

        `act` runs in a session at the newest snapshot, and again in a new one whenever somebody else committed before
        it could: nothing that it looked up is out of date when it is committed. Raises Conflict after 200 lost races.
        """
        repository = self._repository(create=True)
        assert repository is not None
        for attempt in range(TRIES):
            with self.location.lock():
                session = sound(repository.writable_session(BRANCH))
                view = self._view_of(session)
                result = act(session, view)
                if not session.has_uncommitted_changes:
                    return result, view
                try:
                    self.location.commit(session, what, rebase=False)
                    return result, self._view_of(session, own=True)
                except Conflict:
                    pass
            time.sleep(random.uniform(0, PAUSE * min(attempt + 1, 10)))
        raise Conflict(f"{self.location.url}: {what} lost {TRIES} races in a row; use fewer publishers at once.")

    # ---- reading

    def get(self, ref: str) -> Artifact:
        """The artifact of "name", "name@3", "name@latest", "name@<alias>" or "capture:<digest>".

        Warns (DeprecatedVersion) when somebody has deprecated it. Raises NotFound, naming what there is instead, and
        Corrupt when its record is not what was published.
        """
        view = self.view()
        artifact = view.get(ref)
        warning = deprecation(artifact.ref, view.remarks(artifact.name).about(artifact.version))
        if warning:
            warnings.warn(warning, DeprecatedVersion, stacklevel=2)
        return artifact

    def search(self, where: str = "", sort: str = "", kind: str | None = None) -> Sequence[Artifact]:
        """Every version that satisfies an expression, such as `beats_random and kl < 0.3`, in the order of a field:
        `effect`, or `-effect` for the largest first; oldest first without. See `store/catalog/search.py`.

        Damaged versions are left out. Raises Invalid for an expression that is none, naming the nearest field.
        """
        return [one.artifact for one in search(self.view().searchables(kind), where, sort)]

    def find(self, key: str) -> Artifact | None:
        """The newest artifact published with this stage key, or None."""
        return self.view().find(key)

    def names(self) -> list[str]:
        """Every name, sorted."""
        return self.view().names()

    def versions(self, name: str) -> list[int]:
        """The version numbers of a name, ascending. Raises NotFound for an unknown name."""
        view = self.view()
        return view.versions(known_name(view, name))

    def list(self, kind: str | None = None) -> Sequence[Artifact]:
        """Every version of every name (of one kind), oldest first. Arrays are not read.

        Raises Corrupt when the record of any version is damaged, since the list would be incomplete without a word;
        `inventory` lists what is sound beside what is damaged.
        """
        inventory = self.inventory(kind)
        if inventory.record_defects:
            first = inventory.record_defects[0]
            raise Corrupt(
                f"{self.location.url} has {len(inventory.record_defects)} damaged records; the first is {first.ref}: "
                f"{first.wrong}"
            )
        return inventory.artifacts

    def inventory(self, kind: str | None = None) -> Inventory:
        """Every version (of one kind), every alias, and everything that is damaged."""
        return self.view().inventory(kind)

    # ---- aliases

    def promote(
        self, ref: str, alias: str, who: str | None = None, note: str = "", approve: Approval | None = None
    ) -> AliasMove:
        """Let `name@alias` name the version that `ref` names now; every such move stays recorded.

        note: why, for the record. approve: called inside the transaction with the version and the number of the one
        that the alias names (None: none); raises to refuse the move, and what it returns is added to the note.
        Raises NotFound (ref), Invalid (alias).
        """
        name = self.get(ref).name

        def target(view: View, history: AliasHistory) -> tuple[int, str]:
            artifact = view.get(ref)
            said = approve(artifact, history.aliases.get(alias)) if approve else ""
            return artifact.version, "; ".join(filter(None, [note, said]))

        return self._move(name, alias, who, target)

    def rollback(self, name: str, alias: str, who: str | None = None, note: str = "") -> AliasMove:
        """Let an alias name again what it named before it first named its present version.

        note: why, for the record. Raises NotFound when it names nothing, named nothing before, or that was deleted.
        """

        def target(view: View, history: AliasHistory) -> tuple[int, str]:
            present, before = history.aliases.get(alias), history.before_present(alias)
            if before is None:
                raise NotFound(
                    f"{name}@{alias} {_named_before(name, present)}; `trimtab promote` lets it name a version."
                )
            _, version = view.resolve(f"{name}@{before}")
            return version, "; ".join(filter(None, [f"rolled back from @{present}", note]))

        return self._move(name, alias, who, target)

    def unalias(self, name: str, alias: str, who: str | None = None, note: str = "") -> AliasMove:
        """Let an alias name nothing; its history stays. Raises NotFound when it names nothing."""

        def target(view: View, history: AliasHistory) -> tuple[None, str]:
            if alias not in history.aliases and alias not in history.uncertain:
                raise NotFound(f"{name} has no alias {alias!r}: {nearest(alias, history.aliases)}")
            return None, note

        return self._move(name, alias, who, target)

    def _move(self, name: str, alias: str, who: str | None, target: Target) -> AliasMove:
        """Record a move of an alias to what `target` says in the transaction: a version (None: nothing) and a note."""
        check_alias(alias)
        known_name(self.view(), name)
        by, when = who or who_am_i(), now()

        def record(session: icechunk.Session, view: View) -> AliasMove:
            history = view.history(name)
            committed = [m for m in history.sound if (m.alias, m.who, m.when) == (alias, by, when)]
            if committed:  # this very move: its commit succeeded, but the answer was lost
                return committed[0]
            after, note = target(view, history)
            move = AliasMove(alias, history.aliases.get(alias), after, by, when, note)
            nodes.add_group(session, f"moves/{name}/{view.last_move(name) + 1}", move.as_json())
            return move

        return self._transact(f"move {name}@{alias}", record)[0]

    def aliases(self, name: str) -> dict[str, int]:
        """alias -> version. Raises NotFound for an unknown name."""
        view = self.view()
        return view.history(known_name(view, name)).aliases

    def history(self, name: str) -> Sequence[AliasMove]:
        """Every move of every alias of a name, oldest first. Raises NotFound for an unknown name."""
        view = self.view()
        return view.history(known_name(view, name)).sound

    # ---- remarks

    def remark(self, ref: str, field: str, text: str, who: str | None = None) -> Remark:
        """Say something of a name, or with "name@3" or "name@alias" of one version. What is published stays as it is.

        field: "description", "use", "licence", "note", "tag", "untag" or "deprecated". Raises NotFound, Invalid.
        """
        check_remark(field, text)
        name, at, _ = ref.partition("@")
        version = self.view().resolve(ref)[1] if at else None
        known_name(self.view(), name)
        remark = Remark(field, text, version, who or who_am_i(), now())
        self.adopt_remarks(name, [remark])
        return remark

    def adopt_remarks(self, name: str, remarks: Sequence[Remark]) -> None:
        """Record remarks as they are, those that are recorded already left out."""

        def add(session: icechunk.Session, view: View) -> None:
            there, last = view.remarks(name).sound, view.last_remark(name)
            missing = [remark for remark in remarks if remark not in there]
            for number, remark in enumerate(missing, last + 1):
                nodes.add_group(session, f"remarks/{name}/{number}", remark.as_json())

        if remarks:
            self._transact(f"remarks on {name}", add)

    def adopt_signatures(self, name: str, signatures: Sequence[Signature]) -> None:
        """Record signatures of versions of `name` as they are, those that are recorded already left out."""

        def add(session: icechunk.Session, view: View) -> None:
            there, last = view.signatures(name), view.last_signature(name)
            missing = [signature for signature in signatures if signature not in there]
            for number, signature in enumerate(missing, last + 1):
                nodes.add_group(session, f"signatures/{name}/{number}", signature.as_json())

        if signatures:
            self._transact(f"signatures of {name}", add)

    def about(self, ref: str) -> Profile:
        """What is said of a version now. Raises NotFound."""
        view = self.view()
        name, version = view.resolve(ref)
        return view.remarks(name).about(version)

    # ---- deleting

    def delete(self, ref: str, who: str | None = None) -> Artifact:
        """Take a version out of the catalog; returns it. Its number is not used again.

        A version with a damaged record can be deleted, too; an empty artifact of kind "damaged" is returned then.
        Raises NotFound, and Conflict naming the products made from it, or the aliases, that still need it.
        """
        view = self.view()
        name, version = view.resolve(ref)
        artifact = _sound_or_empty(view, name, version)
        path, tombstone = f"{name}/{version}", {"who": who or who_am_i(), "when": now()}

        def remove(session: icechunk.Session, view: View) -> None:
            if (view.tombstone(name, version) or {}).items() >= tombstone.items():
                return  # this very deletion: its commit succeeded, but the answer was lost
            view.resolve(f"{name}@{version}")
            if needing := view.needing(name, version):
                needed = ", ".join(needing[:8])
                raise Conflict(f"{artifact.ref} cannot be deleted, {needed} still needs it; delete or move that first.")
            nodes.remove(session, f"artifacts/{path}")
            nodes.add_group(session, f"deleted/{path}", {"digest": artifact.digest, **tombstone})

        self._transact(f"delete {artifact.ref}", remove)
        return artifact

    def restore_branch(self) -> str:
        """Repair a catalog in a folder that lost `refs/branch.main/ref.json`, the file that names its newest snapshot;
        returns that snapshot's id. Raises Corrupt when the newest cannot be proved, Invalid when nothing was lost."""
        self._opened = None
        return restore_branch(self.location)

    # ---- how

    def _repository(self, create: bool = False) -> icechunk.Repository | None:
        if self._opened is None and (create or self.location.exists()):
            self._opened = self.location.repository(create=create)
        return self._opened

    def view(self) -> View:
        """The catalog as it is now; every look-up in one view sees the same state. Raises Corrupt."""
        repository = self._repository()
        if repository is None:
            return self._view_of(None)
        try:
            with readable(f"the catalog at {self.location.url}"):
                return self._view_of(sound(repository.readonly_session(BRANCH)))
        except Corrupt:
            self._opened = None  # it may have been removed or restored: open it again next time
            raise

    def _view_of(self, session: icechunk.Session | None, own: bool = False) -> View:
        """own: the session's snapshot is one that this catalog has just committed.

        After anybody else's commit records are read again: the folder may have been removed and made anew, with other
        versions under the same names.
        """
        snapshot = None if session is None else session.snapshot_id
        if snapshot != self._snapshot and not own:
            self._records = {}
        self._snapshot = snapshot
        return View(self.location.url, session, self._records)


def _is_here(view: View, record: VersionRecord) -> bool:
    """Whether the catalog has this version. Raises Conflict when it has, or had, another one under its number."""
    name, version = record.pair
    digest, deleted = record.attributes["digest"], view.tombstone(name, version)
    if deleted is not None:
        raise Conflict(f"{view.place} had a {name}@{version} that was deleted; its number is not used again.")
    if version not in view.versions(name):
        return False
    if view.artifact(name, version).digest != digest:
        raise Conflict(f"{view.place} has another {name}@{version} than the one to copy; copy to another home.")
    return True


def _sound_or_empty(view: View, name: str, version: int) -> Artifact:
    """A version, or an empty artifact of kind "damaged" when its record is not sound."""
    try:
        return view.artifact(name, version)
    except Corrupt:
        return Artifact(name, version, "damaged", "", "", {}, {}, (), None, None, {}, None)


def _named_before(name: str, present: int | None) -> str:
    return "names nothing" if present is None else f"is {name}@{present} and named nothing before"


def who_am_i() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
