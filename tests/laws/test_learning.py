"""Laws of methods that learn through the model: gradients reach every move on every span, fits are deterministic, leave
the model as it was and spend the budget, and each method finds what was planted."""

import inspect
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from trimtab.steering.errors import SteeringError
from trimtab.steering.fitters import FITTERS
from trimtab.steering.fitters.base import ModelFitter
from trimtab.steering.fitters.bipo import BiPO
from trimtab.steering.fitters.gradient import Gradient
from trimtab.steering.fitters.iti import ITI
from trimtab.steering.fitters.lineas import LinEAS
from trimtab.steering.fitters.lofit import LoFiT
from trimtab.steering.fitters.natural import Metric, Natural
from trimtab.steering.fitters.optimised import Optimised
from trimtab.steering.learning.examples import Examples, margin_weights, texts_of
from trimtab.steering.learning.losses import margin, preference, wasserstein
from trimtab.steering.learning.pooled import pooled
from trimtab.steering.learning.steered import steered_logprobs
from trimtab.steering.learning.trainer import Objective, Training, train
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.proof import readable_points
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Span
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.moves.add import Add
from trimtab.steering.moves.diagonal import Diagonal
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.calibration import FORCED, Calibration
from trimtab.steering.price.response import LinearResponse
from trimtab.steering.running.answer_pair import AnswerPair
from trimtab.steering.running.padded_texts import completion_logprobs
from trimtab.steering.running.scorer import Scorer

SPANS = ("all", "answer", "generated", "prompt", "last", "first:4", "after:2")
MODEL_FITTERS = [name for name in FITTERS if issubclass(FITTERS[name], ModelFitter)]


def text(seed: int, prompt: int, completion: int) -> Tokens:
    ids = np.random.default_rng(seed).integers(2, 57, prompt + completion)
    return Tokens(ids, prompt, np.zeros(len(ids), np.uint8), np.zeros(len(ids), bool))


def answered(seed: int, positive: int, negative: int) -> AnswerPair:
    """One prompt; the positive answer is full of one token, the negative one of another."""
    prompt = np.random.default_rng(seed).integers(2, 57, 3 + seed % 3)
    draws = np.random.default_rng(1000 + seed)

    def side(token: int) -> Tokens:
        completion = np.where(draws.random(5) < 0.7, token, draws.integers(2, 57, 5))
        ids = np.concatenate([prompt, completion])
        return Tokens(ids, len(prompt), np.zeros(len(ids), np.uint8), np.zeros(len(ids), bool))

    return AnswerPair(side(positive), side(negative))


def examples(budget: float = 0.02, span: str = "answer") -> Examples:
    pairs = tuple(answered(k, 7, 11) for k in range(12))
    return Examples(pairs[:8], pairs[8:], Span.parse(span), budget)


def sites(anatomy: Anatomy) -> list[Site]:
    return [Site("resid_post", block) for block in range(anatomy.n_layers)]


def tensors(plans: dict[str, SteeringPlan]) -> dict[str, list[torch.Tensor]]:
    return {name: [torch.from_numpy(array) for array in plan.pack().arrays.values()] for name, plan in plans.items()}


@pytest.fixture(params=MODEL_FITTERS)
def method(request) -> ModelFitter:
    return FITTERS[request.param]()


def test_gradients_reach_the_moves_through_every_point(tiny):
    """Of a whole plan, additions and diagonal maps at every point at once, over spans of all kinds, against finite
    differences."""
    anatomy, texts = Anatomy.of(tiny), [text(k, 3 + k % 3, 2 + k % 4) for k in range(7)]
    places = [Site(point, None if point == "embed" else 1) for point in readable_points(anatomy)]
    generator = torch.Generator().manual_seed(0)
    begin = [0.1 * torch.randn(anatomy.width(site), generator=generator) for site in places]
    way = [torch.randn(anatomy.width(site), generator=generator) for site in places]
    size = 0.002

    def values(vectors: list[torch.Tensor]) -> torch.Tensor:
        moves = [Add(v) if k % 2 else Diagonal(1 + v, v) for k, v in enumerate(vectors)]
        steps = [Intervention(places[k], move, SPANS[k % len(SPANS)]) for k, move in enumerate(moves)]
        rows = steered_logprobs(anatomy, SteeringPlan(tuple(steps)), texts)
        return torch.stack([one.double().mean() for one in completion_logprobs(rows, texts)])

    leaves = [v.clone().requires_grad_() for v in begin]
    slopes = [torch.autograd.grad(value, leaves, retain_graph=True) for value in values(leaves)]
    got = np.array([[float(g @ w) for g, w in zip(of_text, way, strict=True)] for of_text in slopes])
    with torch.no_grad():
        up, down = (values([v + sign * size * w for v, w in zip(begin, way, strict=True)]) for sign in (1, -1))
    apart = np.abs(got.sum(1) - (up - down).numpy() / (2 * size)) / np.abs(got).sum(1)
    assert np.median(apart) < 0.02, apart  # the median over texts: in some a step crosses a kink (a change of experts)
    assert (np.abs(got).max(0) > 1e-6).all(), "every point is reached"
    assert all(parameter.grad is None for parameter in tiny.parameters())


