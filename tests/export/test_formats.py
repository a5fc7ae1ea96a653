"""Every format: what is written is read back as the same plan, what cannot be said is refused, and no file harms."""

import json
import os
import zipfile
from pathlib import Path

import pytest
import torch

from trimtab.steering.errors import BadFile, BadPlan, CannotExport, SteeringError
from trimtab.steering.export import FORMATS, About
from trimtab.steering.gates.first import First
from trimtab.steering.model.fingerprint import Fingerprint
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Span
from trimtab.steering.moves.ablate import Ablate
from trimtab.steering.moves.add import Add
from trimtab.steering.moves.clamp import Clamp
from trimtab.steering.moves.gated import Gated
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan

D = 16
MODEL = Fingerprint("llama", 4, D, 4, 4, "0" * 16)
ABOUT = About("warm", "owner/model", "Warmer answers.", "Apache-2.0")
WHOLE = ("safetensors", "hf")  # keep everything that a plan is
OTHERS = sorted(set(FORMATS) - set(WHOLE))


def vector(seed: int) -> torch.Tensor:
    return torch.randn(D, generator=torch.Generator().manual_seed(seed))


def adding(*blocks: int, span: str = "all", strength: float = 2.0) -> SteeringPlan:
    steps = (Intervention(Site("resid_post", b), Add(vector(b)), Span.parse(span), strength) for b in blocks)
    return SteeringPlan(tuple(steps), MODEL)


def target(name: str, folder: Path) -> Path:
    return folder / f"plan{FORMATS[name].suffix}"


def there_and_back(name: str, plan: SteeringPlan, folder: Path) -> SteeringPlan:
    format_, path = FORMATS[name](), target(name, folder)
    format_.write(plan, path, ABOUT)
    assert [p.name for p in folder.iterdir()] == [path.name], "something was left beside the file"
    return format_.read(path)


def effects(plan: SteeringPlan) -> dict[tuple[str, str], torch.Tensor]:
    """What a plan of additions adds, by site and span."""
    total: dict[tuple[str, str], torch.Tensor] = {}
    for step in plan.interventions:
        assert isinstance(step.move, Add)
        place = (str(step.site), str(step.span))
        total[place] = total.get(place, torch.zeros(D)) + step.strength * step.move.vector
    return total


