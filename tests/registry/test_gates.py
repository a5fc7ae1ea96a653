"""What a recipe requires decides whether an alias moves."""

from pathlib import Path

import pytest

from tests.registry.conftest import publish
from trimtab.steering.statistics import Interval, separate_difference
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.recipes.behaviour import BehaviourRecipe
from trimtab.tasks.recipes.kinds import load_recipe
from trimtab.tasks.registry.gates import GateRefusal, promote

RECIPE = Path(__file__).parents[2] / "recipes" / "brief.yaml"


@pytest.mark.parametrize(
    "require, holds",
    [
        ({"effect": 0.5}, True),
        ({"effect": 0.56}, False),  # the lower end counts: 0.6 [0.55, 0.65]
        ({"kl": 0.106}, True),
        ({"kl": 0.104}, False),  # the upper end counts: 0.1 [0.095, 0.105]
        ({"damage": 1e-6}, False),
        ({"beats_placebos": True}, True),
        ({"effect": 0.5, "kl": 0.01}, False),
    ],
)
def test_an_alias_moves_when_everything_that_is_required_holds(home, require, holds):
    version = publish(home, require=require)
    if holds:
        assert promote(home, version.ref, "prod").note == ""
        return
    with pytest.raises(GateRefusal, match=f"{version.ref} fails .*warm@prod still names nothing"):
        promote(home, version.ref, "prod")
    assert home.catalog.aliases("warm") == {}


def test_what_does_not_beat_its_placebos_is_refused_and_force_is_recorded(home):
    version = publish(home, require={"beats_placebos": True}, beats=False)
    with pytest.raises(GateRefusal, match="does not beat"):
        promote(home, version.ref, "prod")
    move = promote(home, version.ref, "prod", force=True, note="shown on Monday")
    assert move.note == "shown on Monday; forced: it does not beat its random placebos"
    assert home.catalog.history("warm")[-1] == move and home.catalog.aliases("warm") == {"prod": 1}


def test_no_worse_than_what_the_alias_names_beyond_noise(home):
    require = {"no_worse": True}
    versions = [publish(home, require=require, effect=effect) for effect in (0.6, 0.55, 0.4)]
    for version in versions[:2]:  # nothing to compare with; 0.05 less, within the noise of both
        promote(home, version.ref, "prod")
    with pytest.raises(GateRefusal, match=r"effect differs from warm@2's by -0.15 .*stays warm@2"):
        promote(home, versions[2].ref, "prod")
    costly = publish(home, require=require, kl=0.2)
    with pytest.raises(GateRefusal, match="kl differs"):
        promote(home, costly.ref, "prod")
    assert promote(home, versions[2].ref, "other").after == 3, "another alias has another incumbent"


def test_a_version_without_requirement_moves_and_one_without_verdict_does_not(home):
    assert promote(home, publish(home).ref, "prod").after == 1
    recipe = {"name": "loose", "require": {"effect": 0.1}}
    home.catalog.publish("loose", "plan", {}, {"kind": "plan"}, recipe=recipe)
    with pytest.raises(GateRefusal, match="no verdict"):
        promote(home, "loose", "prod")


def test_requirements_change_no_stage_and_no_record_of_recipes_without_them():
    plain, gated = (load_recipe(RECIPE, sets) for sets in ((), ("require={effect: 0.1, alias: prod}",)))
    assert isinstance(plain, BehaviourRecipe) and isinstance(gated, BehaviourRecipe)
    assert [plain.stage(stage) for stage in plain.STAGES] == [gated.stage(stage) for stage in gated.STAGES]
    assert plain.digest == gated.digest and "require" not in plain.to_json()
    assert plain.publish_key == f"{plain.stage('validate')}/publish/brief" != gated.publish_key


@pytest.mark.parametrize("section", ["{}", "{alias: prod}", "{effect: 0.1, alias: latest}", "{efect: 0.1}"])
def test_a_requirement_that_is_none_is_refused(section):
    with pytest.raises(RecipeError, match="require"):
        load_recipe(RECIPE, [f"require={section}"])


def test_differences_of_separate_estimates_add_their_noise_in_squares():
    change = separate_difference(Interval(1.0, 0.7, 1.3, 10), Interval(0.5, 0.1, 0.9, 20))
    assert (change.mean, change.n) == (0.5, 10)
    assert change.low == pytest.approx(0.0) and change.high == pytest.approx(1.0)
