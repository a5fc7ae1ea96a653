"""Records of the catalog, checked when they are read: a disk or a bucket may hold anything."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime

from trimtab.store.catalog.aliases import AliasMove
from trimtab.store.catalog.artifact import Content, Parent, seal
from trimtab.store.catalog.payload import ArrayEntry
from trimtab.store.catalog.refs import Ref, check_alias
from trimtab.store.digests import JSON
from trimtab.store.errors import Corrupt, Invalid

SHA256 = re.compile(r"[0-9a-f]{64}")
TYPES: dict[str, tuple[type, ...]] = {
    "kind": (str,),
    "digest": (str,),
    "created": (str,),
    "arrays": (dict,),
    "header": (dict,),
    "parents": (list,),
    "libraries": (dict,),
    "key": (str, type(None)),
}


def checked(value: JSON, name: str, version: int) -> dict[str, JSON]:
    """`value`, when it is a sound record of name@version. Raises Corrupt, naming the first thing that is wrong."""
    try:
        wrong = next(_wrong(value, name, version), None)
    except (Invalid, RecursionError) as error:
        wrong = str(error).rstrip(".")
    if wrong is None:
        record: dict[str, JSON] = value
        return record
    raise Corrupt(
        f"{name}@{version} is damaged: {wrong[:200]}; `trimtab delete {name}@{version}` takes it out, its recipe makes "
        "it anew."
    )


def checked_move(value: JSON) -> AliasMove:
    """The move of an alias that `value` records. Raises Corrupt when it is none."""
    try:
        move = AliasMove(
            value["alias"], value["from"], value["to"], value["who"], value["when"], str(value.get("note", ""))
        )
        check_alias(move.alias)
        datetime.fromisoformat(move.when)
    except (KeyError, TypeError, ValueError, Invalid) as error:
        raise Corrupt(f"it is no move of an alias ({type(error).__name__}: {error})") from None
    if not all(version is None or _is_version(version) for version in (move.before, move.after)):
        raise Corrupt("it moves an alias to or from what is no version")
    return move


def parents_of(record: Mapping[str, JSON]) -> tuple[Parent, ...]:
    """The pinned parents of a checked record."""
    return tuple(Parent(parent["ref"], parent["digest"]) for parent in record["parents"])


def entries_of(record: Mapping[str, JSON]) -> dict[str, ArrayEntry]:
    """Where each array of a record lies. Raises Invalid."""
    return {label: ArrayEntry.from_json(entry) for label, entry in record["arrays"].items()}


def _wrong(value: JSON, name: str, version: int) -> Iterator[str]:
    """What is wrong with a record, as clauses; the first is enough, and the later ones rely on the earlier."""
    if not isinstance(value, dict) or not value:
        yield "it has no record"
        return
    for field, types in TYPES.items():
        if not isinstance(value.get(field), types):
            yield f"its {field} is {json.dumps(value.get(field))[:40]}"
            return
    if (value.get("name"), value.get("version")) != (name, version):
        yield f"its record is that of {str(value.get('name'))[:80]!r} @ {str(value.get('version'))[:20]}"
    if missing := {"recipe", "metrics", "key"} - value.keys():
        yield f"its record lacks {', '.join(sorted(missing))}"
    yield from _wrong_values(value)


def _wrong_values(value: dict[str, JSON]) -> Iterator[str]:
    if not SHA256.fullmatch(value["digest"]):
        yield f"its digest is {value['digest'][:70]!r}"
    if not _is_date(value["created"]):
        yield f"its date is {value['created'][:40]!r}"
    if not all(isinstance(version, str) for version in value["libraries"].values()):
        yield "its libraries have versions that are no text"
    entries = entries_of(value)
    yield from filter(None, map(_wrong_parent, value["parents"]))
    content = Content(value["kind"], value["header"], entries, parents_of(value), value["recipe"])
    if content.digest != value["digest"]:
        yield f"its content digest is {content.digest[:12]}, recorded is {value['digest'][:12]}"
    if seal(value) != value.get("seal"):
        yield "its record is not what was published (its seal differs)"


def _wrong_parent(parent: JSON) -> str | None:
    """What is wrong with a parent in a record; None when nothing is."""
    if not isinstance(parent, dict) or parent.keys() != {"ref", "digest"}:
        return "a parent of it is not a reference and a digest"
    if not isinstance(parent["ref"], str) or not isinstance(parent["digest"], str):
        return "a parent of it is no text"
    return None if Ref.parse(parent["ref"]).number else f"its parent {parent['ref']!r} is no version"


def _is_version(value: JSON) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_date(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
