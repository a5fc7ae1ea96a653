"""How far a stage is stands in Prefect, as one progress artifact per stage; the terminal shows the same."""

import httpx
import pytest
from prefect.artifacts import Artifact

from trimtab.tasks import progress
from trimtab.tasks.progress import PrefectProgress, artifact_key, report, watched


@pytest.mark.prefect
@pytest.mark.parametrize("stage", ["capturing activations", "fitting"])
def test_a_run_leaves_the_progress_of_its_long_stages_in_prefect(stage, tiny_home):
    artifact = Artifact.get(artifact_key(stage))
    assert artifact is not None and artifact.type == "progress"
    assert artifact.data == 100.0 and artifact.description == stage
    assert artifact.flow_run_id is not None and artifact.task_run_id is not None


@pytest.mark.prefect
def test_an_artifact_is_sent_when_a_stage_begins_and_ends_and_seldom_between(monkeypatch, prefect_backend):
    sent = []
    monkeypatch.setattr(progress, "create_progress_artifact", lambda percent, **about: sent.append(percent))
    monkeypatch.setattr(progress, "update_progress_artifact", lambda number, percent: sent.append(percent))
    with watched(PrefectProgress(seconds=3600)):
        for done in range(101):
            report("ranking heads", done, 100)
    assert sent == [0.0, 100.0] and artifact_key("ranking heads") == "ranking-heads"


def test_a_server_that_refuses_artifacts_does_not_end_the_work(monkeypatch):
    calls = []

    def refuse(percent, **about):
        calls.append(percent)
        raise httpx.ConnectError("no server")

    monkeypatch.setattr(progress, "create_progress_artifact", refuse)
    with watched(PrefectProgress(seconds=0)):
        for done in range(5):
            report("fitting", done, 5)
    assert calls == [0.0]
