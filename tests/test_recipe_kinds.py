"""The kinds of recipes: one reader for all, keys that stay, and a description of every key and field."""

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import torch
from jsonschema import Draft202012Validator

from trimtab.flows.cli import main
from trimtab.flows.kinds import FLOWS
from trimtab.steering.fitters import FITTERS
from trimtab.steering.gates import Gate
from trimtab.steering.gates.linear import Linear
from trimtab.steering.localisers import LOCALISERS
from trimtab.steering.model.site import Site
from trimtab.steering.moves import Move
from trimtab.tasks.admin.methods import SHELVES
from trimtab.tasks.data import examples
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.plans.condition import acting_gate
from trimtab.tasks.recipes import yaml
from trimtab.tasks.recipes.behaviour import BehaviourRecipe
from trimtab.tasks.recipes.kinds import KINDS, RecipeFile, load_recipe, make_recipe, of_kind, read_recipe, recipe_schema
from trimtab.tasks.recipes.methods import make_method, method_problems, settable

RECIPES = Path(__file__).parents[1] / "recipes"
SHIPPED = sorted(RECIPES.rglob("*.yaml"))

# as they were when there was one reader for each kind: another key would collect every user's activations again
KEYS = {
    "brief.yaml": {
        "capture": "4ecfd71fc9b197b27cf8298c23eb00a289e61de431200e72d150fba6aff4efd3",
        "fit": "b43184ffa107bbfb8ca09432e4d4fca66d0c8b7974507ce295eadc20f17e3bb3",
        "placebos": "0baa476fb6d172a01a32da01b2532b41a1c73d6ad0e590d26de7c6dd880d84f9",
        "validate": "a09d85e274723c330445aed81c2a4f050671756be846a9bd42ea97d21b0c45c2",
        "digest": "00f8afa27f359e50eb6706ee9674401b4825d9a57c98085478682b0aca367cfc",
    },
    "cheerful.yaml": {
        "capture": "dd12ec275ba746cf20fb7a60afd51062024ef817d3fd15d6346e2f105ff47adc",
        "fit": "4aedee7fb91e5497b8a6ce324001ed202c2aecc450cb9d92c6fa7439d3b44cda",
        "placebos": "9b901df816eef1a5c602d3e26c13f59ebff2cadf062c97ffcce07b316601f31e",
        "validate": "4c69d342cbaa8739f01288e629660ef8e00b66c98877dde29edf2851ea3c12fa",
        "digest": "81bf9240edcd3ce39838caf4e6c1d9fabfacff5ae6962a6880cf129ecbfba844",
    },
    "concise.yaml": {
        "capture": "ca5b75d320d2f984a3c35cd16df369eb620c4fc1a4c2449cf8fee5b8420cd5cd",
        "fit": "6f67405ed6c6319169373a9dd022332d9e9826f9b7e240492dae4b478d4dea64",
        "placebos": "c76338dab256ab93b4174f45a74615ea1749e1c623e88d80051d1072a789c8e4",
        "validate": "63e69a0741513f6893599e9e52f64285efa855c2f8b38a980094df0204cc126d",
        "digest": "5ebb092d7bb04b29758f9d34aec51d2293e8abed5da47722c011dbe1510f4cf4",
    },
    "french.yaml": {
        "capture": "dd3e214c9ea75cb16a33331b3c7ccf9d782e3fb09e05e9d1a8b5163d5c974c5a",
        "fit": "01dd3388e3e39ce14e9da0756e1615a4f9e4f99bcb09b88446546cd51b02c5ce",
        "placebos": "ae9036fd31711acaaadff1ad302fbcbc2a67bdfa435efcb61cbe2f701d919caa",
        "validate": "83f53164eacc906b6ecbd5528a619a5a24769bbf5fb15f86a1eb7b4c296a2fa9",
        "digest": "732a66b573967233b584f04fde02f4e9b4af29d2a0119961e8f78c7260292719",
    },
    "formal.yaml": {
        "capture": "96b822cd0a549f8c541b5dda614e00feff7b3d374e6c3af521cf4b10f9108ff9",
        "fit": "a7b4fb922c5838c45517a447a3e6dd1cb2a109bbb2820c653aaa37515ae4950f",
        "placebos": "53d341a2946b015c8d187744d321237952243211ecfed32d585d3760be417dae",
        "validate": "7b40a541d33d8c9363c55e4ea7ff3db9fee1400140d45877edcde149f18ebf28",
        "digest": "b77a32c29e58a56b032ee183a4afc70e99ae3aa118f3a13451fef35c55722dce",
    },
    "spanish.yaml": {
        "capture": "07ff103f6935d83d8b96fb733e69e657cd8ad6750929367a51761c0b06d5cd8f",
        "fit": "3fc277e777e7c3ae6619ed0ea2fc12607654ee31b064c2e06869a2af00d1fa74",
        "placebos": "d2993457642a2e4fb32b9005430cefd192aba9141fa270f856fb2bd840638395",
        "validate": "6098c0885cd7bc51953ef613a126b2d3c43219b5dfe8e95f1d5271b95edb49fe",
        "digest": "d2ea3d3fb36391e65e541ddfd6bc8ceafdadfe15232ed86d50d094e55cd62aae",
    },
    "sailor.yaml": {
        "capture": "5b4fd9ed7edd1369fd3685bb5b41357f1165970ec410bae710660556dbf899a7",
        "fit": "dde293f7b9b66512a772b169b8618a8390020141556dd416d0cc04e9dd6434e6",
        "placebos": "404fe8cbc67f644878a6294baf2b452539fe9d6b503fd9a66eab06f79eff95d0",
        "validate": "689b100cbd2006a34ac9871502df0283b0da0e84d5b49556bac76de3957d4096",
        "digest": "0400148f08066df913e7a2c8f042f00951d42494ee4ae290bfce8a523e156e1a",
    },
    "archaic.yaml": {
        "capture": "16e1867c147daace2be02b434b57bce1161736abe8ca5b55baccaa556bef45cc",
        "fit": "cc3107a7090157558aca87e98bdc9b2e7bd37091debb7c2d2992701f1fe21b0c",
        "placebos": "352220f95c7433f5aa53aaf52055d1425a9885567137cebfc35bf80f5fce3733",
        "validate": "3317880aad13ab9c001b60c08edfd5dcd8ea0a3676af36f66d2782a0c350780a",
        "digest": "18873aa2f84bf2fc57d33c9ddb5252a3db69ff1099a35cdcf47a2d43160d6524",
    },
    "vivid.yaml": {
        "capture": "b126377b602e98230704e9604a2200838d1c332195ba312bae3e7af8120278f4",
        "fit": "c30472a335b18e6eeeb586f4b346686d94da7c41e972f2112aaed304855105e8",
        "placebos": "b06681e40c901e6dd355f1822da7d25228161fc1c2cb8ac07caca407ded41691",
        "validate": "57d16a446a7a929788d20c7e8db65be5c21221ccf9b732424a01c2f3899cc8c0",
        "digest": "8efff34bcc59bdeec8249bd1893ba662da81f66cd68452b39e91fd859e22ab74",
    },
    "features.yaml": {
        "capture": "c4f67d21adb3985775c47f15e326fb312fc148bef6c0b649f4b2130e3a3f15e3",
        "choose": "7d7d175a857caa03004f309a8d37646ad62468ecf2316947380a140c423384c6",
        "features": "bd121e462434202d7606c2b682c070c44fe27a4bcc0087cb74b718f2c9b2b705",
    },
    "heads/ioi.yaml": {"rank": "b83e7777e11f4bd38f7edc343f4956926fedd18b6e8983c20472b8a4ee32d087"},
    "heads/capitals.yaml": {"rank": "9015290d124ed602544cdcd14e5f847463579d0bf0024f2bafb5415f7a4b89c0"},
    "heads/induction.yaml": {"rank": "ef2b93a148557799ca18d80f7b59c87d5c2b3fe64ce2c10b70a5ffaae205cdef"},
    "studies/methods.yaml": {"table": "0f7696de222f38fc9fde0a25f2034ca4ba32631e709adc7b29c84c13e17a6983"},
    "french-on-food.yaml": {"condition": "f1fd715337ee4c4415167b574a59c9073e49acc212bc9cdd031322c75c39fa50"},
    "cheerful-when-gloomy.yaml": {"condition": "37548e82c92e9b6c8f8c476b10b7631d16aa2112cdb4adf28a7a3ee92c352365"},
}
# what yesterday's versions published as their recipes, without `kind`; paths are those of a machine that is gone
RECORDS = {
    "cheerful.yaml": {
        "name": "cheerful",
        "model": {"id": "smollm2", "revision": None, "dtype": "float32", "device": "cpu"},
        "data": {
            "pairs": {
                "path": "recipes/cheerful.jsonl",
                "sha256": "72f046a30004434c7e310acc67ce259856f138336dbde068528b5caceaa70689",
            },
            "positive": None,
            "negative": None,
            "columns": None,
            "chat": True,
            "system": None,
            "split": {"fit": 0.5, "select": 0.2, "report": 0.3, "seed": 0},
        },
        "capture": {
            "points": ["resid_post", "z"],
            "blocks": "all",
            "span": "generated",
            "dtype": "float16",
            "pool": None,
            "region_mb": None,
        },
        "fit": {
            "fitter": "mean_difference",
            "fields": {},
            "point": "resid_post",
            "pool": "mean",
            "span": "answer",
            "compare": [],
        },
        "budget": {"kl": 0.3, "tolerance": 0.1, "sampling": {"temperature": 1.0, "top_k": 0, "top_p": 1.0}},
        "judge": {
            "behaviour": {
                "metric": "lexicon",
                "lexicon": {
                    "path": "recipes/cheerful.lexicon.json",
                    "sha256": "f136754fbfc3c68ca2be82b7411bbf0fd28ceac4c1b14800d2d3945ba1066fdb",
                },
                "language": None,
            },
            "neutral": None,
            "capability": None,
            "system_prompt": "You are warm, cheerful and encouraging in everything you say.",
            "placebos": {"random": 19, "covariance": 3, "shuffled": 2, "flip": True},
            "prompts": 20,
            "tokens": 32,
            "curve": [0.03, 0.1, 0.3],
            "questions": None,
        },
        "seed": 0,
    },
    "heads/ioi.yaml": {
        "name": "ioi-heads",
        "model": {"id": "smollm2", "revision": None, "dtype": "float32", "device": "cpu"},
        "task": {
            "path": "recipes/tasks/ioi.jsonl",
            "sha256": "fec74205e2d4fc5404fd3b8d688b6dd13421e1224a48945f5bdb8df88da1a51e",
        },
        "others": [
            {
                "path": "recipes/tasks/induction.jsonl",
                "sha256": "c6d1e340c9256314225bcee97b95b23ba741e0dfdb01201392a35a418f493501",
            },
            {
                "path": "recipes/tasks/capitals.jsonl",
                "sha256": "e1f6a7beab226741659a86e3168f3440f5fd1f3f98deeb7ff33549b65beb3c2a",
            },
        ],
        "rank": {"method": "attribution_patching", "fields": {}, "questions": 16},
        "neutral": None,
        "seed": 0,
    },
    "cheerful-when-gloomy.yaml": {
        "name": "cheerful-when-gloomy",
        "plan": "cheerful@latest",
        "data": {
            "prompts": {
                "path": "recipes/gloomy_gate.jsonl",
                "sha256": "39de61826ffa420453352867e32a7d95f5db04c12ef87663c4b3dae1d11cb3f5",
            },
            "split": {"fit": 0.4, "select": 0.3, "report": 0.3, "seed": 0},
        },
        "condition": {
            "kind": "controller",
            "point": "resid_post",
            "blocks": [10, 18],
            "pool": "mean",
            "false_positive_rate": 0.1,
        },
        "controller": {
            "patch": "cheerful.mean_difference@latest",
            "blocks": [12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25],
            "hidden": 32,
            "steps": 40,
            "batch": 8,
            "learning_rate": 0.01,
            "tokens": 16,
            "seed": 0,
        },
        "judge": {"prompts": 24, "tokens": 24},
    },
    "features.yaml": {
        "name": "concepts",
        "model": {"id": "smollm2", "revision": None, "dtype": "float32", "device": "cpu"},
        "data": {
            "concepts": {
                "days": {
                    "path": "recipes/concepts/days.jsonl",
                    "sha256": "805317675dfa2c69e60001adb4b4b1a6137ecfe4ee9e33ab64bc4aea60d6662b",
                }
            },
            "texts": [],
            "chat": False,
            "system": None,
            "split": {"fit": 0.4, "select": 0.2, "report": 0.4, "seed": 0},
        },
        "features": {
            "site": "mlp_post.15",
            "span": "after:1",
            "dtype": "float32",
            "rank": None,
            "sparsity": 0.01,
            "start": "kmeans",
            "restarts": 1,
            "max_iterations": 300,
            "seed": 0,
            "choose": {"ranks": [25, 50, 100, 150], "sparsities": [0.01, 0.05], "seeds": 2, "max_iterations": 80},
            "levels": [12, 6],
        },
    },
}
PARENTS = ("0" * 64, "1" * 64)


