"""steer: prompts answered with and without a published plan."""

from dataclasses import asdict
from typing import Annotated

import typer

from trimtab.flows.commands._show import JSON, echo, echo_json, shown
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.plans.steer import Steered, SteerSettings, steer_prompts

app = typer.Typer()
NOTHING = "(nothing: the model ended its answer at once)"
REF = Annotated[str, typer.Argument(metavar="NAME[@VERSION|@ALIAS][:FEATURE]", help="Without @, the latest version.")]


@app.command()
def steer(
    ctx: typer.Context,
    ref: REF,
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...")],
    strength: Annotated[float, typer.Option(help="Times the published strength; 0 is unsteered.")] = 1.0,
    kl: Annotated[
        float | None,
        typer.Option(metavar="NATS", help="Instead of a strength: dose to this KL per token."),
    ] = None,
    govern: Annotated[
        float | None, typer.Option(metavar="NATS", help="Never more than this KL at any token, as sampled.")
    ] = None,
    govern_total: Annotated[
        float | None, typer.Option(metavar="NATS", help="Never more than this KL over an answer, as sampled.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, max=4096, help="At most this many are written.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of sampling and of every KL; 0: greedy, KL at 1.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of sampling.")] = 0,
    chat: Annotated[
        bool | None, typer.Option("--chat/--plain", help="Chat template or plain text; else as the plan's recipe.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Answer prompts with and without a published plan, and say how many nats were spent."""
    settings = SteerSettings(strength, kl, govern, govern_total, tokens, temperature, seed, chat)
    _check(settings, prompts, both=ctx.get_parameter_source("strength").name == "COMMANDLINE")  # type: ignore[union-attr]
    home = Home.at(ctx.obj)
    steering = steer_prompts(ref, prompts, home, settings)
    if as_json:
        return echo_json(asdict(steering))
    at = f"nats at temperature {shown(steering.kl_temperature)}"
    echo(f"{steering.ref} at {shown(steering.strength)} x its published strength; {at}{_bounds(settings)}", err=True)
    for answer in steering.answers:
        _tell(answer)


def _check(settings: SteerSettings, prompts: list[str], both: bool) -> None:
    if settings.kl is not None and both:
        raise RecipeError("--strength and --kl: give one; --kl finds the strength")
    for name in ("kl", "govern", "govern_total"):
        value = getattr(settings, name)
        if value is not None and not 0 < value < float("inf"):
            raise RecipeError(f"--{name.replace('_', '-')} {value:g}: a budget is above 0 nats and finite")
    for name in ("strength", "temperature"):
        if not abs(getattr(settings, name)) < float("inf"):
            raise RecipeError(f"--{name} {getattr(settings, name):g}: must be finite")
    if any(0xD800 <= ord(character) < 0xE000 for prompt in prompts for character in prompt):
        raise RecipeError("PROMPT: is not UTF-8; write it in UTF-8")
    if not all(prompt.strip() for prompt in prompts):
        raise RecipeError("PROMPT: is empty; there is nothing to answer")


def _bounds(settings: SteerSettings) -> str:
    """What the governor bounds, in words; nothing when none was set."""
    bounds = (("a token", settings.govern), ("an answer", settings.govern_total))
    parts = [f"at most {shown(nats)} {what}" for what, nats in bounds if nats is not None]
    return f", {' and '.join(parts)}, of the distribution that is sampled from" if parts else ""


def _tell(answer: Steered) -> None:
    echo(f"\n> {answer.prompt}")
    echo(f"without: {answer.base or NOTHING}")
    echo(f"steered: {answer.steered or NOTHING}")
    governed = "" if answer.held_back is None else f"; the governor acted on {answer.held_back:.0%} of tokens"
    echo(f"         {shown(answer.kl)} nats per token, {shown(answer.total)} in all{governed}")
