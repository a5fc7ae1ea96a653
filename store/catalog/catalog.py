"""The catalog: every product is an immutable numbered version of a name.

On disk one Icechunk repository:

    /artifacts/<name>/<version>    uint8 payload of all arrays; its attributes hold the record (header, ...)
    /moves/<name>/<number>         one move of an alias: alias, from, to, who, when
    /keys/<sha256 of key>          a stage key whose content was published before under another key
    /deleted/<name>/<version>      who deleted a version, and when; its number is never given again

A version's number is the path of a new node. Of two who publish, promote or delete at once, the second to commit looks
everything up again in what the first left, so every alias and every parent names a version that is there. Nothing is
ever overwritten.
"""

import getpass
import os
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import icechunk
import numpy as np

from trimtab.store.branch import restore_branch
from trimtab.store.captures.activations import ActivationStore
from trimtab.store.catalog import nodes
from trimtab.store.catalog.artifact import Artifact, Content, Parent, libraries, seal
from trimtab.store.catalog.moves import Move
from trimtab.store.catalog.payload import Entry, pack
from trimtab.store.catalog.places import Captures
from trimtab.store.catalog.refs import check_alias, check_name
from trimtab.store.catalog.view import Survey, View, known_name
from trimtab.store.digests import JSON, frozen_json, plain
from trimtab.store.errors import Conflict, Corrupt, Invalid
from trimtab.store.location import BRANCH, Location, readable, sound

TRIES = 200
CLOCK_FIELDS = {"seconds", "elapsed", "duration"}
PAUSE = 0.02  # seconds, at most, after the first lost race; ten times that after the tenth
T = TypeVar("T")


