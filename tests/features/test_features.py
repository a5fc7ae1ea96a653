"""Feature sets: packed and read back, read, labelled, chosen, arranged, detected, and steered with."""

import numpy as np
import pytest
import torch

from trimtab.steering.errors import BadPlan, SteeringError
from trimtab.steering.features.detection import detect, sentence_scores
from trimtab.steering.features.feature_set import FeatureSet
from trimtab.steering.features.hierarchy import Level, branches, build_levels
from trimtab.steering.features.reading import TokenTable, read_features
from trimtab.steering.features.snmf import SNMF, fit_snmf
from trimtab.steering.features.vocabulary import residual_directions
from trimtab.steering.fitters.snmf import SNMFFeature
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.hooks import hooked
from trimtab.steering.model.site import Site
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.pack import Packed
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.statistics import auroc

IDS = torch.tensor([[7, 3, 52, 11, 30, 3]])
D, K = 24, 5


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sparse(seed: int, d: int, k: int, keep: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    found = torch.zeros(d, k)
    for column in range(k):
        found[torch.randperm(d, generator=draw)[:keep], column] = torch.randn(keep, generator=draw)
    return found


@pytest.fixture(scope="module")
def table() -> TokenTable:
    words = [[" a", " Monday", " b"], [" c", " d", " monday"], [" e", " f", " g"]]
    return TokenTable(words, np.repeat([0, 1, 2], 3), np.tile([0, 1, 2], 3))


@pytest.fixture(scope="module")
def full(table) -> FeatureSet:
    features = sparse(1, D, K, 4)
    activations = torch.zeros(9, K)
    activations[[1, 5], 0] = torch.tensor([3.0, 2.0])
    activations[0, 1], activations[4, 1], activations[8, 1] = 1.0, 0.9, 0.05
    readings = read_features(features, activations, table)
    level = Level(torch.rand(K, 2), noise(3, D, 2))
    return FeatureSet(features, Site("mlp_post", 1), {"rank": K}, {"explained": 0.5}, None, readings, (level,))


def test_a_feature_set_survives_packing_and_a_file(full, tmp_path):
    full.pack().save(tmp_path / "set.safetensors")
    for packed in (full.pack(), Packed.load(tmp_path / "set.safetensors")):
        back = FeatureSet.unpack(packed)
        assert torch.equal(back.features, full.features) and back.site == full.site
        assert back.readings == full.readings and back.labels == full.labels
        assert back.settings == full.settings and back.report == full.report
        assert torch.equal(back.levels[0].weights, full.levels[0].weights)


def test_what_is_not_a_feature_set_is_refused(full):
    plan = full.plan(0).pack()
    with pytest.raises(BadPlan, match="not a feature set of format 1: kind 'plan'"):
        FeatureSet.unpack(plan)
    packed = full.pack()
    broken = Packed({k: v for k, v in packed.arrays.items() if k != "features"}, packed.header)
    with pytest.raises(BadPlan, match="do not belong together"):
        FeatureSet.unpack(broken)


def test_a_reading_shows_the_tokens_in_context_and_is_named_after_them(full):
    first, second, *dead = full.readings
    assert [(t.token, t.before, t.after) for t in first.tops] == [(" Monday", " a", " b"), (" monday", " c d", "")]
    assert first.label == "monday" and first.peak == 3.0 and first.firing == pytest.approx(2 / 9)
    assert second.firing == pytest.approx(2 / 9), "0.05 is under a tenth of the peak"
    assert second.label == "a, d"
    assert all(reading.label == "never fires" and reading.firing == 0 for reading in dead)
    entries = dict(first.neurons)
    assert set(entries) == set(full.features[:, 0].nonzero()[:, 0].tolist())
    other, cosine, common = first.nearest[0]
    unit = full.directions
    assert cosine == pytest.approx(float(unit[:, 0] @ unit[:, other]), abs=1e-6)
    assert common == int(((full.features[:, 0] != 0) & (full.features[:, other] != 0)).sum())


def test_a_number_that_is_not_there_is_refused(full):
    for number, message in ((K, "no feature 5: the set at mlp_post.1 has 0 to 4"), (-1, "no feature -1")):
        with pytest.raises(SteeringError, match=message):
            full.plan(number)
    dead = FeatureSet(torch.zeros(D, 1), Site("mlp_post", 1))
    with pytest.raises(SteeringError, match="feature 0 is dead"):
        dead.plan(0)


# ---- against models of every family


def read(model, sites, plan=None):
    seen = {}
    reads = [(site, lambda h, site=site: seen.__setitem__(site, h.clone())) for site in sites]
    with torch.inference_mode(), (plan or SteeringPlan(())).on(model), hooked(Anatomy.of(model), reads=reads):
        seen["logits"] = model(input_ids=IDS, use_cache=False).logits
    return seen


def test_a_direction_s_image_is_what_steering_with_it_adds_at_mlp_out(tiny):
    anatomy = Anatomy.of(tiny)
    if anatomy.family.down_proj is None or anatomy.family.post_norm:
        pytest.skip("no neurons, or a norm behind the MLP: no constant image")
    at, out = Site("mlp_post", 1), Site("mlp_out", 1)
    feature = noise(2, anatomy.width(at), 1)
    plan = SteeringPlan((Intervention(at, Add(feature[:, 0])),))
    moved = read(tiny, [out], plan)[out] - read(tiny, [out])[out]
    image = residual_directions(anatomy, at, feature)
    torch.testing.assert_close(moved, image.expand_as(moved), rtol=1e-3, atol=1e-4)


def test_the_norm_behind_an_mlp_makes_images_of_the_residual_s_width(build_tiny):
    anatomy = Anatomy.of(build_tiny("gemma2"))
    assert residual_directions(anatomy, Site("mlp_post", 1), noise(1, 56, 2)).shape == (2, 40)


# ---- hierarchy


def test_the_tree_brings_planted_families_together():
    """Six fine features in two families; each family shares neurons of its own."""
    fine = torch.zeros(30, 6)
    for k in range(6):
        family = k // 3
        fine[family * 10 : family * 10 + 4, k] = 1.0
        fine[20 + k, k] = 0.7
    levels = build_levels(fine, [2], SNMF(sparsity=0.4, restarts=4, max_iterations=80))
    assert (levels[0].weights >= 0).all() and levels[0].features.shape == (30, 2)
    found = branches(levels[0], fine)
    assert sorted(tuple(sorted(b.children)) for b in found) == [(0, 1, 2), (3, 4, 5)]
    for branch in found:
        start = min(branch.children) // 3 * 10
        assert branch.shared == tuple(range(start, start + 4))
    with pytest.raises(SteeringError, match="rank 6 above 6 features"):
        build_levels(fine, [6], SNMF())


def test_a_parent_of_one_is_left_out_and_four_children_are_the_most():
    level = Level(
        torch.tensor([[1.0, 1.0], [0.1, 0.9], [0.0, 0.8], [0.0, 0.7], [0.0, 0.6], [0.0, 0.5]]), noise(1, 3, 2)
    )
    assert [(b.parent, b.children) for b in branches(level, torch.ones(3, 6))] == [(1, (0, 1, 2, 3))]


# ---- detection


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    scores = np.array([[3.0, 1.0], [2.0, 1.0], [1.0, 1.0], [2.0, 5.0]])
    positive = np.array([True, True, False, False])
    np.testing.assert_allclose(auroc(scores, positive), [3.5 / 4, 1 / 4])


def test_a_planted_concept_is_detected_and_noise_is_not():
    draw, names = np.random.default_rng(0), np.array(["tide", "none"])[np.arange(80) % 2]
    features = torch.eye(8)
    rows = noise(6, 240, 8)
    for sentence in np.flatnonzero(names == "tide"):
        rows[sentence * 3 + 1, 2] += 8.0
    scores = sentence_scores(rows, np.arange(0, 241, 3), features)
    held_out = draw.random(80) < 0.5
    found = {d.concept: d for d in detect(scores, names.tolist(), held_out)}
    tide = found["tide"]
    assert tide.feature == 2 and tide.auroc > 0.95 and tide.beats_null
    assert 0.4 < tide.null < 0.6 and tide.low <= tide.auroc <= tide.high and tide.log_ratio > 0
    shuffled = {d.concept: d for d in detect(scores, draw.permutation(names).tolist(), held_out)}
    assert shuffled["tide"].auroc < 0.75
    with pytest.raises(SteeringError, match="'none': 40 of 40"):
        detect(scores, names.tolist(), names == "tide")


def test_a_sentence_without_rows_is_refused():
    with pytest.raises(SteeringError, match="has no row"):
        sentence_scores(noise(1, 4, 3), np.array([0, 2, 2, 4]), torch.eye(3))


# ---- the fitter's own special case and choice


def test_rank_one_without_sparsity_is_the_first_singular_axis():
    rows = noise(7, 90, 12) * 0.3 + torch.linspace(0.5, 2, 12)
    positive, negative = rows[:40] * 1.3, rows[40:]
    v = SNMFFeature(rank=1, sparsity=1.0).fit_site(positive, negative).vector
    axis = torch.linalg.svd(torch.cat([positive, negative]), full_matrices=False)[2][0]
    assert abs(float(v @ axis / v.norm())) > 0.999


def test_the_best_feature_is_the_one_that_separates_and_another_can_be_asked_for():
    features = sparse(8, 40, 6, 4)
    draw = torch.Generator().manual_seed(1)
    g = torch.rand(400, 6, generator=draw) * (torch.rand(400, 6, generator=draw) < 0.4)
    g[:200, 3] += 1.5
    rows = g @ features.T + 0.02 * noise(9, 400, 40)
    make = SNMFFeature(rank=6, sparsity=0.1, iterations=200)
    v = make.fit_site(rows[:200], rows[200:]).vector
    assert float(v @ features[:, 3] / v.norm() / features[:, 3].norm()) > 0.9
    others = [
        SNMFFeature(rank=6, sparsity=0.1, iterations=200, feature=k).fit_site(rows[:200], rows[200:]) for k in (0, 1)
    ]
    assert not torch.equal(others[0].vector, others[1].vector)
    with pytest.raises(SteeringError, match="feature is 6"):
        SNMFFeature(rank=6, feature=6)


def test_the_fit_of_a_feature_set_reports_itself():
    found = fit_snmf(noise(1, 50, D).abs(), SNMF(rank=3, max_iterations=5))
    assert len(found.report.to_json()["losses"]) == 5 and found.report.rows == 50