def test_a_fit_is_deterministic_and_leaves_the_model_alone(method, tiny_llama):
    anatomy = Anatomy.of(tiny_llama)
    before = {name: value.clone() for name, value in tiny_llama.state_dict().items()}
    torch.manual_seed(1)
    first = tensors(method.fit(anatomy, examples(), sites(anatomy)))
    torch.manual_seed(2)
    again = tensors(method.fit(anatomy, examples(), sites(anatomy)))
    assert first and first.keys() == again.keys()
    for name, arrays in first.items():
        assert all(torch.equal(a, b) for a, b in zip(arrays, again[name], strict=True)), name
        assert all(torch.isfinite(a).all() for a in arrays)
    assert all(torch.equal(value, before[name]) for name, value in tiny_llama.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in tiny_llama.parameters())


def test_a_fitted_plan_moves_the_margin_up_acts_on_the_span_and_round_trips(method, tiny_llama, tmp_path):
    anatomy, given = Anatomy.of(tiny_llama), examples()
    for name, plan in method.fit(anatomy, given, sites(anatomy)).items():
        assert all(step.span == given.span for step in plan.interventions), name
        assert plan.model == anatomy.fingerprint
        plan.save(tmp_path / "plan.safetensors")
        again = SteeringPlan.load(tmp_path / "plan.safetensors")
        for ours, theirs in zip(tensors({"": plan})[""], tensors({"": again})[""], strict=True):
            assert torch.equal(ours, theirs)
        assert gain(anatomy, plan, given.pairs) > 0, name


def gain(anatomy: Anatomy, plan: SteeringPlan, pairs: tuple[AnswerPair, ...]) -> float:
    """What the plan adds to the mean margin, nats per token, at strength 1."""
    texts = texts_of(pairs)
    with torch.no_grad():
        margins = [
            float(margin(completion_logprobs(steered_logprobs(anatomy, one, texts), texts)))
            for one in (plan, plan.scaled(0.0))
        ]
    return margins[0] - margins[1]


def test_shuffled_labels_leave_no_effect_on_held_out_pairs(method, tiny_llama):
    """A placebo refit: the same method, half of the labels exchanged, must do less for the real labels."""
    anatomy, given = Anatomy.of(tiny_llama), examples()
    best = max(gain(anatomy, plan, given.held_out) for plan in method.fit(anatomy, given, sites(anatomy)).values())
    for seed in range(2):
        shuffled = given.shuffled(torch.Generator().manual_seed(seed))
        assert sum(a is not b for a, b in zip(given.pairs, shuffled.pairs, strict=True)) == len(given.pairs) // 2
        try:
            plans = method.fit(anatomy, shuffled, sites(anatomy)).values()
        except SteeringError:
            continue
        assert max(gain(anatomy, plan, given.held_out) for plan in plans) < best


@pytest.mark.parametrize("fitter", [Gradient(8), Natural(draws=8), ITI(heads=3)], ids=["gradient", "natural", "iti"])
@pytest.mark.parametrize("budget", [0.001, 0.01])
def test_strength_one_spends_the_budget(fitter, budget, tiny_llama):
    """Where the method says so; second order holds at these budgets."""
    anatomy, given = Anatomy.of(tiny_llama), replace(examples(), budget=budget)
    calibration = Calibration(Scorer(tiny_llama), texts_of(given.held_out), on=FORCED)
    for name, plan in fitter.fit(anatomy, given, sites(anatomy)).items():
        assert calibration.kl(plan) == pytest.approx(budget, rel=0.6), name


