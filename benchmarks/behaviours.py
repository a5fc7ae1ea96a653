"""The verdicts of published plans, side by side, as one table.

    trimtab run recipes/cheerful.yaml && trimtab run recipes/brief.yaml && trimtab run recipes/french.yaml
    python benchmarks/behaviours.py HOME cheerful brief french

Reads the catalog, computes nothing.
"""

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from trimtab.tasks.home import Home
from trimtab.tasks.step import seconds_of

Verdict = Mapping[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("home")
    parser.add_argument("names", nargs="+")
    args = parser.parse_args()
    catalog = Home.at(args.home).catalog
    found = [catalog.get(f"{name}.verdict") for name in args.names]
    verdicts = [artifact.header["verdict"] for artifact in found]
    print("| | " + " | ".join(args.names) + " |\n|---|" + "---|" * len(verdicts))
    for name, cell in ROWS.items():
        print(f"| {name} | " + " | ".join(cell(verdict) for verdict in verdicts) + " |")
    print("| seconds of the judgement | " + " | ".join(f"{seconds_of(a):.0f}" for a in found) + " |")


def of_kind(verdict: Verdict, *kinds: str) -> list[Mapping[str, Any]]:
    return [one for one in verdict["contenders"] if one["kind"] in kinds]


def interval(value: Mapping[str, float] | None, signed: bool = False) -> str:
    if value is None:
        return "-"
    sign = "+" if signed else ""
    return f"{value['mean']:{sign}.3f} [{value['low']:{sign}.3f}, {value['high']:{sign}.3f}]"


def placebos(kind: str) -> Callable[[Verdict], str]:
    """How many are beaten with an interval of the difference above 0, and the best one's effect."""

    def cell(verdict: Verdict) -> str:
        found = of_kind(verdict, kind)
        if not found:
            return "-"
        beaten = sum(one["difference"]["low"] > 0 for one in found)
        best = max(found, key=lambda one: one["effect"]["margin"]["mean"])
        return f"{beaten} of {len(found)} beaten; best {interval(best['effect']['margin'], True)}"

    return cell


def prompted(verdict: Verdict) -> str:
    found = of_kind(verdict, "system_prompt")
    if not found:
        return "-"
    return f"{interval(found[0]['effect']['margin'], True)} at {found[0]['kl']:.3f} nats"


def behaviour(verdict: Verdict) -> str:
    effect = of_kind(verdict, "plan")[0]["effect"]
    if effect["behaviour"] is None:
        return "-"
    return f"{interval(effect['behaviour'], True)} ({verdict['behaviour_metric']})"


def ablated(verdict: Verdict) -> str:
    found = verdict["ablation"]
    if found is None or found["removed"] is None:
        return "nothing to remove"
    beside = ", ".join(f"{share:.0%}" for share in found["random_removed"])
    return (
        f"asking gains {interval(found['asked_gain'])}, without it {interval(found['gain_after'])}: "
        f"{found['removed']:.0%} gone (random: {beside})"
    )


def capability(verdict: Verdict) -> str:
    price = verdict["price"]
    if price["capability_base"] is None:
        return "-"
    return f"{price['capability_base']:.0%} to {price['capability_steered']:.0%}"


ROWS: dict[str, Callable[[Verdict], str]] = {
    "fitter, site, strength": lambda v: f"`{v['fitter']}`, `{v['site']}`, {v['dose']['strength']:.2f}",
    "KL asked / got in calibration": lambda v: f"{v['dose']['asked']:.3g} / {v['dose']['achieved']:.3f}",
    "KL on held-out prompts": lambda v: interval(v["price"]["budget"]["mean"]),
    "effect on the margin": lambda v: interval(of_kind(v, "plan")[0]["effect"]["margin"], True),
    "random directions": placebos("random"),
    "covariance-matched directions": placebos("covariance"),
    "refits on shuffled labels": placebos("shuffled"),
    "flipped sign": placebos("flip"),
    "beats every random and covariance placebo": lambda v: "yes" if v["beats_random"] else "NO",
    "system prompt, at its own price": prompted,
    "behaviour of generated text": behaviour,
    "KL on neutral text": lambda v: interval(v["price"]["damage"]["mean"]),
    "perplexity on neutral text": lambda v: " to ".join(
        f"{v['price'][k]:.1f}" for k in ("perplexity_base", "perplexity_steered")
    ),
    "A/B questions right": capability,
    "ablation of the direction": ablated,
    "pairs of the report, of placebos": lambda v: f"{v['splits']['report_pairs']}, {v['splits']['placebo_pairs']}",
}


if __name__ == "__main__":
    main()