@pytest.mark.parametrize("name", list(FORMATS))
def test_what_is_written_is_read_back(name, tmp_path):
    plan = adding(2) if name == "steerkit" else adding(1, 3)
    there = there_and_back(name, plan, tmp_path)
    assert effects(there).keys() == effects(plan).keys()
    tolerance = 1e-6 if name == "steerkit" else 0  # which keeps a unit direction and its length
    for place, added in effects(plan).items():
        torch.testing.assert_close(effects(there)[place], added, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", OTHERS)
def test_two_additions_at_one_block_are_their_sum(name, tmp_path):
    both = SteeringPlan(adding(2).interventions + adding(2, strength=-0.5).interventions, MODEL)
    (added,) = effects(there_and_back(name, both, tmp_path)).values()
    torch.testing.assert_close(added, 1.5 * vector(2), rtol=1e-6, atol=1e-6)


CANNOT = {
    "an ablation": (Intervention(Site("resid_post", 1), Ablate(torch.eye(D)[:1])), "Ablate"),
    "a gate": (Intervention(Site("resid_post", 1), Gated(Add(vector(1)), First(3))), "Gated"),
    "another point": (Intervention(Site("attn_out", 1), Add(vector(1))), "attn_out.1"),
    "a head": (Intervention(Site("z", 1, 2), Add(vector(1)[:4])), "z.1.2"),
    "a counted span": (Intervention(Site("resid_post", 1), Add(vector(1)), Span.parse("first:3")), "first:3"),
}


@pytest.mark.parametrize("case", CANNOT)
@pytest.mark.parametrize("name", OTHERS)
def test_what_a_format_cannot_say_is_refused_and_nothing_is_written(name, case, tmp_path):
    step, said = CANNOT[case]
    with pytest.raises(CannotExport, match=said):
        FORMATS[name]().write(SteeringPlan((step,), MODEL), target(name, tmp_path), ABOUT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", OTHERS)
def test_a_plan_of_nothing_is_refused(name, tmp_path):
    with pytest.raises(CannotExport, match="nothing to export"):
        FORMATS[name]().write(SteeringPlan((), MODEL), target(name, tmp_path), ABOUT)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("case", CANNOT)
def test_our_own_files_keep_everything(name, case, tmp_path):
    plan = SteeringPlan((CANNOT[case][0],), MODEL)
    there, before = there_and_back(name, plan, tmp_path).pack(), plan.pack()
    assert there.header == before.header
    assert all((there.arrays[key] == array).all() for key, array in before.arrays.items())


@pytest.mark.parametrize("name", sorted(set(OTHERS) - {"brainpatch"}))
def test_only_brainpatch_tells_prompt_from_answer(name, tmp_path):
    with pytest.raises(CannotExport, match="generated"):
        FORMATS[name]().write(adding(1, span="generated"), target(name, tmp_path), ABOUT)


@pytest.mark.parametrize("span", ["prompt", "generated"])
def test_brainpatch_tells_prompt_from_answer(span, tmp_path):
    plan = adding(1, span=span)
    assert effects(there_and_back("brainpatch", plan, tmp_path)).keys() == effects(plan).keys()


def test_llama_cpp_has_no_block_0_and_repeng_has(tmp_path):
    with pytest.raises(CannotExport, match="block 0"):
        FORMATS["gguf"]().write(adding(0, 2), tmp_path / "plan.gguf", ABOUT)
    assert len(there_and_back("repeng", adding(0, 2), tmp_path).interventions) == 2


def test_a_probe_has_one_block(tmp_path):
    with pytest.raises(CannotExport, match="one block"):
        FORMATS["steerkit"]().write(adding(1, 2), tmp_path / "a.probe.safetensors", ABOUT)


def test_a_clamp_of_the_harness_is_a_clamp(tmp_path):
    entry = {"steering_vector": 3 * vector(0), "steering_coefficient": 2.5, "action": "clamp"}
    torch.save({"layers.2": entry}, tmp_path / "clamp.pt")
    (step,) = FORMATS["lm_eval"]().read(tmp_path / "clamp.pt").interventions
    assert isinstance(step.move, Clamp) and (step.move.low, step.move.high) == (2.5, 2.5)
    torch.testing.assert_close(step.move.direction, vector(0) / vector(0).norm())


HOSTILE = {
    "nothing": b"",
    "text": b"not a file of any kind\n" * 50,
    "zeros": bytes(4096),
    "json": json.dumps({"directions": {"0": "x"}}).encode(),
    "huge header": (2**62).to_bytes(8, "little") + b"{}",
    "gguf that ends": b"GGUF" + (3).to_bytes(4, "little") + (2**40).to_bytes(8, "little") * 2,
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("name", list(FORMATS))
def test_files_of_something_else_are_one_error(name, kind, tmp_path):
    path = target(name, tmp_path)
    path.write_bytes(HOSTILE[kind])
    with pytest.raises((BadFile, BadPlan)) as error:
        FORMATS[name]().read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_missing_file_is_one_error(name, tmp_path):
    with pytest.raises(SteeringError):
        FORMATS[name]().read(tmp_path / "none")


@pytest.mark.parametrize("name", ["steering_vectors", "lm_eval"])
def test_nothing_in_a_file_is_run(name, tmp_path):
    """A file of PyTorch's may name any function to be called on loading; only data are taken."""
    path = target(name, tmp_path)
    torch.save({"layer_activations": Path("x")}, path)  # an object: its class would be imported and called
    with pytest.raises(BadFile, match="nothing else"):
        FORMATS[name]().read(path)


def test_a_changed_archive_is_found(tmp_path):
    FORMATS["brainpatch"]().write(adding(1), tmp_path / "a.brainpatch", ABOUT)
    with zipfile.ZipFile(tmp_path / "a.brainpatch") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["manifest.json"] = files["manifest.json"].replace(b'"layer": 1', b'"layer": 2')
    with zipfile.ZipFile(tmp_path / "b.brainpatch", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with pytest.raises(BadFile, match="checksum"):
        FORMATS["brainpatch"]().read(tmp_path / "b.brainpatch")


def test_the_same_plan_is_the_same_archive(tmp_path):
    for name in ("a", "b"):
        FORMATS["brainpatch"]().write(adding(1), tmp_path / name, ABOUT)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_repository_has_a_card_and_overwrites_nothing(tmp_path):
    FORMATS["hf"]().write(adding(1), tmp_path / "repo", ABOUT)
    text = (tmp_path / "repo" / "README.md").read_text()
    assert 'base_model: "owner/model"' in text and "# warm" in text and "license" in text
    with pytest.raises(CannotExport, match="nothing is overwritten"):
        FORMATS["hf"]().write(adding(2), tmp_path / "repo", ABOUT)
    assert effects(FORMATS["hf"]().read(tmp_path / "repo")).keys() == effects(adding(1)).keys()


SAYABLE = {
    "an addition to the output of a block": adding(2),
    "additions at two blocks": adding(1, 2),
    "an addition at block 0": adding(0),
    "span `prompt` or `generated`": adding(2, span="generated"),
    "span `first:3` and other counts": SteeringPlan((CANNOT["a counted span"][0],), MODEL),
    "an addition elsewhere (`attn_out`, `resid_mid`, ...)": SteeringPlan((CANNOT["another point"][0],), MODEL),
    "a head (`z.1.2`)": SteeringPlan((CANNOT["a head"][0],), MODEL),
    "another move (`Ablate`, `Clamp`, ...)": SteeringPlan((CANNOT["an ablation"][0],), MODEL),
    "a gate": SteeringPlan((CANNOT["a gate"][0],), MODEL),
    "a plan that does not say its model": SteeringPlan(adding(2).interventions),
}
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks" / "interop.md"
BEGIN, END = "<!-- refusals: written by `make test-interop` -->\n", "<!-- end of the refusals -->\n"


def said(name: str, plan: SteeringPlan, path: Path) -> str:
    """What a format does with a plan: an empty text, or its refusal."""
    try:
        FORMATS[name]().write(plan, path, ABOUT)
        return ""
    except CannotExport as error:
        return str(error)


def test_the_page_says_what_every_format_refuses(tmp_path):
    names = sorted(FORMATS)
    table = [f"| | {' | '.join(f'`{name}`' for name in names)} |", "|---" * (len(names) + 1) + "|"]
    messages: dict[str, None] = {}  # in order, each once, whichever tool says it
    for number, (what, plan) in enumerate(SAYABLE.items()):
        cells = [said(name, plan, tmp_path / f"{name}-{number}{FORMATS[name].suffix}") for name in names]
        table.append(f"| {what} | {' | '.join('no' if cell else 'yes' for cell in cells)} |")
        tools = [FORMATS[name].tool for name in names]
        messages |= dict.fromkeys(f"{what}: {c.replace(t, 'TOOL')}" for c, t in zip(cells, tools, strict=True) if c)
    refusals = "\n".join([*table, "", "What they say:", "", *(f"* {message}" for message in messages)])
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    page = f"{before}{BEGIN}\n{refusals}\n\n{END}{rest.partition(END)[2]}"
    if "TRIMTAB_WRITE_INTEROP" in os.environ:
        PAGE.write_text(page, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page, "run `make test-interop`"
