"""The code of the documentation is run: console blocks on a tiny model, Python blocks on the real one.

All pages share one home, in which the plan `cheerful` is published. A recipe that a page runs gets settings that make
it small; the commands are otherwise those of the page.
"""

from pathlib import Path
from shutil import copytree

import pytest
import torch
from pages import ROOT, blocks, commands

from tests.end_to_end.conftest import inside, settings, short_pairs, short_rollouts, tiny_folder  # noqa: F401
from trimtab.flows.cli import COMMANDS
from trimtab.steering import Add, Anatomy, Intervention, Site, SteeringPlan
from trimtab.steering.model import load
from trimtab.store import Catalog

DOCS = ROOT / "docs"
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
TOURS = ("start/command-line.md", "tutorials/your-own-behaviour.md", "tutorials/reading-a-store.md")
FEW = [
    "capture.blocks=1",
    "judge.placebos={random: 1, covariance: 0, shuffled: 0}",
    "judge.prompts=2",
    "judge.tokens=4",
]
FEW += ["judge.curve=[0.3]"]
SMALL = {
    "recipes/cheerful.yaml": FEW,
    "my-behaviour/recipe.yaml": FEW,
}

pytestmark = [pytest.mark.prefect, pytest.mark.slow]


@pytest.fixture(scope="module")
def home(tmp_path_factory, prefect_backend, tiny_folder) -> Path:  # noqa: F811
    """A folder with the recipes and a home in which `cheerful` was published for a tiny model."""
    folder = tmp_path_factory.mktemp("docs")
    copytree(ROOT / "recipes", folder / "recipes")
    (folder / "recipes/cheerful.jsonl").write_text(short_pairs(18))
    small = settings([*FEW, f"model={tiny_folder}"])
    done = inside("run", str(folder / "recipes/cheerful.yaml"), *small, home=folder / ".trimtab")
    assert done.code == 0, done.stderr
    return folder


@pytest.fixture
def here(home, monkeypatch, real_model, short_rollouts) -> Path:  # noqa: F811
    """In that folder, with the real model loaded once for all pages, and strengths found on short answers."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("TRIMTAB_HOME", str(home / ".trimtab"))
    monkeypatch.setattr(load, "load_model", lambda name="smollm2": real_model)
    return home


@pytest.fixture(scope="module")
def plans(home, real_model) -> None:
    """The plans that pages load from the catalog, as further versions that fit the real model."""
    anatomy = Anatomy.of(real_model[0])
    step = Intervention(Site("resid_post", 15), Add(torch.ones(anatomy.d_model)))
    packed = SteeringPlan((step,), anatomy.fingerprint).pack()
    for name in ("cheerful", "polite"):
        Catalog(home / ".trimtab" / "catalog").publish(name, "plan", packed.arrays, packed.header)


def run_commands(page: str, home: Path, model: Path) -> None:
    for words in commands(DOCS / page):
        small = SMALL.get(words[1], []) if len(words) > 1 else []
        more = settings([*small, f"model={model}"]) if small else []
        done = inside(*words, *more, home=home / ".trimtab")
        assert done.code == 0, (words, done.stderr)


@pytest.mark.parametrize("page", TOURS)
def test_the_commands_of_a_page_work(page, here, tiny_folder):  # noqa: F811
    assert commands(DOCS / page)
    run_commands(page, here, tiny_folder)


@pytest.mark.real_model
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(DOCS / page, "python")])
def test_the_python_of_a_page_works(page, here, plans):
    """Block after block in one namespace, as a reader would paste them."""
    namespace: dict[str, object] = {}
    for code in blocks(DOCS / page, "python"):
        exec(compile(code, page, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_a_page_names_exists(page):
    assert {words[0] for words in commands(DOCS / page)} <= COMMANDS.keys()
