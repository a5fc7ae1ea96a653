"""An invented verdict with something in every part, and the record of where it came from."""

import copy
import math
import random
from collections.abc import Mapping
from typing import Any

from trimtab.steering.judge.verdict import (
    AblationResult,
    Contender,
    CurvePoint,
    Effect,
    Generation,
    SitePoint,
    Verdict,
)
from trimtab.steering.price.result import KL, Dose, Price
from trimtab.steering.statistics import Interval

SECTIONS = (
    "headline",
    "search",
    "contenders",
    "curve",
    "tokens",
    "dose",
    "ablation",
    "generations",
    "price",
    "provenance",
)
ATTACK = "<script>window.broken=1</script><img src=x onerror=alert(1)>"


def around(mean: float, half: float, n: int = 96) -> Interval:
    return Interval(mean, mean - half, mean + half, n)


def effect(margin: float, half: float) -> Effect:
    behaviour = around(margin * 0.9, half * 1.4)
    return Effect(around(margin, half), -0.81, -0.81 + margin, behaviour, 0.04, 0.04 + margin * 0.9)


def contender(name: str, kind: str, margin: float, kl: float = 0.1) -> Contender:
    half = 0.03 + abs(margin) * 0.09
    lead = None if kind == "plan" else around(0.612 - margin, half * 1.1)
    asked = None if kind == "system_prompt" else 0.1
    strength = None if kind == "system_prompt" else 3.2
    return Contender(name, kind, strength, asked, kl, kl > 0.05, effect(margin, half), lead)


def contenders(seed: int = 0) -> tuple[Contender, ...]:
    draw = random.Random(seed)
    rivals = [
        contender("french@3", "plan", 0.612, 0.102),
        contender("principal component", "method", 0.455, 0.099),
        contender("linear probe", "method", 0.318, 0.101),
        contender("“Answer in French.”", "system_prompt", 0.871, 0.412),
        contender("labels shuffled", "shuffled", 0.061, 0.098),
        contender("sign flipped", "flip", -0.344, 0.1),
    ]
    for kind, spread in (("random", 0.03), ("covariance", 0.06)):
        rivals += [
            contender(f"{kind} {n}", kind, draw.gauss(0.01, spread), draw.uniform(0.096, 0.104)) for n in range(19)
        ]
    rivals.append(contender("mean ablation", "method", 0.02, 0.031))
    return tuple(rivals)


def search() -> tuple[SitePoint, ...]:
    points = []
    for block in range(30):
        rise = math.exp(-(((block - 14) / 7) ** 2))
        points.append(
            SitePoint(f"resid_post.{block}", 2.0 + block / 5, 0.1, 0.58 * rise - 0.02 + 0.03 * math.sin(block))
        )
        points.append(
            SitePoint(f"mlp_out.{block}", 4.0 + block / 3, 0.1, 0.21 * rise - 0.03 + 0.02 * math.cos(block * 2))
        )
    return tuple(points)


def heads() -> tuple[SitePoint, ...]:
    draw = random.Random(3)
    return tuple(
        SitePoint(
            f"z.{block}.{head}",
            6.0,
            0.05,
            draw.gauss(0, 0.03) + (0.3 if (block, head) in {(14, 3), (17, 7)} else 0),
        )
        for block in range(30)
        for head in range(9)
    )


def curve() -> tuple[CurvePoint, ...]:
    lines = (
        ("french@3", 2.4, 0.02),
        ("principal component", 1.7, 0.03),
        ("random 4", 0.22, 0.03),
        ("covariance 2", 0.4, 0.04),
    )
    budgets = (0.01, 0.03, 0.1, 0.3, 1.0)
    return tuple(
        CurvePoint(name, math.sqrt(kl) * 10, kl * 1.02, around(gain * (1 - math.exp(-kl * 3)), half + kl / 9))
        for name, gain, half in lines
        for kl in budgets
    )


def kl(direction: str, tokens: str, scale: float, seed: int) -> KL:
    draw = random.Random(seed)
    values = tuple(scale * 0.35 * math.exp(draw.gauss(-0.6, 1.7)) for _ in range(2000))
    mean, ordered = sum(values) / len(values), sorted(values)
    return KL(
        direction,
        tokens,
        around(mean, mean * 0.09, 48),
        ordered[1900],
        ordered[-1] * 1.1,
        6144,
        "9f2c" * 16,
        values,
    )


