"""Collecting: streamed from the file, in bounded memory, the same rows as capture in memory, whatever the regions."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from trimtab.steering.model.site import Site
from trimtab.steering.running.reading import capture
from trimtab.store import ActivationStore, Location
from trimtab.store.errors import Invalid, StoreError
from trimtab.tasks.collecting import filling
from trimtab.tasks.collecting.capture import capture_recipe, collection_of, selection_of, spool_folder
from trimtab.tasks.collecting.filling import Committer, fill
from trimtab.tasks.collecting.spool import Spool, index_of
from trimtab.tasks.data.prompts import digest_of, texts_of
from trimtab.tasks.data.rows import Repeats
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.progress import watched
from trimtab.tasks.recipes.kinds import load_recipe

SMALL = 500_000  # bytes of a region: ten of them


@pytest.mark.parametrize("setting", ["span=all", "span=generated", "span=answer", "pool=mean"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_store_holds_what_capture_gives(tiny_recipe, tmp_path, setting, dtype):
    recipe = load_recipe(tiny_recipe, [f"capture.{setting}", f"capture.dtype={dtype}"])
    work = collection_of(recipe, Home.at(tmp_path / "home"), SMALL)
    fill(work, work.store.pending_regions())
    store, texts = work.store.finish(), texts_of(recipe.data, model_of(recipe.model)[1])
    sites = [Site.parse(name) for name in store.sites]
    for region in store.layout.regions:
        mine = [tokens for _, tokens in texts[region.prompt_start : region.prompt_stop]]
        got = capture(work.anatomy, mine, sites, selection_of(recipe))
        for site in sites:
            rows = store.rows(str(site), {"prompts": range(region.prompt_start, region.prompt_stop)})
            want = torch.cat(got.rows[site]).to(getattr(torch, dtype)).float().numpy()
            assert np.array_equal(rows.reshape(want.shape), want)


def test_texts_on_disk_are_the_texts(tiny_recipe, tmp_path):
    recipe = load_recipe(tiny_recipe)
    texts, selection = texts_of(recipe.data, model_of(recipe.model)[1]), selection_of(recipe)
    spool = Spool(iter(texts), selection, tmp_path)
    assert (len(spool), spool.tokens) == (len(texts), sum(len(tokens) for _, tokens in texts))
    assert spool.digest == digest_of(texts) and spool.index.digest == index_of(texts, selection).digest
    for start, stop in ((0, 3), (5, 6), (7, len(texts))):
        for got, (_, want) in zip(spool.read(start, stop), texts[start:stop], strict=True):
            assert np.array_equal(got.ids, want.ids) and got.prompt_length == want.prompt_length
            assert np.array_equal(got.roles, want.roles) and np.array_equal(got.special, want.special)


def test_stopped_and_resumed_is_uninterrupted(tiny_recipe, tmp_path, monkeypatch):
    """Stopped by an error in the model, in the writer, and by leaving regions out."""
    recipe, homes = load_recipe(tiny_recipe), [Home.at(tmp_path / name) for name in ("whole", "stopped")]
    whole = ActivationStore.open(capture_recipe(recipe, homes[0], SMALL).url)
    work = collection_of(recipe, homes[1], SMALL)
    regions = work.store.pending_regions()
    assert len(regions) > 8
    fill(work, regions[3:5])
    for where, error in (("stream", RuntimeError("the model failed")), (None, OSError("the disk failed"))):
        with monkeypatch.context() as patched, pytest.raises(type(error), match="failed"):
            patched.setattr(*_fails(where, error))
            fill(work, work.store.pending_regions())
    pending = collection_of(recipe, homes[1], SMALL).store.pending_regions()
    assert len(regions) - len(pending) == 2
    resumed = capture_recipe(recipe, homes[1], SMALL)
    assert ActivationStore.open(resumed.url).digest == whole.digest
    assert capture_recipe(recipe, homes[1], SMALL).reused


def _fails(where, error):
    def fail(*args, **kwargs):
        raise error

    return (filling, where, fail) if where else (ActivationStore, "commit", fail)


def test_a_value_that_does_not_fit_ends_the_collection_and_names_the_row(tiny_recipe, tmp_path):
    recipe = load_recipe(tiny_recipe, ["capture.dtype=float16"])
    work = collection_of(recipe, Home.at(tmp_path), SMALL)
    with torch.no_grad():
        work.anatomy.blocks[1].mlp.down_proj.weight.mul_(1e6)
    try:
        with pytest.raises(Invalid, match=r"resid_post.1: row \d+ holds"):
            fill(work, work.store.pending_regions())
    finally:
        model_of.__globals__["_loaded"].cache_clear()
    assert len(work.store.pending_regions()) == len(work.store.layout.regions)


def test_an_error_of_the_last_commit_is_not_lost():
    class Broken:
        def commit(self, buffer):
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"), Committer(Broken().commit) as committer:
        committer.commit(None)


def test_progress_counts_up_to_all_texts(tiny_recipe, tmp_path):
    heard = []
    with watched(lambda stage, done, total: heard.append((done, total))):
        capture_recipe(load_recipe(tiny_recipe), Home.at(tmp_path), SMALL)
    assert {total for _, total in heard} == {120} and heard[-1][0] == 120
    assert heard == sorted(heard) and len(heard) > 20


def test_a_disk_too_small_is_refused_before_the_model_runs(tiny_recipe, tmp_path, monkeypatch):
    recipe = load_recipe(tiny_recipe)
    work = collection_of(recipe, Home.at(tmp_path), SMALL)
    monkeypatch.setattr(Location, "free_bytes", lambda self: work.store.nbytes)  # no room for chunks written twice
    with pytest.raises(StoreError, match="cannot fit"):
        collection_of(recipe, Home.at(tmp_path / "other"), SMALL)
    regions = work.store.pending_regions()
    fill(work, regions[: len(regions) // 2])
    assert collection_of(recipe, Home.at(tmp_path), SMALL), "a resumed one needs room only for what is missing"


def test_repeats_are_found_across_folds():
    repeats, reference = Repeats(fold=4), {}
    stream = np.random.default_rng(0)
    for place, value in enumerate(stream.integers(0, 60, 200).tolist()):
        assert repeats.before(str(value).encode(), place) == reference.get(value)
        reference.setdefault(value, place)


RUN = """
import json, resource, sys
import torch
torch.set_num_threads(1)
from trimtab.store import ActivationStore
from trimtab.store.captures import schema
from trimtab.tasks.collecting.capture import capture_recipe
from trimtab.tasks.home import Home
from trimtab.tasks.recipes.kinds import load_recipe
schema.SMALLEST_CHUNK_BYTES = 2**14
for recipe, home in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
    made = capture_recipe(load_recipe(recipe), Home.at(home), 2**22)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": peak, "bytes": ActivationStore.open(made.url).nbytes}))
"""


def test_memory_does_not_grow_with_the_data(make_tiny, tmp_path):
    """Ten times the prompts are 50 MB more of activations, and next to nothing more of memory. One process collects the
    few and then the many."""
    command = [sys.executable, "-c", RUN]
    for pairs in (100, 1000):
        folder = tmp_path / str(pairs)
        recipe = make_tiny(folder, pairs, ["points: [resid_post, z, mlp_post]", "span: all", "dtype: float32"])
        command += [str(recipe), str(folder / "home")]
    # many arenas would hide what is measured behind the allocator's chance
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "MALLOC_ARENA_MAX": "2"})
    assert done.returncode == 0, done.stderr
    small, large = map(json.loads, done.stdout.splitlines()[-2:])
    more = large["bytes"] - small["bytes"]
    assert more > 40e6
    assert large["peak"] - small["peak"] < 0.3 * more, (small, large)


def test_homes_on_s3_spool_elsewhere():
    assert spool_folder(Home.at("s3://bucket/home")) is None
