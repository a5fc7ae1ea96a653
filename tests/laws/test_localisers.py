"""Laws of every localiser: deterministic, the same however questions are batched, and the model is as it was."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch

from trimtab.steering.causal.head_scales import scaled_heads, scales_of_one
from trimtab.steering.causal.question import Batch, Question, question_batches
from trimtab.steering.causal.ranking import Ranking, overlap
from trimtab.steering.errors import BadQuestion, BadRanking, SteeringError, UnknownName
from trimtab.steering.localisers import LOCALISERS
from trimtab.steering.localisers.base import heads, mlps
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.frozen import frozen
from trimtab.steering.model.hooks import hooked
from trimtab.steering.model.site import Site
from trimtab.steering.model.tokens import Role, Tokens
from trimtab.steering.statistics import column_intervals

CPU = torch.device("cpu")
FEW = ["llama", "gpt2", "gemma2", "qwen3", "mixtral", "opt"]  # grouped heads, soft cap, query norms, experts, ReLU
SETTINGS = {"causal_head_gating": {"seeds": 2, "steps": 3, "questions_per_step": 9}}
WITHOUT_HALF = {"relp": {"rules": ("norm", "activation")}}


def text(*ids: int) -> Tokens:
    array = np.array(ids)
    return Tokens(array, len(ids), np.full(len(ids), Role.TEXT, np.uint8), np.zeros(len(ids), bool))


# Ragged, answers of several tokens, one of them a token of the prompt: what every method can work on.
QUESTIONS = (
    Question(text(7, 3, 52, 11, 30), (4, 52), text(7, 3, 50, 11, 30)),
    Question(text(8, 3, 52, 11, 30, 22, 1), (22,), text(8, 3, 40, 12, 30, 22, 1)),
    Question(text(8, 3), (5, 3, 7), text(9, 3)),
    Question(text(17, 19, 23), (19,), text(17, 20, 23)),
)
COMPARED = tuple(replace(q, wrong=(33,)) for q in QUESTIONS)


@pytest.fixture(params=FEW)
def anatomy(request, build_tiny) -> Anatomy:
    return Anatomy.of(build_tiny(request.param))


@pytest.fixture(params=LOCALISERS)
def name(request) -> str:
    return request.param


def made(name: str, anatomy: Anatomy, **fields):
    special = WITHOUT_HALF.get(name, {}) if anatomy.family.down_proj is None else {}
    known = inspect.signature(LOCALISERS[name]).parameters
    return LOCALISERS[name](**SETTINGS.get(name, {}), **special, **{k: v for k, v in fields.items() if k in known})


# Gates


def test_gates_at_one_are_the_identity_to_the_bit(tiny):
    anatomy, batch = Anatomy.of(tiny), Batch.of(QUESTIONS, range(4), CPU)
    with torch.no_grad():
        want = batch.logits(tiny)
        with scaled_heads(anatomy, scales_of_one(anatomy, 4)):
            assert torch.equal(batch.logits(tiny), want)
        with scaled_heads(anatomy, scales_of_one(anatomy, 1)):
            assert torch.equal(batch.logits(tiny), want)
        assert torch.equal(batch.logits(tiny), want)


def test_gates_at_zero_are_zero_ablation(tiny):
    anatomy, batch = Anatomy.of(tiny), Batch.of(QUESTIONS, range(4), CPU)
    nothing = [(site, torch.zeros_like) for site in anatomy.sites(["z"])]
    with torch.no_grad():
        with scaled_heads(anatomy, 0 * scales_of_one(anatomy)):
            got = batch.logits(tiny)
        with hooked(anatomy, edits=nothing):
            torch.testing.assert_close(got, batch.logits(tiny), rtol=0, atol=0)


def test_every_row_has_its_own_gates(anatomy):
    gates = torch.rand(4, anatomy.n_layers, anatomy.n_heads, generator=torch.Generator().manual_seed(0))
    batch = Batch.of(QUESTIONS, range(4), CPU)
    with torch.no_grad():
        with scaled_heads(anatomy, gates):
            together = batch.metric(batch.logits(anatomy.model))
        for k in range(4):
            alone = Batch.of(QUESTIONS, [k], CPU)
            with scaled_heads(anatomy, gates[k : k + 1]):
                torch.testing.assert_close(alone.metric(alone.logits(anatomy.model))[0], together[k])


def test_gate_gradients_are_those_of_finite_differences(anatomy):
    batch = Batch.of(COMPARED, range(4), CPU)
    gates = scales_of_one(anatomy).requires_grad_()
    with frozen(anatomy.model), scaled_heads(anatomy, gates):
        batch.metric(batch.logits(anatomy.model)).sum().backward()
    for block, head in ((0, 1), (2, 3)):
        ends = []
        for step in (-1e-3, 1e-3):
            moved = scales_of_one(anatomy)
            moved[0, block, head] += step
            with torch.no_grad(), scaled_heads(anatomy, moved):
                ends.append(batch.metric(batch.logits(anatomy.model)).sum())
        slope = (ends[1] - ends[0]) / 2e-3
        torch.testing.assert_close(gates.grad[0, block, head], slope, rtol=2e-2, atol=1e-2)


def test_gates_of_another_model_are_refused(tiny_llama):
    with (
        pytest.raises(SteeringError, match=r"\[1, 2, 9\] do not fit a model of 3 blocks and 4 heads"),
        scaled_heads(Anatomy.of(tiny_llama), torch.ones(1, 2, 9)),
    ):
        pass


# Every localiser


def test_the_same_questions_give_the_same_ranking_and_the_model_is_as_it_was(name, anatomy):
    model, batch = anatomy.model, Batch.of(QUESTIONS, range(4), CPU)
    before = batch.logits(model).detach()
    torch.manual_seed(1)
    first = made(name, anatomy).rank(anatomy, QUESTIONS)
    torch.manual_seed(2)
    second = made(name, anatomy).rank(anatomy, QUESTIONS)
    assert np.array_equal(first.values, second.values) and first.labels == second.labels
    assert all(np.array_equal(first.extra[key], second.extra[key], equal_nan=True) for key in first.extra)
    assert torch.equal(batch.logits(model).detach(), before)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_the_ranking_does_not_depend_on_batches_padding_or_order(name, anatomy):
    """One question at a time (no padding), all at once (padded), and turned round."""
    together = made(name, anatomy).rank(anatomy, QUESTIONS)
    small = made(name, anatomy, budget=1).rank(anatomy, QUESTIONS[::-1])
    np.testing.assert_allclose(small.values, together.values, rtol=1e-3, atol=1e-4)
    if "per_question" in together.extra:
        turned = small.extra["per_question"][::-1]
        np.testing.assert_allclose(turned, together.extra["per_question"], rtol=1e-3, atol=1e-4)


def test_a_ranking_has_a_number_for_every_head_and_says_what_it_means(name, anatomy):
    ranking = made(name, anatomy).rank(anatomy, COMPARED)
    assert set(heads(anatomy)) <= set(ranking.units) <= {*heads(anatomy), *mlps(anatomy)}
    assert ranking.values.dtype == np.float32 and np.isfinite(ranking.values).all() and ranking.values.std() > 0
    assert ranking.grid().shape == (anatomy.n_layers, anatomy.n_heads)
    assert ranking.method == name and ranking.questions == 4 and len(ranking.meaning) > 30
    if ranking.low is not None:
        assert (ranking.low <= ranking.values + 1e-6).all() and (ranking.values <= ranking.high + 1e-6).all()


def test_packing_and_unpacking_gives_the_same_ranking(name, tiny_llama):
    anatomy = Anatomy.of(tiny_llama)
    ranking = made(name, anatomy).rank(anatomy, QUESTIONS)
    again = Ranking.unpack(ranking.pack())
    assert (again.units, again.labels, again.method) == (ranking.units, ranking.labels, name)
    assert np.array_equal(again.values, ranking.values)
    assert {key: a.shape for key, a in again.extra.items()} == {key: np.shape(a) for key, a in ranking.extra.items()}


def test_each_has_a_source_and_a_page(name):
    cls = LOCALISERS[name]
    assert cls.source and cls.meaning and "Source:" in cls.__doc__ and "Costs" in cls.__doc__
    first = inspect.getmodule(cls).__doc__.splitlines()[0]
    assert first.endswith(".") and len(first) < 120


def test_questions_that_lack_what_a_method_needs_are_refused(name, tiny_llama):
    bare = [replace(q, corrupted=None) for q in QUESTIONS]
    method = made(name, Anatomy.of(tiny_llama))
    if "corrupted" in method.needs or name == "activation_patching":
        with pytest.raises(BadQuestion, match="corrupted"):
            method.rank(Anatomy.of(tiny_llama), bare)
    else:
        assert len(method.rank(Anatomy.of(tiny_llama), bare).units) >= 12
    with pytest.raises(BadQuestion, match="no questions"):
        method.rank(Anatomy.of(tiny_llama), [])


# Questions and batches


def test_padding_left_or_right_tiling_and_asking_alone_agree(anatomy):
    for questions in (QUESTIONS, COMPARED):
        right, left = (Batch.of(questions, range(4), CPU, left=side) for side in (False, True))
        with torch.no_grad():
            want = right.metric(right.logits(anatomy.model))
            torch.testing.assert_close(left.metric(left.logits(anatomy.model)), want)
            tiled = right.tiled(3)
            torch.testing.assert_close(tiled.metric(tiled.logits(anatomy.model)), want.repeat(3))
            alone = [Batch.of(questions, [k], CPU) for k in range(4)]
            torch.testing.assert_close(torch.cat([b.metric(b.logits(anatomy.model)) for b in alone]), want)


def test_gate_gradients_do_not_see_left_padding(anatomy):
    found = []
    for left in (False, True):
        gates = scales_of_one(anatomy, 4).requires_grad_()
        batch = Batch.of(QUESTIONS, range(4), CPU, left=left)
        with frozen(anatomy.model), scaled_heads(anatomy, gates):
            batch.metric(batch.logits(anatomy.model)).sum().backward()
        found.append(gates.grad)
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-5)


def test_the_metric_is_the_mean_log_probability_or_the_logit_difference(tiny_llama):
    q = QUESTIONS[2]
    with torch.no_grad():
        ids = torch.tensor([[8, 3, 5, 3]])
        logits = tiny_llama(input_ids=ids).logits[0, 1:]
        batch = Batch.of([q], [0], CPU)
        want = logits.log_softmax(-1)[[0, 1, 2], [5, 3, 7]].mean()
        torch.testing.assert_close(batch.metric(batch.logits(tiny_llama))[0], want)
        batch = Batch.of([replace(q, wrong=(33, 1))], [0], CPU)
        torch.testing.assert_close(batch.metric(batch.logits(tiny_llama))[0], logits[0, 5] - logits[0, 33])


def test_batches_hold_every_question_once():
    found = [i for batch in question_batches(QUESTIONS * 5, CPU, budget=20) for i in batch.numbers]
    assert sorted(found) == list(range(20))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Question(text(1, 2), ()), "at least one token of each"),
        (lambda: Question(text(1, 2), (3,), text(1, 2, 3)), "clean prompt has 2 tokens, the corrupted one 3"),
        (lambda: Question(text(1, 2), (3, 4), wrong=(3, 5)), "must differ in their first token"),
        (lambda: LOCALISERS["relp"]().check([QUESTIONS[0], replace(QUESTIONS[1], corrupted=None)]), "1 of 2 questions"),
    ],
)
def test_bad_questions_are_refused(make, message):
    with pytest.raises(BadQuestion, match=message):
        make()


# Rankings


def ranking(**fields) -> Ranking:
    units = (Site("z", 0, 0), Site("z", 0, 1), Site("mlp_out", 0), Site("z", 1, 1))
    return Ranking("by_hand", "made up", units, np.array([1, -3, 9, 2], np.float32), **fields)


def test_top_takes_the_largest_of_a_point_by_value_or_by_size():
    assert ranking().top(2) == (Site("z", 1, 1), Site("z", 0, 0))
    assert ranking().top(1, magnitude=True) == (Site("z", 0, 1),)
    assert ranking().top(1, point=None) == (Site("mlp_out", 0),)
    assert overlap(ranking().top(2), ranking().top(2, magnitude=True)) == 0.5


def test_grids_and_cuts():
    grid = ranking(extra={"seeds": np.arange(8).reshape(2, 4)})
    np.testing.assert_array_equal(grid.grid(), [[1, -3], [np.nan, 2]])
    cut = grid.only("z")
    assert cut.values.tolist() == [1, -3, 2] and cut.extra["seeds"].tolist() == [[0, 1, 3], [4, 5, 7]]
    with pytest.raises(BadRanking, match="no heads"):
        grid.only("mlp_out").grid()


def test_a_ranking_that_does_not_fit_itself_is_refused():
    with pytest.raises(BadRanking, match="4 units, but 3 labels"):
        ranking(labels=("a", "b", "c"))
    with pytest.raises(BadRanking, match="not a ranking of format"):
        Ranking.unpack(replace(ranking().pack(), header={"kind": "plan", "format": 1}))


def test_the_bootstrap_covers_the_mean_it_should():
    """Few rows, many rows, and 12 prompts with 3 questions each, which are one draw and not three."""
    prompt = np.repeat(np.arange(12), 3).tolist()
    for rows, clusters in ((8, None), (40, None), (36, prompt)):
        draws, inside = np.random.default_rng(0), 0
        for seed in range(300):
            shared = 0 if clusters is None else draws.normal(0, 2, (12, 1))[prompt]
            low, high = column_intervals(draws.normal(1, 2, (rows, 1)) + shared, seed=seed, clusters=clusters)
            inside += bool(low[0] <= 1 <= high[0])
        assert 274 <= inside <= 296, f"a 95% interval over {rows} rows"
    assert np.isnan(column_intervals(np.ones((1, 3)))[0]).all()
    assert np.isnan(column_intervals(np.ones((2, 3)), clusters="aa")[0]).all()


def test_the_shelf_corrects_a_name():
    with pytest.raises(UnknownName, match="unknown localiser 'atp_start': did you mean 'atp_star'"):
        LOCALISERS["atp_start"]
