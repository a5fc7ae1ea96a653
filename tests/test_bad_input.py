"""Bad input: every malformed recipe, data file, reference and argument gives `error:` with the place and the cure on
stderr, exit code 2, no traceback, nothing on stdout, and nothing written."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trimtab.flows.cli import main
from trimtab.store import Catalog
from trimtab.tasks.admin import doctor
from trimtab.tasks.recipes.kinds import load_recipe

GOOD = """\
name: tone
model: smollm2
data:
  pairs: pairs.jsonl
capture:
  points: [resid_post]
fit:
  fitter: mean_difference
budget:
  kl: 0.1
"""
PAIRS = [{"prompt": f"Question {k}?", "positive": f"Yes, {k}!", "negative": f"No, {k}."} for k in range(24)]

# name -> (what to replace in GOOD, by what, what the message must say)
RECIPES = {
    "unknown key": ("budget:", "bugdet:", r"bad.yaml:9: bugdet: unknown key; did you mean 'budget'?"),
    "unknown inner key": ("  kl: 0.1", "  klx: 0.1", "bad.yaml:10: budget.klx: unknown key; did you mean 'kl'?"),
    "key in the wrong section": ("budget:\n  kl", "fit2: 1\nkl", "kl: unknown key; it belongs in budget.kl"),
    "duplicate key": ("budget:", "name: again\nbudget:", "bad.yaml:9: name: given twice, first in line 1"),
    "duplicate inner key": ("  kl: 0.1", "  kl: 0.1\n  kl: 0.2", "bad.yaml:11: budget.kl: given twice"),
    "no name": ("name: tone\n", "", "name: missing"),
    "no data": ("data:\n  pairs: pairs.jsonl\n", "", "data: missing"),
    "empty data": ("  pairs: pairs.jsonl\n", "  chat: true\n", "bad.yaml:3: data: give `pairs`, or both"),
    "pairs and classes": ("pairs.jsonl", "pairs.jsonl\n  positive: pairs.jsonl", "data: give `pairs`, or both"),
    "one class": ("pairs: pairs.jsonl", "positive: pairs.jsonl", "given: positive"),
    "equal classes": (
        "pairs: pairs.jsonl",
        "positive: pairs.jsonl\n  negative: pairs.jsonl",
        "positive and negative are the same text",
    ),
    "empty section": ("  kl: 0.1\n", "", "bad.yaml:9: budget: must be an object, got nothing"),
    "name with a space": ("name: tone", "name: my tone", "bad.yaml:1: name: 'my tone' cannot be a name"),
    "name with a path": ("name: tone", "name: ../tone", "'../tone' cannot be a name"),
    "name that is a number": ("name: tone", "name: 12", "name: must be a valid string, got 12"),
    "name too long": ("name: tone", f"name: {'x' * 41}", "at most 40"),
    "zero budget": ("kl: 0.1", "kl: 0", "bad.yaml:10: budget.kl: must be greater than or equal to 0.000001"),
    "budget not a number": ("kl: 0.1", "kl: cheap", "budget.kl: must be a valid number, got 'cheap'"),
    "exponent that YAML reads as text": ("kl: 0.1", "kl: 1e-3", "1.0e-3"),
    "infinite budget": ("kl: 0.1", "kl: .inf", "budget.kl: must be a finite number"),
    "NaN": ("kl: 0.1", "kl: .nan", "budget.kl: must be"),
    "truth for a number": ("kl: 0.1", "kl: yes", "budget.kl: must be a valid number, got True"),
    "unknown point": ("[resid_post]", "[resid_pots]", "bad.yaml:6: capture.points: unknown point 'resid_pots'; did"),
    "no point": ("[resid_post]", "[]", "capture.points: names no point"),
    "point twice": ("[resid_post]", "[z, z]", "capture.points: names one point twice"),
    "point not captured": ("[resid_post]", "[z]", "fit.point: 'resid_post' is not captured (capture.points: z)"),
    "empty range": (
        "[resid_post]",
        "[resid_post]\n  blocks: 8-2",
        "bad.yaml:7: capture.blocks: the range 8-2 is empty",
    ),
    "negative block": ("[resid_post]", "[resid_post]\n  blocks: [-1]", "blocks are whole numbers from 0, not -1"),
    "half a block": ("[resid_post]", "[resid_post]\n  blocks: [1.5]", "not 1.5"),
    "block twice": ("[resid_post]", "[resid_post]\n  blocks: [1, 1]", "one block twice"),
    "blocks in words": ("[resid_post]", "[resid_post]\n  blocks: most", "'most' is not `all`"),
    "unknown span": ("[resid_post]", "[resid_post]\n  span: generatd", "capture.span: unknown span 'generatd'"),
    "span without count": ("[resid_post]", "[resid_post]\n  span: first", "needs a count of tokens"),
    "span of the prompt only": ("[resid_post]", "[resid_post]\n  span: last", "pairs.jsonl: capture.span 'last' reads"),
    "dtype": ("model: smollm2", "model: {dtype: float64}", "bad.yaml:2: model.dtype: must be 'float32', 'bfloat16'"),
    "device": ("model: smollm2", "model: {device: gpu}", "model.device:"),
    "model": ("model: smollm2", "model: smollm3", "neither 'smollm2', a folder such as ./model, nor a hub id"),
    "model folder": ("model: smollm2", "model: ./nowhere", "is not a model folder: it has no config.json"),
    "revision of smollm2": ("model: smollm2", "model: {revision: main}", "model: revision 'main' is for hub ids"),
    "unknown fitter": ("mean_difference", "mean_diference", "bad.yaml:8: fit.fitter: unknown fitter"),
    "unknown field": ("mean_difference", "pca\n  fields: {centre: true}", "fit.fields.centre: unknown field"),
    "wrong kind of field": ("mean_difference", "logistic_probe\n  fields: {c: high}", "bad.yaml:9: fit.fields.c: "),
    "field out of range": ("mean_difference", "logistic_probe\n  fields: {c: -1}", "fit.fields: logistic_probe: "),
    "unknown competitor": ("mean_difference", "pca\n  compare: [lda]", "bad.yaml:9: fit.compare: unknown fitter 'lda'"),
    "competitor of no name": (
        "mean_difference",
        "pca\n  compare: [{nme: lda}]",
        "must be the name of a fitter or `{name",
    ),
    "field of a competitor": (
        "mean_difference",
        "pca\n  compare: [{name: logistic_probe, fields: {d: 1}}]",
        "bad.yaml:9: fit.compare.0.fields.d: unknown field; known: c",
    ),
    "competitor of itself": ("mean_difference", "pca\n  compare: [pca]", "'pca' is named twice"),
    "pool": ("mean_difference", "pca\n  pool: median", "fit.pool: must be 'mean', 'last' or 'tokens'"),
    "split": ("pairs.jsonl", "pairs.jsonl\n  split: {fit: 0.9}", "data.split: fit 0.9 + select 0.2 + report 0.3 = 1.4"),
    "empty split": (
        "pairs.jsonl",
        "pairs.jsonl\n  split: {fit: 0.98, select: 0.01, report: 0.01}",
        "the select split gets 0",
    ),
    "lexicon without file": (
        "budget:",
        "judge: {behaviour: {metric: lexicon}}\nbudget:",
        "metric lexicon needs `lexicon`",
    ),
    "language for length": (
        "budget:",
        "judge: {behaviour: {metric: length, language: fr}}\nbudget:",
        "`language` is for metric language, not length",
    ),
    "unknown language": (
        "budget:",
        "judge: {behaviour: {metric: language, language: tlh}}\nbudget:",
        "judge.behaviour.language: must be",
    ),
    "curve": (
        "budget:",
        "judge: {curve: [0.1, -0.3]}\nbudget:",
        "judge.curve.1: must be greater than or",
    ),
    "curve twice": ("budget:", "judge: {curve: [0.1, 0.1]}\nbudget:", "judge.curve: names one budget twice"),
    "placebos": ("budget:", "judge: {placebos: {random: -1}}\nbudget:", "judge.placebos.random: must be greater than"),
    "one rollout": ("budget:", "judge: {prompts: 1}\nbudget:", "judge.prompts: must be greater than or equal to 2"),
    "data file is missing": ("pairs.jsonl", "nope.jsonl", "bad.yaml:4: data.pairs: no such file: "),
    "data file is a folder": ("pairs.jsonl", ".", "is a folder; name a file"),
    "data file is a list": ("pairs.jsonl", "[pairs.jsonl]", "data.pairs: must be a file name"),
    "neutral text is missing": ("budget:", "judge: {neutral: no.jsonl}\nbudget:", "judge.neutral: no such file"),
    "neutral text is pairs": (
        "budget:",
        "judge: {neutral: pairs.jsonl}\nbudget:",
        "pairs.jsonl:1: unknown key 'prompt'",
    ),
    "seed for no generator": (
        "budget:",
        "seed: 9223372036854775808\nbudget:",
        "bad.yaml:9: seed: must be less than 4294",
    ),
    "negative seed": ("budget:", "seed: -1\nbudget:", "bad.yaml:9: seed: must be greater than or equal to 0"),
    "span beyond any text": (
        "mean_difference",
        "pca\n  span: first:99999999999999999999999",
        "more tokens than any text",
    ),
    "budget of nothing": ("kl: 0.1", "kl: 5.0e-324", "budget.kl: must be greater than or equal to 0.000001"),
    "endless number": ("kl: 0.1", "kl: 0x" + "f" * 5000, "a number of thousands of digits"),
    "truth that is none": ("kl: 0.1", "kl: !!bool maybe", "bad.yaml: not YAML"),
    "number that is none": ("kl: 0.1", "kl: !!int ''", "bad.yaml: not YAML"),
    "nobody's home": ("model: smollm2", "model: ~nosuchuser/x", "model.id: '~nosuchuser/x' names a user that does not"),
    "nobody's data": ("pairs.jsonl", "~nosuchuser/x", "data.pairs: '~nosuchuser/x' names a user that does not exist"),
    "device for data": (
        "pairs.jsonl",
        "{path: /dev/zero, sha256: " + "0" * 64 + "}",
        "data.pairs: /dev/zero is not a plain file",
    ),
    "alias": ("kl: 0.1", "kl: &a 0.1\nseed: *a", "the alias '*a' is refused"),
    "tag": ("kl: 0.1", "kl: !!python/object/apply:os.getcwd []", "bad.yaml:10: not YAML"),
    "tab": ("  kl: 0.1", "\tkl: 0.1", "bad.yaml:10: not YAML"),
    "unclosed": ("[resid_post]", "[resid_post", "not YAML"),
    "key that is not text": ("budget:", "1: x\nbudget:", "bad.yaml:9: the key '1' is not text"),
    "section that is a list": ("budget:\n  kl: 0.1", "budget: [0.1]", "bad.yaml:9: budget: must be an object"),
}

FILES = {
    "empty": (b"", "bad.yaml: the file is empty"),
    "a list": (b"- a\n- b\n", "bad.yaml:1: a recipe is a mapping"),
    "a word": (b"cheerful\n", "bad.yaml:1: a recipe is a mapping"),
    "two documents": (b"name: a\n---\nname: b\n", "not YAML"),
    "latin-1": (b"name: caf\xe9\n", "bad.yaml:1: not UTF-8 (byte 0xe9)"),
    "binary": (bytes(range(256)), "bad.yaml:2: not UTF-8"),
    "a control character": (b"name: a\0b\n", "bad.yaml: not YAML"),
    "too deep": (b"a: " + b"[" * 5000 + b"]" * 5000, "bad.yaml: nested too deeply"),
    "too large": (b"#" * (1 << 20) + b"##", "bad.yaml: more than 1 MiB"),
}


def row(**changes: object) -> list:
    """Good pairs whose third row is changed; None removes a key."""
    changed = {key: value for key, value in {**PAIRS[2], **changes}.items() if value is not None}
    return [*PAIRS[:2], changed, *PAIRS[3:]]


USER = {"role": "user", "content": "Hello"}
DATA = {
    "empty file": (b"", "pairs.jsonl: the file has no rows"),
    "only blank lines": (b"\n\n  \n", "pairs.jsonl: the file has no rows"),
    "not JSON": (b"prompt,positive,negative\n", "pairs.jsonl:1: not JSON"),
    "half a row": (b'{"prompt": "a", "posi', "pairs.jsonl:1: not JSON"),
    "one JSON list": (json.dumps(PAIRS).encode(), "pairs.jsonl:1: a row is a JSON object, this is a list"),
    "a number": ([*PAIRS[:2], 3, *PAIRS[3:]], "pairs.jsonl:3: a row is a JSON object, this is a number"),
    "too few": (PAIRS[:7], "pairs.jsonl: 7 rows are too few"),
    "missing key": (row(negative=None), "pairs.jsonl:3: 'negative' is missing"),
    "unknown key": (row(negatve="x"), "pairs.jsonl:3: unknown key 'negatve'; did you mean 'negative'?"),
    "empty text": (row(positive="  "), "pairs.jsonl:3: 'positive' is empty"),
    "a number for text": (row(positive=1), "pairs.jsonl:3: 'positive' must be text, it is a number"),
    "null": (b'{"prompt": null, "positive": "a", "negative": "b"}\n', "pairs.jsonl:1: 'prompt' must be text"),
    "NaN": (b'{"prompt": "a", "positive": NaN, "negative": "b"}\n', "pairs.jsonl:1: NaN is not a JSON value"),
    "equal answers": (row(positive="No, 2."), "pairs.jsonl:3: positive and negative are the same text"),
    "a repeated pair": ([*PAIRS, PAIRS[0]], "pairs.jsonl:25: the same row as line 1"),
    "a key twice": (b'{"prompt": "a", "prompt": "b"}\n', "pairs.jsonl:1: 'prompt' is given twice"),
    "some without prompt": (row(prompt=None), "pairs.jsonl: some rows have a prompt and some do not"),
    "whole texts, generated span": (
        [{"positive": f"good {k}", "negative": f"bad {k}"} for k in range(24)],
        "have no completion, so capture.span 'generated' selects nothing",
    ),
    "no messages": (row(prompt=[]), "pairs.jsonl:3: 'prompt' must be text or a list of chat messages"),
    "unknown role": (row(prompt=[{**USER, "role": "bot"}]), "message 1 of 'prompt': role 'bot'"),
    "message without content": (row(prompt=[{"role": "user"}]), "message 1 of 'prompt': 'content' is missing"),
    "prompt ends with the assistant": (
        row(prompt=[USER, {"role": "assistant", "content": "Hi"}]),
        "the last message of 'prompt' is the assistant's",
    ),
    "UTF-16": ("".join(json.dumps(r) + "\n" for r in PAIRS).encode("utf-16"), "pairs.jsonl:1: this is UTF-16"),
    "latin-1": (b'{"prompt": "caf\xe9", "positive": "a", "negative": "b"}\n', "pairs.jsonl:1: not UTF-8 (byte 0xe9"),
    "half a surrogate": (row(positive="\ud83d"), "pairs.jsonl:3: 'positive' holds half of a surrogate pair"),
    "too deep": (b"[" * 100_000 + b"\n", "pairs.jsonl:1: not JSON: nested too deeply"),
}

REFERENCES = {
    "unknown name": ("show dmo", "has no 'dmo': did you mean demo?"),
    "unknown version": ("show demo@9", "there is no demo@9"),
    "version zero": ("show demo@0", "there is no demo@0"),
    "negative version": ("show demo@-1", "demo"),
    "unknown alias": ("show demo@prod", "demo has no alias 'prod'"),
    "no version": ("show demo@", "'demo@'"),
    "a path": ("show ../demo", "'../demo' cannot be a name"),
    "a long number": ("show demo@99999999999999999999", "'demo@99999999999999999999': write name, name@3"),
    "upper case": ("show Demo", "'Demo' cannot be a name"),
    "lineage of nothing": ("lineage nothing", "has no 'nothing'"),
    "promote nothing": ("promote nothing prod", "has no 'nothing'"),
    "promote to latest": ("promote demo@1 latest", "'latest' cannot be an alias"),
    "promote to a number": ("promote demo@1 3", "'3' cannot be an alias"),
    "promote to a path": ("promote demo@1 a/b", "'a/b' cannot be an alias"),
    "steer nothing": ("steer nothing Hello", "has no 'nothing'"),
    "steer what is no plan": ("steer other Hello", "other@1 is a capture, not a plan"),
}

ARGUMENTS = {
    "unknown command": ("shwo demo", "unknown command 'shwo'; did you mean 'show'?"),
    "unknown option": ("ls --jsn", "no such option: --jsn"),
    "missing argument": ("show", "missing argument"),
    "too many arguments": ("show a b", "unexpected extra argument"),
    "home without a value": ("ls --home", "option '--home' requires an argument"),
    "empty home": ("--home= ls", "invalid value for --home"),
    "home of another kind": ("--home ftp://x/y ls", "cannot open 'ftp://x/y"),
    "home that names no place": ("--home s3:// ls", "names no place"),
    "no recipe": ("run nope.yaml", "nope.yaml: no such file"),
    "recipe is a folder": ("run .", "is a folder; give the recipe file in it"),
    "set without value": ("run good.yaml --set budget.kl", "--set budget.kl: write key=value"),
    "set without key": ("run good.yaml --set =3", "--set =3: write key=value"),
    "set of a bad value": (
        "run good.yaml --set budget.kl=-1",
        "--set budget.kl=-1: budget.kl: must be",
    ),
    "set of an unknown key": (
        "run good.yaml --set budget.lk=1",
        "unknown key; known: kl, sampling, tolerance",
    ),
    "set below a value": ("run good.yaml --set name.x=1", "--set name.x=1: name is a value"),
    "set of no YAML": ("run good.yaml --set fit={", "--set fit={: the value is not YAML"),
    "collect with a bad set": ("collect good.yaml --set seed=x", "--set seed=x: seed: must be a valid integer"),
    "steer without prompt": ("steer demo", "missing argument 'PROMPT"),
    "strength that is no number": ("steer demo Hi --strength lots", "invalid value for '--strength'"),
    "infinite strength": ("steer demo Hi --strength inf", "--strength inf: must be finite"),
    "two doses": ("steer demo Hi --strength 2 --kl 0.1", "--strength and --kl: give one"),
    "negative kl": ("steer demo Hi --kl -1", "--kl -1: a budget is above 0 nats"),
    "no tokens": ("steer demo Hi --tokens 0", "invalid value for '--tokens'"),
    "unknown method": ("methods pcaa", "unknown method 'pcaa'"),
    "bad cron": ("deploy good.yaml --cron daily-ish", "--cron 'daily-ish': not a cron schedule"),
    "init over a file": ("init good.yaml", "good.yaml: is a file"),
    "init over files": ("init .", "is not empty"),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch) -> Path:
    """A folder with good.yaml and its data, where the home would be `home`."""
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in PAIRS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TRIMTAB_DEBUG", raising=False)
    return tmp_path


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def refused(place: Path, capsys) -> Callable[..., None]:
    """Run a command; check that it is refused in the one way there is."""

    def check(argv: list[str], says: str) -> None:
        before = snapshot(place)
        code = main(argv)
        out, err = capsys.readouterr()
        lines = err.splitlines()
        assert code == 2, err
        assert out == ""
        assert lines[0].startswith("error: ") and sum(line.startswith("error:") for line in lines) == 1, err
        assert len(lines) == 1, err
        assert says in lines[0], err
        assert "Traceback" not in err
        assert snapshot(place) == before
        if not before.keys() - {"good.yaml", "pairs.jsonl", "bad.yaml"}:
            assert not (place / "home").exists()

    return check


def test_the_good_ones_are_good(place, capsys):
    """Else everything below could be refused for another reason."""
    assert main(["run", "good.yaml", "--dry-run"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("case", RECIPES)
def test_recipes(place, refused, case):
    old, new, says = RECIPES[case]
    assert old in GOOD
    (place / "bad.yaml").write_text(GOOD.replace(old, new))
    if case == "key in the wrong section":
        (place / "bad.yaml").write_text(GOOD.replace("budget:\n  kl", "kl"))
    refused(["run", "bad.yaml"], says)


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_no_recipe(place, refused, case):
    content, says = FILES[case]
    (place / "bad.yaml").write_bytes(content)
    refused(["run", "bad.yaml"], says)


@pytest.mark.parametrize("case", DATA)
def test_data_files(place, refused, case):
    content, says = DATA[case]
    if isinstance(content, list):
        content = "".join(json.dumps(r) + "\n" for r in content).encode()
    (place / "pairs.jsonl").write_bytes(content)
    refused(["run", "good.yaml"], says)


@pytest.mark.parametrize("case", REFERENCES)
def test_references(place, refused, case):
    catalog = Catalog(place / "home" / "catalog")
    catalog.publish("demo", "plan", {"v": np.ones(3)}, {})
    catalog.publish("other", "capture", {}, {"kind": "capture"})
    argv, says = REFERENCES[case]
    refused(argv.split(), says)


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments(refused, case):
    argv, says = ARGUMENTS[case]
    refused(argv.split(), says)


def test_prompts_that_are_none(refused):
    refused(["steer", "demo", "  "], "PROMPT: is empty")
    refused(["steer", "demo", "\udcff"], "PROMPT: is not UTF-8")
    refused(["steer", "demo", "Hello", "--seed", "99999999999999999999"], "--seed")


def test_a_pipe_is_no_recipe_and_nobody_waits_for_it(place, refused):
    os.mkfifo(place / "pipe.yaml")
    refused(["run", "pipe.yaml"], "pipe.yaml: is not a plain file")


def test_a_setting_that_holds_itself(refused):
    refused(["run", "good.yaml", "--set", "seed=&a [*a]"], "the alias '*a' is refused")


def test_a_server_that_is_down_is_said_before_anything_is_written(refused, monkeypatch):
    monkeypatch.setattr(doctor, "server_url", lambda: "http://127.0.0.1:9/api")
    for command in ("run", "collect"):
        refused([command, "good.yaml"], "the Prefect server http://127.0.0.1:9/api does not answer")


# file -> (where the recipe names it, its rows, what the message must say)
JUDGED = {
    "neutral text of one token": ("neutral: f", [{"text": "Some text."}, {"text": "Hello"}], "'Hello' is one word"),
    "neutral text twice": ("neutral: f", [{"text": "Some text."}] * 2, "f:2: the same row as line 1"),
    "right and wrong the same": (
        "capability: f",
        [
            {"question": "2 + 2?", "correct": "4", "incorrect": "5"},
            {"question": "1?", "correct": "1", "incorrect": "1"},
        ],
        "f:2: correct and incorrect are the same text",
    ),
    "question twice": ("questions: f", [{"question": "2 + 2?", "answer": "4"}] * 2, "f:2: the same row as line 1"),
    "word on both sides": (
        "behaviour: {metric: lexicon, lexicon: f}",
        [{"positive": ["glad", "sunny"], "negative": ["grim", "Glad"]}],
        "'glad' is a positive and a negative word",
    ),
}


def test_a_judge_s_file_that_says_nothing_is_refused(place, refused):
    for named, rows, says in JUDGED.values():
        (place / "f").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (place / "bad.yaml").write_text(GOOD + f"judge: {{{named}}}\n")
        refused(["run", "bad.yaml", "--dry-run"], says)


def test_texts_without_completions_are_collected_and_not_judged(place, refused):
    rows = [{"positive": row["positive"], "negative": row["negative"]} for row in PAIRS]
    (place / "whole.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = GOOD.replace("pairs.jsonl", "whole.jsonl").replace(
        "points: [resid_post]", "points: [resid_post]\n  span: all"
    )
    (place / "bad.yaml").write_text(whole)
    refused(["run", "bad.yaml", "--dry-run"], "whole.jsonl: holds texts without a prompt and a completion")
    assert load_recipe("bad.yaml").data.pairs.path.endswith("whole.jsonl")


def test_a_column_that_no_row_has_is_refused(place, refused):
    """In JSONL as in Parquet: a misspelt prompt was no prompt, and pairs without one were fitted."""
    rows = [{"question": row["prompt"], "good": row["positive"], "bad": row["negative"]} for row in PAIRS]
    (place / "theirs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = "{prompt: qestion, positive: good, negative: bad}"
    (place / "bad.yaml").write_text(GOOD.replace("pairs.jsonl", f"theirs.jsonl\n  columns: {columns}"))
    says = "theirs.jsonl:1: data.columns names 'qestion', which the row does not have; did you mean 'question'?"
    refused(["run", "bad.yaml", "--dry-run"], says)


def test_a_lexicon_that_is_none(place, refused):
    (place / "words.json").write_text('{"positive": "happy"}')
    (place / "bad.yaml").write_text(GOOD + "judge: {behaviour: {metric: lexicon, lexicon: words.json}}\n")
    refused(["run", "bad.yaml"], "words.json: 'positive' must be a list of words")


def test_several_mistakes_are_one_line_each(place, capsys):
    (place / "bad.yaml").write_text(GOOD.replace("kl: 0.1", "kl: 0").replace("fitter:", "fiter:"))
    assert main(["run", "bad.yaml"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: bad.yaml:8: fit.fiter: unknown key")
    assert lines[1].startswith("bad.yaml:10: budget.kl: must be greater than or equal to 0.000001")
    assert len(lines) == 2
    assert not (place / "home").exists()
