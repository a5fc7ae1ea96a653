"""A way back: whatever is lost or damaged of a capture is collected again, under the version that it had."""

import os
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from trimtab.flows.cli import main
from trimtab.store import ActivationStore
from trimtab.store.errors import Corrupt, Mismatch, StoreError
from trimtab.store.verify import verify
from trimtab.tasks.collecting import capture as capture_module
from trimtab.tasks.collecting.capture import capture_recipe
from trimtab.tasks.home import Home
from trimtab.tasks.plans.fit import fit_recipe
from trimtab.tasks.recipes.kinds import load_recipe
from trimtab.tasks.registry.repair import repair

REGION = "capture.region_mb=1"


@pytest.fixture
def recipe(make_tiny, tmp_path):
    return load_recipe(make_tiny(tmp_path / "tiny", 60, ()), [REGION, "capture.dtype=float32"])


@pytest.fixture
def home(recipe, tmp_path) -> Home:
    """A capture, and candidates made from it."""
    place = Home.at(tmp_path / "home")
    fit_recipe(recipe, place, capture_recipe(recipe, place), "mean_difference")
    return place


def folder(home: Home) -> Path:
    return Path(home.rows("tiny.capture").location.root)


def bad(home: Home) -> list[str]:
    return [str(finding) for finding in verify(home.catalog) if not finding.ok]


def rows(home: Home) -> dict[str, bytes]:
    store = home.rows("tiny.capture")
    return {site: store.rows(site).tobytes() for site in store.sites}


def lose_folder(place: Path) -> None:
    shutil.rmtree(place)


def empty_folder(place: Path) -> None:
    shutil.rmtree(place)
    place.mkdir()


def lose_branch(place: Path) -> None:
    (place / "refs" / "branch.main" / "ref.json").unlink()


def lose_manifest(place: Path) -> None:
    max((place / "manifests").iterdir(), key=lambda file: file.stat().st_size).unlink()


def lose_chunk(place: Path) -> None:
    chunks(place)[-1].unlink()


def flip_bits(place: Path) -> None:
    rng = random.Random(0)
    for file in rng.sample(chunks(place)[-9:], 3):
        raw = bytearray(file.read_bytes())
        raw[rng.randrange(len(raw))] ^= 4
        file.write_bytes(raw)


def chunks(place: Path) -> list[Path]:
    """Chunks of rows, the oldest first: all of one site have one size, those of the index are compressed."""
    files = sorted((place / "chunks").iterdir(), key=lambda file: file.stat().st_mtime_ns)
    often = Counter(file.stat().st_size for file in files)
    return [file for file in files if often[file.stat().st_size] > 3]


def test_what_is_lost_or_damaged_comes_back_under_its_version(home) -> None:
    """Every kind of loss, one after the other: collected again, all of it sound, everything else as it was."""
    right, before = rows(home), [artifact.digest for artifact in home.catalog.list()]
    whole = len(home.rows("tiny.capture").layout.regions)
    assert whole > 3
    for lose in (flip_bits, lose_chunk, lose_folder, empty_folder, lose_branch, lose_manifest):
        lose(folder(home))
        assert any("`trimtab repair tiny.capture@1`" in line for line in bad(home)), lose.__name__
        made = repair(home)
        assert [one.ref for one in made] == ["tiny.capture@1"] and made[0].wrong
        assert (made[0].computed > 0) != (lose is lose_branch), "a lost branch costs no row"
        part = lose in (flip_bits, lose_chunk, lose_branch)
        assert made[0].regions < whole if part else made[0].regions == whole, lose.__name__
        assert bad(home) == [] and rows(home) == right, lose.__name__
        assert [artifact.digest for artifact in home.catalog.list()] == before
        assert [(one.wrong, one.computed) for one in repair(home, "tiny.mean_difference")] == [("", 0)]


def test_a_stopped_repair_goes_on(home, monkeypatch) -> None:
    right, whole = rows(home), repair(home)[0].regions
    lose_folder(folder(home))
    commit, made = ActivationStore.commit, []

    def killed(self, buffer):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(commit(self, buffer))

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(ActivationStore, "commit", killed)
        repair(home)
    assert repair(home)[0].wrong and rows(home) == right and whole == 0
    assert not list(Path(home.captures.root.root).glob(".*damaged*")), "what was begun is gone on with"


def test_collecting_again_brings_lost_rows_back_and_does_not_call_that_nothing(home, recipe) -> None:
    right, place = rows(home), folder(home)
    for lose in (lose_folder, empty_folder):
        lose(place)
        made = capture_recipe(recipe, home)
        assert made.ref == "tiny.capture@1" and not made.reused and made.computed > 0
        assert rows(home) == right and bad(home) == []
    lose_branch(place)
    with pytest.raises(Corrupt, match="`trimtab repair tiny.capture@1`"):
        capture_recipe(recipe, home)


def test_another_model_or_other_texts_are_refused_before_anything_is_touched(home, recipe, monkeypatch) -> None:
    place = folder(home)
    flip_bits(place)
    before = sorted((path, path.stat().st_mtime_ns) for path in place.rglob("*"))
    asked = capture_module.asked_of

    def other(*args):
        return type(asked(*args))({**asked(*args).fields, "model": {"weights": "others"}})

    with monkeypatch.context() as patched, pytest.raises(Mismatch, match=r"tiny.capture@1 cannot be .* model\.weights"):
        patched.setattr(capture_module, "asked_of", other)
        repair(home)
    assert sorted((path, path.stat().st_mtime_ns) for path in place.rglob("*")) == before
    data = Path(recipe.data.pairs.path)
    data.write_text(data.read_text().replace("a", "e", 1))
    with pytest.raises((StoreError, Exception)) as refused:
        repair(home)
    assert "\n" not in str(refused.value) and str(data) in str(refused.value)


def test_a_moved_home_is_used_on_and_repaired(home, recipe, tmp_path) -> None:
    right, was = rows(home), folder(home)
    os.rename(home.root.root, tmp_path / "moved")
    moved = Home.at(tmp_path / "moved")
    assert capture_recipe(recipe, moved).reused and rows(moved) == right
    flip_bits(folder(moved))
    assert repair(moved)[0].wrong and rows(moved) == right and bad(moved) == [] and not was.exists()


def test_the_command(home, capsys) -> None:
    assert main(["--home", home.url, "repair"]) == 0
    assert "nothing is lost or damaged" in capsys.readouterr().err
    lose_chunk(folder(home))
    assert main(["--home", home.url, "repair", "tiny.mean_difference"]) == 0
    shown = capsys.readouterr()
    assert "tiny.capture@1" in shown.out and "damaged" in shown.out and bad(home) == []
    assert main(["--home", home.url, "repair", "nothing"]) == 2
    assert "has no 'nothing'" in capsys.readouterr().err


def test_a_catalog_that_lost_its_branch_is_repaired_too(home) -> None:
    before = [artifact.digest for artifact in home.catalog.list()]
    lose_branch(Path(home.catalog.location.root))
    assert bad(home)
    assert [one.ref for one in repair(home) if one.wrong] == ["catalog"]
    assert [artifact.digest for artifact in home.catalog.list()] == before and bad(home) == []
