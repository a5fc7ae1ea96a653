"""One feature of a set, for `trimtab show REF --feature N`."""

from typing import Any

from trimtab.flows.commands._show import echo, echo_fields, echo_json, shown
from trimtab.tasks.features.views import feature_details
from trimtab.tasks.home import Home

SHOWN_TOPS = 10


def show_feature(home: Home, ref: str, number: int, as_json: bool) -> None:
    """`trimtab show REF --feature N`."""
    found = feature_details(home, ref, number)
    if as_json:
        return echo_json(found)
    echo_fields({"feature": f"{found['ref']}:{number}", "site": found["site"], "label": found.get("label", "")})
    echo_fields({name: found.get(name) for name in ("firing", "peak", "size")})
    for name in ("promoted", "suppressed"):
        echo(f"\n{name}: {' '.join(repr(token) for token, _ in found.get(name, [])[:12])}")
    echo(f"neurons: {_pairs(found.get('neurons', [])[:10])}")
    echo(f"nearest: {', '.join(f'#{n} (cosine {shown(c)}, {s} neurons shared)' for n, c, s in found['nearest'])}")
    for concept in found["concepts"]:
        echo(f"detects {concept['concept']}: held-out AUROC {shown(concept['auroc'])} (null {shown(concept['null'])})")
    echo("")
    for top in found.get("tops", [])[:SHOWN_TOPS]:
        echo(f"{shown(top['activation']):>7}  {_line(top)}")


def _pairs(found: list[Any]) -> str:
    return ", ".join(f"{name} ({shown(value)})" for name, value in found)


def _line(top: dict[str, Any]) -> str:
    return f"{top['before'][-60:]}[{top['token']}]{top['after'][:40]}".replace("\n", " ")
