"""Activation patching and attribution patching: exact or first-order as they say, and their special cases."""

import copy

import numpy as np
import pytest
import torch
from small_questions import CPU, PAIR, QUESTIONS

from trimtab.steering.causal.gradients import estimates, products, slopes
from trimtab.steering.causal.head_scales import scaled_heads
from trimtab.steering.causal.patching import Patch, activations, patched, whole_sites
from trimtab.steering.causal.question import Batch
from trimtab.steering.causal.relevance import relevance_rules
from trimtab.steering.errors import BadQuestion
from trimtab.steering.localisers.activation_patching import ActivationPatching
from trimtab.steering.localisers.attribution_patching import AttributionPatching
from trimtab.steering.localisers.base import heads, mlps
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site


def test_patching_every_head_alone_is_zero_gates_one_by_one(anatomy):
    """Two code paths: `Patch` with zeros, and gates."""
    got = ActivationPatching("noising", "zero").rank(anatomy, QUESTIONS).only("z")
    n = len(got.units)
    gates = 1 - torch.eye(n).reshape(n, anatomy.n_layers, anatomy.n_heads)
    batch = Batch.of(QUESTIONS, PAIR, CPU).tiled(n)
    with torch.no_grad(), scaled_heads(anatomy, gates.repeat_interleave(2, 0)):
        left = batch.metric(batch.logits(anatomy.model)).reshape(n, 2)
    want = got.extra["clean"] - left.numpy()
    np.testing.assert_allclose(got.values, want.mean(1), atol=2e-5)


def test_patching_the_last_block_s_whole_stream_brings_everything_back(llama):
    """Head by head it is not so; all of resid_post at once must be."""
    batch, site = Batch.of(QUESTIONS, PAIR, CPU), Site("resid_post", llama.n_layers - 1)
    clean, logits = activations(llama, batch, [site])
    got = patched(llama, batch, [site], Patch(clean, "corrupted"))
    torch.testing.assert_close(got[0], batch.metric(logits))


def test_attribution_is_patching_in_the_limit_of_small_changes(anatomy):
    """The estimate's relative error falls in step with the change (in float64; norms round to float32 all the same)."""
    wide = Anatomy.of(copy.deepcopy(anatomy.model).double())
    batch, units = Batch.of(QUESTIONS, PAIR, CPU), (*heads(wide), *mlps(wide))
    sites = whole_sites(units)
    here = slopes(wide, batch, sites, "corrupted")
    clean, _ = activations(wide, batch, sites)
    errors = []
    for step in (1e-1, 1e-2):
        values = {site: here.values[site] + step * (clean[site] - here.values[site]) for site in sites}
        true = patched(wide, batch, units, Patch(values, "corrupted")) - here.metric
        gaps = {site: values[site] - here.values[site] for site in sites}
        errors.append(((products(wide, units, gaps, here.slopes) - true).norm() / true.norm()).item())
    assert errors[1] < 0.2 * errors[0] and errors[1] < 0.1, errors


def test_attribution_is_patching_where_the_rest_of_the_model_is_linear(plain):
    """The last MLP's output is followed by the final norm alone; frozen, that is linear, and patching it is exact."""
    batch, unit = Batch.of(QUESTIONS, PAIR, CPU), Site("mlp_out", plain.n_layers - 1)
    got = estimates(plain, batch, [unit], surgery=relevance_rules(plain, ("norm",)))
    clean, _ = activations(plain, batch, [unit])
    dirty, _ = activations(plain, batch, [unit, Site("resid_post", plain.n_layers - 1)], "corrupted")
    scale = _frozen_final(plain, batch, dirty[Site("resid_post", plain.n_layers - 1)])
    want = scale(clean[unit]) - scale(dirty[unit])
    torch.testing.assert_close(got[0], want, rtol=1e-3, atol=1e-4)


def _frozen_final(anatomy: Anatomy, batch: Batch, stream: torch.Tensor):
    """The metric as a linear map of what is added to the last residual: the final norm as a fixed matrix, by hand."""
    final = anatomy.final_norm
    rows = torch.arange(batch.rows)
    ends = stream[rows, batch.last]
    centre = 1.0 if type(final).__name__ == "CohereLayerNorm" else 0.0
    basis = torch.eye(ends.shape[-1])
    with torch.no_grad():
        # norm(x) = D(x) (x - centre * mean): the diagonal D read off the norm's own answer.
        diagonal = final(ends) / (ends - centre * ends.mean(-1, keepdim=True))
        head = anatomy.model.get_output_embeddings().weight
        direction = head[batch.target[:2]] - head[batch.wrong]
    mixing = basis - centre / len(basis)

    def value(added: torch.Tensor) -> torch.Tensor:
        return ((added[rows, batch.last] @ mixing) * diagonal * direction).sum(-1)

    return value


def test_noising_and_denoising_are_refused_where_they_make_no_sense():
    with pytest.raises(BadQuestion, match="for noising only"):
        ActivationPatching("denoising", "zero")
    with pytest.raises(BadQuestion, match="direction 'up'"):
        ActivationPatching("up")
    with pytest.raises(BadQuestion, match="direction is 'up'"):
        AttributionPatching("up")


def test_patching_can_rank_other_points(llama):
    ranking = ActivationPatching(points=("resid_post", "attn_out")).rank(llama, QUESTIONS)
    assert [str(u) for u in ranking.units][:4] == ["resid_post.0", "resid_post.1", "resid_post.2", "attn_out.0"]
    gap = ranking.extra["clean"].mean() - ranking.extra["corrupted"].mean()
    assert ranking.value(Site("resid_post", 2)) == pytest.approx(gap, abs=1e-4), "the whole stream brings all back"
