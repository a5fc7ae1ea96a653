"""Any sequence of publications, promotions, rollbacks and deletions, by several clients of one catalog, one of them
sometimes in the middle of another's transaction, leaves what the same deeds leave one after the other.

HYPOTHESIS_PROFILE=deep runs many more.
"""

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from trimtab.store import Catalog
from trimtab.store.catalog.lineage import lineage
from trimtab.store.errors import Conflict, NotFound, StoreError

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
NAMES, ALIASES = ("a", "b"), ("prod", "test")
Pair = tuple[str, int]


@dataclass
class Model:
    """What a catalog is: what was published and is there, what numbers were given, what aliases name."""

    there: dict[Pair, tuple[int, Pair | None]] = field(default_factory=dict)  # (content, parent)
    given: dict[str, int] = field(default_factory=dict)
    aliases: dict[tuple[str, str], int] = field(default_factory=dict)
    moves: list[tuple[str, str, int | None, int | None]] = field(default_factory=list)  # (name, alias, from, to)

    def publish(self, name: str, content: int, parent: Pair | None) -> Pair:
        if parent is not None and parent not in self.there:
            raise NotFound("parent")
        for (other, version), made in self.there.items():
            if other == name and made == (content, parent):
                return name, version
        self.given[name] = self.given.get(name, 0) + 1
        self.there[name, self.given[name]] = (content, parent)
        return name, self.given[name]

    def promote(self, pair: Pair, alias: str) -> Pair:
        if pair not in self.there:
            raise NotFound("version")
        self._move(pair[0], alias, pair[1])
        return pair

    def rollback(self, name: str, alias: str) -> tuple[str, int | None]:
        present = self.aliases.get((name, alias))
        first = [move for move in self.moves if move[:2] == (name, alias) and move[3] == present][:1]
        before = first[0][2] if first and present is not None else None
        if before is None or (name, before) not in self.there:
            raise NotFound("before")
        self._move(name, alias, before)
        return name, before

    def unalias(self, name: str, alias: str) -> tuple[str, int | None]:
        if (name, alias) not in self.aliases:
            raise NotFound("alias")
        self._move(name, alias, None)
        return name, None

    def _move(self, name: str, alias: str, to: int | None) -> None:
        self.moves.append((name, alias, self.aliases.pop((name, alias), None), to))
        if to is not None:
            self.aliases[name, alias] = to

    def delete(self, pair: Pair) -> Pair:
        if pair not in self.there:
            raise NotFound("version")
        needed = any(parent == pair for _, parent in self.there.values())
        if needed or any((name, version) == pair for (name, _), version in self.aliases.items()):
            raise Conflict("needed")
        del self.there[pair]
        return pair


@dataclass(frozen=True)
class Deed:
    """One thing a client does, to a catalog or to the model of it."""

    verb: str
    name: str
    number: int
    content: int
    alias: str
    parent: Pair | None

    def to_catalog(self, catalog: Catalog) -> Pair:
        ref = f"{self.name}@{self.number}"
        if self.verb == "publish":
            parents = [f"{self.parent[0]}@{self.parent[1]}"] if self.parent else []
            made = catalog.publish(self.name, "plan", {}, {"content": self.content}, parents)
            return made.name, made.version
        if self.verb == "promote":
            return self.name, catalog.promote(ref, self.alias).after
        if self.verb in ("rollback", "unalias"):
            return self.name, getattr(catalog, self.verb)(self.name, self.alias).after
        return self.name, catalog.delete(ref).version

    def to_model(self, model: Model) -> Pair:
        if self.verb == "publish":
            return model.publish(self.name, self.content, self.parent)
        if self.verb == "promote":
            return model.promote((self.name, self.number), self.alias)
        if self.verb in ("rollback", "unalias"):
            return getattr(model, self.verb)(self.name, self.alias)
        return model.delete((self.name, self.number))


pairs = st.tuples(st.sampled_from(NAMES), st.integers(1, 4))
deeds = st.builds(
    Deed,
    st.sampled_from(("publish", "publish", "publish", "promote", "promote", "rollback", "unalias", "delete")),
    st.sampled_from(NAMES),
    st.integers(1, 4),
    st.integers(0, 5),
    st.sampled_from(ALIASES),
    st.none() | pairs,
)
clients = st.integers(0, 2)


def outcome(act: Callable[[], Pair]) -> Pair | type:
    try:
        return act()
    except StoreError as error:
        assert "\n" not in str(error)
        return type(error)


class CatalogMachine(RuleBasedStateMachine):
    """place: where the catalog lies. meanwhile: the fixture."""

    place: Callable[[], str]
    meanwhile: Callable

    def __init__(self) -> None:
        super().__init__()
        url = type(self).place()
        self.clients = [Catalog(url) for _ in range(3)]
        self.model, self.created = Model(), {}

    @rule(deed=deeds, client=clients)
    def one(self, deed: Deed, client: int) -> None:
        assert outcome(lambda: deed.to_catalog(self.clients[client])) == outcome(lambda: deed.to_model(self.model))

    @rule(deed=deeds, client=clients, inner=deeds, other=clients)
    def one_during_another(self, deed: Deed, client: int, inner: Deed, other: int) -> None:
        """The inner deed commits first, so the outer one comes after it; one that commits nothing is not disturbed."""
        results: list[Pair | type] = []
        with type(self).meanwhile(lambda: results.append(outcome(lambda: inner.to_catalog(self.clients[other])))):
            outer = outcome(lambda: deed.to_catalog(self.clients[client]))
        if results:
            assert results == [outcome(lambda: inner.to_model(self.model))]
        assert outer == outcome(lambda: deed.to_model(self.model))

    @rule(client=clients)
    def anew(self, client: int) -> None:
        """Another process comes along."""
        self.clients[client] = Catalog(self.clients[client].location)

    @invariant()
    def everything_is_as_it_should_be(self) -> None:
        inventory = self.clients[0].inventory()
        assert inventory.defects == []
        there = {(a.name, a.version): a for a in inventory.artifacts}
        assert there.keys() == self.model.there.keys()
        for pair, (content, parent) in self.model.there.items():
            assert there[pair].header == {"content": content}
            assert [(p.ref, p.digest) for p in there[pair].parents] == (
                [(f"{parent[0]}@{parent[1]}", there[parent].digest)] if parent else []
            )
            assert self.created.setdefault(pair, there[pair].created) == there[pair].created, "it never changes"
        assert {(n, a): v for n, al in inventory.aliases.items() for a, v in al.items()} == self.model.aliases

    def teardown(self) -> None:
        for client in self.clients:
            for name, version in self.model.there:
                assert all(node.kind != "missing" for _, node in lineage(client, f"{name}@{version}").walk())
            for (name, alias), version in self.model.aliases.items():
                assert client.get(f"{name}@{alias}").version == version


def run(place: Callable[[], str], meanwhile: Callable, examples: int, steps: int) -> None:
    machine = type("Machine", (CatalogMachine,), {"place": staticmethod(place), "meanwhile": staticmethod(meanwhile)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples * (50 if DEEP else 1),
            stateful_step_count=steps * (3 if DEEP else 1),
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_history_in_memory(memory, meanwhile) -> None:
    run(memory, meanwhile, examples=10, steps=10)


def test_any_history_in_a_folder(tmp_path, meanwhile) -> None:
    run(lambda: str(tmp_path / uuid.uuid4().hex), meanwhile, examples=5, steps=8)


def test_any_history_on_s3(bucket, meanwhile) -> None:
    run(lambda: f"{bucket}/{uuid.uuid4().hex}", meanwhile, examples=3, steps=8)
