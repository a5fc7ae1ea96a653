"""What RepE's and repeng's centring loses: the mean difference itself. Their arithmetic, written anew with sklearn."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA as CentredPCA

from trimtab.steering.fitters.mean_difference import MeanDifference
from trimtab.steering.fitters.pca import PCA

N, D = 200, 16
TRUTH, NUISANCE = np.eye(D)[0], np.eye(D)[1]


def repeng_diff(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """`pca_diff`: first component of sklearn's PCA (it centres) of the differences, sign by the majority of pairs."""
    axis = CentredPCA(n_components=1, whiten=False).fit(positive - negative).components_[0]
    return axis if np.mean(positive @ axis > negative @ axis) >= 0.5 else -axis


def repeng_center(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """`pca_center`: each pair about its own middle, both halves as rows, then the same."""
    middle = (positive + negative) / 2
    rows = np.concatenate([positive - middle, negative - middle])
    axis = CentredPCA(n_components=1, whiten=False).fit(rows).components_[0]
    return axis if np.mean(positive @ axis > negative @ axis) >= 0.5 else -axis


@pytest.fixture(scope="module")
def rows():
    """Every pair differs by 3 along TRUTH; beside it the pairs differ by chance along NUISANCE, with spread 2."""
    random = np.random.default_rng(0)
    negative = random.normal(0, 1, (N, D))
    positive = negative + 3 * TRUTH + random.normal(0, 2, (N, 1)) * NUISANCE + random.normal(0, 0.1, (N, D))
    return positive, negative


def ours(fitter, rows) -> np.ndarray:
    v = fitter.fit_site(*(torch.from_numpy(x).float() for x in rows)).vector.double().numpy()
    return v / np.linalg.norm(v)


def test_the_centred_axis_is_the_nuisance_and_ours_is_the_truth(rows):
    centred = repeng_diff(*rows)
    assert abs(centred @ NUISANCE) > 0.99 and abs(centred @ TRUTH) < 0.1
    assert ours(PCA(), rows) @ TRUTH > 0.98


def test_ours_is_the_published_axis_where_the_published_one_does_not_centre(rows):
    """Rows about each pair's middle have mean zero already, so nothing is lost, and the axis is ours."""
    assert ours(PCA(), rows) @ repeng_center(*rows) == pytest.approx(1, abs=1e-6)


def test_centring_ours_gives_the_published_axis(rows):
    """The one difference is the mean: with the differences centred by hand, both axes are one."""
    positive, negative = rows
    differences = positive - negative
    axis = np.linalg.svd(differences - differences.mean(0), full_matrices=False)[2][0]
    assert abs(axis @ repeng_diff(positive, negative)) == pytest.approx(1, abs=1e-9)


def test_strength_one_is_as_long_as_the_mean_difference_on_the_axis(rows):
    positive, negative = (torch.from_numpy(x).float() for x in rows)
    long = PCA().fit_site(positive, negative).vector.norm()
    assert long <= MeanDifference().fit_site(positive, negative).vector.norm() * (1 + 1e-6)
    assert long == pytest.approx(3, rel=0.05)
