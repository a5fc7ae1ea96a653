"""Whatever lies in a catalog: each command says one line, and one damaged record never hides the others."""

import copy
from collections.abc import Callable

import numpy as np
import pytest

from trimtab.flows.cli import main
from trimtab.store import Catalog
from trimtab.store.catalog import nodes
from trimtab.store.catalog.artifact import seal
from trimtab.store.catalog.payload import LazyArrays
from trimtab.store.errors import Conflict, Corrupt
from trimtab.store.location import BRANCH

FIELDS = (
    "name", "version", "kind", "digest", "created", "arrays", "header", "parents", "recipe", "metrics", "libraries",
    "key", "seal",
)  # fmt: skip
ENTRY = {
    "dtype": ["|O", "<U10", "f4,O", "<f3", "__import__('os')", 5, ">f4"],
    "shape": [[10**9, 10], "abc", [-1], [1.5], None],
    "start": [-1, "0", True],
    "nbytes": [10**10, -4, None],
    "sha256": [5, None],
}
PARENTS = [
    ["x"], [{"ref": "../x@1", "digest": "d"}], [{"ref": "ok@1", "digest": "d", "evil": 1}],
    [{"ref": "ok", "digest": "d"}], [{"ref": "ok@prod", "digest": "d"}], [{"ref": 5, "digest": "d"}],
]  # fmt: skip
STRAYS = (
    "artifacts/UPPER/1", "artifacts/\x1b[31m/1", "artifacts/p/007", "artifacts/p/٣", "artifacts/p/0",
    f"artifacts/p/{10**30}",
)  # fmt: skip
Record = dict


def changes(record: Record) -> list[Record]:
    """Records that no publisher wrote, most of them with a right seal."""
    bad: list = [{}, None, [1], "x"]
    for field in FIELDS:
        rest = {name: value for name, value in record.items() if name != field}
        bad += [rest, *(rest | {field: value} for value in (5, "x", [1], {"x": 1}) if _is_wrong(field, value))]
    for field, values in ENTRY.items():
        bad += [record | {"arrays": {"v": record["arrays"]["v"] | {field: value}}} for value in values]
    bad += [record | {"arrays": {"v": value}} for value in (5, {}, None)] + [record | {"parents": p} for p in PARENTS]
    bad += [record | {"header": {"changed": True}}]
    return bad


def _is_wrong(field: str, value: object) -> bool:
    accepted = {"recipe": object, "metrics": object, "kind": str, "key": str, "arrays": (), "header": dict}
    return not isinstance(value, accepted.get(field, ()))  # type: ignore[arg-type]


@pytest.fixture
def forge(tmp_path) -> Callable[..., None]:
    """Put nodes into the catalog of a home, past the publisher."""
    home = tmp_path / "home"
    Catalog(home / "catalog").publish("ok", "plan", {"v": np.zeros(3, np.float32)}, {"a": 1})

    def put(forged: dict[str, object]) -> None:
        session = Catalog(home / "catalog").location.repository().writable_session(BRANCH)
        for path, record in forged.items():
            if isinstance(record, dict) and len(str(record.get("seal"))) == 64:
                record = record | {"seal": seal(record)}
            nodes.remove(session, path)
            nodes.add_array(session, path, record, np.zeros(12, np.uint8))  # type: ignore[arg-type]
        session.commit("forged")

    return put


@pytest.fixture
def record(tmp_path) -> Record:
    """A sound record of p@1."""
    home = tmp_path / "home"
    Catalog(home / "catalog").publish("p", "plan", {"v": np.zeros(3, np.float32)}, {"a": 1}, parents=["ok@1"])
    found = nodes.attributes(Catalog(home / "catalog").view().session, "artifacts/p/1")  # type: ignore[arg-type]
    assert found is not None
    return found


def test_every_malformed_record_is_damaged_and_nothing_else_is(forge, record, tmp_path) -> None:
    place, known = tmp_path / "home" / "catalog", changes(record)
    forge({f"artifacts/p/{i}": _numbered(bad, i) for i, bad in enumerate(known, 2)})
    inventory = Catalog(place).inventory()
    assert [artifact.ref for artifact in inventory.artifacts] == ["ok@1", "p@1"]
    assert {defect.ref for defect in inventory.defects} == {f"p@{i}" for i in range(2, len(known) + 2)}
    assert all("\n" not in defect.wrong and len(defect.wrong) < 400 for defect in inventory.defects)
    catalog = Catalog(place)
    with pytest.raises(Corrupt, match=rf"{len(known)} damaged records; the first is p@2"):
        catalog.list()
    with pytest.raises(Corrupt, match="p@2 is damaged: .*`trimtab delete p@2` takes it out"):
        catalog.get("p@2")
    assert catalog.find("x") is None and catalog.get("ok").version == 1
    assert catalog.publish("p", "plan", {}, {}).version == len(known) + 2