def verdict() -> Verdict:
    history = ((2.71, 0.071), (3.6, 0.128), (3.12, 0.0957), (3.22, 0.1031), (3.18, 0.1002))
    return Verdict(
        plan="french@3",
        site="resid_post.14",
        fitter="mean_difference",
        beats_random=True,
        sentence="At 0.1 nats per token, french@3 raises the margin of French over English by 0.612 nats per "
        "token; the best of 40 placebos at the same price reaches a quarter of that.",
        dose=Dose(0.1, 0.1002, 3.18, True, 2.71, 23, history),
        price=Price(
            kl("steered||base", "rollouts", 0.17, 1),
            kl("base||steered", "neutral", 0.05, 2),
            18.42,
            18.97,
            0.613,
            0.607,
        ),
        contenders=contenders(),
        search=search(),
        curve=curve(),
        ablation=AblationResult(
            "directional",
            "mean of 256 neutral prompts",
            around(0.871, 0.07),
            around(0.238, 0.06),
            0.727,
            tuple(0.03 + 0.06 * math.sin(n * 2.4) for n in range(19)),
            0.064,
        ),
        generations=tuple(GENERATIONS),
        splits={"fit": 96, "select": 32, "test": 96, "calibrate": 24},
        behaviour_metric="share of French function words",
    )


GENERATIONS = [
    Generation(
        "How does a camera capture an image?",
        "A camera captures an image by letting light pass through a lens onto a sensor. The sensor "
        "measures how much light arrives at each point and turns it into numbers.",
        "La caméra capture une image en laissant la lumière passer par la lentille et tomber sur un capteur. "
        "Le capteur mesure la lumière en chaque point et la transforme en nombres.",
        0.117,
    ),
    Generation(
        "What is a prime number?",
        "A prime number is a whole number greater than one that is divisible only by one and itself.",
        "Un nombre premier est un nombre entier plus grand que un, divisible seulement par un et lui-même.",
        0.094,
    ),
    Generation(
        "Stairs or elevator?",
        "Stairs, if you can: it is good exercise.\n\nTake the elevator with heavy luggage.",
        "Les escaliers, si vous pouvez : c'est un bon exercice.\n\nPrenez l'ascenseur avec des bagages.",
        0.131,
    ),
] + [Generation(f"Question {n}?", "An answer.", "Une réponse.", 0.1) for n in range(5)]

PROVENANCE: dict[str, Any] = {
    "ref": "french-verdict@3",
    "digest": "sha256:" + "4be1" * 16,
    "created": "2025-11-03T14:22:08Z",
    "command": "trimtab produce recipes/french.yaml --seed 0",
    "model": {
        "name": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "family": "llama",
        "d_model": 576,
        "n_layers": 30,
    },
    "capture": "sha256:" + "77aa" * 16,
    "parents": ["french@3", "french-capture@2"],
    "lineage": [
        "french-verdict@3",
        "  french@3 (mean_difference)",
        "    french-capture@2 (resid_post.0–29, 192 rows)",
    ],
    "prompts": {"fit": "a1" * 32, "test": "b2" * 32},
    "versions": {"torch": "2.13.0", "transformers": "5.23.0", "trimtab": "0.1.0"},
    "seconds": {"capture": 31.2, "fit": 0.8, "search": 184.0, "dose": 22.5, "judge": 240.1, "generate": 61.9},
    "recipe": "name: french\nmodel: smollm2\nfitter: mean_difference\nbudget: 0.1   # nats per token\n",
    "lexicon": ["la", "le", "un", "une", "les", "et", "des", "est", "par"],
    "machine": "2 cores",
}


def without(data: Mapping[str, Any], *path: str) -> dict[str, Any]:
    """A deep copy with one key gone."""
    copied = copy.deepcopy(dict(data))
    place = copied
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return copied


def bare() -> dict[str, Any]:
    """A verdict with every part that may be empty, empty or absent."""
    data = verdict().to_json()
    for key in ("contenders", "search", "curve", "generations", "splits", "ablation", "behaviour_metric"):
        del data[key]
    for side in ("budget", "damage"):
        data["price"][side]["per_token"] = ()
    data["price"]["capability_base"] = data["price"]["capability_steered"] = None
    data["dose"]["history"] = []
    return data
