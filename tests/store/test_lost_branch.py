"""A catalog that lost the one file that names its last snapshot is damaged, not empty."""

import pytest

from trimtab.flows.cli import main
from trimtab.store import Catalog
from trimtab.store.errors import Corrupt, Invalid


@pytest.fixture
def branch(tmp_path):
    """The file that names the last snapshot of a catalog with a history."""
    catalog = Catalog(tmp_path / "home" / "catalog")
    for i in range(3):
        catalog.publish("a", "plan", {}, {"i": i})
    catalog.promote("a@2", "prod")
    return tmp_path / "home" / "catalog" / "refs" / "branch.main" / "ref.json"


def test_every_command_says_so(branch, capsys) -> None:
    """Gone, or empty as after a power cut. Nothing is written, and nothing is freed."""
    home = str(branch.parents[3])
    commands = (
        ["ls"], ["show", "a"], ["captures"], ["lineage", "a"], ["promote", "a@1", "x"], ["delete", "a@1"],
        ["gc"], ["gc", "--dry-run"],
    )  # fmt: skip
    for spoil in (branch.unlink, lambda: branch.write_text("")):
        spoil()
        before = sorted(branch.parents[3].rglob("*"))
        for command in commands:
            assert main(["--home", home, *command]) == 2, command
            out, err = capsys.readouterr()
            assert out == "" and err.startswith("error: ") and err.count("\n") == 1, (command, err)
            assert "lost its branch" in err and "repair" in err, command
        assert main(["--home", home, "verify"]) == 1
        assert "lost its branch" in capsys.readouterr().out
        assert sorted(branch.parents[3].rglob("*")) == before
        branch.write_text("{}")


def test_it_is_found_again(branch) -> None:
    written = branch.read_text()
    catalog = Catalog(branch.parents[2])
    with pytest.raises(Invalid, match="nothing to restore"):
        catalog.restore_branch()
    for spoil in (branch.unlink, lambda: branch.write_text("")):
        spoil()
        assert catalog.restore_branch() in written
        assert catalog.versions("a") == [1, 2, 3] and catalog.get("a@prod").version == 2
        assert branch.read_text() == written
    assert catalog.publish("a", "plan", {}, {"i": 3}).version == 4


def test_it_is_not_guessed(branch) -> None:
    """Two snapshots that follow the same one: either may be the last."""
    catalog = Catalog(branch.parents[2])
    before = branch.read_text()
    catalog.publish("b", "plan", {}, {})
    branch.write_text(before)
    catalog.publish("c", "plan", {}, {})
    branch.unlink()
    with pytest.raises(Corrupt, match="cannot be proved.*publish b.*publish c"):
        catalog.restore_branch()
    assert not branch.exists()