@pytest.mark.parametrize("name", KEYS)
def test_stage_keys_of_the_shipped_recipes_stay(name):
    recipe = read_recipe(RECIPES / name)
    keys = {stage: recipe.stage(stage, PARENTS) for stage in recipe.STAGES}
    if isinstance(recipe, BehaviourRecipe):
        keys["digest"] = recipe.digest
    assert keys == KEYS[name]


def test_the_keys_of_every_shipped_recipe_are_pinned():
    assert {path.relative_to(RECIPES).as_posix() for path in SHIPPED} == set(KEYS)


@pytest.mark.parametrize("name", RECORDS)
def test_records_of_published_versions_are_read(name):
    recipe = make_recipe(RECORDS[name])
    assert {**RECORDS[name], **recipe.to_json()} == recipe.to_json(), "a key of the record was lost"
    assert make_recipe(json.loads(json.dumps(recipe.to_json()))) == recipe
    if name != "features.yaml":  # whose record here holds one concept of sixteen
        fitter = [f"fit.fitter={recipe.fit.fitter}"] if isinstance(recipe, BehaviourRecipe) else []
        today = read_recipe(RECIPES / name, fitter)  # the file may name another method by now
        assert {s: recipe.stage(s, PARENTS) for s in recipe.STAGES} == {
            s: today.stage(s, PARENTS) for s in today.STAGES
        }


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_kind_may_be_written_or_left_out(path, tmp_path):
    kind = read_recipe(path).kind
    assert read_recipe(path, [f"kind={kind}"]) == read_recipe(path)
    other = next(name for name in KINDS if name != kind)
    with pytest.raises(RecipeError, match=r"unknown key|missing"):
        read_recipe(path, [f"kind={other}"])


