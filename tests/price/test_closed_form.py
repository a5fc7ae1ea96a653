"""Closed forms against brute force on toy softmax models whose logits are quadratic in the strength."""

import math

import numpy as np
import pytest
import torch

from trimtab.steering.errors import SteeringError
from trimtab.steering.model.divergence import kl_divergence
from trimtab.steering.price.closed_form import fisher_strength, fisher_variances, logit_variance
from trimtab.steering.price.kl import divergences, steered_from_base
from trimtab.steering.running.scorer import Scorer


class Toy:
    """z(g) = base + g slope + g^2 bend / 2, float64: |dz/dg| = |slope| at 0, |d2z/dg2| = |bend| everywhere."""

    def __init__(self, seed: int, spread: float = 3.0, bend: float = 0.3, vocabulary: int = 400):
        generator = torch.Generator().manual_seed(seed)
        self.base, self.slope, self.bend = (
            torch.randn(1, vocabulary, generator=generator, dtype=torch.float64) * scale
            for scale in (spread, 1.0, bend)
        )

    def __call__(self, g: float) -> torch.Tensor:
        return self.base + g * self.slope + g * g / 2 * self.bend

    def kl(self, g: float) -> float:
        """KL(base || steered)."""
        return kl_divergence(self(0.0), self(g)).item()

    def root(self, budget: float) -> float:
        low, high = 0.0, 1.0
        while self.kl(high) < budget:
            high *= 2
        for _ in range(80):
            low, high = ((low + high) / 2, high) if self.kl((low + high) / 2) < budget else (low, (low + high) / 2)
        return low

    def variance(self) -> float:
        p = self.base.softmax(-1)
        return float((p * self.slope**2).sum() - (p * self.slope).sum() ** 2)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("budget,error", [(1e-4, 0.05), (1e-3, 0.1), (1e-2, 0.25)])
def test_fisher_is_the_root_for_small_budgets(seed, budget, error):
    toy = Toy(seed)
    assert fisher_strength(np.array([toy.variance()]), budget) == pytest.approx(toy.root(budget), rel=error)


@pytest.mark.parametrize("step", [1e-4, 1e-3, 1e-2])
def test_central_differences_give_the_variance(step):
    toy = Toy(0)
    assert logit_variance(toy(step), toy(-step), step).item() == pytest.approx(toy.variance(), rel=10 * step)


def test_mean_and_quantile():
    variances = np.array([1.0] * 95 + [100.0] * 5)
    assert fisher_strength(variances, 0.5) == pytest.approx(math.sqrt(1 / variances.mean()))
    assert fisher_strength(variances, 0.5, 0.5) == pytest.approx(1.0)
    assert fisher_strength(variances, 0.5, 0.99) == pytest.approx(0.1)
    assert fisher_strength(np.zeros(3), 0.5) == math.inf


@pytest.mark.parametrize("size", [1e-6, 1e-2, 1.0, 1e3])
def test_variances_of_a_model_whatever_the_plans_unit(tiny, texts, make_plan, size):
    """The step follows the logits, so a plan in other units gives the same strength in its own units."""
    scorer = Scorer(tiny)
    plan = make_plan(size=size)
    variances, passes = fisher_variances(scorer, plan, texts)
    reference, _ = fisher_variances(scorer, make_plan(size=1.0), texts)
    assert len(variances) == sum(len(t) - t.prompt_length for t in texts)
    assert passes <= 12
    np.testing.assert_allclose(variances.mean() / size**2, reference.mean(), rtol=0.02)


def test_fisher_predicts_the_models_kl(tiny, texts, make_plan):
    scorer, plan = Scorer(tiny), make_plan()
    variances, _ = fisher_variances(scorer, plan, texts)
    strength = fisher_strength(variances, 1e-3)
    kl = np.concatenate(divergences(scorer, texts, steered_from_base(plan.scaled(strength)))).mean()
    assert kl == pytest.approx(1e-3, rel=0.1)


def test_nothing_to_differentiate(tiny, make_text, make_plan):
    with pytest.raises(SteeringError, match="no text has a completion"):
        fisher_variances(Scorer(tiny), make_plan(), [make_text(0, 5, 0)])
