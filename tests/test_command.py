"""The command in a report is the one that was given, ready for a shell."""

import shlex

from trimtab.tasks.heads.ablate import AblateSettings
from trimtab.tasks.reporting.command import command, recipe_command


def test_the_path_as_it_was_given_the_settings_and_a_home_that_is_not_the_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRIMTAB_HOME", raising=False)
    assert recipe_command("run", "recipes/tiny.yaml", ".trimtab") == "trimtab run recipes/tiny.yaml"
    odd = ["judge.system_prompt=Be warm; rm -rf *", "budget.kl=0.1"]
    words = shlex.split(recipe_command("run", "my recipe.yaml", str(tmp_path / "other"), odd))
    assert words == ["trimtab", "--home", "other", "run", "my recipe.yaml", "--set", odd[0], "--set", odd[1]]
    assert recipe_command("rank", "/a/b.yaml", "s3://bucket/x") == "trimtab --home s3://bucket/x rank /a/b.yaml"


def test_the_options_of_an_ablation_that_are_not_its_defaults():
    assert AblateSettings().options == []
    settings = AblateSettings(top=3, operator="zero", random=0, heads=True)
    assert settings.options == ["--top", "3", "--operator", "zero", "--random", "0", "--heads"]
    assert command("ablate", "copy@1", ".trimtab", settings.options).startswith("trimtab ablate copy@1 --top 3")
