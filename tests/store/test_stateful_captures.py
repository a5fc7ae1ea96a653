"""Any sequence of collecting, stopping, resuming, publishing, deleting, gc, copying, moving and linking of homes: what
is published in a home is always read there, row for row, and no home ever loses what another one did.

HYPOTHESIS_PROFILE=deep runs many more.
"""

import os
import shutil
import uuid
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from trimtab.store import Catalog, housekeeping
from trimtab.store.catalog.places import Captures
from trimtab.store.errors import NotFound
from trimtab.store.housekeeping import collect_garbage, delete
from trimtab.store.verify import verify

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
SEEDS, NAMES = st.integers(0, 2), st.sampled_from(["a", "b"])
PICK = st.integers(0, 99)
SITE = "resid_post.2"


@dataclass
class Model:
    """A home as it should be: which capture every version is, which were begun, which are finished."""

    published: dict[str, int] = field(default_factory=dict)
    begun: set[int] = field(default_factory=set)


class Later(datetime):
    """Ten days from now."""

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + timedelta(days=10)


def machine(samples, root: Path) -> type[RuleBasedStateMachine]:
    """The machine over a folder, with three captures of one small site."""
    captures = [
        replace(sample, specs=sample.specs[1:2], rows={SITE: sample.rows[SITE]}, region_bytes=300)
        for sample in (samples(seed, 4) for seed in range(3))
    ]

    class Homes(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.folder = root / uuid.uuid4().hex
            self.homes: dict[Path, Model] = {self.folder / "home0": Model()}
            (self.folder / "home0").mkdir(parents=True)
            self.count = 0

        def pick(self, number: int) -> tuple[Path, Model]:
            """A home, by its own path or through a link."""
            path = sorted(self.homes)[number % len(self.homes)]
            if number % 3:
                return path, self.homes[path]
            link = self.folder / f"link{path.name}"
            if not link.is_symlink():
                link.symlink_to(path)
            return link, self.homes[path]

        @rule(which=PICK, seed=SEEDS)
        def begin(self, which: int, seed: int) -> None:
            path, model = self.pick(which)
            store = captures[seed].create(path / "captures" / f"c{seed}")
            for region in store.pending_regions()[:1]:
                with store.region_writer(region) as writer:
                    captures[seed].fill(writer, region)
            model.begun.add(seed)

        @rule(which=PICK, seed=SEEDS, name=NAMES)
        def collect(self, which: int, seed: int, name: str) -> None:
            path, model = self.pick(which)
            store = captures[seed].collect(path / "captures" / f"c{seed}")
            ref = Catalog(path / "catalog").publish_capture(name, store).ref
            model.published[ref] = seed
            model.begun.discard(seed)

        @rule(which=PICK, number=PICK)
        def remove(self, which: int, number: int) -> None:
            path, model = self.pick(which)
            if not model.published:
                return
            ref = sorted(model.published)[number % len(model.published)]
            delete(Catalog(path / "catalog"), ref)
            seed = model.published.pop(ref)
            there = (path / "captures" / f"c{seed}").exists()
            assert there == (seed in model.published.values()), "rows go with the last version that has them"

        @rule(which=PICK)
        def gc(self, which: int) -> None:
            path, model = self.pick(which)
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(housekeeping, "datetime", Later)
                home = Captures.beside(Catalog(path / "catalog").location)
                collect_garbage(Catalog(path / "catalog"), home.root, timedelta(days=7), dry_run=False)
            model.begun = set()
            left = {place.name for place in home}
            assert left == {f"c{seed}" for seed in model.published.values()}

        @rule(which=PICK)
        def copy(self, which: int) -> None:
            path, model = self.pick(which)
            if len(self.homes) < 3:
                self.count += 1
                self.homes[self.folder / f"home{self.count}"] = Model(dict(model.published), set(model.begun))
                shutil.copytree(path.resolve(), self.folder / f"home{self.count}")

        @rule(which=PICK)
        def move(self, which: int) -> None:
            path = sorted(self.homes)[which % len(self.homes)]
            self.count += 1
            self.homes[self.folder / f"home{self.count}"] = self.homes.pop(path)
            path.rename(self.folder / f"home{self.count}")
            (self.folder / f"link{path.name}").unlink(missing_ok=True)

        @invariant()
        def everything_published_is_read(self) -> None:
            for path, model in self.homes.items():
                catalog = Catalog(path / "catalog")
                for ref, seed in model.published.items():
                    rows = Captures.beside(catalog.location).open(catalog.get(ref)).rows(SITE)
                    assert (rows == captures[seed].rows[SITE]).all()
                assert {artifact.ref for artifact in catalog.list()} == set(model.published)

        def teardown(self) -> None:
            for path in self.homes:
                assert [str(finding) for finding in verify(Catalog(path / "catalog")) if not finding.ok] == []
            shutil.rmtree(self.folder)

    return Homes


def test_no_home_loses_what_it_published(samples, tmp_path) -> None:
    limits = settings(
        max_examples=60 if DEEP else 5,
        stateful_step_count=30 if DEEP else 12,
        deadline=None,
        derandomize=not DEEP,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine(samples, tmp_path), settings=limits)


def test_the_machine_knows_what_is_missing(samples, tmp_path) -> None:
    """It fails where rows are gone."""
    homes = machine(samples, tmp_path)()
    homes.collect(1, 0, "a")
    homes.everything_published_is_read()
    shutil.rmtree(homes.folder / "home0" / "captures" / "c0")
    with pytest.raises(NotFound):
        homes.everything_published_is_read()
