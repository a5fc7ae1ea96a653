"""trimtab: the command line. This file knows which commands there are and how mistakes are told; what a command does
is in `commands/`, each file imported only when one of its commands is called, so that `--help` takes no time.
"""

import atexit
import importlib
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from trimtab.flows.failures import bug, failure
from trimtab.flows.plain_text import visible
from trimtab.flows.stopping import LINE, stop_on_signals, stopped_by
from trimtab.tasks.admin.address import checked_address
from trimtab.tasks.errors import USER_ERRORS, did_you_mean
from trimtab.tasks.jobs.processes import KILL, descendants, send

USAGE_ERROR: Any = typer.BadParameter.__bases__[0]  # of the click that typer uses: its own copy or the package
CLICK_ERROR: Any = USAGE_ERROR.__bases__[0]
OK, WRONG, BUG, INTERRUPTED = 0, 2, 70, 130

# Prefect would log a failed task with its traceback before the one line that `main` prints.
QUIET = {
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Command:
    """module: under trimtab.flows.commands. meaning: its line in `--help`. model: it loads a model."""

    module: str
    meaning: str
    model: bool = False


COMMANDS = {
    "run": Command("run", "Run a recipe: collect, fit, price, judge, publish, report.", model=True),
    "collect": Command("collect", "Only collect a recipe's activations.", model=True),
    "study": Command("study", "Judge many methods on many behaviours and budgets, in one table.", model=True),
    "steer": Command("steer", "Answer prompts with and without a published plan.", model=True),
    "validate": Command("validate", "Run a task of Inspect without and with a published plan.", model=True),
    "serve": Command("serve", "An OpenAI-compatible server with a plan for each request.", model=True),
    "chat": Command("serve", "Talk to the steered model in the terminal.", model=True),
    "features": Command("features", "List a feature set, or write its browser page."),
    "rank": Command("heads", "Rank a model's heads by what they do for a task.", model=True),
    "ablate": Command("heads", "Test a ranking's top heads beside random sets of heads.", model=True),
    "ls": Command("catalog", "What is in the catalog."),
    "show": Command("catalog", "One version: header, price, verdict, parents, recipe."),
    "diff": Command("catalog", "Two versions beside each other: recipe, data, numbers with intervals, vectors."),
    "captures": Command("catalog", "The collected activations: what, how much, where."),
    "lineage": Command("catalog", "From a version back to activations, prompts and model."),
    "site": Command("site", "The catalog as a static site: names, versions over time, lineage, reports."),
    "verify": Command("catalog", "Recompute every digest and say what is not as it was published."),
    "promote": Command("aliases", "Let NAME@ALIAS mean a version that shows what its recipe requires."),
    "rollback": Command("aliases", "Let NAME@ALIAS mean again what it meant before; the move is recorded."),
    "unalias": Command("aliases", "Let NAME@ALIAS mean nothing."),
    "aliases": Command("aliases", "Every move of a name's aliases."),
    "describe": Command("remarks", "Say what a name or version is, what it is for, and under which licence."),
    "tag": Command("remarks", "Add or remove tags of a name or version."),
    "note": Command("remarks", "Add a note to a name or version."),
    "deprecate": Command("remarks", "Warn wherever a name or version is loaded."),
    "recheck": Command("recheck", "Measure a published plan again, with the model and libraries of today.", model=True),
    "export": Command("export", "A published plan as a file of another tool."),
    "import": Command("imports", "Publish another tool's steering file as a plan.", model=True),
    "fold": Command("export", "A checkpoint with the plan in its weights, for any loader.", model=True),
    "copy": Command("transfer", "Copy a version with its lineage to another home, digests checked at both ends."),
    "pull": Command("transfer", "Copy a version with its lineage from another home into this one."),
    "keygen": Command("signing", "Make a key pair to sign versions with."),
    "sign": Command("signing", "Sign a version with a private key: this record, exactly."),
    "signatures": Command("signing", "Who signed a version, and whether a trusted key did."),
    "delete": Command("housekeeping", "Delete a version that nothing else was made from."),
    "gc": Command("housekeeping", "Free captures never published, and chunks of old snapshots."),
    "repair": Command("repair", "Collect lost or damaged rows of published captures again.", model=True),
    "methods": Command("methods", "Every method with its meaning and source."),
    "schema": Command("methods", "JSON schema of recipes, for editors."),
    "doctor": Command("doctor", "Versions, model, store, server; what will be slow and why."),
    "init": Command("init", "A starter recipe and data files, ready to edit and run."),
    "deploy": Command("deploy", "Put a recipe, or the recheck of a plan, on a schedule, on a Prefect server."),
    "server": Command("deploy", "A Prefect server with its page, on this machine; nothing is sent anywhere."),
    "worker": Command("deploy", "Run deployed recipes until stopped."),
}


class LazyCommands(TyperGroup):
    """Lists commands from the table above; imports the module of the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Enough of a command to be listed."""
        entry = COMMANDS.get(cmd_name)
        return None if entry is None else TyperCommand(cmd_name, callback=lambda: None, help=entry.meaning)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name not in COMMANDS:
            raise USAGE_ERROR(f"unknown command '{name}'{did_you_mean(name, COMMANDS)}", ctx)
        entry = COMMANDS[name]
        if entry.model:
            _decide_offline(args, ctx.params.get("home"))
        module = importlib.import_module(f"trimtab.flows.commands.{entry.module}")
        command = typer.main.get_command(module.app)
        return name, getattr(command, "commands", {name: command})[name], args[1:]


app = typer.Typer(
    cls=LazyCommands,
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        typer.echo(version("trimtab"))
        raise typer.Exit


@app.callback()
def trimtab(
    ctx: typer.Context,
    home: Annotated[
        str | None,
        typer.Option(
            envvar="TRIMTAB_HOME",
            metavar="PATH|URL",
            help="Where everything lies: a folder or s3://bucket/prefix. Default: ./.trimtab",
        ),
    ] = None,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Collect activations, fit steering vectors, say what they cost, publish, steer."""
    if home is not None and not home.strip():
        raise typer.BadParameter("it is empty; name a folder or s3://bucket/prefix", ctx, param_hint="--home")
    ctx.obj = None if home is None else checked_address(home)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0 done, 1 what was asked came out negative, 2 a mistake of the
    caller or of the machine, 70 a bug of ours, 130 interrupted. Each is one line on stderr (TRIMTAB_DEBUG=1 shows where
    it was raised)."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    arguments = _home_first(list(sys.argv[1:] if argv is None else argv))
    with warnings.catch_warnings():
        warnings.showwarning = _warn  # type: ignore[assignment]
        return _run(arguments)


def _warn(message: Warning | str, *where: object) -> None:
    """One line, as errors are; a library's own warnings, too."""
    _say(f"warning: {' '.join(str(message).split())}", OK)


def _run(arguments: list[str]) -> int:
    try:
        returned = typer.main.get_command(app).main(arguments, prog_name="trimtab", standalone_mode=False)
        return _interrupted() if returned == INTERRUPTED else returned if isinstance(returned, int) else OK
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except BrokenPipeError:  # the reader, for example `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except CLICK_ERROR as error:
        return _usage(error)
    except USER_ERRORS as error:
        if os.environ.get("TRIMTAB_DEBUG"):
            raise
        return _say(f"error: {_text(error)}", WRONG)
    except Exception as error:
        if os.environ.get("TRIMTAB_DEBUG"):
            raise
        cause = failure(error)
        return _say(f"error: {cause}", WRONG) if cause else _say(f"error: {bug(error)}", BUG)


def _home_first(arguments: list[str]) -> list[str]:
    """`trimtab ls --home X` means `trimtab --home X ls`: people put it where they think of it."""
    front: list[str] = []
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--":
            return [*front, *rest, argument, *waiting]
        if argument == "--home":
            value = next(waiting, None)
            if value is None:
                return [argument]
            front += [argument, value]
        elif argument.startswith("--home="):
            front.append(argument)
        else:
            rest.append(argument)
    return [*front, *rest]


def _decide_offline(arguments: Sequence[str], home: str | None) -> None:
    """Nothing is asked of the model hub unless a recipe or artifact names a model of the hub."""
    offline = importlib.import_module("trimtab.tasks.admin.offline")
    if "HF_HUB_OFFLINE" not in os.environ and not offline.needs_hub(arguments, home):
        os.environ["HF_HUB_OFFLINE"] = "1"


def _usage(error: Any) -> int:
    message = error.format_message().strip().rstrip(".")
    if not message:  # no command at all: typer has printed the help
        return WRONG
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "trimtab"
    return _say(
        f"error: {message[0].lower()}{message[1:]} (see `{command} --help`)", getattr(error, "exit_code", WRONG)
    )


def _text(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _say(text: str, code: int) -> int:
    print(visible(text), file=sys.stderr)
    return code


def _interrupted() -> int:
    return INTERRUPTED if stopped_by() else _say(LINE, INTERRUPTED)  # the program has said it already


def console() -> None:
    """The `trimtab` command: `main`, then an orderly end without interpreter finalisation, in which native threads of
    the storage library have been seen to abort a process that had already answered."""
    stop_on_signals()
    try:
        code = main()
    finally:
        number = stopped_by()
        if number is not None:
            send(KILL, descendants())
            os._exit(128 + number)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    console()