def test_a_kind_that_is_none_and_a_recipe_of_another_kind_are_said():
    with pytest.raises(
        RecipeError, match=r"^--set kind=feature: kind: unknown kind 'feature'; did you mean 'features'"
    ):
        read_recipe(RECIPES / "features.yaml", ["kind=feature"])
    with pytest.raises(RecipeError, match=r"^x.yaml: a recipe of kind 'features' cannot do this"):
        of_kind(BehaviourRecipe, read_recipe(RECIPES / "features.yaml"), "x.yaml")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_kind_dry_runs_takes_settings_and_has_a_flow(path, capsys):
    assert main(["run", str(path), "--dry-run", "--set", "name=another"]) == 0
    shown = json.loads(capsys.readouterr().out)
    kind = KINDS[shown["kind"]]
    unused = set(getattr(kind, "OPTIONAL", ())) - set(shown)  # a section that is not there is not made up
    assert shown["name"] == "another" and set(shown) | unused == set(kind.model_fields)
    assert FLOWS.keys() == KINDS.keys()


@pytest.mark.parametrize("name", ["heads/ioi.yaml", "french-on-food.yaml"])
def test_kinds_without_activations_say_so(name, capsys):
    assert main(["collect", str(RECIPES / name)]) == 2
    assert "there is nothing to collect" in capsys.readouterr().err


