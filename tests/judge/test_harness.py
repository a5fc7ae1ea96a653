"""Scores of another harness: paired by sample, honest where nothing changed, shown in the report."""

import math

import numpy as np
import pytest
from reports import Page
from verdicts import PROVENANCE, verdict

from tests.end_to_end.conftest import inside
from trimtab.steering.errors import SteeringError
from trimtab.steering.judge.harness import HarnessResult, harness_score, nats_per_token
from trimtab.tasks.inspect import evaluation
from trimtab.tasks.reporting.verdict_page import verdict_page


def scores(values, epoch: int = 1) -> dict:
    return {(str(k), epoch): float(value) for k, value in enumerate(values)}


def test_samples_are_paired_by_their_id_and_those_of_one_model_alone_are_left_out():
    base = scores([0, 1, 0, 1, 1])
    steered = dict(reversed(scores([1, 1, 0, 0]).items())) | {("of one alone", 1): 1.0}
    score = harness_score("includes", base, steered)
    assert (score.base.n, score.base.mean, score.steered.mean, score.difference.mean) == (4, 0.5, 0.5, 0.0)
    better = harness_score("includes", base, {key: value + 0.25 for key, value in base.items()})
    assert better.difference.mean == pytest.approx(0.25)


def test_where_no_answer_changed_a_change_is_still_possible():
    same = scores([0, 1] * 10)
    difference = harness_score("match", same, same).difference
    assert difference.mean == 0
    # 0 of 20 changed: up to 16.8% may (Clopper and Pearson), in either direction
    assert difference.high == -difference.low == pytest.approx(1 - 0.025 ** (1 / 20))


def test_epochs_of_a_sample_are_not_counted_as_samples():
    generator = np.random.default_rng(0)
    once = generator.normal(size=12)
    base, steered = scores(np.zeros(12)), scores(once)
    repeated = [{(k, e): v for (k, _), v in side.items() for e in range(1, 9)} for side in (base, steered)]
    alone, eight = harness_score("g", base, steered).difference, harness_score("g", *repeated).difference
    assert (eight.n, eight.clusters) == (96, 12)
    assert eight.high - eight.low == pytest.approx(alone.high - alone.low, rel=0.05)


def test_one_sample_has_no_interval():
    with pytest.raises(SteeringError, match="1 samples were scored under both"):
        harness_score("includes", scores([1]), scores([1, 0]))
    assert nats_per_token({("0", 1): (1.0, 4), ("1", 1): (0.0, 0)}) is None
    assert nats_per_token({("0", 1): (1.0, 4), ("1", 1): (2.0, 2)}).mean == pytest.approx(0.5)


def test_the_report_has_the_section_only_when_a_harness_was_run():
    score = harness_score("includes", scores([0, 1, 1, 0]), scores([1, 1, 1, 0]))
    result = HarnessResult("inspect-ai 0.3", "<b>questions</b>", 4, 1, "greedy", (score,), None, ("a.eval",))
    assert "harness" not in Page(verdict_page(verdict().to_json(), PROVENANCE)).ids
    page = Page(verdict_page(verdict().to_json(), PROVENANCE, [result, result]))
    assert page.ids.count("harness") == 1
    text = " ".join(page.text)
    assert text.count("1 answer had no score under one of the models") == 2
    assert "<b>questions</b>" in text and "+0.25" in text


def test_without_inspect_nothing_is_started(monkeypatch, tmp_path):
    monkeypatch.setattr(evaluation, "find_spec", lambda name: None)
    done = inside("validate", "cheerful", "--inspect", "task.py", home=tmp_path / "home")
    assert done.code == 2
    assert done.stderr == "error: inspect_ai, prometheus_client is not installed; `pip install 'trimtab[inspect]'`\n"
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("change", [(0.0, 1.0, "rises"), (1.0, 0.0, "falls"), (0.5, 0.5, "no change can be told")])
def test_the_sentence_claims_no_more_than_the_interval(change):
    before, after, told = change
    score = harness_score("match", scores([before] * 40), scores([after] * 39 + [before]))
    assert told in evaluation.sentence(score) and math.isfinite(score.difference.low)
