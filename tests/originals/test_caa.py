"""Contrastive activation addition (arXiv 2312.06681), its arithmetic written anew as the published script does it."""

import numpy as np
import torch

from trimtab.steering.fitters.mean_difference import MeanDifference


def published(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """generate_vectors.py: collect one activation per pair and side, stack, subtract, mean over pairs; raw norm."""
    differences = [p - n for p, n in zip(positive, negative, strict=True)]
    return np.stack(differences).mean(axis=0)


def test_mean_difference_is_the_published_vector():
    random = np.random.default_rng(0)
    positive, negative = random.normal(2, 5, (31, 17)), random.normal(-1, 3, (31, 17))
    rows = (torch.from_numpy(x).float() for x in (positive, negative))
    np.testing.assert_allclose(MeanDifference().fit_site(*rows).vector, published(positive, negative), rtol=1e-5)


def test_a_massive_activation_does_not_eat_the_digits_of_the_difference():
    """Sink tokens carry values of thousands beside differences of hundredths: a float32 sum over rows loses them."""
    random = np.random.default_rng(1)
    negative = random.normal(0, 0.1, (4096, 3)).astype(np.float32) + np.float32([4000, 0, 0])
    positive = negative + np.float32([0.01, 0.01, 0.01])
    want = (positive.astype(np.float64) - negative).mean(0)
    got = MeanDifference().fit_site(torch.from_numpy(positive), torch.from_numpy(negative)).vector
    np.testing.assert_allclose(got, want, rtol=1e-5)
