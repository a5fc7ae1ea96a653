"""Versions never change, nobody's version is lost, and every reference means what it says."""

import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trimtab.store import Catalog
from trimtab.store.catalog.refs import Ref
from trimtab.store.digests import canonical, json_digest, plain
from trimtab.store.errors import Invalid, NotFound, StoreError

ARRAYS = {"site.0/vector": np.arange(6, dtype=np.float32).reshape(2, 3), "flag": np.array(True)}


def test_publish_and_get(catalog) -> None:
    made = catalog.publish("cheerful", "plan", ARRAYS, {"strength": 1.5, "sites": ("a", "b")}, metrics={"kl": 0.2})
    assert (made.name, made.version, made.kind, made.ref) == ("cheerful", 1, "plan", "cheerful@1")
    got = Catalog(catalog.location).get("cheerful")
    assert got.digest == made.digest and got.header == {"strength": 1.5, "sites": ["a", "b"]}
    assert got.metrics == {"kl": 0.2} and got.recipe is None and got.parents == ()
    assert set(got.arrays) == set(ARRAYS) and got.arrays["flag"].shape == ()
    assert all(np.array_equal(got.arrays[k], v) and got.arrays[k].dtype == v.dtype for k, v in ARRAYS.items())
    assert "numpy" in got.libraries and got.created.endswith("+00:00")


def test_reading_creates_nothing(tmp_path) -> None:
    catalog = Catalog(tmp_path / "none")
    assert catalog.names() == [] and catalog.list() == [] and catalog.find("k") is None
    with pytest.raises(NotFound, match="none yet"):
        catalog.get("x")
    assert list(tmp_path.iterdir()) == []


def test_same_content_is_one_version(catalog) -> None:
    first = catalog.publish("a", "plan", ARRAYS, {"x": 1}, recipe={"r": 1})
    assert catalog.publish("a", "plan", dict(reversed(ARRAYS.items())), {"x": 1}, recipe={"r": 1}).version == 1
    for change in ({"header": {"x": 2}}, {"kind": "other"}, {"recipe": {"r": 2}}, {"parents": ["a@1"]}):
        asked = {"kind": "plan", "arrays": ARRAYS, "header": {"x": 1}, "recipe": {"r": 1}} | change
        assert catalog.publish("a", **asked).version == catalog.versions("a")[-1]
    other = {**ARRAYS, "flag": np.array(False)}
    catalog.publish("a", "plan", other, {"x": 1}, recipe={"r": 1})
    assert catalog.versions("a") == [1, 2, 3, 4, 5, 6]
    assert catalog.get("a@1").digest == first.digest


def test_references(catalog) -> None:
    for i in range(3):
        catalog.publish("cheerful", "plan", {}, {"i": i})
    catalog.publish("cheerful.v2", "plan", {}, {})
    catalog.promote("cheerful@2", "prod")
    for ref, version in {"cheerful": 3, "cheerful@1": 1, "cheerful@latest": 3, "cheerful@prod": 2}.items():
        assert catalog.get(ref).version == version
    assert catalog.names() == ["cheerful", "cheerful.v2"]
    for ref, message in {
        "cherful": "did you mean cheerful",
        "cheerful@4": "has versions 1..3",
        "cheerful@0": "has versions 1..3",
        "cheerful@prd": "did you mean prod",
        "cheerful.v2@7": "only 1",
        "capture:abc": "no capture with digest",
    }.items():
        with pytest.raises(NotFound, match=message):
            catalog.get(ref)


@pytest.mark.parametrize(
    "name", ["", "A", ".x", "a/b", "a b", "x" * 81, "ä", "__x", "zarr.json", "a@1", "..", "a\n", "٣"]
)
def test_bad_names(catalog, name) -> None:
    with pytest.raises(Invalid):
        catalog.publish(name, "plan", {}, {})
    assert catalog.names() == []


@pytest.mark.parametrize("alias", ["latest", "7", "", "Prod", "a/b", ".x"])
def test_bad_aliases(catalog, alias) -> None:
    catalog.publish("a", "plan", {}, {})
    with pytest.raises(Invalid):
        catalog.promote("a", alias)
    assert catalog.aliases("a") == {}


