"""The main job on the real model: a home, its README commands and its Python, run as they are printed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from trimtab.flows.cli import main
from trimtab.store import Catalog

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
pytestmark = [pytest.mark.real_model, pytest.mark.slow]


ELSEWHERE = ("server", "run", "deploy", "worker", "rank", "ablate", "features", "collect", "delete")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    """The README's trimtab commands that need nothing but a home. The others have tests elsewhere."""
    lines = [line for block in blocks("console") for line in block.splitlines()]
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines if line.startswith("$ trimtab")]
    return [found[1:] for found in words if found[1] not in ELSEWHERE and "concepts" not in " ".join(found)]


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
        "plan", "random", "covariance", "shuffled", "flip", "system_prompt",
    }  # fmt: skip
    assert len(verdict["generations"]) > 0 and verdict["sentence"]


def test_the_readme_commands_work(real_home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIMTAB_HOME", str(real_home))
    asked = commands()
    assert len(asked) >= 10
    for arguments in asked:
        assert main(arguments) == 0, (arguments, capsys.readouterr().err)


def test_the_readme_python_works(real_home):
    """In a process of its own, beside the home, exactly as printed."""
    Catalog(real_home / "catalog").promote("cheerful@1", "prod")
    for code in blocks("python"):
        code = code.replace(".trimtab/catalog", str(real_home / "catalog"))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd="/")
        assert done.returncode == 0, done.stderr
