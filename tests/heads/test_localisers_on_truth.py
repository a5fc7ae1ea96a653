"""Every localiser on the transformer whose weights are written by hand: what each head does is known, and each method
must find what it claims to see and may miss only what its page says it misses."""

import numpy as np
import pytest
import torch
from ground_truth import ACTIVE, BACKUP, IDLE, INDUCTION, INTERFERING, PREVIOUS, ground_truth, questions

from trimtab.steering.causal.head_scales import scaled_heads
from trimtab.steering.causal.question import Batch
from trimtab.steering.localisers import LOCALISERS
from trimtab.steering.localisers._gate_fit import Stage, fit_gates, start
from trimtab.steering.localisers._toggling import toggle_curves
from trimtab.steering.localisers.activation_patching import ActivationPatching
from trimtab.steering.localisers.base import heads
from trimtab.steering.localisers.causal_head_gating import ROLES, CausalHeadGating, roles
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.frozen import frozen


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return Anatomy.of(ground_truth())


@pytest.fixture(scope="module")
def gating(anatomy):
    return CausalHeadGating(seeds=8).rank(anatomy, questions())


def at(ranking, site, name=None):
    numbers = ranking.values if name is None else ranking.extra[name]
    return numbers[..., ranking.units.index(site)]


def idle_share(ranking) -> float:
    """Largest idle head's value over the largest value of all."""
    return max(abs(at(ranking, site)) for site in IDLE) / np.abs(ranking.values).max()


@pytest.mark.parametrize(
    "name",
    ["activation_patching", "attribution_patching", "relp", "direct_logit", "indirect_effect"],
)
def test_signed_methods_find_the_writer_and_the_one_that_harms(anatomy, name):
    ranking = LOCALISERS[name]().rank(anatomy, questions())
    assert ranking.top(1) == (INDUCTION,) and at(ranking, INTERFERING) < 0
    assert at(ranking, INTERFERING) == ranking.values[: len(ACTIVE) + len(IDLE)].min()
    assert idle_share(ranking) < 0.01


@pytest.mark.parametrize("name", ["atp_star", "ships"])
def test_unsigned_methods_find_what_matters(anatomy, name):
    ranking = LOCALISERS[name]().rank(anatomy, questions())
    assert ranking.top(1) == (INDUCTION,) and idle_share(ranking) < 0.01
    assert set(ranking.top(3)) == {INDUCTION, INTERFERING, PREVIOUS}


def test_the_previous_token_head_is_seen_by_those_that_break_it_and_not_by_the_direct_path(anatomy):
    """It writes nothing to the answer; ablating it takes everything away. Ablating the induction head takes little: the
    backup repairs it, which is why one method alone convinces nobody."""
    ablated = ActivationPatching("noising", "zero").rank(anatomy, questions())
    assert ablated.top(1) == (PREVIOUS,) and at(ablated, PREVIOUS) > 10 * at(ablated, INDUCTION) > 0
    assert abs(at(LOCALISERS["direct_logit"]().rank(anatomy, questions()), PREVIOUS)) < 1e-3
    assert at(LOCALISERS["ships"]().rank(anatomy, questions()), PREVIOUS) > 1


def test_a_backup_shows_only_when_gates_are_learned(anatomy, gating):
    """Alone it changes nothing while the induction head works; CHG calls it facilitating in the seeds that use it."""
    ablated = ActivationPatching("noising", "zero").rank(anatomy, questions())
    assert abs(at(ablated, BACKUP)) < 0.01 * at(ablated, PREVIOUS)
    assert 0 < at(gating, BACKUP, "frequency")[ROLES.index("facilitating")] < 1


def test_causal_head_gating_names_the_roles(gating):
    labels = dict(zip(gating.units, gating.labels, strict=True))
    assert labels[PREVIOUS] == labels[INDUCTION] == "facilitating" and labels[INTERFERING] == "interfering"
    assert {labels[site] for site in IDLE} == {"irrelevant"}
    assert (at(gating, PREVIOUS, "frequency") == [1, 0, 0, 0]).all()


def test_toggling_separates_the_roles(anatomy, gating):
    curves = {c.score: c for c in toggle_curves(anatomy, gating, questions(8, seed=5), (1, 2))}
    low, high = curves["facilitation"].interval
    assert high[1] < -1
    assert np.abs(curves["irrelevance"].mean).max() < 0.01 < curves["interference"].mean[0]


def test_the_published_clip_calls_idle_heads_interfering(anatomy):
    """The same fits but for the dead zone: what the first stage pushed beyond the clip is never asked again."""
    batch, model = Batch.of(questions(), range(8), torch.device("cpu")), anatomy.model

    def loss(gates, _):
        rows = batch.tiled(len(gates))
        with scaled_heads(anatomy, gates.repeat_interleave(batch.rows, 0)):
            return -rows.logprob(rows.logits(model)).reshape(len(gates), -1).mean(1)

    idle = [k for k, site in enumerate(heads(anatomy)) if site in IDLE]
    wrong = {}
    with frozen(model):
        shared, _ = fit_gates(start((3, 3, 8), 0), loss, Stage(60, (0.5, 0.05)))
        for zone in (False, True):
            plus, minus = (
                torch.sigmoid(fit_gates(shared, loss, Stage(60, (0.5, 0.1), nudge, dead_zone=zone))[0]).flatten(1)
                for nudge in (0.1, -0.1)
            )
            labels = roles(plus.numpy(), minus.numpy())[:, idle]
            wrong[zone] = (labels == ROLES.index("interfering")).mean()
    assert wrong[False] == 0 < 0.1 < wrong[True]


def test_attention_readings_are_correlates(anatomy):
    """Retrieval gives the interfering head the same full mark as the induction head: it looks, and writes the
    opposite."""
    retrieval = LOCALISERS["retrieval"]().rank(anatomy, questions())
    assert at(retrieval, INDUCTION) == at(retrieval, INTERFERING) == 1
    assert LOCALISERS["attention_sink"]().rank(anatomy, questions()).top(1) == (BACKUP,)
