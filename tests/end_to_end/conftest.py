"""A tiny model in a folder (with the embedded model's tokenizer), recipes for it, and one real run for the session."""

import io
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from shutil import copy

import pytest
from prefect.settings import PREFECT_API_URL
from small_llama import speaking_llama

from trimtab.flows.cli import main
from trimtab.steering.price.calibration import Calibration
from trimtab.steering.running.writing import Decoding

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["judge.placebos.random=2", "judge.placebos.covariance=1", "judge.placebos.shuffled=1", "judge.prompts=3"]
QUICK += ["judge.tokens=8", "judge.curve=[0.3]"]
REAL = [*QUICK, "capture.blocks=14-15", "judge.placebos.random=1", "judge.prompts=2", "judge.tokens=6"]
SHORT = ["judge.neutral=neutral.jsonl", "judge.capability=capability.jsonl"]  # written by `write_short_files`


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit status."""

    code: int
    stdout: str
    stderr: str


def inside(*arguments: str, home: Path) -> Answer:
    """The command line in this process: no libraries to import, and the session's Prefect server where there is one."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["--home", str(home), *arguments])
    return Answer(code, out.getvalue(), err.getvalue())


def environment(folder: Path) -> dict[str, str]:
    """A Prefect home of its own, the logging a user has; one thread, because the test runner uses both cores."""
    users = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_LOGGING")}
    return {**users, "PREFECT_HOME": str(folder / "prefect"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def beside_this_server(folder: Path) -> dict[str, str]:
    """The same, with this session's Prefect server."""
    return {**environment(folder), "PREFECT_API_URL": str(PREFECT_API_URL.value())}


def settings(overrides: list[str]) -> list[str]:
    """`--set` for each override."""
    return [part for override in overrides for part in ("--set", override)]


def short_pairs(rows: int, words: int = 10) -> str:
    """The first rows of recipes/cheerful.jsonl, with the first words of their answers."""
    pairs = [json.loads(line) for line in (ROOT / "recipes" / "cheerful.jsonl").read_text().splitlines()[:rows]]
    for pair in pairs:
        pair.update({side: " ".join(pair[side].split()[:words]) for side in ("positive", "negative")})
    return "".join(json.dumps(pair) + "\n" for pair in pairs)


def write_short_files(folder: Path) -> None:
    """The first rows of the packaged texts on which a plan's damage is measured."""
    for name in ("neutral.jsonl", "capability.jsonl"):
        rows = (ROOT / "tasks" / "data" / "shipped" / name).read_text().splitlines()
        (folder / name).write_text("\n".join(rows[:4]))


@pytest.fixture
def short_rollouts(monkeypatch) -> None:
    """`dose` finds and prices its strengths on answers of eight tokens, which costs a third."""
    module = import_module("trimtab.steering.price.dose")
    monkeypatch.setattr(module, "Calibration", partial(Calibration, decoding=Decoding(8)))
    monkeypatch.setattr(module, "Decoding", partial(Decoding, 8))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """A random Llama of 4 blocks that speaks the embedded model's tokens."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    model, tokenizer = speaking_llama()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_recipe(tiny_folder, tmp_path_factory) -> Path:
    """A recipe that runs the whole job on the tiny model in seconds."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "pairs.jsonl").write_text(short_pairs(18))
    write_short_files(folder)
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"name: tiny\nmodel: {tiny_folder}\ndata: {{pairs: pairs.jsonl}}\n"
        "fit: {span: answer}\nbudget: {kl: 0.2}\n"
        "judge:\n  system_prompt: Be warm.\n  behaviour: {metric: length}\n  prompts: 3\n  tokens: 6\n"
        "  curve: [0.2]\n  placebos: {random: 2, covariance: 1, shuffled: 1}\n"
        "  neutral: neutral.jsonl\n  capability: capability.jsonl\n"
    )
    return recipe


@pytest.fixture(scope="session")
def tiny_home(tiny_recipe, tmp_path_factory, prefect_backend) -> Path:
    """A home in which the tiny recipe was run once."""
    home = tmp_path_factory.mktemp("tiny") / "home"
    done = inside("run", str(tiny_recipe), home=home)
    assert done.code == 0, done.stderr
    return home


@pytest.fixture(scope="session")
def real_home(tmp_path_factory, prefect_backend) -> Path:
    """A home in which recipes/cheerful.yaml was run on the real model: fewer pairs with shorter answers, fewer blocks,
    placebos and texts of the price."""
    folder = tmp_path_factory.mktemp("real")
    for name in ("cheerful.yaml", "cheerful.lexicon.json"):
        copy(ROOT / "recipes" / name, folder)
    (folder / "cheerful.jsonl").write_text(short_pairs(12, words=6))
    write_short_files(folder)
    home = folder / "home"
    done = inside("run", str(folder / "cheerful.yaml"), *settings([*REAL, *SHORT]), home=home)
    assert done.code == 0, done.stderr
    return home