def test_rank_says_which_kind_it_needs(capsys):
    assert main(["rank", str(RECIPES / "brief.yaml")]) == 2
    assert "a recipe of kind 'behaviour' cannot do this: it needs a HeadRecipe" in capsys.readouterr().err


def described(schema: dict[str, Any], where: str = "") -> Iterator[tuple[str, str | None]]:
    """(key, description) of every property."""
    for name, section in {"": schema, **schema.get("$defs", {})}.items():
        for key, value in section.get("properties", {}).items():
            yield f"{name}.{key}", value.get("description")


def test_schema_describes_every_key_with_its_own_sentence(capsys):
    assert main(["schema"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert {option["$ref"].rpartition("/")[2] for option in whole["oneOf"]} == {c.__name__ for c in KINDS.values()}
    for kind, cls in KINDS.items():
        assert main(["schema", kind]) == 0
        schema = json.loads(capsys.readouterr().out)
        assert set(schema["properties"]) == set(cls.model_fields) and "kind" not in schema["required"]
        texts = dict(described(schema))
        assert [key for key, text in texts.items() if not text or not text.endswith(".")] == []
        assert dict(described(whole)).items() >= {k: v for k, v in texts.items() if not k.startswith(".")}.items()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_an_editor_finds_shipped_recipes_right_and_a_misspelt_key_wrong(path):
    checker = Draft202012Validator(recipe_schema())
    values = yaml.read_document(path).data
    assert checker.is_valid(values), [error.message for error in checker.iter_errors(values)]
    assert not checker.is_valid({**values, "nmae": "x"})


def test_a_recipe_and_its_data_are_read_once_by_a_command(tmp_path, monkeypatch, capsys):
    """Whether the model hub may be needed is asked of the same parse; checks of rows share one pass."""
    (tmp_path / "once.yaml").write_text((RECIPES / "brief.yaml").read_text().replace("brief.jsonl", "once.jsonl"))
    rows = (RECIPES / "brief.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "once.jsonl").write_text("".join(rows[1:]))  # content that no test before has read in this process
    parses, reads = [], []
    compose, each_pair = yaml._Loader.get_single_node, examples.each_pair
    monkeypatch.setattr(yaml._Loader, "get_single_node", lambda self: parses.append(1) or compose(self))
    monkeypatch.setattr(examples, "each_pair", lambda *a, **k: reads.append(1) or each_pair(*a, **k))
    assert main(["run", str(tmp_path / "once.yaml"), "--dry-run"]) == 0
    assert (len(parses), len(reads)) == (1, 1)


def test_a_flow_takes_the_file_as_the_command_read_it(monkeypatch):
    file = RecipeFile.read(RECIPES / "brief.yaml", ["budget.kl=0.2"])
    monkeypatch.setattr(RecipeFile, "read", None)
    assert RecipeFile.of(file, None) is file and str(file) == str(RECIPES / "brief.yaml")
    assert file.expect(BehaviourRecipe).budget.kl == 0.2


def test_whether_the_hub_is_needed_is_asked_before_its_client_is_imported():
    code = "import sys, trimtab.tasks.admin.offline; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


# ---- fields of methods


VALUES: dict[Any, Any] = {bool: True, int: 3, float: 0.5, str: "last", Site: "resid_post.1", type(None): None}
NAMED = {  # where a type allows more than the method does
    "points": ["z"], "reference": "zero", "rules": ["norm"], "hold": "token", "fit_rates": [0.4, 0.1],
    "factors": [2.0, 0.5], "plane": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], "basis": [[1.0, 0.0, 0.0]],
    "network": {
        "mean": [0.0, 0.0], "scale": [1.0, 1.0], "hidden": [[1.0, 2.0]], "hidden_bias": [0.0],
        "out": [[1.0], [1.0]], "out_bias": [0.0, 0.0],
    },
    "output": 0, "feature": 1, "angle": 0.3,
}  # fmt: skip


def value_for(name: str, hint: Any) -> Any:
    """A valid value of a field, as YAML would give it."""
    if name in NAMED:
        return NAMED[name]
    if get_origin(hint) is Literal:
        return get_args(hint)[-1]
    if get_origin(hint) is tuple:
        return [value_for("", part) for part in get_args(hint) if part is not Ellipsis]
    if get_origin(hint) is Union or isinstance(hint, type(int | None)):
        return value_for("", next(part for part in get_args(hint) if part is not type(None)))
    if getattr(hint, "array_type", None) is torch.Tensor:
        return [1.0, 0.0, 0.0] if len(hint.dims) == 1 else [[1.0], [0.0], [0.0]]
    if hint is Gate:
        return {"name": "first", "fields": {"tokens": 2}}
    if hint is Move:
        return {"name": "add", "fields": {"vector": [1.0, 0.0]}}
    if hint not in VALUES and dataclasses.is_dataclass(hint):
        hints = get_type_hints(hint)
        return {field.name: value_for(field.name, hints[field.name]) for field in dataclasses.fields(hint)}
    return VALUES[hint]


METHODS = [(word, name) for word, shelf in SHELVES.items() for name in shelf]


@pytest.mark.parametrize(("word", "name"), METHODS, ids=[f"{word}-{name}" for word, name in METHODS])
def test_every_field_of_every_method_can_be_written(word, name, tmp_path):
    shelf = SHELVES[word]
    hints = settable(shelf[name])
    fields = {field: value_for(field, hint) for field, hint in hints.items()}
    (tmp_path / "fields.yaml").write_text(json.dumps({"fields": fields}))  # JSON is YAML
    fields = yaml.read_document(tmp_path / "fields.yaml").data["fields"]
    assert list(method_problems(shelf, word, name, fields)) == []
    method = make_method(shelf, name, fields)
    for field, value in fields.items():
        got = getattr(method, field)
        if isinstance(got, torch.Tensor):
            assert got.shape == torch.tensor(value).shape  # a move may normalise what it is given
        elif isinstance(got, tuple) and isinstance(value, list):
            assert list(map(str, got)) == list(map(str, value))
        elif not isinstance(value, dict):
            assert str(got) == str(value)
    assert list(method_problems(shelf, word, name, {**fields, "nonsense": 1}))[0][0] == ("fields", "nonsense")


@pytest.mark.parametrize(
    ("shelf", "file", "section", "key"),
    [(FITTERS, "brief.yaml", "fit", "fitter"), (LOCALISERS, "heads/ioi.yaml", "rank", "method")],
)
def test_every_field_of_fitters_and_localisers_can_be_set_in_a_recipe(shelf, file, section, key):
    for name in shelf:
        fields = {field: value_for(field, hint) for field, hint in settable(shelf[name]).items()}
        settings = [f"{section}.fields.{field}={json.dumps(value)}" for field, value in fields.items()]
        recipe = read_recipe(RECIPES / file, [f"{section}.{key}={name}", *settings])
        assert getattr(recipe, section).fields == fields


def test_fields_of_fitters_to_compare_with_can_be_set_in_a_recipe():
    settings = ["fit.fitter=pca", "fit.compare=[mean_difference, {name: logistic_probe, fields: {c: 0.25}}]"]
    fit = read_recipe(RECIPES / "brief.yaml", settings).fit
    assert fit.fitters == ("pca", "mean_difference", "logistic_probe")
    assert [fit.fields_of(name) for name in fit.fitters] == [{}, {}, {"c": 0.25}]
    assert make_method(FITTERS, "logistic_probe", fit.fields_of("logistic_probe")).c == 0.25


def test_fields_of_gates_that_are_not_fitted_can_be_set_in_a_recipe():
    settings = ["condition.fields={hold: token, slack: 0.5}", "condition.schedule={gate: ramp, fields: {tokens: 4}}"]
    recipe = read_recipe(RECIPES / "french-on-food.yaml", settings)
    weight = torch.ones(3)
    gate = acting_gate(Linear(site=Site.parse("resid_post.1"), threshold=0.0, weight=weight), recipe.condition)
    assert (gate.first.hold, gate.first.slack, gate.second.tokens) == ("token", 0.5, 4)
    assert recipe.stage("condition", PARENTS) != KEYS["french-on-food.yaml"]["condition"]
    for setting, message in (
        ("condition.fields.threshold=1", "condition.fields.threshold: cannot be given; the fields that are not"),
        ("condition.fields.hold=tokn", "condition.fields: linear: a gate holds for an answer or a token, not 'tokn'"),
        ("condition.schedule={gate: rmap}", "condition.schedule.gate: unknown gate 'rmap'; did you mean 'ramp'"),
        ("condition.schedule={gate: ramp, fields: {tokens: x}}", "condition.schedule.fields.tokens: input should be"),
    ):
        with pytest.raises(RecipeError, match=re.escape(message)):
            read_recipe(RECIPES / "french-on-food.yaml", [setting])


def test_a_wrong_value_of_a_field_is_one_line():
    for setting, message in (
        ("rank.fields.points=z", "rank.fields.points: input should be a valid array, got 'z'"),
        ("rank.fields.points=[3]", "rank.fields.points: input should be a valid string"),
        ("rank.fields.budget=many", "rank.fields.budget: input should be a valid integer"),
    ):
        with pytest.raises(RecipeError, match=message.replace("[", r"\[")):
            load_recipe(RECIPES / "heads" / "ioi.yaml", [setting])