@pytest.mark.parametrize(
    "arrays, header, match",
    [
        ({"x": np.array(["text"])}, {}, "only bool, int and float"),
        ({"x": np.array([object()])}, {}, "only bool, int and float"),
        ({}, {"x": float("nan")}, "plain JSON"),
        ({}, {"x": object()}, "plain JSON"),
        ({}, {1: "x"}, "string keys"),
    ],
)
def test_bad_content(catalog, arrays, header, match) -> None:
    with pytest.raises(Invalid, match=match):
        catalog.publish("a", "plan", arrays, header)
    assert catalog.names() == []


def test_parents_are_pinned_and_must_exist(catalog) -> None:
    old = catalog.publish("p", "plan", {}, {"i": 0})
    catalog.promote("p", "prod")
    child = catalog.publish("c", "verdict", {}, {}, parents=["p@prod"])
    catalog.publish("p", "plan", {}, {"i": 1})
    catalog.promote("p", "prod")
    assert [(str(p), p.digest) for p in catalog.get(child.ref).parents] == [("p@1", old.digest)]
    with pytest.raises(NotFound):
        catalog.publish("d", "verdict", {}, {}, parents=["q"])
    assert "d" not in catalog.names()


def test_a_version_has_one_spelling(catalog) -> None:
    """ "01" and the digits of other scripts are no numbers, and never another way to delete @1."""
    catalog.publish("a", "plan", {}, {})
    for selector in ("01", "001", "١", "٠١", "+1", "1.0", "1_0", "9" * 4301, "1" * 30, "-1", ""):
        for act in (catalog.get, catalog.delete, lambda ref: catalog.promote(ref, "x")):
            with pytest.raises((Invalid, NotFound)) as caught:
                act(f"a@{selector}")
            assert len(str(caught.value)) < 400
    assert catalog.versions("a") == [1] and catalog.get("a@1").version == 1
    with pytest.raises(NotFound, match="there is no a@0"):
        catalog.get("a@0")


def test_what_a_clock_says_is_not_content(catalog) -> None:
    """The same work, done at once by two: one version. Every stage publishes through this check."""
    for seconds in (1.0, 2.0):
        assert catalog.publish("a", "verdict", {}, {"x": 1}, metrics={"seconds": seconds}, key="k").version == 1
    with pytest.raises(Invalid, match="put that into metrics"):
        catalog.publish("a", "verdict", {}, {"x": 1, "seconds": 3.0})


def test_keys(catalog) -> None:
    catalog.publish("a", "plan", {}, {"i": 0}, key="k")
    assert catalog.find("k").ref == "a@1" and catalog.find("other") is None
    catalog.publish("b", "plan", {}, {"i": 1}, key="k")
    assert catalog.find("k").ref == "b@1", "the newest"
    assert catalog.publish("a", "plan", {}, {"i": 0}, key="second").version == 1
    assert Catalog(catalog.location).find("second").ref == "a@1"
    assert catalog.publish("a", "plan", {}, {"i": 0}, key="second").version == 1


def test_every_move_is_kept(catalog) -> None:
    for i in range(2):
        catalog.publish("a", "plan", {}, {"i": i})
    catalog.promote("a@1", "prod", who="ann")
    catalog.promote("a@2", "prod")
    catalog.promote("a@2", "test")
    assert catalog.aliases("a") == {"prod": 2, "test": 2}
    moves = catalog.history("a")
    assert [(m.alias, m.before, m.after) for m in moves] == [
        ("prod", None, 1),
        ("prod", 1, 2),
        ("test", None, 2),
    ]
    assert moves[0].who == "ann" and "@" in moves[1].who


def test_what_was_got_does_not_change_the_catalog(catalog) -> None:
    catalog.publish("a", "plan", {"x": np.zeros(3)}, {"deep": {"list": [1]}})
    got = catalog.get("a")
    got.header["deep"]["list"].append(2)
    got.arrays["x"][:] = 1
    assert catalog.get("a").header == {"deep": {"list": [1]}}
    assert catalog.get("a").arrays["x"].sum() == 0


