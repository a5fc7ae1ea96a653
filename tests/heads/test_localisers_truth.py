"""Every ranking finds, in the hand-written transformer, what its own question asks for. (Causal head gating's roles
are tested in `test_localisers_on_truth.py`.)

What a method can find depends on what it asks. Methods that compare with the corrupted prompt cannot see the head that
attends to the token before: it does the same on both prompts. Methods that look at the direct path cannot see it
either. Ablation by one head at a time cannot see the backup. The table says which head each must name.
"""

import pytest
from ground_truth import BACKUP, IDLE, INDUCTION, INTERFERING, PREVIOUS, ground_truth, questions

from trimtab.steering.localisers import LOCALISERS
from trimtab.steering.localisers.activation_patching import ActivationPatching
from trimtab.steering.model.anatomy import Anatomy

SIGNED = ("activation_patching", "attribution_patching", "direct_logit", "indirect_effect", "relp")
UNSIGNED = ("atp_star", "head_scaling", "retrieval", "ships")
PATTERN_OR_WEIGHTS = {"attention_sink", "successor"}  # ask about attention to the first token, and ordinal words


@pytest.fixture(scope="module")
def anatomy():
    return Anatomy.of(ground_truth())


def rank(anatomy, name):
    return LOCALISERS[name]().rank(anatomy, questions(24)).only("z")


def idle_size(ranking):
    return max(abs(ranking.value(site)) for site in IDLE)


@pytest.mark.parametrize("name", SIGNED)
def test_signed_rankings_put_the_induction_head_first_and_the_interfering_one_last(anatomy, name):
    found = rank(anatomy, name)
    assert found.top(1) == (INDUCTION,)
    assert found.units[found.values.argmin()] == INTERFERING and found.value(INTERFERING) < 0
    assert found.value(INDUCTION) > 20 * idle_size(found)


@pytest.mark.parametrize("name", UNSIGNED)
def test_rankings_by_size_put_the_induction_head_first(anatomy, name):
    found = rank(anatomy, name)
    assert INDUCTION in found.top(2) and found.value(INDUCTION) > 3 * idle_size(found)


@pytest.mark.parametrize("name", ["ships", "head_scaling"])
def test_what_needs_no_corruption_also_finds_the_previous_token_head(anatomy, name):
    assert PREVIOUS in rank(anatomy, name).top(3, magnitude=True)


def test_noising_with_zero_finds_the_previous_token_head_and_is_fooled_by_the_backup(anatomy):
    found = ActivationPatching("noising", "zero").rank(anatomy, questions(24)).only("z")
    assert found.top(1) == (PREVIOUS,)
    assert found.value(INDUCTION) < 0.2 * found.value(PREVIOUS), "the backup hides what the induction head does"


def test_the_sink_is_the_head_that_sleeps(anatomy):
    assert rank(anatomy, "attention_sink").top(1) == (BACKUP,)


def test_every_ranking_is_tested_here():
    known = {*SIGNED, *UNSIGNED, *PATTERN_OR_WEIGHTS, "causal_head_gating"}
    missing = set(LOCALISERS) - known
    assert not missing, f"say in this file what {sorted(missing)} must find in the hand-written transformer"
