"""From a product back to the captures, prompts and models it came from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from trimtab.store.catalog.artifact import Artifact, Parent
from trimtab.store.catalog.catalog import Catalog
from trimtab.store.catalog.view import View
from trimtab.store.digests import JSON, json_digest
from trimtab.store.errors import Corrupt, NotFound

SOURCES = ("model", "tokenizer", "template", "prompts", "data")


@dataclass(frozen=True)
class LineageNode:
    """A product, or a source such as a model or prompts, in a tree of what it was computed from.

    kind: of the artifact, or "model", "prompts", ...; "missing" or "damaged" when it cannot be read.
    note: date, location or fields, or what is wrong with it.
    children: what it was computed from.
    """

    ref: str
    kind: str
    digest: str
    note: str
    children: tuple["LineageNode", ...] = ()

    def walk(self, depth: int = 0) -> Iterator[tuple[int, "LineageNode"]]:
        """(depth, node) of this node and everything below it, in depth-first order."""
        yield depth, self
        for child in self.children:
            yield from child.walk(depth + 1)

    def __str__(self) -> str:
        return "\n".join(f"{'  ' * d}{n.ref}  {n.kind}  {n.digest[:12]}  {n.note}".rstrip() for d, n in self.walk())


def lineage(catalog: Catalog, ref: str) -> LineageNode:
    """The tree of everything `ref` was computed from. Raises NotFound for an unknown ref.

    A parent that is gone, damaged, its own ancestor, or no longer has the digest it had, is a node whose note says so.
    """
    view = catalog.view()
    return _node(view, view.get(ref), {})


def _node(view: View, artifact: Artifact, nodes: dict[str, LineageNode]) -> LineageNode:
    if artifact.ref not in nodes:
        nodes[artifact.ref] = LineageNode(
            artifact.ref, artifact.kind, artifact.digest, "is its own ancestor: this was forged"
        )
        children = [_parent(view, parent, nodes) for parent in dict.fromkeys(artifact.parents)]
        children += _sources(artifact) if artifact.kind == "capture" else []
        note = str(artifact.header.get("location", "")) if artifact.kind == "capture" else artifact.created
        nodes[artifact.ref] = LineageNode(artifact.ref, artifact.kind, artifact.digest, note, tuple(children))
    return nodes[artifact.ref]


def _parent(view: View, parent: Parent, nodes: dict[str, LineageNode]) -> LineageNode:
    try:
        artifact = view.get(parent.ref)
    except NotFound:
        return LineageNode(parent.ref, "missing", parent.digest, "is not in the catalog any more")
    except Corrupt as error:
        return LineageNode(parent.ref, "damaged", parent.digest, str(error))
    if artifact.digest != parent.digest:
        return LineageNode(
            parent.ref, artifact.kind, parent.digest, f"has digest {artifact.digest[:12]} now: it was changed"
        )
    return _node(view, artifact, nodes)


def _sources(artifact: Artifact) -> list[LineageNode]:
    fields = artifact.header.get("capture")
    if not isinstance(fields, Mapping):
        return []
    return [_source(name, fields[name]) for name in SOURCES if fields.get(name) is not None]


def _source(name: str, value: JSON) -> LineageNode:
    if isinstance(value, str):
        return LineageNode(f"{name}:{value[:16]}", name, value, "")
    digest = json_digest(value)
    if isinstance(value, dict):
        digest = str(value.get("digest", digest))
        note = ", ".join(f"{k}={v}" for k, v in value.items() if isinstance(v, str | int) and k != "digest")
        return LineageNode(f"{name}:{digest[:16]}", name, digest, note[:200])
    return LineageNode(f"{name}:{digest[:16]}", name, digest, str(value)[:200])
