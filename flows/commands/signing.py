"""keygen, sign, signatures: who vouches for a version."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from trimtab.flows.commands._show import JSON, echo, echo_json, echo_table
from trimtab.tasks.home import Home
from trimtab.tasks.registry import signing

app = typer.Typer()
REF = Annotated[str, typer.Argument(metavar="NAME[@VERSION|@ALIAS]", help="Without @, the latest version.")]


@app.command()
def keygen(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="New; the public key goes to FILE.pub beside it.")],
) -> None:
    """Make a key pair to sign versions with."""
    echo(signing.make_keys(path).strip())
    echo(f"keep {path} to yourself, and give {path}.pub to those who are to trust it", err=True)


@app.command()
def sign(
    ctx: typer.Context,
    ref: REF,
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="Private key, from `trimtab keygen`.")],
    as_json: JSON = False,
) -> None:
    """Sign a version with a private key: this record, exactly."""
    signature = signing.sign(Home.at(ctx.obj), ref, key)
    if as_json:
        return echo_json(asdict(signature))
    echo(f"{ref.partition('@')[0]}@{signature.version} is signed with the key {signature.key}")


@app.command()
def signatures(
    ctx: typer.Context,
    ref: REF,
    trust: Annotated[
        str | None,
        typer.Option(envvar="TRIMTAB_TRUST", metavar="PATH", help="A public key, or a folder of *.pub."),
    ] = None,
    as_json: JSON = False,
) -> int:
    """Who signed a version, and whether a trusted key did. Exit code 1 when --trust is given and none did."""
    results = signing.signatures_of(Home.at(ctx.obj), ref, trust)
    if as_json:
        echo_json([{**asdict(one), "trusted": one.trusted} for one in results])
    elif not results:
        echo(f"nobody has signed {ref}", err=True)
    else:
        cells = ((one.signer or one.signature.key, one.valid, one.trusted, *_when(one)) for one in results)
        echo_table(("key", "valid", "trusted", "who", "when"), cells)
    return 0 if trust is None or any(one.trusted for one in results) else 1


def _when(signed: signing.Signed) -> tuple[str, str]:
    return signed.signature.who, signed.signature.when[:19]
