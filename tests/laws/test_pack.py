"""Law of the round trip: what is packed and unpacked, in memory or through a file, steers to the same bit."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trimtab.steering.errors import BadMove, BadPlan, BadSite, BadSpan, SteeringError, UnknownName
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import POINTS, WITHOUT_BLOCK, Site
from trimtab.steering.model.span import COUNTED, PLAIN, Span
from trimtab.steering.moves import MOVES
from trimtab.steering.moves.add import Add
from trimtab.steering.moves.clamp import Clamp
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.pack import Packed
from trimtab.steering.plans.plan import SteeringPlan

blocks = st.integers(0, 99)
sites = st.sampled_from([p for p in POINTS if p not in WITHOUT_BLOCK]).flatmap(
    lambda point: st.builds(Site, st.just(point), blocks, blocks if point == "z" else st.none())
) | st.just(Site("embed"))
spans = st.sampled_from(PLAIN).map(Span) | st.builds(Span, st.sampled_from(COUNTED), st.integers(1, 10**6))
numbers = st.floats(allow_nan=False, allow_infinity=False)
vectors = arrays(np.float32, st.integers(1, 9), elements=st.floats(-1e6, 1e6, width=32)).map(torch.from_numpy)
bounds = st.sampled_from([(-math.inf, 0.5), (0.1, math.inf), (-1.0, 2.5), (1e-300, 1e300)])
moves = vectors.map(Add) | st.builds(lambda b: Clamp(torch.tensor([0.6, 0.8]), *b), bounds)
steps = st.builds(Intervention, sites, moves, spans, numbers)


def assert_same_plan(got: SteeringPlan, want: SteeringPlan) -> None:
    assert got.model == want.model and len(got.interventions) == len(want.interventions)
    for a, b in zip(got.interventions, want.interventions, strict=True):
        assert (a.site, a.span, a.strength) == (b.site, b.span, b.strength)
        assert_same_part(a.move, b.move)


def assert_same_part(got: object, want: object) -> None:
    assert type(got) is type(want)
    if isinstance(want, torch.Tensor):
        assert torch.equal(got, want)
    elif isinstance(want, tuple):
        for a, b in zip(got, want, strict=True):
            assert_same_part(a, b)
    elif is_dataclass(want) and not isinstance(want, Site):
        for field in fields(want):
            assert_same_part(getattr(got, field.name), getattr(want, field.name))
    else:
        assert got == want


@given(st.lists(steps, max_size=4))
@settings(max_examples=60, deadline=None)
def test_any_plan_survives_json_and_arrays(steps):
    plan = SteeringPlan(tuple(steps))
    packed = plan.pack()
    header = json.loads(json.dumps(packed.header, allow_nan=False))
    assert all(array.dtype == np.float32 for array in packed.arrays.values())
    assert_same_plan(SteeringPlan.unpack(Packed(packed.arrays, header)), plan)


@given(sites)
def test_any_site_is_read_back(site):
    assert Site.parse(str(site)) == site


@given(spans)
def test_any_span_is_read_back(span):
    assert Span.parse(str(span)) == span


@given(st.text(max_size=20) | st.builds("{}.{}".format, st.sampled_from(POINTS), st.text("0123456789.-:", max_size=6)))
@settings(deadline=None)
def test_any_text_is_a_site_or_a_clear_refusal(text):
    try:
        assert Site.parse(str(Site.parse(text))) == Site.parse(text)
    except SteeringError as error:
        assert text.partition(".")[0][:5] in str(error), "it names what it did not understand"


@given(
    st.text(max_size=20)
    | st.builds("{}:{}".format, st.sampled_from(PLAIN + COUNTED), st.text("0123456789-", max_size=6))
)
def test_any_text_is_a_span_or_a_clear_refusal(text):
    try:
        assert Span.parse(str(Span.parse(text))) == Span.parse(text)
    except SteeringError as error:
        assert text.partition(":")[0] in str(error)


@pytest.mark.parametrize("text", ["resid_post", "resid_post.-1", "resid_post.1.2", "embed.0", "z.1.2.3", "z.x", ""])
def test_texts_that_are_not_sites(text):
    with pytest.raises((BadSite, UnknownName)):
        Site.parse(text)


@pytest.mark.parametrize("text", ["first", "first:0", "after:-1", "all:3", "last:1", "first:x"])
def test_texts_that_are_not_spans(text):
    with pytest.raises(BadSpan):
        Span.parse(text)


def test_a_count_that_text_would_lose_is_refused():
    with pytest.raises(BadSpan, match="'prompt' takes no count, it was given 3"):
        Span("prompt", 3)


@pytest.mark.parametrize("move", MOVES)
def test_packed_and_saved_plans_steer_to_the_same_bit(tiny_llama, bench, tmp_path, move):
    steps = tuple(bench.step(tiny_llama, site, move, span="after:2", strength=0.3) for site in bench.sites(tiny_llama))
    plan = SteeringPlan(steps, Anatomy.of(tiny_llama).fingerprint)
    plan.save(tmp_path / "made" / "plan.safetensors")
    answers = []
    for same in (
        plan,
        SteeringPlan.unpack(plan.pack()),
        SteeringPlan.load(tmp_path / "made" / "plan.safetensors"),
    ):
        assert_same_plan(same, plan)
        with same.on(tiny_llama):
            answers.append(bench.logits(tiny_llama))
    assert torch.equal(answers[0], answers[1]) and torch.equal(answers[0], answers[2])
    assert [p.name for p in (tmp_path / "made").iterdir()] == ["plan.safetensors"], "nothing half-written is left"


def test_a_plan_of_another_model_is_refused_and_of_other_weights_warned_about(tiny_llama, build_tiny, bench):
    plan = replace(bench.plan(tiny_llama, Site("resid_post", 1)), model=Anatomy.of(tiny_llama).fingerprint)
    with pytest.raises(BadPlan, match="llama.*gpt2"), plan.on(build_tiny("gpt2")):
        pass
    other = replace(plan, model=replace(Anatomy.of(tiny_llama).fingerprint, weights="0" * 16))
    with pytest.warns(UserWarning, match="other weights"), other.on(tiny_llama):
        pass


PLAN = SteeringPlan((Intervention(Site("resid_post", 1), Add(torch.ones(4))),))


def damaged(**changes) -> dict:
    return {**json.loads(json.dumps(PLAN.pack().header)), **changes}


HEADERS = {
    "another kind": (damaged(kind="dictionary"), "kind 'dictionary'"),
    "a newer format": (damaged(format=2), "newer trimtab"),
    "nothing": ({}, "not a plan"),
    "no interventions": ({"kind": "plan", "format": 1, "model": None}, "do not belong together"),
    "text for interventions": (damaged(interventions="abc"), "do not belong together"),
    "a field too many": (damaged(model={"name": "x"}), "do not belong together"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_are_not_plans(case):
    header, message = HEADERS[case]
    with pytest.raises(BadPlan, match=message):
        SteeringPlan.unpack(Packed(PLAN.pack().arrays, header))


def test_arrays_that_do_not_belong():
    with pytest.raises(BadPlan, match="0/vector"):
        SteeringPlan.unpack(Packed({}, PLAN.pack().header))
    with pytest.raises(BadMove, match=r"got \[2, 2\]"):
        SteeringPlan.unpack(Packed({"0/vector": np.ones((2, 2), np.float32)}, PLAN.pack().header))


def test_files_that_are_not_plans(tmp_path):
    for name, content in {"missing": None, "text": b"hello", "empty": b""}.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(BadPlan, match=f"{name} is not a file of trimtab"):
            SteeringPlan.load(path)


def test_a_strength_that_json_cannot_hold_is_refused():
    with pytest.raises(BadPlan, match="resid_post.1 is inf"):
        (PLAN * math.inf).pack()


def test_two_writers_of_one_name_leave_one_whole_plan(tmp_path):
    plans = [PLAN * k for k in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda plan: plan.save(tmp_path / "plan"), plans))
    assert SteeringPlan.load(tmp_path / "plan").interventions[0].strength in range(1, 9)
