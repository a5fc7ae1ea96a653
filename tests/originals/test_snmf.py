"""Parity with the published SNMF loop (Shafran et al. 2025, arXiv 2506.10920; arithmetic written anew from the paper
and the notes on its released code), iteration by iteration on tiny arrays."""

import numpy as np
import pytest
import torch

from trimtab.steering.features.blocks import InMemory, SurveyedRows, survey
from trimtab.steering.features.init import begin
from trimtab.steering.features.snmf import SNMF, fit_snmf
from trimtab.steering.features.updates import norms, solved_features, split, updated_activations, winners

N, D, K, KEEP = 30, 20, 4, 5
RIDGE = 1e-6


def published_step(a: np.ndarray, g: np.ndarray, keep: int) -> tuple[np.ndarray, np.ndarray, float]:
    """One iteration on A `[d n]` and G `[n k]`: exact F, winner-take-all, rescaling, multiplicative G, loss."""
    f = a @ g @ np.linalg.inv(g.T @ g + RIDGE * np.eye(g.shape[1]))
    for k in range(f.shape[1]):
        f[np.argsort(-np.abs(f[:, k]), kind="stable")[keep:], k] = 0
    lengths = np.linalg.norm(g, axis=0)
    g, f = g / lengths, f * lengths
    p, q = a.T @ f, f.T @ f
    p_plus, p_minus = (np.abs(p) + p) / 2, (np.abs(p) - p) / 2
    q_plus, q_minus = (np.abs(q) + q) / 2, (np.abs(q) - q) / 2
    g = g * np.sqrt((p_plus + g @ q_minus) / (p_minus + g @ q_plus + RIDGE))
    return f, g, float(np.square(a - f @ g.T).sum())


@pytest.fixture
def rows() -> torch.Tensor:
    """Root mean square near 1, so that the published floors mean what they mean here."""
    return torch.randn(N, D, generator=torch.Generator().manual_seed(0))


def first(data: SurveyedRows) -> torch.Tensor:
    g = torch.empty(N, K)
    begin(data, "random", 3, g)
    return g


@pytest.mark.parametrize("keep", [KEEP, D])
def test_every_iteration_is_the_published_one(rows, keep):
    data = survey(InMemory(rows))
    assert data.scale == 1.0
    g = first(data)
    reference = g.double().numpy()
    for _ in range(25):
        f_want, reference, loss_want = published_step(rows.double().numpy().T, reference, keep)
        lengths = norms(g.T @ g)
        f = winners(solved_features(rows.T @ g, g.T @ g), keep) * lengths
        g = updated_activations(g / lengths, rows @ f, split(f.T @ f))
        np.testing.assert_allclose(f.numpy(), f_want, rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(g.numpy(), reference, rtol=2e-3, atol=1e-4)
        assert float((rows - g @ f.T).square().sum()) == pytest.approx(loss_want, rel=1e-4)


@pytest.mark.parametrize("keep", [KEEP, D])
def test_the_fit_has_the_published_losses_and_keeps_the_published_best(rows, keep):
    settings = SNMF(rank=K, sparsity=keep / D, seed=3, max_iterations=25, patience=25, tolerance=0.0, inner=1, refit=0)
    found = fit_snmf(rows, settings)
    a, g, steps = rows.double().numpy().T, first(survey(InMemory(rows))).double().numpy(), []
    for _ in range(25):
        f, g, loss = published_step(a, g, keep)
        steps.append((loss, f, g))
    losses = [loss / np.square(a).sum() for loss, _, _ in steps]
    np.testing.assert_allclose(found.report.losses, losses, rtol=1e-3)
    best = int(np.argmin(losses))
    assert found.report.best == best
    product = found.features.double().numpy() @ found.activations.double().numpy().T
    np.testing.assert_allclose(product, steps[best][1] @ steps[best][2].T, rtol=1e-2, atol=1e-2)


def test_the_plain_nmf_update_would_fail_on_signed_rows(rows):
    """Some accounts give G (X F) / (G F^T F), which leaves the nonnegative numbers as soon as X or F has a sign."""
    data = survey(InMemory(rows))
    g = first(data)
    f = solved_features(rows.T @ g, g.T @ g)
    plain = g * (rows @ f) / (g @ (f.T @ f))
    assert (plain < 0).any()
    assert (updated_activations(g, rows @ f, split(f.T @ f)) >= 0).all()
