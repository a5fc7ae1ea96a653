"""Inspect itself on the embedded model: answers, prices, refusals. `make test-inspect`; skipped without Inspect."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

inspect_ai = pytest.importorskip("inspect_ai")
from inspect_ai.log import read_eval_log  # noqa: E402

from trimtab.steering.model.load import load_model  # noqa: E402
from trimtab.steering.model.tokens import tokenize  # noqa: E402
from trimtab.steering.moves.add import Add  # noqa: E402
from trimtab.steering.plans.intervention import Intervention  # noqa: E402
from trimtab.steering.plans.plan import SteeringPlan  # noqa: E402
from trimtab.steering.running.writing import Decoding, generate  # noqa: E402
from trimtab.tasks.home import Home  # noqa: E402

TASK = Path(__file__).with_name("task.py")
NEW = 12
pytestmark = [pytest.mark.real_model, pytest.mark.slow]


@pytest.fixture(scope="module")
def plan() -> SteeringPlan:
    vector = 0.5 * torch.randn(576, generator=torch.Generator().manual_seed(1))
    return SteeringPlan((Intervention("resid_post.12", Add(vector), "answer"),))


@pytest.fixture(scope="module")
def home(plan, tmp_path_factory) -> Home:
    place = Home.at(tmp_path_factory.mktemp("home"))
    packed = plan.pack()
    place.catalog.publish("cheerful", "plan", packed.arrays, packed.header)
    place.catalog.promote("cheerful@1", "prod")
    return place


def evaluated(home: Home, logs: Path, *arguments: str, models: str) -> subprocess.CompletedProcess:
    """`inspect eval`, as a person would call it."""
    command = [
        str(Path(sys.executable).with_name("inspect")), "eval", TASK.name, "--model", models, "--log-dir", str(logs),
        "--temperature", "0", "--max-tokens", str(NEW), "--display", "plain", *arguments,
    ]  # fmt: skip
    environment = {**os.environ, "TRIMTAB_HOME": home.url}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=TASK.parent, timeout=600, check=False
    )


def logs_in(folder: Path) -> dict:
    """Each log by its model."""
    logs = [read_eval_log(str(path)) for path in folder.glob("*.eval")]
    return {log.eval.model: log for log in logs}


def alone(question: str, plan: SteeringPlan | None) -> str:
    model, tokenizer = load_model("smollm2")
    chat = tokenize(tokenizer, [{"role": "user", "content": question}])
    return tokenizer.decode(generate(model, [chat], plan, Decoding(NEW, 0.0))[0], skip_special_tokens=True)


def test_steered_and_unsteered_in_one_evaluation(home, plan, tmp_path):
    done = evaluated(home, tmp_path, models="trimtab/smollm2,trimtab/smollm2@cheerful@prod")
    assert done.returncode == 0, done.stdout + done.stderr
    logs = logs_in(tmp_path)
    assert set(logs) == {"trimtab/smollm2", "trimtab/smollm2@cheerful@prod"}
    for name, steering in (("trimtab/smollm2", None), ("trimtab/smollm2@cheerful@prod", plan)):
        log = logs[name]
        assert log.status == "success" and log.results.completed_samples == 3
        for sample in log.samples:
            assert sample.output.completion == alone(sample.input, steering)
            told = sample.output.metadata["trimtab"]
            assert sample.output.usage.output_tokens > 0
            if steering is None:
                assert told["plans"] == [] and told["nats"] is None
            else:
                assert [p["ref"] for p in told["plans"]] == ["cheerful@1"]
                assert len(told["nats"][0]["per_token"]) == sample.output.usage.output_tokens
                assert told["nats"][0]["total"] > 0
    answers = [[sample.output.completion for sample in log.samples] for log in logs.values()]
    assert answers[0] != answers[1]


def test_a_governed_model_stays_within_its_bound(home, tmp_path):
    done = evaluated(home, tmp_path, "-M", "govern=0.05", "--limit", "2", models="trimtab/smollm2@2 cheerful")
    assert done.returncode == 0, done.stdout + done.stderr
    (log,) = logs_in(tmp_path).values()
    assert log.eval.model_args == {"govern": 0.05}
    told = [sample.output.metadata["trimtab"] for sample in log.samples]
    assert all(nats <= 0.05 + 1e-6 for each in told for nats in each["nats"][0]["per_token"])
    assert sum(each["nats"][0]["governor_acts"] for each in told) > 0
    assert told[0]["plans"][0]["strength"] == 2


@pytest.mark.parametrize(
    ("models", "arguments", "match"),
    [
        ("trimtab/smollm2@nosuch@prod", (), "nosuch"),
        ("trimtab/smollm2@cheerful brief", (), "no plan with a factor"),
        ("trimtab/smollm2@cheerful", ("-M", "govren=0.1"), "did you mean 'govern'"),
        ("trimtab/nosuch", (), "neither 'smollm2'"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(home, tmp_path, models, arguments, match):
    done = evaluated(home, tmp_path, *arguments, models=models)
    assert done.returncode != 0 and match in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
