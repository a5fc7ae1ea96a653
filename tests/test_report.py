"""The report page: complete, honest about what is missing, escaped, self-contained, alive in a browser."""

import copy
import json
import math
import random
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from trimtab.steering.judge.verdict import (
    AblationResult,
    Answering,
    AnsweringPoint,
    Contender,
    CurvePoint,
    Effect,
    Generation,
    SitePoint,
    Verdict,
)
from trimtab.steering.price.result import KL, Dose, Price
from trimtab.steering.statistics import Interval
from trimtab.tasks.reporting.drawing.html import el
from trimtab.tasks.reporting.drawing.marking import marked
from trimtab.tasks.reporting.drawing.numbers import estimate, number
from trimtab.tasks.reporting.drawing.scale import Scale, linear, positive
from trimtab.tasks.reporting.drawing.verdict import best_placebo, read_verdict
from trimtab.tasks.reporting.report import render, write_report
from trimtab.tasks.reporting.seal import sealed, sealed_pages

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
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
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
    found = []
    for block in range(30):
        rise = math.exp(-(((block - 14) / 7) ** 2))
        found.append(
            SitePoint(f"resid_post.{block}", 2.0 + block / 5, 0.1, 0.58 * rise - 0.02 + 0.03 * math.sin(block))
        )
        found.append(
            SitePoint(f"mlp_out.{block}", 4.0 + block / 3, 0.1, 0.21 * rise - 0.03 + 0.02 * math.cos(block * 2))
        )
    return tuple(found)


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


