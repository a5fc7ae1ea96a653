"""Laws of every fitter: deterministic, inputs unchanged, one meaning of strength, rotation where claimed, clear
refusals, and the special case its docstring names."""

import inspect
import warnings

import numpy as np
import pytest
import torch

from trimtab.steering.errors import BadRows, SteeringError, UnknownName
from trimtab.steering.fitters import FITTERS
from trimtab.steering.fitters._leading import MassiveCoordinate
from trimtab.steering.fitters.act import AcT
from trimtab.steering.fitters.base import Fitter
from trimtab.steering.fitters.logistic_probe import LogisticProbe
from trimtab.steering.fitters.mean_difference import MeanDifference
from trimtab.steering.fitters.pca import PCA
from trimtab.steering.fitters.whitened_difference import WhitenedDifference
from trimtab.steering.model.site import Site
from trimtab.steering.running.contrast import Contrast, Pair

N, M, D = 60, 45, 12
AT = Site("resid_post", 3)


def rows(n: int, seed: int, scales: torch.Tensor | float = 1.0, shift: float = 0.0) -> torch.Tensor:
    noise = torch.randn(n, D, generator=torch.Generator().manual_seed(seed))
    return noise * scales + shift * torch.linspace(0.2, 1, D)


def pairs(scales: torch.Tensor | float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs share what is not the contrast: the case that the differences are made for."""
    shared = rows(N, 1, 3.0)
    return shared + rows(N, 2, scales, 1.0), shared + rows(N, 3, scales)


def rotation() -> torch.Tensor:
    return torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(9))).Q


def direction(v: torch.Tensor) -> torch.Tensor:
    return v / v.norm()


@pytest.fixture(params=[name for name in FITTERS if issubclass(FITTERS[name], Fitter)])
def fitter(request):
    return FITTERS[request.param]()


@pytest.fixture(params=["paired", "unpaired"])
def contrast(request) -> Contrast:
    if request.param == "paired":
        return Contrast({AT: Pair(*pairs())})
    return Contrast({AT: Pair(rows(N, 2, 1.0, 1.0), rows(M, 3))}, paired=False)


def vector(plan, contrast: Contrast) -> torch.Tensor:
    """What the plan adds to the mean of the negative rows."""
    return plan.interventions[0].move.delta(contrast.sites[AT].negative.mean(0))


def test_the_same_rows_give_the_same_plan_and_are_not_changed(fitter, contrast):
    before = {site: (p.positive.clone(), p.negative.clone()) for site, p in contrast.sites.items()}
    torch.manual_seed(1)
    first = vector(fitter.fit(contrast), contrast)
    torch.manual_seed(2)
    assert torch.equal(first, vector(fitter.fit(contrast), contrast))
    assert first.dtype == torch.float32 and first.shape == (D,)
    for site, (positive, negative) in before.items():
        assert torch.equal(positive, contrast.sites[site].positive)
        assert torch.equal(negative, contrast.sites[site].negative)


def test_one_intervention_per_site_in_the_contrast_s_order(fitter):
    sites = [Site("z", 2, 1), Site("resid_post", 3), Site("mlp_post", 0)]
    plan = fitter.fit(Contrast({site: Pair(*pairs()) for site in sites}))
    assert [step.site for step in plan.interventions] == sites
    assert all(step.strength == 1.0 for step in plan.interventions)


def test_strength_one_moves_a_mean_onto_the_other_along_the_direction(fitter, contrast):
    """The one meaning of strength, so that methods can be compared."""
    pair, v = contrast.sites[AT], vector(fitter.fit(contrast), contrast)
    gap = pair.positive.mean(0) - pair.negative.mean(0)
    torch.testing.assert_close(direction(v) @ gap, v.norm(), rtol=1e-4, atol=1e-5)


def test_swapping_the_classes_turns_the_vector_round(fitter, contrast):
    pair = contrast.sites[AT]
    back = Contrast({AT: Pair(pair.negative, pair.positive)}, contrast.paired)
    torch.testing.assert_close(
        vector(fitter.fit(back), back), -vector(fitter.fit(contrast), contrast), rtol=1e-3, atol=1e-4
    )


def test_the_order_of_the_rows_does_not_matter(fitter, contrast):
    pair = contrast.sites[AT]
    order = torch.randperm(N, generator=torch.Generator().manual_seed(4))
    other = order if contrast.paired else slice(None)
    shuffled = Contrast({AT: Pair(pair.positive[order], pair.negative[other])}, contrast.paired)
    torch.testing.assert_close(
        vector(fitter.fit(shuffled), shuffled), vector(fitter.fit(contrast), contrast), rtol=1e-3, atol=1e-4
    )


def test_scaling_all_rows_scales_the_vector(fitter, contrast):
    """Down to the activations of small models and up to massive ones. The probe's penalty sees standardised rows."""
    for scale in (1e-3, 1e4):
        scaled = {AT: Pair(*(scale * x for x in (contrast.sites[AT].positive, contrast.sites[AT].negative)))}
        larger = Contrast(scaled, contrast.paired)
        got = vector(fitter.fit(larger), larger)
        torch.testing.assert_close(got / scale, vector(fitter.fit(contrast), contrast), rtol=1e-3, atol=1e-4)


def test_rotating_all_rows_rotates_the_vector_exactly_where_claimed(fitter, contrast):
    turn, scales = rotation(), torch.logspace(0, 2, D)
    pair = contrast.sites[AT]
    stretched = Contrast({AT: Pair(pair.positive * scales, pair.negative * scales)}, contrast.paired)
    turned = Contrast({AT: Pair(pair.positive * scales @ turn, pair.negative * scales @ turn)}, contrast.paired)
    row = pair.positive[0] * scales  # not a mean, which every map carries to the other
    want = fitter.fit(stretched).interventions[0].move.delta(row) @ turn
    got = fitter.fit(turned).interventions[0].move.delta(row @ turn)
    off = ((got - want).norm() / want.norm()).item()
    assert (off < 1e-3) == type(fitter).rotates, f"off by {off:.2g}, rotates is {type(fitter).rotates}"


def test_rows_with_the_same_mean_are_refused_with_the_site(fitter):
    positive = rows(N, 2)
    with pytest.raises(BadRows, match=r"at resid_post\.3: .*same mean"):
        fitter.fit(Contrast({AT: Pair(positive, positive.flip(0))}))


def test_rows_that_are_not_finite_are_refused(fitter):
    positive, negative = pairs()
    positive[3, 4] = float("inf")
    with pytest.raises(BadRows, match=r"resid_post\.3.*not finite"):
        fitter.fit(Contrast({AT: Pair(positive, negative)}))


def test_a_coordinate_that_never_varies_is_no_obstacle(fitter):
    positive, negative = pairs()
    positive[:, 5] = negative[:, 5] = 7.0
    contrast = Contrast({AT: Pair(positive, negative)})
    v = vector(fitter.fit(contrast), contrast)
    assert torch.isfinite(v).all() and abs(v[5]) < 1e-3


def test_two_rows_of_each_are_enough(fitter):
    positive, negative = pairs()
    contrast = Contrast({AT: Pair(positive[:2], negative[:2])})
    assert torch.isfinite(vector(fitter.fit(contrast), contrast)).all()


def test_each_has_a_source_and_a_page(fitter):
    cls = type(fitter)
    assert cls.source and isinstance(cls.rotates, bool)
    assert "Source:" in cls.__doc__ and "Special case" in cls.__doc__ or cls is MeanDifference
    meaning = inspect.getmodule(cls).__doc__.splitlines()[0]
    assert meaning.endswith(".") and len(meaning) < 100


# Special cases named in the docstrings.


def test_mean_difference_of_pairs_is_the_mean_of_differences_and_unit_its_direction():
    positive, negative = pairs()
    v = MeanDifference().fit_site(positive, negative).vector
    torch.testing.assert_close(v, (positive - negative).mean(0))
    torch.testing.assert_close(MeanDifference(unit=True).fit_site(positive, negative).vector, direction(v))


def test_pca_of_pairs_that_differ_by_one_vector_is_mean_difference():
    negative = rows(N, 3, 5.0)
    positive = negative + torch.linspace(-1, 2, D)
    want = MeanDifference().fit_site(positive, negative).vector
    torch.testing.assert_close(PCA().fit_site(positive, negative).vector, want, rtol=1e-4, atol=1e-5)


def test_pca_uses_pairs_only_when_rows_are_pairs():
    """Equal counts do not make pairs: the contrast says what they are."""
    positive, negative = pairs()
    paired = PCA().fit(Contrast({AT: Pair(positive, negative)}))
    apart = PCA().fit(Contrast({AT: Pair(positive, negative)}, paired=False))
    cosine = direction(paired.interventions[0].move.vector) @ direction(apart.interventions[0].move.vector)
    assert cosine < 0.9, "what pairs share should dominate when it is not subtracted"


def test_probe_under_a_heavy_penalty_is_the_difference_over_the_variances():
    scales = torch.logspace(-1, 1, D)
    positive, negative = rows(N, 2, scales, 1.0), rows(N, 3, scales)
    heavy = LogisticProbe(c=1e-7).fit_site(positive, negative).vector
    want = (positive.mean(0) - negative.mean(0)) / torch.cat([positive, negative]).var(0)
    assert direction(heavy) @ direction(want) > 0.99999
    assert direction(heavy) @ direction(positive.mean(0) - negative.mean(0)) < 0.9, "else this test shows nothing"


def test_whitened_with_full_shrinkage_and_equal_variances_is_mean_difference():
    scatter = torch.cat([rows(N, 5), -rows(N, 5)])
    scatter = scatter / scatter.std(0, unbiased=False)
    shift = torch.linspace(-1, 1, D)
    got = WhitenedDifference(shrinkage=1.0).fit_site(scatter + shift, scatter).vector
    torch.testing.assert_close(got, shift, rtol=1e-4, atol=1e-5)


def test_whitening_ignores_a_direction_in_which_both_classes_vary_much():
    """The case it exists for: mean difference follows the noise, the whitened one does not."""
    scales = torch.ones(D)
    scales[0] = 300.0
    positive, negative = rows(400, 2, scales, 1.0), rows(400, 3, scales)
    plain = direction(MeanDifference().fit_site(positive, negative).vector)
    white = direction(WhitenedDifference().fit_site(positive, negative).vector)
    truth = direction(torch.linspace(0.2, 1, D))
    assert white @ truth > 0.97 > 0.8 > plain @ truth


def test_transport_by_the_mean_is_mean_difference_and_a_planted_map_is_found():
    positive, negative = rows(N, 2, 1.0, 1.0), rows(M, 3)
    want = MeanDifference().fit_site(positive, negative).vector
    torch.testing.assert_close(AcT("mean").fit_site(positive, negative).vector, want)
    weight, bias = torch.linspace(0.5, 3.0, D), torch.linspace(-2.0, 2.0, D)
    shuffled = (negative * weight + bias)[torch.randperm(M, generator=torch.Generator().manual_seed(0))]
    for kind in ("gaussian", "linear"):
        move = AcT(kind).fit_site(shuffled, negative)
        torch.testing.assert_close(move.weight, weight, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(move.bias, bias, rtol=1e-4, atol=1e-4)


def test_linear_transport_is_the_authors_least_squares_of_sorted_values():
    """Per coordinate, of values sorted apart: slope and offset as numpy fits them."""
    positive, negative = rows(N, 2, 2.0, 1.0), rows(N, 3)
    move = AcT().fit_site(positive, negative)
    for k in range(D):
        slope, offset = np.polyfit(np.sort(negative[:, k].double()), np.sort(positive[:, k].double()), 1)
        assert (move.weight[k].item(), move.bias[k].item()) == pytest.approx((slope, offset), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("make", [lambda: LogisticProbe(c=0.0), lambda: WhitenedDifference(shrinkage=1.5)])
def test_bad_fields_are_refused(make):
    with pytest.raises(SteeringError, match=r"probe: c is 0.0|shrinkage is 1.5"):
        make()


def test_a_contrast_says_what_is_wrong_with_its_rows():
    for positive, negative, paired, message in (
        (rows(4, 1), rows(4, 2)[:, :5], True, "width 12, negative 5"),
        (rows(1, 1), rows(4, 2), False, "needs 2 of each"),
        (rows(4, 1), rows(5, 2), True, "paired, but 4 positive and 5"),
    ):
        with pytest.raises(SteeringError, match=message):
            Contrast({AT: Pair(positive, negative)}, paired)


def test_the_shelf_corrects_a_name():
    with pytest.raises(UnknownName, match="unknown fitter 'mean_diference': did you mean 'mean_difference'"):
        FITTERS["mean_diference"]


def massive(size: float, seed: int = 4) -> Contrast:
    """A contrast spread over ten coordinates of 32, and a massive coordinate 0 that varies by a tenth of its size."""
    draw = torch.Generator().manual_seed(seed)
    sides = torch.randn(2, N, 32, generator=draw)
    sides[0, :, 2:12] += 0.8
    sides[:, :, 0] = (sides[:, :, 0] + size) * (1 + 0.1 * torch.randn(2, N, generator=draw))
    return Contrast({AT: Pair(*sides)})


def test_no_method_is_led_by_a_massive_coordinate_in_silence(fitter):
    """Either the direction is the contrast's, or it is said which coordinate it is instead, and how to do better."""
    contrast = massive(3000.0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        v = vector(fitter.fit(contrast), contrast)
    found = (v[2:12].sum() / v.norm() / 10**0.5).item()
    told = [str(one.message) for one in said if issubclass(one.category, MassiveCoordinate)]
    assert len(told) == (found < 0.4), f"cosine with the contrast {found:.2f}, warnings: {told}"
    if told:
        assert "resid_post.3 coordinate 0 alone holds" in told[0] and "use whitened_difference" in told[0]
        assert f"{(v[0] / v.norm()) ** 2:.0%}" in told[0]


def test_no_method_is_accused_without_a_massive_coordinate(fitter, contrast):
    """Nor where the contrast really is one coordinate."""
    one = torch.randn(2, N, 32, generator=torch.Generator().manual_seed(4))
    one[0, :, 5] += 6
    with warnings.catch_warnings():
        warnings.simplefilter("error", MassiveCoordinate)
        for rows_of in (contrast, massive(0.0), Contrast({AT: Pair(*one)})):
            fitter.fit(rows_of)


def test_one_warning_for_all_sites():
    blocks = {Site("resid_post", k): massive(3000.0, k).sites[AT] for k in range(4)}
    with pytest.warns(MassiveCoordinate, match="so at 3 more sites") as said:
        PCA().fit(Contrast(blocks))
    assert len(said) == 1
