"""`trimtab validate --inspect` with Inspect itself: a task without and with a plan, into the plan's report."""

import json
from pathlib import Path

import pytest

pytest.importorskip("inspect_ai")
from inspect_ai.log import read_eval_log

from tests.end_to_end.conftest import inside, tiny_folder, tiny_home, tiny_recipe  # noqa: F401
from tests.reports import command_in
from trimtab.tasks.home import Home
from trimtab.tasks.inspect.harness import scores_of

TASK = str(Path(__file__).with_name("task.py"))
pytestmark = [pytest.mark.slow, pytest.mark.prefect]


@pytest.fixture(scope="module")
def validated(tiny_home):  # noqa: F811
    """(home, command that made the report, what `validate` printed)."""
    (report,) = (tiny_home / "reports").glob("tiny@1.html")
    before = command_in(report)
    done = inside("validate", "tiny", "--inspect", TASK, "--tokens", "8", "--json", home=tiny_home)
    assert done.code == 0, done.stderr
    return tiny_home, before, json.loads(done.stdout)


def test_the_scores_are_those_of_inspects_logs(validated):
    home, _, printed = validated
    result = printed["harness"]
    assert result["samples"] == 3 and result["left_out"] == 0
    logs = [read_eval_log(str(home / "inspect" / name)) for name in result["logs"]]
    base, steered = (scores_of(log)["includes"] for log in logs)
    (score,) = result["scores"]
    assert score["name"] == "includes"
    assert score["base"]["mean"] == pytest.approx(sum(base.values()) / 3)
    assert score["steered"]["mean"] == pytest.approx(sum(steered.values()) / 3)
    told = logs[1].samples[0].output.metadata["trimtab"]["plans"][0]
    assert told["ref"] == "tiny@1" and told["strength"] == 1
    assert result["nats"]["mean"] > 0


def test_the_report_has_a_section_more_and_its_own_command(validated):
    home, before, printed = validated
    page = Path(printed["report"])
    assert page == home / "reports" / "tiny@1.html"
    assert 'id="harness"' in page.read_text() and "questions in inspect-ai" in page.read_text()
    assert command_in(page) == before
    catalog = Home.at(home).catalog
    assert [parent.ref for parent in catalog.get(printed["scores"]["ref"]).parents] == ["tiny@1"]
    assert inside("verify", home=home).code == 0


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("nosuch", "--inspect", TASK), "nosuch"),
        (("tiny.verdict", "--inspect", TASK), "not a plan"),
        (("tiny", "--inspect", "nosuch.py"), "nosuch.py"),
        (("tiny", "--inspect", TASK, "-T", "colour"), "NAME=VALUE"),
    ],
)
def test_what_cannot_be_is_one_line_and_publishes_nothing(validated, arguments, match):
    home, _, _ = validated
    before = len(Home.at(home).catalog.list())
    done = inside("validate", *arguments, home=home)
    assert done.code == 2 and match in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr, done.stderr
    assert len(Home.at(home).catalog.list()) == before
