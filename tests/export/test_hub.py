"""A plan goes to an imitated Hub with its card and comes back; what is no plan, or leads elsewhere, is refused."""

import hashlib
import json
import os
from pathlib import Path

import huggingface_hub
import pytest
import torch

from tests.export.fake_hub import COMMIT, hub_here  # noqa: F401
from trimtab.steering.errors import BadFile, BadPlan, CannotExport
from trimtab.steering.export import FORMATS
from trimtab.steering.model.fingerprint import Fingerprint
from trimtab.steering.model.site import Site
from trimtab.steering.moves.ablate import Ablate
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.plans.repository import CONFIG, PLAN, About

D = 16
ABOUT = About("warm", "owner/model", "Warmer answers.", "Apache-2.0", "## Price\n\nNone was measured.")
STEPS = (
    Intervention(Site("resid_post", 1), Add(torch.arange(D) / 7), strength=1.5),
    Intervention(Site("resid_post", 2), Ablate(torch.eye(D)[:1])),
)
PLANNED = SteeringPlan(STEPS, Fingerprint("llama", 4, D, 4, 4, "0" * 16))


@pytest.fixture
def folder(tmp_path) -> Path:
    FORMATS["hf"]().write(PLANNED, tmp_path / "folder", ABOUT)
    return tmp_path / "folder"


def same(there: SteeringPlan, plan: SteeringPlan = PLANNED) -> None:
    got, want = there.pack(), plan.pack()
    assert got.header == want.header
    assert all((got.arrays[name] == array).all() for name, array in want.arrays.items())


def test_pushed_and_loaded_it_is_the_same_plan(hub_here):  # noqa: F811
    address = PLANNED.push_to_hub("me/warm", ABOUT, private=True)
    assert address.endswith(f"/me/warm/commit/{COMMIT}") and hub_here.private == {"me/warm": True}
    files = hub_here.repositories["me/warm"]
    assert sorted(files) == ["README.md", CONFIG, PLAN]
    card = files["README.md"].decode()
    assert 'base_model: "owner/model"\nbase_model_relation: adapter\nlicense: "apache-2.0"' in card
    assert "None was measured." in card
    same(SteeringPlan.from_pretrained("me/warm"))
    (PLANNED * 2).push_to_hub("me/warm", ABOUT)  # the repository is there: one more commit
    files["modeling.py"] = b"raise SystemExit('code ran')"
    asked = len(hub_here.asked)
    SteeringPlan.from_pretrained("me/warm")
    assert not any("modeling" in path or "README" in path for _, path in hub_here.asked[asked:]), (
        "only two files are read"
    )


def test_without_a_token_or_a_repository_it_is_one_line(hub_here, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(CannotExport, match="the Hub did not take me/warm: .*401") as error:
        PLANNED.push_to_hub("me/warm", ABOUT)
    assert "\n" not in str(error.value)
    with pytest.raises(BadFile, match="'me/none' is no folder here") as error:
        SteeringPlan.from_pretrained("me/none")
    assert "\n" not in str(error.value)
    for name in ("a/b/c", "no such folder", "./none"):
        with pytest.raises(BadFile, match="is no folder here"):
            SteeringPlan.from_pretrained(name)


def test_nobody_is_asked_when_the_hub_is_switched_off():
    with pytest.raises(BadFile, match="HF_HUB_OFFLINE"):
        SteeringPlan.from_pretrained("me/warm")
    with pytest.raises(CannotExport, match="HF_HUB_OFFLINE"):
        PLANNED.push_to_hub("me/warm", ABOUT)


def test_a_hub_that_is_away_is_one_line(hub_here, monkeypatch):  # noqa: F811
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CannotExport, match="did not take") as error:
        PLANNED.push_to_hub("me/warm", ABOUT)
    assert "\n" not in str(error.value)


def test_a_folder_is_read_and_one_of_before_too(folder):
    same(SteeringPlan.from_pretrained(folder))
    config = json.loads((folder / CONFIG).read_text())
    del config["sha256"]  # as folders were written before
    (folder / CONFIG).write_text(json.dumps(config))
    same(SteeringPlan.from_pretrained(str(folder)))


def changed(folder: Path, **fields) -> None:
    (folder / CONFIG).write_text(json.dumps({**json.loads((folder / CONFIG).read_text()), **fields}))


def linked(folder: Path, name: str) -> None:
    (folder / name).rename(folder.parent / "elsewhere")
    (folder / name).symlink_to(folder.parent / "elsewhere")


BROKEN = {
    "another kind": (lambda f: changed(f, model_type="llama"), "no steering plan"),
    "a newer format": (lambda f: changed(f, format=2), "newer trimtab"),
    "another file": (lambda f: changed(f, sha256="0" * 64), "sha256 differs"),
    "no config": (lambda f: (f / CONFIG).unlink(), "no readable config.json"),
    "no plan": (lambda f: (f / PLAN).unlink(), "no readable plan.safetensors"),
    "a config of text": (lambda f: (f / CONFIG).write_text("[" * 100_000), "no readable config.json"),
    "a config that is huge": (lambda f: (f / CONFIG).write_bytes(b" " * 2**20 + b"{}"), "larger than"),
    "a plan that leads out": (lambda f: linked(f, PLAN), "leads out of the folder"),
    "a config that leads out": (lambda f: linked(f, CONFIG), "leads out of the folder"),
    "a pipe": (lambda f: ((f / CONFIG).unlink(), os.mkfifo(f / CONFIG)), "no readable config.json"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_folder_that_is_no_plan_is_one_error(case, folder):
    break_, said = BROKEN[case]
    break_(folder)
    with pytest.raises(BadFile, match=said):
        SteeringPlan.from_pretrained(folder)


def test_a_plan_that_is_none_is_one_error(folder):
    (folder / PLAN).write_bytes(b"not safetensors")
    changed(folder, sha256=hashlib.sha256(b"not safetensors").hexdigest())
    with pytest.raises(BadPlan, match="not a file of trimtab"):
        SteeringPlan.from_pretrained(folder)


def test_a_snapshot_of_the_hubs_cache_is_a_folder(hub_here, tmp_path):  # noqa: F811
    PLANNED.push_to_hub("me/warm", ABOUT)
    SteeringPlan.from_pretrained("me/warm")
    (snapshot,) = (tmp_path / "cache").glob("models--me--warm/snapshots/*")
    assert (snapshot / PLAN).is_symlink()
    same(SteeringPlan.from_pretrained(snapshot))
