"""More prompts are a new version that computes only what is new, and equals one that was collected at once."""

import numpy as np
import pytest

from trimtab.steering.running.reading import Rows
from trimtab.store import ActivationStore, Location
from trimtab.store.captures.reader import Readable
from trimtab.tasks.collecting.capture import capture_recipe, collection_of
from trimtab.tasks.collecting.reuse import copy_known
from trimtab.tasks.collecting.spool import Spool
from trimtab.tasks.data.prompts import digest_of, texts_of
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.recipes.kinds import load_recipe

SMALL = 300_000


@pytest.fixture
def grow(tiny_recipe, write_pairs):
    def more(pairs: int, *settings: str):
        write_pairs(tiny_recipe.parent / "pairs.jsonl", pairs)
        return load_recipe(tiny_recipe, list(settings))

    return more


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_appended_equals_collected_at_once(grow, tmp_path, dtype):
    homes, setting = [Home.at(tmp_path / name) for name in ("grown", "at-once")], f"capture.dtype={dtype}"
    first = capture_recipe(grow(30, setting), homes[0], SMALL)
    second = capture_recipe(grow(45, setting), homes[0], SMALL)
    whole = capture_recipe(grow(45, setting), homes[1], SMALL)
    stores = [ActivationStore.open(made.url) for made in (first, second, whole)]
    assert stores[1].digest == stores[2].digest and stores[0].n_prompts == 60 < stores[1].n_prompts
    assert (first.ref, second.ref) == ("tiny.capture@1", "tiny.capture@2")
    assert second.computed < 0.6 * whole.computed, "most of it was there"
    assert homes[0].rows("tiny.capture@1").digest == stores[0].digest


def test_other_settings_share_nothing(grow, tmp_path):
    home = Home.at(tmp_path / "home")
    capture_recipe(grow(30), home, SMALL)
    assert copy_known(collection_of(grow(50), home, SMALL), home) > 2
    for setting in ("capture.dtype=float32", "capture.points=[resid_post]", "data.split.seed=1"):
        assert copy_known(collection_of(grow(50, setting), home, SMALL), home) == 0


def test_a_damaged_or_missing_version_is_computed_anew(grow, tmp_path, monkeypatch):
    home = Home.at(tmp_path / "home")
    first = capture_recipe(grow(30), home, SMALL)
    whole = capture_recipe(grow(45), Home.at(tmp_path / "whole"), SMALL)
    with monkeypatch.context() as patched:
        take = Readable.stored_rows
        patched.setattr(Readable, "stored_rows", lambda *where: np.zeros_like(take(*where)))
        made = capture_recipe(grow(45), home, SMALL)
    assert made.computed == whole.computed
    assert ActivationStore.open(made.url).digest == ActivationStore.open(whole.url).digest
    Location.parse(first.url).delete()
    assert capture_recipe(grow(46), home, SMALL).computed > 0


def test_the_digest_of_the_first_texts(grow, tmp_path):
    recipe = grow(30)
    texts = texts_of(recipe.data, model_of(recipe.model)[1])
    spool = Spool(texts, Rows(), tmp_path)
    for many in (1, 7, 60):
        assert spool.digest_of_first(many) == digest_of(texts[:many])
