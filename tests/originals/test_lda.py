"""Linear discriminant analysis beside scikit-learn's, and beside the closed form on two variables."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from trimtab.steering.fitters.logistic_probe import LogisticProbe
from trimtab.steering.fitters.whitened_difference import WhitenedDifference


def data(n: int, m: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    mix = random.normal(0, 1, (d, d)) * np.logspace(-1, 1, d)
    return random.normal(0, 1, (n, d)) @ mix + np.linspace(0, 2, d), random.normal(0, 1, (m, d)) @ mix


def unit(v) -> np.ndarray:
    v = np.asarray(v, dtype=np.float64)
    return v / np.linalg.norm(v)


def fitted(fitter, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    return unit(fitter.fit_site(torch.from_numpy(positive), torch.from_numpy(negative)).vector)


@pytest.mark.parametrize(
    ("sizes", "shrinkage"), [((60, 60, 8), None), ((90, 40, 8), None), ((12, 15, 30), None), ((90, 40, 8), 0.0)]
)
def test_direction_is_that_of_scikit_learn(sizes, shrinkage):
    """Also with unequal classes and with more coordinates than rows."""
    positive, negative = data(*sizes)
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto" if shrinkage is None else None)
    lda.fit(np.concatenate([positive, negative]), [1] * len(positive) + [0] * len(negative))
    got = fitted(WhitenedDifference(shrinkage=shrinkage), positive, negative)
    assert got @ unit(lda.coef_[0]) == pytest.approx(1, abs=1e-5)


def test_two_variables_by_hand():
    """S = [[2, 1], [1, 2]] and g = (1, 0): S^-1 g is proportional to (2, -1)."""
    root = np.linalg.cholesky(np.array([[2.0, 1.0], [1.0, 2.0]]))
    cross = np.sqrt(2) * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]) @ root.T  # covariance S exactly
    got = fitted(WhitenedDifference(shrinkage=0.0), cross + [1, 0], cross)
    np.testing.assert_allclose(got, unit([2, -1]), atol=1e-6)


def test_probe_weight_is_that_of_the_standardised_regression_mapped_back():
    """Its boundary is the same set of activations: predictions agree for every row."""
    positive, negative = data(60, 50, 8)
    rows, label = np.concatenate([positive, negative]), np.repeat([1, 0], [60, 50])
    scaler = StandardScaler().fit(rows)
    probe = LogisticRegression(C=1.0, max_iter=2000, tol=1e-6).fit(scaler.transform(rows), label)
    got = fitted(LogisticProbe(), positive, negative)
    score = probe.decision_function(scaler.transform(rows))
    along = rows @ got
    assert np.corrcoef(score, along)[0, 1] == pytest.approx(1, abs=1e-6)