class Page(HTMLParser):
    """What a browser would build, as far as the tests care: ids, addresses, script bodies, text, tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.scripts: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
                self.addresses.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["script"] and self.scripts[-1:] == [""]:
            self.scripts[-1] = data
        else:
            self.text.append(data)


def without(data: Mapping[str, Any], *path: str) -> dict[str, Any]:
    """A deep copy with one key gone."""
    found = copy.deepcopy(dict(data))
    place = found
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return found


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


def test_every_section_in_order() -> None:
    page = Page(render(verdict().to_json(), PROVENANCE))
    assert [i for i in page.ids if i in SECTIONS] == list(SECTIONS)
    assert len(page.ids) == len(set(page.ids))


def test_answers_are_drawn_where_questions_were_asked() -> None:
    points = [
        AnsweringPoint(
            f"plan, {k:g} × its strength",
            "plan",
            around(40 / k, 3),
            around(9 * k, 2),
            around(0.9, 0.08),
            around(0.5, 0.1),
            k,
        )
        for k in (0.5, 1, 2)
    ]
    asked = replace(verdict(), answering=Answering(60, 48, 64, 41.0, tuple(points)))
    page = Page(render(asked.to_json(), PROVENANCE))
    assert page.ids.index("ablation") < page.ids.index("answers") < page.ids.index("generations")
    assert "answers 48 of 60 questions rightly" in " ".join(page.text)
    assert read_verdict(json.loads(json.dumps(asked.to_json()))) == asked
    few = replace(verdict(), answering=Answering(60, 1, 64, 41.0, ()))
    assert "Too few questions" in " ".join(Page(render(few.to_json(), PROVENANCE)).text)


def test_same_input_same_bytes_also_through_json_text() -> None:
    data = verdict().to_json()
    again = json.loads(json.dumps(data))
    assert render(data, PROVENANCE) == render(again, PROVENANCE)
    assert read_verdict(again) == verdict()


def test_records_from_before_the_sampling_was_written_down_are_of_temperature_1() -> None:
    new = verdict().to_json()
    old = new
    for place in (("dose",), ("price", "budget"), ("price", "damage")):
        old = without(old, *place, "sampling")
    assert old != new and read_verdict(old).to_json() == new
    assert "temperature 1" in render(old, PROVENANCE)


def test_headline_numbers_have_units_and_intervals() -> None:
    text = " ".join(Page(render(verdict().to_json(), PROVENANCE)).text)
    best = best_placebo(verdict())
    assert best is not None and best.effect.margin.mean == max(
        c.effect.margin.mean for c in verdict().contenders if c.kind in ("random", "covariance", "shuffled", "flip")
    )
    tiles = text[: text.index("Where it acts")]
    for said in (
        "+0.612 nats/token",
        "0.100 asked",
        number(best.effect.margin.mean, True),
        "73% of what asking gains",
    ):
        assert said in re.sub(r"\s+", " ", tiles), said


def test_the_verdict_can_be_taken_out_again() -> None:
    data = verdict().to_json()
    page = Page(render(data, PROVENANCE))
    assert json.loads(page.scripts[0]) == json.loads(json.dumps(data))


@pytest.mark.parametrize("provenance", [{}, PROVENANCE], ids=["no provenance", "provenance"])
def test_renders_with_every_optional_part_missing(provenance: dict[str, Any]) -> None:
    page = Page(render(bare(), provenance))
    assert [i for i in page.ids if i in SECTIONS] == list(SECTIONS)
    text = " ".join(page.text)
    for said in (
        "No search was run",
        "No contender",
        "No curve",
        "No ablation",
        "No text was kept",
        "No verification",
    ):
        assert said in text, said
    assert "nan" not in re.findall(r"\w+", text.lower())
    assert "No placebo was run, so no effect can be claimed." in text
    assert "No random placebo was run" in text and "Beats every random placebo" not in text


@pytest.mark.parametrize("key", sorted(PROVENANCE))
def test_renders_without_each_key_of_provenance(key: str) -> None:
    assert render(verdict().to_json(), without(PROVENANCE, key)).count('class="part"') == len(SECTIONS) - 1


def test_one_of_everything_renders() -> None:
    """One block, one head, one point, one verification, one token: no scale may divide by its empty span."""
    data = verdict().to_json()
    data.update(search=[data["search"][0]], curve=data["curve"][:1], contenders=data["contenders"][:1])
    data["dose"]["history"] = [(1.0, 0.0)]
    data["price"]["budget"]["per_token"] = [0.0]
    render(data, PROVENANCE)
    data["search"] = [{"site": "z.0.0", "strength": 1.0, "kl": 0.0, "margin": 0.0}]
    render(data, PROVENANCE)


def test_nan_null_and_infinity_are_said_never_drawn() -> None:
    data = verdict().to_json()
    data["contenders"][3]["effect"]["margin"] = {"mean": None, "low": math.nan, "high": math.nan, "n": 0}
    data["contenders"][4]["kl"] = math.inf
    data["search"][0]["margin"] = math.nan
    data["curve"][0]["kl"] = math.inf
    data["dose"]["history"] = [(1e9, math.inf), (3.0, 0.1)]
    data["price"]["perplexity_steered"] = math.inf
    text = render(data, PROVENANCE)
    assert not re.search(r'="[^"]*\b(nan|inf)\b[^"]*"', text)
    assert "∞" in text


def test_a_missing_required_field_is_named() -> None:
    with pytest.raises(ValueError, match=r"Dose\.asked"):
        render(without(verdict().to_json(), "dose", "asked"), {})


def test_user_text_is_escaped_everywhere() -> None:
    data = verdict().to_json()
    data.update(sentence=ATTACK, plan=ATTACK, site=ATTACK, fitter=ATTACK, behaviour_metric=ATTACK)
    for key in ("prompt", "base", "steered"):
        data["generations"][0][key] = ATTACK
    for one in data["contenders"]:
        one["name"] += ATTACK
    data["search"][0]["site"] = data["curve"][0]["contender"] = data["ablation"]["operator"] = ATTACK
    data["price"]["budget"]["direction"] = data["price"]["budget"]["prompts_digest"] = ATTACK
    hostile = {key: ATTACK for key in PROVENANCE} | {
        "versions": {ATTACK: ATTACK},
        "seconds": {ATTACK: 1.0},
        "lineage": [ATTACK],
        "lexicon": ["script", "x"],
        ATTACK: ATTACK,
    }
    page = Page(render(data, hostile))
    assert len(page.scripts) == 2 and "img" not in page.tags and not page.handlers
    assert json.loads(page.scripts[0])["sentence"] == ATTACK
    assert "<script>window.broken=1</script>" in "".join(page.text)


def test_html_is_escaped_unless_made_by_el() -> None:
    assert el("p", {"title": '"<'}, "<b>", [el("i", {}, "&")]) == '<p title="&quot;&lt;">&lt;b&gt;<i>&amp;</i></p>'


def test_highlighting_whole_words_only() -> None:
    assert "".join(map(str, marked("La lame, LA", ["la"]) or [])) == "<mark>La</mark> lame, <mark>LA</mark>"


def test_self_contained() -> None:
    data = verdict().to_json()
    text = render(data, PROVENANCE)
    page = Page(text)
    assert all(address.startswith("#") or address == "data:," for address in page.addresses)
    assert not {"iframe", "object", "embed", "img", "audio", "video", "base", "form"} & set(page.tags)
    assert "http:" not in text and "https:" not in text and "@import" not in text and "url(" not in text
    assert "default-src 'none'" in unescape(text) and "unsafe-eval" not in text
    assert page.tags.count("link") == 1
    assert len(text) < 700_000


def test_every_link_of_the_contents_leads_somewhere() -> None:
    page = Page(render(verdict().to_json(), PROVENANCE))
    links = [address[1:] for address in page.addresses if address.startswith("#")]
    assert links and set(links) <= set(page.ids)


def test_unbeaten_unreachable_and_few_placebos_are_said() -> None:
    data = verdict().to_json()
    data["beats_random"], data["dose"]["reachable"] = False, False
    data["contenders"] = [c for c in data["contenders"] if c["kind"] != "covariance"][:10]
    text = " ".join(Page(render(data, {})).text)
    for said in (
        "Does not beat its random placebos",
        "could not be reached",
        "random directions: the smallest p-value",
    ):
        assert said in text, said


def test_heads_are_drawn_as_a_grid() -> None:
    data = verdict().to_json()
    data.update(search=[vars(point) for point in heads()], site="z.14.3, z.17.7")
    text = render(data, {})
    assert text.count('class="cell-ring"') == 2 * 2  # two chosen heads, in the wide and the narrow layout
    assert text.count('class="cell for"') + text.count('class="cell against"') == 2 * 270


def test_written_beside_and_renamed(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.html"
    assert write_report(verdict().to_json(), PROVENANCE, path) == path
    before = path.read_text(encoding="utf-8")
    assert before == sealed(render(verdict().to_json(), PROVENANCE))
    with pytest.raises(ValueError):
        write_report({}, PROVENANCE, path)
    assert path.read_text(encoding="utf-8") == before
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    assert list(sealed_pages(path.parent)) == [(path, True)]
    raw = path.read_bytes()
    for damaged in (raw.replace(b"<body", b"<bodY", 1), raw[:-9] + b"0" + raw[-8:], raw[:3] + b"\xff" + raw[4:]):
        path.write_bytes(damaged)
        assert list(sealed_pages(path.parent)) == [(path, False)]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.4123, "0.412"),
        (-0.5, "−0.500"),
        (12345.6, "12,346"),
        (1.23e-5, "1.23×10⁻⁵"),
        (0.9999, "1.00"),
        (0.0, "0"),
        (None, "not measured"),
        (math.nan, "not measured"),
        (math.inf, "∞"),
    ],
)
def test_numbers(value: float | None, words: str) -> None:
    assert number(value) == words


def test_an_interval_has_the_decimals_of_its_uncertainty() -> None:
    assert estimate(Interval(0.02, -0.0118, 0.0518, 9), signed=True) == "+0.020 [−0.012, +0.052]"
    assert estimate(Interval(18.42, 17.9, 18.9, 9)) == "18.42 [17.90, 18.90]"
    assert estimate(Interval(0.5, math.nan, math.nan, 0)) == "0.500 no interval"
    assert estimate(Interval(0.5, 0.5, 0.5, 1)) == "0.500 [0.500, 0.500]"


def test_scales_keep_order_and_ticks_inside() -> None:
    for scale in (
        linear([-0.3, 0.9], 10, 400),
        positive([0.01, 1.0], 10, 400),
        Scale(0, 1, 300, 20),
        linear([2.0], 0, 9),
    ):
        ticks = scale.ticks()
        assert len(ticks) >= 2 and all(scale.low <= tick <= scale.high for tick in ticks)
        pixels = [scale(tick) for tick in ticks]
        assert pixels == sorted(pixels, reverse=scale.end < scale.start)
        assert scale(scale.low) == pytest.approx(scale.start) and scale(scale.high) == pytest.approx(scale.end)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("full", [True, False], ids=["full", "bare"])
def test_in_a_browser(tmp_path: Path, full: bool) -> None:
    """The DOM that a browser builds has every section, the script ran, and the console is silent."""
    data = verdict().to_json() if full else bare()
    data["sentence"] = ATTACK
    path = write_report(data, PROVENANCE if full else {}, tmp_path / "report.html")
    done = browse(path, tmp_path / "profile")
    page = Page(done.stdout)
    assert [i for i in page.ids if i in SECTIONS] == list(SECTIONS)
    assert "tip" in page.ids, "the page's own script did not run: is its hash in the policy?"
    assert "img" not in page.tags
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console and "Uncaught" not in done.stderr, console


def browse(path: Path, profile: Path) -> "subprocess.CompletedProcess[str]":
    quiet = "--disable-gpu --disable-quic --no-first-run --disable-background-networking"
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        *quiet.split(),
        "--disable-sync",
        f"--user-data-dir={profile}",
    ]
    command += ["--enable-logging=stderr", "--v=0", "--dump-dom", path.resolve().as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