@dataclass(frozen=True)
class _Draft:
    """What a publisher gave. parents: references, which mean what they mean when the version is committed."""

    name: str
    kind: str
    header: dict[str, JSON]
    entries: dict[str, Entry]
    payload: np.ndarray
    parents: Sequence[str]
    recipe: JSON
    metrics: JSON
    key: str | None

    def content(self, view: View) -> Content:
        """What the digest covers. Raises NotFound and Corrupt for a parent."""
        parents = (view.get(ref) for ref in self.parents)
        pinned = tuple(Parent(parent.ref, parent.digest) for parent in parents)
        return Content(self.kind, self.header, self.entries, pinned, self.recipe)

    def record(self, content: Content, version: int) -> dict[str, JSON]:
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
        self._records: dict[tuple[str, int], dict[str, JSON]] = {}  # versions never change, so they are read once

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
        What a clock says (CLOCK_FIELDS) belongs in `metrics`, which the digest does not cover.
        Raises Invalid (name, header, arrays), NotFound (a parent), Conflict after 200 lost races.
        """
        if told := CLOCK_FIELDS & header.keys():
            raise Invalid(
                f"the header of {name} has {', '.join(sorted(told))}, so the same work done twice is two versions; "
                "put that into metrics."
            )
        entries, payload = pack(arrays)
        draft = _Draft(
            check_name(name),
            kind,
            frozen_json(header, f"the header of {name}"),
            entries,
            payload,
            tuple(map(str, parents)),
            plain(recipe, "recipe"),
            plain(metrics, "metrics"),
            key,
        )
        view = self.view()
        for parent in draft.parents:  # before a first publish makes a catalog
            view.get(parent)
        version, view = self._transact(f"publish {name}", lambda session, view: _add(session, view, draft))
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

    def _transact(self, what: str, act: Callable[[icechunk.Session, View], T]) -> tuple[T, View]:
        """What `act` returned, and a view of what it committed.

        It runs in a session at the tip, and again in a new one whenever somebody else committed before it could:
        nothing that it looked up is ever out of date when it is committed.
        """
        repository = self._repository(create=True)
        assert repository is not None
        for attempt in range(TRIES):
            with self.location.lock():
                session = sound(repository.writable_session(BRANCH))
                view = self._seen(session)
                result = act(session, view)
                if not session.has_uncommitted_changes:
                    return result, view
                try:
                    self.location.commit(session, what, rebase=False)
                    return result, self._seen(session)
                except Conflict:
                    pass
            time.sleep(random.uniform(0, PAUSE * min(attempt + 1, 10)))
        raise Conflict(f"{self.location.url}: {what} lost {TRIES} races in a row; use fewer publishers at once.")

    # ---- reading

    def get(self, ref: str) -> Artifact:
        """The artifact of "name", "name@3", "name@latest", "name@<alias>" or "capture:<digest>".

        Raises NotFound, naming what there is instead, and Corrupt when its record is not what was published.
        """
        return self.view().get(ref)

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

        Raises Corrupt when the record of any version is not what was published: what is missing in a list would be
        taken for what is not there. `survey` tells the two apart.
        """
        survey = self.survey(kind)
        if survey.records_damaged:
            first = survey.records_damaged[0]
            raise Corrupt(
                f"{self.location.url} has {len(survey.records_damaged)} damaged records; the first is {first.ref}: "
                f"{first.wrong}"
            )
        return survey.artifacts

    def survey(self, kind: str | None = None) -> Survey:
        """Every version (of one kind), every alias, and everything damaged."""
        return self.view().survey(kind)

    # ---- aliases

    def promote(self, ref: str, alias: str, who: str | None = None) -> Move:
        """Let `name@alias` mean the version that `ref` names; the move is recorded for ever.

        Raises NotFound (ref), Invalid (alias).
        """
        check_alias(alias)
        self.get(ref)
        by, when = who or _who(), _now()

        def move(session: icechunk.Session, view: View) -> Move:
            artifact = view.get(ref)
            history = view.history(artifact.name)
            done = [m for m in history.sound if (m.alias, m.who, m.when) == (alias, by, when)]
            if done:  # this very move: its commit was made, but the answer was lost
                return done[0]
            made = Move(alias, history.aliases.get(alias), artifact.version, by, when)
            record = {"alias": alias, "from": made.before, "to": made.after, "who": by, "when": when}
            nodes.add_group(session, f"moves/{artifact.name}/{view.last_move(artifact.name) + 1}", record)
            return made

        return self._transact(f"promote {ref} to {alias}", move)[0]

    def aliases(self, name: str) -> dict[str, int]:
        """alias -> version. Raises NotFound for an unknown name."""
        view = self.view()
        return view.history(known_name(view, name)).aliases

    def history(self, name: str) -> Sequence[Move]:
        """Every move of every alias of a name, oldest first. Raises NotFound for an unknown name."""
        view = self.view()
        return view.history(known_name(view, name)).sound

    # ---- deleting

    def delete(self, ref: str, who: str | None = None) -> Artifact:
        """Take a version out of the catalog; returns what it was. Its number is not used again.

        A damaged record can be deleted, too: what is returned then is of kind "damaged" and empty.
        Raises NotFound, and Conflict naming what still needs it: products made from it, or aliases.
        """
        view = self.view()
        name, version = view.resolve(ref)
        gone = _whatever(view, name, version)
        path, mark = f"{name}/{version}", {"who": who or _who(), "when": _now()}

        def remove(session: icechunk.Session, view: View) -> None:
            if (view.tombstone(name, version) or {}).items() >= mark.items():
                return  # this very deletion: its commit was made, but the answer was lost
            view.resolve(f"{name}@{version}")
            if needing := view.needing(name, version):
                needed = ", ".join(needing[:8])
                raise Conflict(f"{gone.ref} cannot be deleted, {needed} still needs it; delete or move that first.")
            nodes.remove(session, f"artifacts/{path}")
            nodes.add_group(session, f"deleted/{path}", {"digest": gone.digest, **mark})

        self._transact(f"delete {gone.ref}", remove)
        return gone

    def restore_branch(self) -> str:
        """Find a local catalog again that lost `refs/branch.main/ref.json`: returns the snapshot it now shows, the
        newest. Raises Corrupt when it cannot be proved to be the last one, and Invalid when nothing was lost."""
        self._opened = None
        return restore_branch(self.location)

    # ---- how

    def _repository(self, create: bool = False) -> icechunk.Repository | None:
        if self._opened is None and (create or self.location.exists()):
            self._opened = self.location.repository(create=create)
        return self._opened

    def view(self) -> View:
        """What there is now: all that is looked up in it is about one moment. Raises Corrupt."""
        repository = self._repository()
        if repository is None:
            return self._seen(None)
        try:
            with readable(f"the catalog at {self.location.url}"):
                return self._seen(sound(repository.readonly_session(BRANCH)))
        except Corrupt:
            self._opened = None  # it may have been removed or restored: look again next time
            raise

    def _seen(self, session: icechunk.Session | None) -> View:
        return View(self.location.url, session, self._records)


def _add(session: icechunk.Session, view: View, draft: _Draft) -> int:
    """The version of `draft`: a new one, unless the name has this content already."""
    content = draft.content(view)
    same = view.with_digest(draft.name, content.digest)
    if same is not None:
        _note_key(session, view, draft.key, same)
        return same.version
    version = view.last_number(draft.name) + 1
    nodes.add_array(session, f"artifacts/{draft.name}/{version}", draft.record(content, version), draft.payload)
    return version


def _note_key(session: icechunk.Session, view: View, key: str | None, artifact: Artifact) -> None:
    """Remember that this key, too, gives the content of `artifact`, or the stage would run again and again."""
    if key is not None and key != artifact.key and view.attributes(nodes.key_path(key)) is None:
        nodes.add_group(session, nodes.key_path(key), {"key": key, "ref": artifact.ref})


def _whatever(view: View, name: str, version: int) -> Artifact:
    """A version, or an empty one of kind "damaged" when its record cannot be used."""
    try:
        return view.artifact(name, version)
    except Corrupt:
        return Artifact(name, version, "damaged", "", "", {}, {}, (), None, None, {}, None)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
