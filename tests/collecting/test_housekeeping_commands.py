"""trimtab delete and gc."""

import json

import numpy as np
import pytest

from trimtab.flows.cli import main
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.registry.housekeeping import age_of


@pytest.fixture
def home(tmp_path):
    catalog = Home.at(tmp_path / "home").catalog
    catalog.publish("rows", "capture", {}, {"location": str(tmp_path / "home" / "captures" / "none")})
    catalog.publish("plan", "plan", {"x": np.ones(2)}, {}, parents=["rows"])
    return str(tmp_path / "home")


def test_delete(home, capsys):
    assert main(["--home", home, "delete", "rows@1"]) == 2
    assert "plan@1 still needs it" in capsys.readouterr().err
    assert main(["--home", home, "delete", "plan"]) == 2
    assert "names no version" in capsys.readouterr().err
    assert main(["--home", home, "delete", "plan@1"]) == 0
    assert main(["--home", home, "delete", "rows@1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.split("\n", 2)[2])["ref"] == "rows@1"
    assert Home.at(home).catalog.names() == []


def test_gc(home, capsys):
    assert main(["--home", home, "gc", "--older-than", "0h"]) == 2
    assert "older than 1:00:00" in capsys.readouterr().err
    assert main(["--home", home, "gc", "--dry-run"]) == 0
    assert "nothing older than 7d" in capsys.readouterr().err


def test_ages():
    assert [age_of(text).total_seconds() for text in ("36h", "7d", "2w")] == [129600, 604800, 1209600]
    for text in ("7", "d", "-1d", "1m", "1.5d"):
        with pytest.raises(RecipeError, match="for example 7d"):
            age_of(text)
