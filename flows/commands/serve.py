"""serve: an OpenAI-compatible server. chat: the steered model in the terminal."""

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from trimtab.flows.commands._show import echo
from trimtab.flows.stopping import stops_by_itself
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.plans.talk import Talk
from trimtab.tasks.recipes.sections import ModelSpec
from trimtab.tasks.serving.settings import Limits, Serving

app = typer.Typer()
LOOPBACK = ("127.0.0.1", "::1", "localhost")
PLAN = typer.Option("--plan", metavar="NAME[@VERSION|@ALIAS]", help="Served; repeat. None: every plan of the catalog.")
KEY = typer.Option("--api-key", help="Demanded of every request; repeat. Or a list in $TRIMTAB_API_KEYS.")


@app.command()
def serve(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="smollm2, a folder, or a hub id.")] = "smollm2",
    plan: Annotated[list[str] | None, PLAN] = None,
    host: Annotated[str, typer.Option(help="Other than loopback only with an API key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    key: Annotated[list[str] | None, KEY] = None,
    nats: Annotated[bool, typer.Option(help="Measure what each steered answer spent, unless its request says.")] = True,
    tokens: Annotated[int, typer.Option(min=1, help="Most of an answer.")] = 1024,
    running: Annotated[int, typer.Option(min=1, help="Requests answered at once.")] = 32,
    waiting: Annotated[int, typer.Option(min=0, help="Requests that may wait; more get 429.")] = 128,
    seconds: Annotated[float, typer.Option(min=1, help="Until an answer is given up.")] = 300.0,
    body: Annotated[int, typer.Option(min=1024, help="Most bytes of a request.")] = 1 << 20,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
) -> None:
    """An OpenAI-compatible server with a plan for each request, which its `steering` field names."""
    keys = tuple(key or filter(None, os.environ.get("TRIMTAB_API_KEYS", "").split(",")))
    if host not in LOOPBACK and not keys:
        raise RecipeError(f"--host {host}: others could reach the server; give an --api-key, or serve on 127.0.0.1")
    limits = Limits(tokens=tokens, body=body, running=running, waiting=waiting, seconds=seconds)
    serving = Serving(model, tuple(plan or ()), keys, nats, limits)
    server: Any = _server()
    spec = ModelSpec.model_validate({"id": model, "dtype": dtype, "device": device})
    stops_by_itself(server.GRACE + 10)
    server.run_server(spec, Home.at(ctx.obj), serving, server.Address(host, port), _ready)


def _server() -> Any:
    """The server's module; its libraries are an extra. Raises RecipeError without them."""
    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if find_spec(name) is None]
    if missing:
        raise RecipeError(f"{', '.join(missing)} is not installed; `pip install 'trimtab[serve]'`")
    return import_module("trimtab.tasks.serving.run")


def _ready(url: str) -> None:
    echo(f"serving on {url} (page: {url}/, interface: {url}/v1); Ctrl-C ends it", err=True)


@app.command()
def chat(
    ctx: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="PLAN", help="A steering expression, for example cheerful@prod.")],
    strength: Annotated[float, typer.Option(help="Times the published strength.")] = 1.0,
    tokens: Annotated[int, typer.Option(min=1, max=4096, help="At most this many an answer.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, max=10.0, help="0: greedy.")] = 0.7,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1)] = 0,
) -> None:
    """Talk to the steered model in the terminal; an empty line ends, `/strength 2` changes it, `/new` begins anew."""
    talk = Talk.begin(ref, Home.at(ctx.obj), strength, tokens, temperature, seed)
    echo(f"{talk.label}; /strength NUMBER, /new, an empty line ends", err=True)
    while line := _line():
        if line == "/new":
            talk.forget()
        elif line.startswith("/strength"):
            _change(talk, line.removeprefix("/strength").strip())
        else:
            answer = talk.say(line)
            echo(answer.text)
            echo(f"[{answer.nats:.3g} nats, {answer.tokens} tokens]", err=True)


def _line() -> str:
    if not sys.stdin.isatty():  # a prompt would leave blanks before the answers on stdout
        return sys.stdin.readline().strip()
    try:
        return str(typer.prompt(">", default="", show_default=False, prompt_suffix=" ", err=True)).strip()
    except typer.Abort:
        return ""


def _change(talk: Talk, number: str) -> None:
    try:
        talk.strengthen(float(number))
    except ValueError:
        echo(f"'{number}' is no number", err=True)
