"""Control characters never reach a terminal raw, whoever wrote them: answers, tables, trees, fields, JSON, errors."""

import json
from pathlib import Path

from trimtab import flows
from trimtab.flows.cli import main
from trimtab.flows.commands import _show as output
from trimtab.flows.commands import steer
from trimtab.flows.plain_text import UNSEEN, visible
from trimtab.tasks.plans.steer import Steered

EVIL = "a\x1b]0;pwned\x07\x9b2J\r\x7f\u202etxt\udcffz\nnext line\tend"


def raw(text: str) -> list[str]:
    return UNSEEN.findall(text)


def test_every_way_of_printing_writes_escapes_out(capsys):
    output.echo(EVIL)
    output.echo(EVIL, err=True)
    output.echo_fields({"name": EVIL})
    output.echo_table(("one", "two"), [(EVIL, [EVIL])])
    output.echo_tree({"ref": EVIL, "kind": "plan", "digest": "0" * 64, "note": EVIL, "parents": []})
    steer._tell(Steered(EVIL, EVIL, EVIL, 0.1, 0.2, 3))
    printed = "".join(capsys.readouterr())
    assert not raw(printed) and "\\x1b]0;pwned\\x07\\x9b2J\\r\\x7f\\u202etxt\\udcffz" in printed
    assert "next line\tend" in printed


def test_json_escapes_them_and_means_the_same(capsys):
    output.echo_json({"text": EVIL})
    printed = capsys.readouterr().out
    assert not raw(printed) and json.loads(printed) == {"text": EVIL}


def test_errors_too(capsys, tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text('"\\e[2Jx": 1\nname: x\n')
    for argv in (
        ["run", str(recipe)],
        ["show", "\x1b[2Jx"],
        ["\x1b[2Jx"],
        ["ls", "--\x1b[2J"],
        ["steer", "t", "\udcff"],
    ):
        assert main(["--home", str(tmp_path / "home"), *argv]) == 2
        error = capsys.readouterr().err
        assert not raw(error) and error.count("\n") <= 3
    assert visible("plain é 漢字 🙂\n\t") == "plain é 漢字 🙂\n\t"


def test_commands_print_in_no_other_way():
    """`typer.echo` and `print` are for the file that cleans what they get."""
    for file in Path(flows.__path__[0]).rglob("*.py"):
        if file.name not in ("_show.py", "cli.py"):
            assert "typer.echo(" not in file.read_text() and " print(" not in file.read_text(), file