def test_a_published_version_never_changes(tmp_path) -> None:
    """Everything of version 1 is the same after many later publishes, promotions and failures."""
    catalog = Catalog(tmp_path / "c")
    catalog.publish("a", "plan", ARRAYS, {"x": 1}, metrics={"m": 1}, key="k")
    before = _everything(Catalog(tmp_path / "c"))
    for i in range(12):
        catalog.publish("a", "plan", {"x": np.full(3, i)}, {"x": 1}, parents=["a@1"])
        catalog.publish("a", "plan", ARRAYS, {"x": 1}, metrics={"m": i}, key=f"k{i}")
        catalog.promote(f"a@{i + 1}", "prod")
        with pytest.raises(StoreError):
            catalog.publish("a", "plan", {}, {}, parents=["nobody"])
    assert _everything(Catalog(tmp_path / "c")) == before
    assert catalog.versions("a") == list(range(1, 14))


def _everything(catalog: Catalog) -> tuple:
    one = catalog.get("a@1")
    arrays = {name: (a.tobytes(), a.dtype, a.shape) for name, a in one.arrays.items()}
    return one.digest, one.created, one.header, one.metrics, one.key, one.parents, arrays


def test_concurrent_publishers_lose_nothing(tmp_path, worker) -> None:
    """4 processes x 10 publishes and promotions: 40 distinct versions, every one as it was published."""
    jobs = [worker("publish", tmp_path / "c", who) for who in range(4)]
    for job in jobs:
        job.join()
        assert job.exitcode == 0
    catalog = Catalog(tmp_path / "c")
    assert catalog.versions("shared") == list(range(1, 41))
    seen = {(a.header["who"], a.header["i"]): a.arrays["x"].tolist() for a in catalog.list()}
    assert seen == {(who, i): [who, i] for who in range(4) for i in range(10)}
    assert {catalog.find(f"{who}.{i}").version for who in range(4) for i in range(10)} == set(range(1, 41))
    assert len(catalog.history("shared")) == 40 and set(catalog.aliases("shared")) == {"a0", "a1", "a2", "a3"}


def test_concurrent_threads(catalog) -> None:
    catalogs = [catalog, catalog, Catalog(catalog.location), Catalog(catalog.location)]
    errors: list[BaseException] = []

    def publish(who: int) -> None:
        try:
            for i in range(5):
                catalogs[who].publish("shared", "plan", {}, {"who": who, "i": i})
                catalogs[who].publish(f"own-{who}", "plan", {}, {"i": i})
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=publish, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert catalog.versions("shared") == list(range(1, 21))
    assert all(catalog.versions(f"own-{who}") == [1, 2, 3, 4, 5] for who in range(4))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
arrays = hnp.arrays(
    dtype=st.one_of(hnp.boolean_dtypes(), hnp.integer_dtypes(), hnp.unsigned_integer_dtypes(), hnp.floating_dtypes()),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.text(max_size=8), arrays, max_size=3),
    st.dictionaries(st.text(), json_values, max_size=4),
)
def test_anything_comes_back(arrays, header) -> None:
    catalog = Catalog("memory://anything-comes-back")
    made = catalog.publish("x", "plan", arrays, header, recipe=header, metrics=header)
    got = Catalog(catalog.location).get(made.ref)
    assert got.header == header and got.recipe == header
    assert set(got.arrays) == set(arrays)
    for name, array in arrays.items():
        back = got.arrays[name]
        little = array.astype(array.dtype.newbyteorder("<"))
        assert back.dtype == little.dtype and back.shape == array.shape
        assert back.tobytes() == little.tobytes()


@settings(max_examples=100, deadline=None)
@given(json_values)
def test_canonical_json_is_a_fixed_point(value) -> None:
    assert canonical(plain(value)) == canonical(value)
    assert json_digest(plain(value)) == json_digest(value)


@settings(max_examples=100, deadline=None)
@given(
    st.from_regex(r"[a-z0-9][a-z0-9._-]{0,79}", fullmatch=True),
    st.from_regex(r"0|[1-9][0-9]{0,3}|[a-z][a-z-]{0,9}", fullmatch=True),
)
def test_refs_round_trip(name, selector) -> None:
    if name == "zarr.json":
        return
    assert str(Ref.parse(f"{name}@{selector}")) == f"{name}@{selector}"
    assert Ref.parse(name) == Ref(name, "latest")
