"""Laws of every move on its own: affine() is delta(), width and shape are kept, bad fields are refused."""

import dataclasses
import math

import pytest
import torch

from trimtab.steering.errors import BadMove, UnknownName
from trimtab.steering.gates.first import First
from trimtab.steering.moves import MOVES
from trimtab.steering.moves.ablate import Ablate
from trimtab.steering.moves.add import Add
from trimtab.steering.moves.affine import Affine
from trimtab.steering.moves.angular import Angular
from trimtab.steering.moves.base import Turn
from trimtab.steering.moves.clamp import Clamp
from trimtab.steering.moves.diagonal import Diagonal
from trimtab.steering.moves.gated import Gated
from trimtab.steering.moves.scale import Scale
from trimtab.steering.moves.slerp import Slerp

D = 40


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=MOVES)
def move(request, bench):
    return bench.move(request.param, D)


def test_delta_is_row_by_row_and_leaves_its_input(move):
    h = rows(3, 5, D)
    before = h.clone()
    together = move.delta(h)
    assert together.shape == h.shape and together.dtype == torch.float32
    torch.testing.assert_close(together[1, 2], move.delta(h[1, 2]))
    assert torch.equal(h, before)


def test_strength_is_the_identity_at_zero_and_as_fitted_at_one(move):
    h = rows(7, D)
    torch.testing.assert_close(move.moved(h, 0.0), h, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(move.moved(h), h + move.delta(h), rtol=1e-4, atol=1e-5)
    per_row = torch.linspace(-1.5, 1.5, 7)[:, None]
    one_by_one = torch.stack([move.moved(row, float(s)) for row, s in zip(h, per_row, strict=True)])
    torch.testing.assert_close(move.moved(h, per_row), one_by_one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strength", [-3.0, -0.4, 0.2, 1.0, 2.5])
def test_turns_keep_the_norm_at_every_strength(move, strength):
    h = rows(7, D)
    kept = torch.allclose(move.moved(h, strength).norm(dim=-1), h.norm(dim=-1), rtol=1e-5)
    assert kept == isinstance(move, Turn)


def test_affine_is_delta(move):
    h, affine = rows(7, D), move.affine()
    if affine is None:
        return  # nothing is claimed
    wide = affine.widened(D)
    torch.testing.assert_close(h @ wide.matrix().T + wide.bias, move.delta(h), rtol=1e-4, atol=1e-4)
    assert wide.constant == torch.allclose(move.delta(h), move.delta(2 * h))


def test_moves_are_frozen_and_say_their_width(move):
    assert move.width in (D, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        move.anything = 1  # type: ignore[attr-defined]


def test_a_redirected_move_is_of_the_same_kind_and_size_elsewhere(move):
    """A placebo: same class, width, rank and limit; over rows that have no favoured direction, as far; another way."""
    stream, h = torch.Generator().manual_seed(303), rows(4000, D)
    draw = lambda n: torch.randn(n, D, generator=stream)  # noqa: E731
    if isinstance(move, Scale):
        with pytest.raises(BadMove, match="every direction alike"):
            move.redirected(draw)
        return
    one, other = move.redirected(draw), move.redirected(draw)
    assert type(one) is type(move) and one.width == move.width and one.limit == move.limit
    fields = dataclasses.fields(move)
    shapes = lambda m: [getattr(getattr(m, f.name), "shape", None) for f in fields]  # noqa: E731
    assert shapes(one) == shapes(move)
    sizes = [m.delta(h).norm(dim=-1).mean().item() for m in (move, one, other)]
    assert sizes == pytest.approx([sizes[0]] * 3, rel=0.5)
    a, b, c = (m.delta(h).flatten() for m in (move, one, other))
    assert max(abs(torch.cosine_similarity(x, y, dim=0).item()) for x, y in ((a, b), (a, c), (b, c))) < 0.7


def test_a_move_with_a_limit_is_done_there(move):
    """Beyond its limit a move overshoots what it says; at the limit it says it: doing it again does nothing."""
    h = rows(7, D)
    if not math.isfinite(move.limit) or isinstance(move, Affine | Diagonal):  # an affine map may be of any kind
        return
    done = move.moved(h, move.limit)
    torch.testing.assert_close(move.moved(done, move.limit), done, rtol=1e-3, atol=1e-3)


def unit(seed: int = 1) -> torch.Tensor:
    v = torch.randn(D, generator=torch.Generator().manual_seed(seed))
    return v / v.norm()


def test_ablation_is_a_projection():
    basis = torch.linalg.qr(rows(D, 3)).Q.T.contiguous()
    center, h = unit(2), rows(6, D)
    move = Ablate(basis, center)
    once = h + move.delta(h)
    torch.testing.assert_close(once @ basis.T, (center @ basis.T).expand(6, 3), rtol=1e-4, atol=1e-5)
    assert move.delta(once).abs().max() < 1e-5, "twice is once"
    torch.testing.assert_close(once - once @ basis.T @ basis, h - h @ basis.T @ basis, rtol=1e-4, atol=1e-5)


def test_clamp_bounds_the_coordinate_and_nothing_else():
    u, h = unit(), rows(200, D)
    after = h + Clamp(u, low=-0.5, high=0.25).delta(h)
    torch.testing.assert_close(after @ u, (h @ u).clamp(-0.5, 0.25), rtol=1e-4, atol=1e-5)
    inside = ((h @ u) > -0.5) & ((h @ u) < 0.25)
    assert inside.any() and torch.equal(after[inside], h[inside]), "untouched to the bit"
    capped = h + Clamp(u, high=0.0).delta(h)
    assert (capped @ u).max() < 1e-5 and (capped @ u).min() < -1


def test_special_cases_named_in_the_docstrings():
    u, h = unit(), rows(6, D)
    torch.testing.assert_close(Clamp(u, 0.0, 0.0).delta(h), Ablate(u[None]).delta(h))
    torch.testing.assert_close(Affine(u).delta(h), Add(u).delta(h))
    torch.testing.assert_close(Affine.of_map(1.5 * torch.eye(D), torch.zeros(D)).delta(h), Scale(1.5).delta(h))
    torch.testing.assert_close(Diagonal(torch.ones(D), u).delta(h), Add(u).delta(h))
    torch.testing.assert_close(Diagonal(torch.full((D,), 1.5), torch.zeros(D)).delta(h), Scale(1.5).delta(h))
    torch.testing.assert_close(h + Affine.of_map(rows(D, D), u).delta(h), h @ rows(D, D).T + u, rtol=1e-4, atol=1e-4)
    assert torch.equal(h + Scale(0.0).delta(h), torch.zeros_like(h))


def test_slerp_goes_a_share_of_the_angle_and_never_past_the_direction():
    u, h = unit(), rows(6, D)
    angle = lambda x: torch.rad2deg(torch.acos(((x @ u) / x.norm(dim=-1)).clamp(-1, 1)))  # noqa: E731
    torch.testing.assert_close(angle(Slerp(u, 0.25).moved(h)), 0.75 * angle(h), rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(angle(Slerp(u, 0.25).moved(h, 2.0)), 0.5 * angle(h), rtol=1e-3, atol=1e-2)
    for beyond in (4.0, 100.0):
        assert angle(Slerp(u, 0.25).moved(h, beyond)).max() < 0.1, "ends at the direction"
        assert angle(Slerp(u, 0.25).moved(h, -beyond)).min() > 100
    assert torch.equal(Slerp(u, 0.5).moved(3 * u), 3 * u), "along the direction no plane is defined"


def test_angular_ends_at_its_angle_and_leaves_the_rest():
    plane, h = torch.linalg.qr(rows(D, 2)).Q.T.contiguous(), rows(6, D)
    after = Angular(plane, 30.0).moved(h)
    inside = after @ plane.T
    degrees = torch.rad2deg(torch.atan2(inside[:, 1], inside[:, 0]))
    torch.testing.assert_close(degrees, torch.full((6,), 30.0), rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(after - inside @ plane, h - h @ plane.T @ plane, rtol=1e-4, atol=1e-5)


def test_special_case_of_angular():
    plane = torch.linalg.qr(rows(D, 2)).Q.T.contiguous()
    h = rows(6, 2) @ plane
    torch.testing.assert_close(Angular(plane).moved(h), Slerp(plane[0], 1.0).moved(h), rtol=1e-3, atol=1e-4)


BAD = {
    "two vectors": (lambda: Add(rows(2, D)), r"one vector \[d\], got \[2, 40\]"),
    "nan": (lambda: Add(unit() * math.nan), "Add.vector: 40 of 40 values are not finite"),
    "float64": (lambda: Add(unit().double()), "Add.vector is torch.float64.*float32"),
    "a list": (lambda: Add([1.0, 2.0]), "Add.vector is list"),
    "a flat basis": (lambda: Ablate(unit()), r"one direction is \[1 d\]"),
    "not orthonormal": (lambda: Ablate(torch.stack([unit(), unit() + 0.1])), "not orthonormal"),
    "not unit": (lambda: Ablate(2 * unit()[None]), "not orthonormal"),
    "center of another width": (lambda: Ablate(unit()[None], torch.ones(3)), r"center is \[3\].*width 40"),
    "right alone": (lambda: Affine(unit(), None, rows(D, 2)), "`right` without `left`"),
    "ranks differ": (lambda: Affine(unit(), rows(D, 2), rows(D, 3)), r"left \[40, 2\] and right \[40, 3\]"),
    "not square": (lambda: Affine.of_map(rows(3, D), unit()), "square"),
    "not a unit direction": (lambda: Clamp(2 * unit(), 0.0, 1.0), "norm 2"),
    "bounds crossed": (lambda: Clamp(unit(), 1.0, 0.0), r"no coordinate lies in \[1.0, 0.0\]"),
    "a bound that is nan": (lambda: Clamp(unit(), math.nan, 1.0), "no coordinate lies"),
    "no bounds": (lambda: Clamp(unit()), "moves nothing"),
    "slerp by more": (lambda: Slerp(unit(), 1.5), "share.* 1.5 of the angle is not in"),
    "slerp along no unit": (lambda: Slerp(2 * unit()), "one unit vector"),
    "a plane that is none": (lambda: Angular(torch.stack([unit(), unit()])), "not orthonormal"),
    "an angle that is none": (lambda: Angular(torch.linalg.qr(rows(D, 2)).Q.T, math.nan), "nan degrees"),
    "gated twice": (lambda: Gated(Gated(Add(unit()), First(2)), First(3)), "AllOf"),
    "diagonal of two widths": (lambda: Diagonal(unit(), torch.ones(3)), r"weight and bias \[d\], got \[40\] and \[3\]"),
    "scale one": (lambda: Scale(1.0), "has no effect"),
    "scale inf": (lambda: Scale(math.inf), "finite factor"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_fields_are_named(case):
    make, message = BAD[case]
    with pytest.raises(BadMove, match=message):
        make()


def test_the_shelf_lists_and_corrects():
    assert {"add", "ablate", "affine", "clamp", "scale"} <= set(MOVES)
    with pytest.raises(UnknownName, match="unknown move 'abate': did you mean 'ablate'"):
        MOVES["abate"]
    assert all(MOVES.name_of(MOVES[name]) == name for name in MOVES)