def test_natural_is_the_exact_optimum_of_a_linear_model():
    """Logits `W v`, labels from their softmax: Fisher's matrix is W' (diag p - pp') W, and no vector of the same price
    gains more than F^-1 g."""
    generator = torch.Generator().manual_seed(0)
    d, v = 6, 9
    weights = torch.randn(v, d, generator=generator, dtype=torch.float64)
    p = torch.softmax(torch.randn(v, generator=generator, dtype=torch.float64), 0)
    fisher = weights.T @ (torch.diag(p) - torch.outer(p, p)) @ weights
    g = weights.T @ (torch.eye(v, dtype=torch.float64)[2] - p)
    labels = torch.multinomial(p, 200_000, replacement=True, generator=generator)
    scores = (torch.eye(v, dtype=torch.float64)[labels] - p) @ weights
    place = (Site("resid_post", 0), Span("all"))
    metric = Metric.of(LinearResponse({place: g[None]}, {place: scores[:, None]}, len(labels)), place)
    direction = metric.solved(g, 1e-9)
    exact = torch.linalg.solve(fisher, g)
    assert (direction / direction.norm()) @ (exact / exact.norm()) > 0.999

    def per_root_nat(x: torch.Tensor) -> float:
        return float(g @ x / (x @ fisher @ x).sqrt())

    others = [torch.randn(d, generator=generator, dtype=torch.float64) for _ in range(200)]
    assert per_root_nat(direction) > 0.999 * per_root_nat(exact)
    assert per_root_nat(exact) > max(map(per_root_nat, [g, *others]))
    assert torch.equal(metric.solved(g, math.inf), g)
    assert torch.cosine_similarity(metric.solved(g, 1e9), g, dim=0) > 1 - 1e-9


def test_sampled_fisher_is_the_exact_one(tiny_llama):
    """Per text, F summed over tokens by the labels' exact expectation, against many drawn labels."""
    anatomy, site, span = Anatomy.of(tiny_llama), Site("resid_post", 1), Span("answer")
    texts = [text(3, 3, 2), text(4, 4, 3)]
    exact = torch.zeros(anatomy.d_model, anatomy.d_model)
    for one in texts:
        vector = torch.zeros(anatomy.d_model, requires_grad=True)
        (rows,) = steered_logprobs(anatomy, SteeringPlan((Intervention(site, Add(vector), span),)), [one])
        for row in rows:
            slopes = torch.stack([torch.autograd.grad(y, vector, retain_graph=True)[0] for y in row])
            exact += slopes.T @ (row.detach().exp()[:, None] * slopes)
    scored = sum(len(one) - one.prompt_length for one in texts)
    given = Examples((AnswerPair(*texts), AnswerPair(*texts[::-1])), span=span)
    response = given.response(anatomy, [site], 3000)
    scores = response.scores[site, span][:2].flatten(0, 1)
    sampled = scores.T @ scores / 3000
    assert (sampled - exact).norm() < 0.1 * exact.norm()
    assert response.tokens == 2 * scored


def test_one_response_serves_all_labels(tiny_llama, monkeypatch):
    anatomy, given = Anatomy.of(tiny_llama), examples()
    first = given.response(anatomy, sites(anatomy), 1)
    monkeypatch.setattr(LinearResponse, "of", classmethod(lambda *_: pytest.fail("computed again")))
    shuffled = given.shuffled(torch.Generator().manual_seed(0))
    again = shuffled.response(anatomy, sites(anatomy), 1)
    place = (Site("resid_post", 0), given.span)
    gradient = margin_weights(given.pairs) @ first.slopes[place].double()
    other = margin_weights(given.pairs) @ again.slopes[place].double()
    assert not torch.allclose(gradient, other)
    assert torch.equal(given.response(anatomy, sites(anatomy)[::-1], 0).slopes[place], first.slopes[place])
    for pair, ours, theirs in zip(given.pairs, first.slopes[place].split(2), again.slopes[place].split(2), strict=True):
        swapped = pair not in shuffled.pairs
        torch.testing.assert_close(theirs, ours.flip(0) if swapped else ours)


def test_optimised_vectors_gain_more_per_nat_than_where_they_start(tiny_llama):
    anatomy, given = Anatomy.of(tiny_llama), examples(0.1)
    trained = Optimised(alone=1, together=0).fit(anatomy, given, sites(anatomy))
    (name,) = trained
    start = Gradient().fit(anatomy, given, [Site.parse(name)])[name]
    calibration = Calibration(Scorer(tiny_llama), texts_of(given.pairs), on=FORCED)
    per_root_nat = [
        gain(anatomy, plan, given.pairs) / math.sqrt(calibration.kl(plan)) for plan in (trained[name], start)
    ]
    assert per_root_nat[0] > per_root_nat[1]
    assert calibration.kl(trained[name]) < 3 * given.budget


def test_no_steps_are_the_gradient(tiny_llama):
    anatomy, given = Anatomy.of(tiny_llama), examples()
    untrained = Optimised(alone=1, together=0, training=Training(steps=0)).fit(anatomy, given, sites(anatomy))
    for name, plan in untrained.items():
        start = Gradient().fit(anatomy, given, [Site.parse(name)])[name]
        torch.testing.assert_close(plan.interventions[0].move.vector, start.interventions[0].move.vector)


