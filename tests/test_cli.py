"""The command line: what is printed, where, with which exit code, and what it does not do."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import numpy as np
import pytest
import typer
from icechunk import IcechunkError

from trimtab.flows import cli
from trimtab.flows.cli import COMMANDS, main
from trimtab.flows.commands import catalog as read
from trimtab.flows.commands._show import shown, size
from trimtab.tasks.admin import doctor
from trimtab.tasks.admin.offline import needs_hub
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.reporting.seal import write_page

ROOT = Path(__file__).parents[1]
READING = ("ls", "captures", "show demo", "lineage demo", "verify", "methods", "doctor", "schema")


@pytest.fixture
def home(tmp_path, monkeypatch) -> Home:
    """A home with demo@1, demo@2 and a parent."""
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    found = Home.at(tmp_path / "home")
    found.catalog.publish("demo.verdict", "verdict", {}, {"kind": "verdict"})
    noise = np.random.default_rng(0).normal(size=3000)  # large enough for a chunk of its own
    for number in (1.0, 2.0):
        arrays = {"0/vector": np.float32(number * noise)}
        metrics = {"kl_held_out": {"mean": number, "low": 0.5, "high": 2.5}, "site": "resid_post.1"}
        recipe = {"name": "demo", "model": {"id": "smollm2"}}
        found.catalog.publish(
            "demo", "plan", arrays, {"kind": "plan", "number": number}, ["demo.verdict@1"], recipe, metrics
        )
    return found


def out(capsys, *argv: str, code: int = 0) -> str:
    assert main(argv) == code
    return capsys.readouterr().out


def test_ls_shows_the_newest_of_each_name(home, capsys):
    text = out(capsys, "ls")
    assert "demo@2" in text and "demo.verdict@1" in text and "demo@1" not in text
    assert "demo@1" in out(capsys, "ls", "--all")
    assert "demo.verdict" not in out(capsys, "ls", "--kind", "plan")


def test_ls_as_json(home, capsys):
    rows = json.loads(out(capsys, "ls", "--json", "--kind", "plan"))
    assert [(row["ref"], row["kind"], row["aliases"]) for row in rows] == [("demo@2", "plan", [])]
    assert rows[0]["headline"]["site"] == "resid_post.1"


def test_home_may_stand_anywhere(home, capsys, monkeypatch):
    monkeypatch.delenv("TRIMTAB_HOME")
    for argv in (["--home", home.url, "ls"], ["ls", "--home", home.url], ["ls", f"--home={home.url}"]):
        assert "demo@2" in out(capsys, *argv)


def test_show(home, capsys):
    text = out(capsys, "show", "demo@1")
    for piece in ("demo@1", "plan", "demo.verdict@1", "1 [0.5, 2.5]", "model.id", "0/vector 3000"):
        assert piece in text
    found = json.loads(out(capsys, "show", "demo@latest", "--json"))
    assert found["header"]["number"] == 2.0
    assert found["arrays"] == {"0/vector": {"dtype": "<f4", "shape": [3000]}}
    assert found["parents"][0]["ref"] == "demo.verdict@1"


def test_promote_moves_an_alias_and_says_from_where(home, capsys):
    assert out(capsys, "promote", "demo@1", "prod") == "demo@prod is demo@1\n"
    assert out(capsys, "promote", "demo@2", "prod") == "demo@prod is demo@2 (was @1)\n"
    assert json.loads(out(capsys, "show", "demo@prod", "--json"))["version"] == 2
    assert [m["after"] for m in json.loads(out(capsys, "show", "demo", "--json"))["history"]] == [1, 2]


def test_lineage_walks_to_the_parents(home, capsys):
    assert out(capsys, "lineage", "demo").index("demo@2") < out(capsys, "lineage", "demo").index("demo.verdict@1")
    tree = json.loads(out(capsys, "lineage", "demo@1", "--json"))
    assert [parent["ref"] for parent in tree["parents"]] == ["demo.verdict@1"]


def test_verify_finds_what_was_changed(home, capsys):
    assert "3 of 3 things" in out(capsys, "verify")
    page = write_page("<p>0.3 nats</p>\n", home.reports / "demo@1.html")
    assert "4 of 4 things" in out(capsys, "verify")
    page.write_text(page.read_text().replace("0.3", "0.1"))
    assert "demo@1.html: it is not the page that was written" in out(capsys, "verify", code=1)
    chunks = [p for p in Path(home.url).rglob("chunks/*") if p.is_file()]
    assert chunks
    for chunk in chunks:
        chunk.write_bytes(b"\0" * chunk.stat().st_size)
    text = out(capsys, "verify", code=1)
    assert "BAD" in text
    assert not all(finding["ok"] for finding in json.loads(out(capsys, "verify", "--json", code=1)))


def test_reading_creates_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    for command in ("ls", "captures", "verify", "doctor", "methods"):
        main([command])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", READING)
def test_every_reading_command_has_json(home, capsys, command):
    arguments = command.split()
    assert main([*arguments, "--json"]) in (0, 1)
    captured = capsys.readouterr()
    assert json.loads(captured.out) is not None
    assert captured.err == ""


def test_methods(capsys):
    text = out(capsys, "methods")
    assert "mean_difference" in text and "2312.06681" in text
    assert "Source:" in out(capsys, "methods", "pca")


def test_doctor_says_what_is_there(home, capsys):
    code = main(["doctor", "--json"])
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert code == any(check["state"] == "missing" for check in checks.values())
    assert {"python", "torch", "embedded model", "home", "prefect", "cores", "memory"} <= checks.keys()
    assert checks["home"]["state"] == "ok"
    assert all(check["state"] in ("ok", "slow", "missing") for check in checks.values())
    assert all(check["advice"] for check in checks.values() if check["state"] != "ok")


def test_doctor_says_when_a_server_does_not_answer(monkeypatch):
    monkeypatch.setattr(doctor, "server_url", lambda: "http://127.0.0.1:9/api")
    assert doctor._server().state == "missing"
    with pytest.raises(RecipeError, match="does not answer"):
        doctor.require_server()


def test_init_writes_a_recipe_that_passes_its_checks(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    text = out(capsys, "init", str(tmp_path / "mine"))
    assert "next: trimtab run" in text
    shown_recipe = json.loads(out(capsys, "run", str(tmp_path / "mine" / "recipe.yaml"), "--dry-run"))
    assert shown_recipe["name"] == "polite"
    assert not (tmp_path / "home").exists()


def test_schema(capsys):
    assert "BehaviourRecipe" in json.loads(out(capsys, "schema"))["$defs"]
    assert "budget" in json.loads(out(capsys, "schema", "behaviour"))["properties"]
    out(capsys, "schema", "behavior", code=2)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_the_line_of_the_table(capsys, name):
    text = " ".join(out(capsys, name, "--help").split())
    assert COMMANDS[name].meaning.rstrip(".").split(":")[0] in text


def test_interrupt_is_one_line_and_130(home, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(read.views, "listing", interrupted)
    assert main(["ls"]) == 130
    captured = capsys.readouterr()
    assert captured.err.strip().count("\n") == 0 and captured.err.startswith("interrupted")


FAILURES = {
    "the disk is full": (IcechunkError("x storage error\n  `-> No space left on device (os error 28)"), "disk is full"),
    "a file is too large": (OSError(27, "File too large"), "ulimit -f"),
    "the server went away": (httpx.ConnectError("All connection attempts failed"), "does not answer: start it"),
    "the embedded server cannot start": (RuntimeError("Timed out while connecting to ephemeral server"), "TMPDIR"),
    "somebody else's files": (IcechunkError("Permission denied (os error 13)"), "give the folders of trimtab"),
}


def raising(error):
    """As libraries do: the cause is told of in another error."""

    def listing(*_):
        raise RuntimeError("crashed") from error

    return listing


def test_any_error_is_one_line(home, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("TRIMTAB_DEBUG", raising=False)
    for error, said in FAILURES.values():
        monkeypatch.setattr(read.views, "listing", raising(error))
        assert main(["ls"]) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("error: ") and printed.err.count("\n") == 1 and said in printed.err
        assert not printed.out
    monkeypatch.setattr(read.views, "listing", raising(ZeroDivisionError("ours")))
    assert main(["ls"]) == 70
    assert "unexpected RuntimeError: crashed; this is a bug" in capsys.readouterr().err
    assert "ZeroDivisionError: ours" in next(tmp_path.glob("trimtab-error-*.log")).read_text()
    monkeypatch.setenv("TRIMTAB_DEBUG", "1")
    with pytest.raises(RuntimeError, match="crashed"):
        main(["ls"])


def test_debug_shows_where_a_mistake_was_raised(home, monkeypatch):
    monkeypatch.setenv("TRIMTAB_DEBUG", "1")
    with pytest.raises(Exception, match="has no 'nothing'"):
        main(["show", "nothing"])


def test_cells():
    assert shown({"mean": 0.12345, "low": 0.1, "high": 0.2}) == "0.1235 [0.1, 0.2]"
    assert (shown(None), shown(True), shown([1, "a"]), shown(1e-9)) == ("", "yes", "1, a", "1e-09")
    assert (size(10), size(3 << 20), size(None)) == ("10 B", "3.0 MiB", "")


@pytest.mark.parametrize(
    "model, hub",
    [("smollm2", False), ("./folder", False), ("/abs/folder", False), ("owner/name", True), ("{id: a/b}", True)],
)
def test_only_hub_models_may_ask_the_hub(tmp_path, model, hub):
    (tmp_path / "r.yaml").write_text(f"name: x\nmodel: {model}\n")
    assert needs_hub(["run", str(tmp_path / "r.yaml")], str(tmp_path / "home")) is hub


def test_hub_models_in_overrides_and_artifacts(home):
    assert needs_hub(["run", "r.yaml", "--set", "model.id=owner/name"], home.url)
    assert not needs_hub(["steer", "demo@1", "Hello owner/name"], home.url)
    home.catalog.publish("far", "plan", {}, {}, recipe={"model": {"id": "owner/name"}})
    assert needs_hub(["steer", "far", "Hello"], home.url)


def test_main_turns_telemetry_off(home, capsys, monkeypatch):
    for name in cli.QUIET:
        monkeypatch.delenv(name, raising=False)
    out(capsys, "ls")
    assert os.environ["DO_NOT_TRACK"] == "1"
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


# ---- as a program


def program(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from trimtab.flows.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *argv],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )


def test_help_is_quick_because_it_imports_nothing_heavy():
    code = (
        "import sys\nfrom trimtab.flows.cli import main\ncode = main(['--help'])\n"
        "heavy = {'torch', 'transformers', 'prefect', 'zarr', 'icechunk', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy or code else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


def test_what_reads_and_tidies_the_catalog_does_without_torch_and_prefect(home, tmp_path):
    """Each takes five seconds to import. One process runs all these commands."""
    commands = ["ls", "show demo", "captures", "lineage demo", "verify", "describe demo words", "tag demo one"]
    commands += ["delete demo@1", "gc", f"init {tmp_path / 'new'}"]
    code = (
        "import sys\nfrom trimtab.flows.cli import main\n"
        f"for command in {commands}:\n"
        "    code = main(command.split())\n"
        "    heavy = {'torch', 'transformers', 'prefect'} & set(sys.modules)\n"
        "    if code or heavy: sys.exit(f'{command}: exit code {code}, imported {heavy}')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "demo@2" in done.stdout


def test_a_mistake_as_a_program(tmp_path):
    done = program("show", "nothing", TRIMTAB_HOME=str(tmp_path / "home"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "home").exists()


def test_a_reader_that_stops_reading_is_no_error(home):
    """`trimtab methods --json | head -1`"""
    code = "import sys; from trimtab.flows.cli import main; sys.exit(main())"
    command = f"'{sys.executable}' -c '{code}' methods --json | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stdout == "["
    assert "Traceback" not in done.stderr


def test_usage_error_class_is_typers_own():
    """cli.py takes click's classes from typer's: some versions of typer carry a copy of click."""
    assert issubclass(typer.BadParameter, cli.USAGE_ERROR) and issubclass(cli.USAGE_ERROR, cli.CLICK_ERROR)
    assert hasattr(cli.USAGE_ERROR("x"), "format_message")
