"""A recipe with requirements: the run publishes, the gate decides, a recheck finds drift. The verdict is the session's,
so that nothing is judged again."""

import json

import pytest
from prefect.artifacts import Artifact

from tests.end_to_end.conftest import inside
from trimtab.flows.produce import produce, recheck
from trimtab.store import Catalog
from trimtab.tasks.plans.recheck import Drift
from trimtab.tasks.registry.gates import GateRefusal

pytestmark = [pytest.mark.slow]


def test_the_gate_decides_and_no_schedule_undoes_a_rollback(tiny_recipe, tiny_home):
    catalog, alias = Catalog(tiny_home / "catalog"), "gated"
    strict, loose = (f"require={{effect: {bound}, alias: {alias}}}" for bound in (5, -5))
    refused = inside("run", str(tiny_recipe), "--set", strict, home=tiny_home)
    assert refused.code == 1 and f"tiny@{alias} still names nothing" in refused.stdout
    assert "at least 5 is required of its lower end" in refused.stdout and "Traceback" not in refused.stderr
    published = catalog.get("tiny@latest")
    assert published.recipe["require"]["effect"] == 5 and alias not in catalog.aliases("tiny")
    with pytest.raises(GateRefusal) as caught:
        produce(str(tiny_recipe), str(tiny_home), [strict])
    assert caught.value.result.plan.reused and not caught.value.result.gate.moved
    state = produce(str(tiny_recipe), str(tiny_home), [strict], return_state=True)
    assert (state.type.value, state.name) == ("FAILED", "Refused") and "fails what" in state.message
    shown = Artifact.get("trimtab-tiny-gate")
    assert shown is not None and "| effect | FAILS |" in shown.data and "fails what its recipe requires" in shown.data

    first = json.loads(inside("run", str(tiny_recipe), "--set", loose, "--json", home=tiny_home).stdout)
    assert first["gate"]["moved"] and first["verdict"]["reused"]
    accepted = catalog.aliases("tiny")[alias]
    catalog.promote("tiny@1", alias)
    again = inside("run", str(tiny_recipe), "--set", loose, home=tiny_home)
    assert again.code == 0 and "before and was moved" in again.stdout
    assert catalog.aliases("tiny")[alias] == 1 != accepted


def test_a_recheck_of_today_is_the_verdict_and_drift_rolls_back(tiny_recipe, tiny_home):
    catalog = Catalog(tiny_home / "catalog")
    result = recheck("tiny@1", str(tiny_home))
    assert not result.drifted and not result.other_weights
    for name, change in result.changes.items():
        assert change.mean == pytest.approx(0, abs=1e-5) and change.low < 0 < change.high, name
    twin = recheck("tiny@1", str(tiny_home))
    assert twin.published.ref == result.published.ref, "the same result is one version"
    assert catalog.get(result.published.ref).parents[0].ref == "tiny@1"

    inside("run", str(tiny_recipe), "--set", "require={effect: 4}", home=tiny_home)
    weak = catalog.get("tiny@latest")
    catalog.promote("tiny@1", "drifting")
    assert inside("promote", weak.ref, "drifting", home=tiny_home).code == 2
    assert inside("promote", weak.ref, "drifting", "--force", home=tiny_home).code == 0
    with pytest.raises(Drift, match="at least 4") as caught:
        recheck(weak.ref, str(tiny_home), roll_back=True)
    assert caught.value.result.failures and catalog.aliases("tiny")["drifting"] == weak.version, "no alias was named"
    done = inside("recheck", "tiny@drifting", "--roll-back", home=tiny_home)
    assert done.code == 1 and "tiny@drifting is tiny@1 again" in done.stdout, done
    assert catalog.aliases("tiny")["drifting"] == 1 and "drift" in catalog.history("tiny")[-1].note
