"""Laws of SNMF: G never negative, the loss never rises without winner-take-all, planted factors found, blocks = whole,
deterministic by seed, scaling the data scales F."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from trimtab.steering.errors import BadRows, SteeringError, UnknownName
from trimtab.steering.features.blocks import InMemory
from trimtab.steering.features.init import STARTS
from trimtab.steering.features.matching import matched_cosines
from trimtab.steering.features.snmf import SNMF, explained_variance, fit_snmf, transform
from trimtab.steering.features.streaming import fit_streaming
from trimtab.steering.features.updates import winners

N, D, K = 600, 40, 6
KEEP = 0.1  # 4 of 40 entries


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def planted(seed: int = 0, noise: float = 0.05) -> tuple[torch.Tensor, torch.Tensor]:
    """Signed rows from sparse signed features and sparse nonnegative activations."""
    features = torch.zeros(D, K)
    for k in range(K):
        where = torch.randperm(D, generator=draw(seed * 100 + k))[: int(KEEP * D)]
        features[where, k] = torch.randn(len(where), generator=draw(seed * 100 + 50 + k))
    on = torch.rand(N, K, generator=draw(seed + 1)) < 0.3
    activations = on * torch.rand(N, K, generator=draw(seed + 2)).add(0.2)
    return activations @ features.T + noise * torch.randn(N, D, generator=draw(seed + 3)), features


def noise(n: int = N) -> torch.Tensor:
    return torch.randn(n, D, generator=draw(7))


SPARSE = SNMF(rank=K, sparsity=KEEP, max_iterations=150)
DENSE = replace(SPARSE, sparsity=None, tolerance=0.0)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("sparsity", [KEEP, None])
def test_activations_are_never_negative_and_features_keep_their_share(start, sparsity):
    found = fit_snmf(noise(), replace(SPARSE, start=start, sparsity=sparsity, max_iterations=20))
    assert (found.activations >= 0).all() and torch.isfinite(found.features).all()
    assert int((found.features != 0).sum(0).max()) <= (SPARSE.keep(D) if sparsity else D)
    assert (transform(noise(), found.features) >= 0).all()


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("inner", [1, 4])
def test_the_loss_never_rises_without_winner_take_all(start, inner):
    for rows in (noise(), planted()[0]):
        losses = fit_snmf(rows, replace(DENSE, start=start, inner=inner, max_iterations=60)).report.losses
        assert max(np.diff(losses)) <= 1e-6, "float32 sums of squares are good to 1e-7 of the total"
        assert losses[-1] < losses[0]


@pytest.mark.parametrize("start", ["random", "kmeans"])
def test_planted_sparse_features_are_recovered_from_signed_rows(start):
    """By restarts, as the problem has local minima. svd has one start, and here it ends in one of them."""
    rows, truth = planted()
    found = fit_snmf(rows, replace(SPARSE, start=start, restarts=8))
    assert matched_cosines(truth, found.features)[1].min() > 0.95
    assert found.report.explained > 0.95


def test_the_report_is_of_the_best_iteration_and_of_what_is_returned():
    """The best pair is a copy: later iterations must not have changed it."""
    rows = noise()
    found = fit_snmf(rows, replace(SPARSE, max_iterations=40, patience=40))
    losses = found.report.losses
    assert losses[found.report.best] == min(losses) and len(set(losses)) > 1
    got = explained_variance(rows, found.features, found.activations)
    assert got == pytest.approx(found.report.explained, abs=1e-5)
    torch.testing.assert_close(found.activations.square().mean(0), torch.ones(K), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("sparsity", [KEEP, None])
def test_blocks_give_what_the_whole_gives(start, sparsity, tmp_path):
    rows, settings = planted()[0], replace(SPARSE, start=start, sparsity=sparsity, max_iterations=30)
    whole = fit_snmf(rows, settings)
    for sizes, scratch in (([600], None), ([1, 99, 300, 200], None), ([250, 350], tmp_path)):
        blocks = [block.numpy() for block in rows.split(sizes)]
        got = fit_streaming(blocks, settings, scratch=scratch)
        np.testing.assert_allclose(got.report.losses, whole.report.losses, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(got.features, whole.features, rtol=1e-2, atol=1e-3)
        torch.testing.assert_close(got.activations, whole.activations, rtol=1e-2, atol=1e-2)
    assert not list(tmp_path.iterdir())


def test_the_same_seed_gives_the_same_bits_another_seed_does_not():
    rows = noise()
    before = rows.clone()
    torch.manual_seed(1)
    one = fit_snmf(rows, SPARSE)
    torch.manual_seed(2)
    assert torch.equal(one.features, fit_snmf(rows, SPARSE).features)
    assert not torch.equal(one.features, fit_snmf(rows, replace(SPARSE, seed=1)).features)
    assert torch.equal(rows, before)


def test_restarts_keep_the_lowest_loss():
    rows, single = noise(), replace(SPARSE, max_iterations=15)
    runs = [fit_snmf(rows, replace(single, seed=s)) for s in range(4)]
    best = min(runs, key=lambda run: min(run.report.losses))
    got = fit_snmf(rows, replace(single, restarts=4))
    assert got.report.seed == best.report.seed
    torch.testing.assert_close(got.features, best.features)
    torch.testing.assert_close(got.activations, best.activations)


@pytest.mark.parametrize("scale", [2.0**-12, 2.0**15])
def test_scaling_the_data_scales_the_features_to_the_bit(scale):
    rows = planted()[0]
    one, other = fit_snmf(rows, SPARSE), fit_snmf(scale * rows, SPARSE)
    assert torch.equal(other.features, scale * one.features)
    assert torch.equal(other.activations, one.activations)


def test_transform_finds_the_activations_of_new_rows_alone_or_together():
    rows, truth = planted(noise=0.0)
    fresh = torch.rand(50, K, generator=draw(9)) * (torch.rand(50, K, generator=draw(10)) < 0.5)
    got = transform(fresh @ truth.T, truth, steps=400)
    torch.testing.assert_close(got, fresh, rtol=0.02, atol=0.02)
    alone = torch.cat([transform(row[None], truth, steps=400) for row in fresh @ truth.T])
    torch.testing.assert_close(alone, got, rtol=1e-3, atol=1e-4)


def test_transform_scales_with_the_rows():
    rows, truth = planted()
    torch.testing.assert_close(transform(1000 * rows, truth), 1000 * transform(rows, truth), rtol=1e-3, atol=1e-3)


def test_winners_never_keep_more_than_asked_on_ties():
    tied = torch.ones(10, 3)
    assert ((winners(tied, 4) != 0).sum(0) == 4).all()
    assert torch.equal(winners(tied, 10), tied)


def test_a_dead_feature_stays_dead_and_harms_nothing():
    """More features than the rows have dimensions: some must die or double, and nothing may become NaN."""
    rows = torch.zeros(30, 5)
    rows[:, 0] = torch.linspace(1, 2, 30)
    found = fit_snmf(rows, SNMF(rank=8, sparsity=None, max_iterations=30))
    assert torch.isfinite(found.features).all() and torch.isfinite(found.activations).all()
    assert found.report.explained > 0.99


def test_rows_that_cannot_be_factorised_are_refused():
    bad = noise()
    bad[3, 4] = float("nan")
    for rows, message in (
        (bad, "not finite"),
        (torch.zeros(10, 4), "all 10 rows are zero"),
        (noise()[:1], "1 rows of width 40"),
    ):
        with pytest.raises(BadRows, match=message):
            fit_snmf(rows, SPARSE)
    with pytest.raises(BadRows, match="width 40 and 39"):
        fit_streaming([noise(), noise()[:, :-1]], SPARSE)
    with pytest.raises(BadRows, match="on a later one"):
        fit_streaming(iter(InMemory(noise(), 100)), SPARSE)


@pytest.mark.parametrize(
    "fields", [{"sparsity": 0.0}, {"sparsity": 1.5}, {"rank": 0}, {"tolerance": 1.0}, {"inner": 0}]
)
def test_bad_settings_are_refused_by_name(fields):
    with pytest.raises(SteeringError, match=f"snmf: {next(iter(fields))} is"):
        SNMF(**fields)


def test_an_unknown_start_is_corrected():
    with pytest.raises(UnknownName, match="did you mean 'random'"):
        SNMF(start="randon")
