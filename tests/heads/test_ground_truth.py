"""The hand-written transformer does its task the way its docstring says; the ablation verdict says so too."""

import pytest
import torch
from ground_truth import (
    ACTIVE,
    BACKUP,
    IDLE,
    INDUCTION,
    INTERFERING,
    PREVIOUS,
    ground_truth,
    other_questions,
    questions,
)

from trimtab.steering.ablation.operators import Operator
from trimtab.steering.ablation.runs import Ablator
from trimtab.steering.ablation.verdict import Standard, judge_set
from trimtab.steering.causal.question import question_batches
from trimtab.steering.causal.units import head_units, unit_of
from trimtab.steering.model.anatomy import Anatomy

STANDARD = Standard(random=39)


@pytest.fixture(scope="module")
def anatomy():
    return Anatomy.of(ground_truth())


@pytest.fixture(scope="module")
def asked():
    return questions(20)


def named(anatomy, sites):
    return [unit_of(anatomy, site) for site in sites]


def metric(anatomy, asked, *off):
    return Ablator(anatomy, Operator("zero")).metrics(asked, [named(anatomy, off)])[0]


def right(anatomy, asked, corrupted=False):
    found = []
    for batch in question_batches(asked, torch.device("cpu")):
        with torch.no_grad():
            logits = batch.logits(anatomy.model, "corrupted" if corrupted else "clean")
        found.append(logits.argmax(-1) == (batch.wrong if corrupted else batch.target))
    return torch.cat(found)


def test_it_does_the_task_and_follows_the_corruption(anatomy, asked):
    assert right(anatomy, asked).all() and right(anatomy, asked, corrupted=True).all()


def test_it_does_not_do_another_task(anatomy):
    assert right(anatomy, other_questions()).float().mean() < 0.5


def test_every_head_does_what_is_written(anatomy, asked):
    whole = metric(anatomy, asked)
    assert (abs(metric(anatomy, asked, PREVIOUS)) < 0.05 * whole).all(), "nothing works without the previous token"
    assert (metric(anatomy, asked, INDUCTION) > 0.8 * whole).all(), "the backup steps in"
    assert (metric(anatomy, asked, INDUCTION, BACKUP) < 0).all(), "only the interfering head is left"
    assert (metric(anatomy, asked, INTERFERING) > 1.2 * whole).all()
    assert (abs(metric(anatomy, asked, BACKUP) - whole) < 0.05 * whole).all(), "asleep while the other is there"
    for site in IDLE:
        assert (abs(metric(anatomy, asked, site) - whole) < 0.05 * whole).all(), site


@pytest.mark.parametrize(
    ("sites", "how", "word"),
    [
        ((PREVIOUS,), "mean", "necessary"),
        ((PREVIOUS,), "zero", "necessary"),
        ((PREVIOUS,), "uniform", "necessary"),
        ((INDUCTION, BACKUP), "mean", "necessary"),
        ((PREVIOUS, INDUCTION, BACKUP), "mean", "necessary and sufficient"),
        ((PREVIOUS, INDUCTION), "mean", "necessary and sufficient"),
        ((INDUCTION,), "zero", "redundant"),
        ((BACKUP,), "zero", "redundant"),
        ((INDUCTION,), "mean", "necessary"),  # its mean still says that some answer is written: the backup sleeps on
        ((BACKUP,), "mean", "idle"),
        ((INDUCTION,), "corrupted", "necessary and sufficient"),  # it answers wrongly, so the backup stays asleep
        ((IDLE[4],), "mean", "idle"),
        ((IDLE[4],), "zero", "idle"),
        ((PREVIOUS,), "corrupted", "idle"),  # its activation does not depend on what was corrupted
        ((INTERFERING,), "zero", "interfering"),
        ((INTERFERING,), "mean", "interfering"),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(str(site) for site in value),
)
def test_the_verdict_is_the_truth(anatomy, asked, sites, how, word):
    universe = head_units(anatomy)
    ablator = Ablator.of(anatomy, how, questions(24, seed=9), universe)
    found = judge_set(ablator, asked, named(anatomy, sites), universe, STANDARD, company=universe)
    assert found.word == word, found.sentence
    assert len(found.necessity.random) == 39 and str(sites[0]) in found.units


def test_who_stands_in_for_whom(anatomy, asked):
    universe = head_units(anatomy)
    found = judge_set(
        Ablator(anatomy, Operator("zero")), asked, named(anatomy, [INDUCTION]), universe, STANDARD, universe
    )
    assert [partner.unit for partner in found.partners] == [str(BACKUP)]
    without = judge_set(Ablator(anatomy, Operator("zero")), asked, named(anatomy, [BACKUP]), universe, STANDARD)
    assert without.word == "idle", "nobody sees a backup without taking out what it backs up"


def test_the_universe_is_all_heads(anatomy):
    assert {unit.name for unit in head_units(anatomy)} == {str(site) for site in (*ACTIVE, *IDLE)}
