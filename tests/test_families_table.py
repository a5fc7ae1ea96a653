"""`trimtab doctor --families` lists every family, and what it refuses is refused with that reason."""

import pytest
from transformers import PretrainedConfig

from tests.end_to_end.conftest import inside
from trimtab.steering.errors import UnsupportedModel
from trimtab.steering.model.families import FAMILIES, REFUSED, family_of


def test_the_table_has_every_family_once(tmp_path):
    assert not FAMILIES.keys() & REFUSED.keys()
    done = inside("doctor", "--families", home=tmp_path / "home")
    assert done.code == 0, done.stderr
    shown = [line.split()[0] for line in done.stdout.splitlines() if line.split()[1:2] in (["supported"], ["refused"])]
    assert sorted(shown) == sorted([*FAMILIES, *REFUSED])


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_that_is_refused_says_why(name):
    config = PretrainedConfig()
    config.model_type = name
    with pytest.raises(UnsupportedModel, match="doctor --families") as refused:
        family_of(config)
    assert REFUSED[name] in str(refused.value)