def _numbered(bad: object, version: int) -> object:
    return bad | {"version": version} if isinstance(bad, dict) and bad.get("version") == 1 else bad


def test_each_command_says_one_line(forge, record, tmp_path, capsys) -> None:
    """A damaged record, one that is its own parent, a damaged move, an alias without a version, nodes out of place."""
    own = record | {"version": 3, "parents": [{"ref": "p@3", "digest": record["digest"]}]}
    strays = {path: copy.deepcopy(record) for path in STRAYS}
    moves = {
        "moves/p/1": {"x": 1},
        "moves/ok/1": {"alias": "prod", "from": None, "to": 9, "who": "w", "when": "2026-01-01"},
    }
    forge({"artifacts/p/2": record | {"version": 2, "header": 5}, "artifacts/p/3": own, **strays, **moves})

    def run(*command: str) -> tuple[int, str, str]:
        code = main(["--home", str(tmp_path / "home"), *command])
        out, err = capsys.readouterr()
        assert "\x1b[31m" not in out + err, command
        return code, out, err

    code, out, _ = run("ls", "--all")
    assert code == 0 and all(ref in out for ref in ("ok@1", "p@1", "p@2", "p@'007'", "moves/p/1", "ok@prod"))
    assert out.count("damaged") >= 3 + len(STRAYS)
    for command in (
        ["show", "p@2"],
        ["lineage", "p@2"],
        ["lineage", "p@3"],
        ["promote", "p@2", "x"],
        ["steer", "p@2", "w5"],
        ["show", "ok@prod"],
        ["gc"],
    ):
        code, out, err = run(*command)
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, (command, err)
    for command in (["show", "p@1"], ["lineage", "p@1"], ["captures"], ["promote", "ok@1", "z"]):
        assert run(*command)[0] == 0, command
    code, out, _ = run("verify")
    assert code == 1 and out.count("BAD") >= 4 + len(STRAYS)


def test_what_is_damaged_can_be_deleted(forge, record, tmp_path) -> None:
    """And is in nobody's way then; until then nothing can be deleted that it may need."""
    forge({"artifacts/p/2": record | {"version": 2, "parents": "x"}})
    catalog = Catalog(tmp_path / "home" / "catalog")
    with pytest.raises(Corrupt, match="whether anything needs p@1 is not certain: p@2 is damaged"):
        catalog.delete("p@1")
    assert catalog.delete("p@2").kind == "damaged"
    assert catalog.delete("p@1").kind == "plan" and [artifact.ref for artifact in catalog.list()] == ["ok@1"]
    with pytest.raises(Conflict, match="p@prod"):
        catalog.publish("p", "plan", {}, {})
        catalog.promote("p", "prod")
        catalog.delete("p")


def test_an_alias_is_never_guessed(forge, record, tmp_path) -> None:
    catalog = Catalog(tmp_path / "home" / "catalog")
    catalog.publish("p", "plan", {}, {"second": True})
    catalog.promote("p@1", "prod")
    forge({"moves/p/2": {"alias": "prod", "from": 1, "to": "2"}})
    with pytest.raises(Corrupt, match="what p@prod names is not certain"):
        catalog.get("p@prod")
    assert catalog.promote("p@2", "prod").before is None and catalog.get("p@prod").version == 2


def test_arrays_that_are_not_there(forge, record, tmp_path) -> None:
    """Claims of sizes allocate nothing, and what cannot be read is Corrupt."""
    entry = record["arrays"]["v"]
    far = {"start": 10**12}, {"nbytes": 10**10, "shape": [10**10 // 4]}, {"start": 4}
    forge(
        {
            f"artifacts/p/{i}": record | {"version": i, "arrays": {"v": entry | change}}
            for i, change in enumerate(far, 2)
        }
    )
    for version in (2, 3, 4):
        arrays = Catalog(tmp_path / "home" / "catalog").get(f"p@{version}").arrays
        with pytest.raises(Corrupt, match="cut short"):
            arrays["v"]
        assert isinstance(arrays, LazyArrays)
