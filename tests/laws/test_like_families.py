"""The short set of laws, for families that have the row of another: proof, effect, cache, reading, fold, saved."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.laws.fold_table import row, stated
from trimtab.steering.errors import CannotFold, UnsupportedModel
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.proof import prove
from trimtab.steering.model.site import Site
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.fold import fold
from trimtab.steering.running.reading import Rows, capture


def test_the_row_is_proved_and_the_swapped_one_is_not(like):
    row = Anatomy.of(like).family
    with pytest.raises(UnsupportedModel, match="families.py"):
        prove(Anatomy(like, replace(row, attn_added=row.mlp_added, mlp_added=row.attn_added)))


def test_sites_steer_in_prefill_and_in_cached_decode_and_fold(like, bench, assert_same):
    base = bench.logits(like)
    for site in bench.sites(like):
        plan = bench.plan(like, site)
        with plan.on(like) as session:
            steered = bench.logits(like)
            assert_same(bench.decode(like), steered)
        assert session.fired == [session.forwards] and (steered - base).abs().max() > 1e-3, site
        try:
            assert_same(bench.logits(fold(plan, like, in_memory=True)), steered)
        except CannotFold as error:
            assert str(error).startswith(str(site))
    assert torch.equal(bench.logits(like), base)


def test_a_site_reads_what_was_written_there_with_shared_prefixes_too(like, bench, assert_same):
    texts = [np.array([7, 3, 52, 11, 30, 3, 18, 44, 9, 5, 6, *end]) for end in ([8, 8, 2], [4], [30, 31])]
    tokens = [Tokens(ids, 11, np.zeros(len(ids), np.uint8), np.zeros(len(ids), bool)) for ids in texts]
    anatomy, sites = Anatomy.of(like), bench.sites(like)[:-1]
    shared, alone = (capture(anatomy, tokens, sites, Rows(), share) for share in (True, False))
    for site in sites:
        for a, b in zip(shared.rows[site], alone.rows[site], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        plan = bench.plan(like, site)
        with plan.on(like):
            after = bench.read(like, [site])[site]
        assert_same(after - bench.read(like, [site])[site], plan.interventions[0].move.vector.expand_as(after))


def test_the_page_says_what_folds_in_this_family(like, like_name, bench):
    assert stated(like_name) == row(like_name, like, bench), "run `make fold-table`"


def test_a_fold_saved_and_loaded_answers_as_hooked_or_was_refused(like, bench, assert_same, tmp_path):
    for site in (Site("z", 1, 2), Site("mlp_out", 1)):
        plan = bench.plan(like, site)
        try:
            fold(plan, like).save_pretrained(tmp_path / str(site))
        except CannotFold:
            continue
        with plan.on(like):
            hooked = bench.logits(like)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / str(site), dtype=torch.float32).eval()
        assert_same(bench.logits(loaded), hooked)
