"""A version on its way into the catalog."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import icechunk
import numpy as np

from trimtab.store.catalog import nodes
from trimtab.store.catalog.artifact import Artifact, Content, Parent, libraries, seal
from trimtab.store.catalog.payload import ArrayEntry, pack
from trimtab.store.catalog.refs import check_name
from trimtab.store.catalog.view import View
from trimtab.store.digests import JSON, frozen_json
from trimtab.store.errors import Invalid

CLOCK_FIELDS = {"seconds", "elapsed", "duration"}


@dataclass(frozen=True)
class Draft:
    """What a publisher gives, checked.

    entries, payload: the arrays, as `payload.pack` returns them.
    parents: references; the version that an alias among them names is looked up when the draft is committed.
    The other fields are those of `Artifact`.
    """

    name: str
    kind: str
    header: dict[str, JSON]
    entries: dict[str, ArrayEntry]
    payload: np.ndarray
    parents: Sequence[str]
    recipe: JSON = None
    metrics: JSON = None
    key: str | None = None

    @staticmethod
    def of(
        name: str, kind: str, arrays: Mapping[str, np.ndarray], header: Mapping[str, JSON], parents: Sequence[str]
    ) -> "Draft":
        """Raises Invalid for a name, header or arrays that cannot be stored."""
        if told := CLOCK_FIELDS & header.keys():
            raise Invalid(
                f"the header of {name} has {', '.join(sorted(told))}, so the same work done twice is two versions; "
                "put that into metrics."
            )
        entries, payload = pack(arrays)
        plain_header = frozen_json(header, f"the header of {name}")
        return Draft(check_name(name), kind, plain_header, entries, payload, tuple(map(str, parents)))

    def content(self, view: View) -> Content:
        """What the digest covers, with parents as they are in `view`. Raises NotFound and Corrupt for a parent."""
        parents = (view.get(ref) for ref in self.parents)
        pinned = tuple(Parent(parent.ref, parent.digest) for parent in parents)
        return Content(self.kind, self.header, self.entries, pinned, self.recipe)

    def add(self, session: icechunk.Session, view: View) -> int:
        """The version of this draft: a new one, unless the name has a version with this content already."""
        content = self.content(view)
        same = view.with_digest(self.name, content.digest)
        if same is not None:
            _note_key(session, view, self.key, same)
            return same.version
        version = view.last_number(self.name) + 1
        nodes.add_array(session, f"artifacts/{self.name}/{version}", self._record(content, version), self.payload)
        return version

    def _record(self, content: Content, version: int) -> dict[str, JSON]:
        """The attributes of the new node; records.py reads them back."""
        record: dict[str, JSON] = {
            "name": self.name,
            "version": version,
            "kind": content.kind,
            "digest": content.digest,
            "created": now(),
            "arrays": {name: entry.as_json() for name, entry in content.entries.items()},
            "header": dict(content.header),
            "parents": [{"ref": p.ref, "digest": p.digest} for p in content.parents],
            "recipe": content.recipe,
            "metrics": self.metrics,
            "libraries": dict(libraries()),
            "key": self.key,
        }
        return record | {"seal": seal(record)}


def _note_key(session: icechunk.Session, view: View, key: str | None, artifact: Artifact) -> None:
    """Record that this stage key, too, gives the content of `artifact`; the stage would run again and again without."""
    if key is not None and key != artifact.key and view.attributes(nodes.key_path(key)) is None:
        nodes.add_group(session, nodes.key_path(key), {"key": key, "ref": artifact.ref})


def now() -> str:
    """The time as it is recorded: ISO, UTC, microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
