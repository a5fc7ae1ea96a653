"""The main job on the real model: a home, its README commands and its Python, run as they are printed."""

import io
import warnings
from typing import Any

import pytest
import torch
from pages import ROOT, blocks, commands

from trimtab.flows.cli import main
from trimtab.steering import SteeringPlan
from trimtab.store import Catalog

README = ROOT / "README.md"
pytestmark = [pytest.mark.real_model, pytest.mark.slow]
ELSEWHERE = ("server", "run", "deploy", "worker", "rank", "ablate", "features", "collect", "delete")


def reading_commands() -> list[list[str]]:
    """The README's commands that need nothing but a home. The others have tests elsewhere."""
    return [words for words in commands(README) if words[0] not in ELSEWHERE and "concepts" not in " ".join(words)]


def brief(command: list[str]) -> list[str]:
    """Answers of a few tokens are enough."""
    return [*command, "--tokens", "8"] if command[0] == "steer" else command


def test_the_plan_is_priced_judged_and_dosed(real_home):
    metrics = Catalog(real_home / "catalog").get("cheerful").metrics
    verdict = Catalog(real_home / "catalog").get("cheerful.verdict").header["verdict"]
    assert abs(metrics["kl_achieved"] / metrics["kl_asked"] - 1) <= 0.1 or not verdict["dose"]["reachable"]
    nulls = [c for c in verdict["contenders"] if c["kind"] in ("random", "covariance")]
    rivals = [c["difference"]["low"] for c in nulls if c["reachable"]]
    assert (
        verdict["beats_random"]
        == metrics["beats_random"]
        == (len(rivals) >= min(19, len(nulls)) and all(low > 0 for low in rivals))
    )
    assert metrics["effect"]["low"] < metrics["effect"]["mean"] < metrics["effect"]["high"]
    assert {c["kind"] for c in verdict["contenders"]} == {
        "plan", "random", "covariance", "shuffled", "flip", "system_prompt", "token_bias",
    }  # fmt: skip
    assert len(verdict["generations"]) > 0 and verdict["sentence"]


def test_the_readme_commands_work(real_home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIMTAB_HOME", str(real_home))
    lines = reading_commands()
    assert len(lines) >= 10
    for arguments in map(brief, lines):
        monkeypatch.setattr("sys.stdin", io.StringIO("/strength 2\n/new\n\n"))  # said to `chat`
        assert main(arguments) == 0, (arguments, capsys.readouterr().err)


def test_the_readme_python_works(real_home, tmp_path, monkeypatch, short_rollouts):
    """The road from text to plan as printed, dosed and priced on short answers, and what it leads to: a price, and a
    file that steers alike."""
    monkeypatch.setenv("TRIMTAB_HOME", str(real_home))
    monkeypatch.chdir(tmp_path)
    Catalog(real_home / "catalog").promote("cheerful@1", "prod")
    (code,) = blocks(README, "python")
    road: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), road)
    dosed, model = road["dosed"], road["model"]
    assert dosed.dose.reachable and dosed.price.mean.low < dosed.price.mean.mean
    question = road["tokenizer"](road["prompts"][0], return_tensors="pt")
    answers = []
    for plan in (dosed.plan, SteeringPlan.load("warm.safetensors")):
        with warnings.catch_warnings(), plan.on(model):
            warnings.simplefilter("error")
            answers.append(model.generate(**question, max_new_tokens=5, do_sample=False))
    assert torch.equal(*answers)