def test_lineas_finds_a_planted_map_and_penalties_make_it_the_identity(tiny_llama):
    """After training, the negative texts' activations lie nearer to the positive ones', by the loss itself."""
    anatomy, given = Anatomy.of(tiny_llama), examples()
    place = [Site("resid_post", 1)]
    (plan,) = LinEAS(training=Training(steps=150, rate=0.05)).fit(anatomy, given, place).values()

    with torch.no_grad():
        sides = [[pair.negative for pair in given.pairs], [pair.positive for pair in given.pairs]]
        (negative,), (positive,) = (pooled(anatomy, None, side, place) for side in sides)
        (moved,) = pooled(anatomy, plan, sides[0], place)
    assert wasserstein(moved, positive).sum() < 0.3 * wasserstein(negative, positive).sum()
    with pytest.raises(SteeringError, match="every map is the identity"):
        LinEAS(sparsity=100.0).fit(anatomy, given, place)


def test_bipo_without_both_ways_is_dpo_and_the_loss_is_theirs():
    steered, base = torch.tensor([-3.0, -5.0, -2.0, -9.0]), torch.tensor([-4.0, -4.5, -2.5, -8.0])
    want = [-math.log(1 / (1 + math.exp(-0.1 * x))) for x in (1.0 + 0.5, 0.5 + 1.0)]
    assert float(preference(steered, base, 0.1, torch.ones(2))) == pytest.approx(sum(want) / 2)
    down = [-math.log(1 / (1 + math.exp(0.1 * x))) for x in (1.5, 1.5)]
    assert float(preference(steered, base, 0.1, -torch.ones(2))) == pytest.approx(sum(down) / 2)
    assert BiPO(both_ways=False).beta == 0.1


def test_the_control_of_head_methods_acts_at_as_many_other_heads(tiny_llama):
    """ITI and LoFiT return plans of as many heads as were asked for, each head once; `random` has none of the best."""
    anatomy, given = Anatomy.of(tiny_llama), examples()
    short = Training(steps=3)
    for fitter in (ITI(heads=3), LoFiT(heads=3, scales=short, offsets=short)):
        best, control = (
            next(iter(one.fit(anatomy, given, sites(anatomy)).values()))
            for one in (fitter, replace(fitter, choice="random"))
        )
        assert len(best.sites) == len(control.sites) == 3 and not set(best.sites) & set(control.sites)
        assert all(site.head is not None for site in (*best.sites, *control.sites))


def test_the_trainer_keeps_the_best_step_and_refuses_what_diverges():
    x = torch.tensor([1.0], requires_grad=True)
    shown: list[float] = []

    def score() -> float:
        shown.append(float(x.detach()))
        return -abs(float(x.detach()) - 0.5)

    train([x], Objective(lambda numbers: x.sum(), score=score), 4, Training(steps=20, rate=0.1, every=1, patience=50))
    assert float(x.detach()) == min(shown, key=lambda value: abs(value - 0.5))
    with pytest.raises(SteeringError, match="diverged at rate 0.1"):
        train([x], Objective(lambda numbers: x.sum() * math.nan), 4, Training(steps=2, rate=0.1))


def test_wasserstein_is_the_sorted_distance():
    a, b = torch.tensor([[0.0], [3.0], [1.0]]), torch.tensor([[5.0], [1.0], [2.0]])
    assert float(wasserstein(a, b)) == pytest.approx((1 + 1 + 4) / 3)
    assert float(wasserstein(a, a[[1, 0, 2]])) == 0
    assert float(wasserstein(a, torch.cat([b, b]))) == pytest.approx((1 + 1 + 4) / 3, abs=0.5)


def test_each_has_a_source_and_a_page(method):
    cls = type(method)
    assert cls.source and "Source:" in cls.__doc__ and "Special case" in cls.__doc__
    meaning = inspect.getmodule(cls).__doc__.splitlines()[0]
    assert meaning.endswith(".") and len(meaning) < 120


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gradient(0), "0 draws price nothing"),
        (lambda: Natural(shrinkage=0.0), "without an inverse"),
        (lambda: Optimised(alone=0, together=0), "train nothing"),
        (lambda: LinEAS(sparsity=-1.0), "rewards"),
        (lambda: BiPO(beta=0.0), "positive numbers"),
        (lambda: ITI(heads=0), "0 heads"),
        (lambda: LoFiT(heads=0), "0 heads"),
        (lambda: ITI(choice="worst"), "best or random"),
        (lambda: LoFiT(choice="worst"), "best or random"),
        (lambda: Training(steps=-1), "learns nothing"),
        (lambda: Examples((answered(0, 7, 11),)), "1 pairs of answers teach nothing"),
    ],
)
def test_bad_fields_are_refused(make, message):
    with pytest.raises(SteeringError, match=message):
        make()
