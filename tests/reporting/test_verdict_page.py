"""The page of a verdict: complete, honest about what is missing, escaped, self-contained."""

import json
import math
import re
from dataclasses import replace
from html import unescape
from typing import Any

import pytest
from reports import Page
from verdicts import ATTACK, PROVENANCE, SECTIONS, around, bare, heads, verdict, without

from trimtab.steering.judge.verdict import Answering, AnsweringPoint
from trimtab.tasks.reporting.drawing.numbers import number
from trimtab.tasks.reporting.drawing.verdict import best_placebo, read_verdict
from trimtab.tasks.reporting.summary import sentences
from trimtab.tasks.reporting.verdict_page import verdict_page


def test_every_section_in_order() -> None:
    page = Page(verdict_page(verdict().to_json(), PROVENANCE))
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
    page = Page(verdict_page(asked.to_json(), PROVENANCE))
    assert page.ids.index("ablation") < page.ids.index("answers") < page.ids.index("generations")
    assert "answers 48 of 60 questions rightly" in " ".join(page.text)
    assert read_verdict(json.loads(json.dumps(asked.to_json()))) == asked
    few = replace(verdict(), answering=Answering(60, 1, 64, 41.0, ()))
    assert "Too few questions" in " ".join(Page(verdict_page(few.to_json(), PROVENANCE)).text)


def test_same_input_same_bytes_also_through_json_text() -> None:
    data = verdict().to_json()
    again = json.loads(json.dumps(data))
    assert verdict_page(data, PROVENANCE) == verdict_page(again, PROVENANCE)
    assert read_verdict(again) == verdict()


def test_records_from_before_the_sampling_was_written_down_are_of_temperature_1() -> None:
    new = verdict().to_json()
    old = new
    for place in (("dose",), ("price", "budget"), ("price", "damage")):
        old = without(old, *place, "sampling")
    assert old != new and read_verdict(old).to_json() == new
    assert "temperature 1" in verdict_page(old, PROVENANCE)


def test_headline_numbers_have_units_and_intervals() -> None:
    text = " ".join(Page(verdict_page(verdict().to_json(), PROVENANCE)).text)
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
    page = Page(verdict_page(data, PROVENANCE))
    assert json.loads(page.scripts[0]) == json.loads(json.dumps(data))


@pytest.mark.parametrize("provenance", [{}, PROVENANCE], ids=["no provenance", "provenance"])
def test_renders_with_every_optional_part_missing(provenance: dict[str, Any]) -> None:
    page = Page(verdict_page(bare(), provenance))
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
    assert verdict_page(verdict().to_json(), without(PROVENANCE, key)).count('class="part"') == len(SECTIONS) - 1


def test_one_of_everything_renders() -> None:
    """One block, one head, one point, one verification, one token: no scale divides by its empty span, and each is
    drawn: a ring for the block, a cell for the head, in the wide and in the narrow layout."""
    data = verdict().to_json()
    data.update(search=[data["search"][28]], curve=data["curve"][:1], contenders=data["contenders"][:1])
    data["dose"]["history"] = [(1.0, 0.0)]
    data["price"]["budget"]["per_token"] = [0.0]
    block = verdict_page(data, PROVENANCE)
    assert data["search"][0]["site"] == data["site"] and block.count(f"chosen: {data['site']}<") == 2
    data["search"] = [{"site": "z.0.0", "strength": 1.0, "kl": 0.0, "margin": 0.0}]
    head = verdict_page(data, PROVENANCE)
    assert head.count('class="cell for"') == 2 and "chosen:" not in head
    for page in (block, head):
        assert not re.search(r'="[^"]*\b(nan|inf)\b[^"]*"', page)
        assert Page(page).ids.count("curve") == 1 and "No curve was measured" not in page


def test_a_candidate_of_many_sites_is_named_and_listed() -> None:
    """It has no block to be drawn at; the single sites beside it have."""
    data = verdict().to_json()
    data["search"] = [*data["search"], {"site": "all blocks", "strength": 1.0, "kl": 0.1, "margin": 0.7, "pairs": 4}]
    data["site"] = data["search"][-1]["site"]
    page = verdict_page(data, PROVENANCE)
    assert ">all blocks</" in page and "measured on 4 pairs" in page and "chosen:" not in page
    alone = verdict_page({**data, "search": data["search"][-1:]}, PROVENANCE)
    assert "No candidate names a block to draw it at." in alone


def test_nan_null_and_infinity_are_said_never_drawn() -> None:
    data = verdict().to_json()
    data["contenders"][3]["effect"]["margin"] = {"mean": None, "low": math.nan, "high": math.nan, "n": 0}
    data["contenders"][4]["kl"] = math.inf
    data["search"][0]["margin"] = math.nan
    data["curve"][0]["kl"] = math.inf
    data["dose"]["history"] = [(1e9, math.inf), (3.0, 0.1)]
    data["price"]["perplexity_steered"] = math.inf
    text = verdict_page(data, PROVENANCE)
    assert not re.search(r'="[^"]*\b(nan|inf)\b[^"]*"', text)
    assert "∞" in text


def test_a_missing_required_field_is_named() -> None:
    with pytest.raises(ValueError, match=r"Dose\.asked"):
        verdict_page(without(verdict().to_json(), "dose", "asked"), {})


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
    page = Page(verdict_page(data, hostile))
    assert len(page.scripts) == 2 and "img" not in page.tags and not page.handlers
    assert json.loads(page.scripts[0])["sentence"] == ATTACK
    assert "<script>window.broken=1</script>" in "".join(page.text)


def test_self_contained() -> None:
    data = verdict().to_json()
    text = verdict_page(data, PROVENANCE)
    page = Page(text)
    assert all(address.startswith("#") or address == "data:," for address in page.addresses)
    assert not {"iframe", "object", "embed", "img", "audio", "video", "base", "form"} & set(page.tags)
    assert "http:" not in text and "https:" not in text and "@import" not in text and "url(" not in text
    assert "default-src 'none'" in unescape(text) and "unsafe-eval" not in text
    assert page.tags.count("link") == 1
    assert len(text) < 700_000


def test_every_link_of_the_contents_leads_somewhere() -> None:
    page = Page(verdict_page(verdict().to_json(), PROVENANCE))
    links = [address[1:] for address in page.addresses if address.startswith("#")]
    assert links and set(links) <= set(page.ids)


def test_unbeaten_unreachable_and_few_placebos_are_said() -> None:
    data = verdict().to_json()
    data["beats_random"], data["dose"]["reachable"] = False, False
    data["contenders"] = [c for c in data["contenders"] if c["kind"] != "covariance"][:10]
    text = " ".join(Page(verdict_page(data, {})).text)
    for said in (
        "Does not beat its random placebos",
        "could not be reached",
        "random directions: the smallest p-value",
    ):
        assert said in text, said


def test_heads_are_drawn_as_a_grid() -> None:
    data = verdict().to_json()
    data.update(search=[vars(point) for point in heads()], site="z.14.3, z.17.7")
    text = verdict_page(data, {})
    assert text.count('class="cell-ring"') == 2 * 2  # two chosen heads, in the wide and the narrow layout
    assert text.count('class="cell for"') + text.count('class="cell against"') == 2 * 270


def test_the_verdict_is_a_list_of_its_sentences() -> None:
    """Nothing is lost or added, and a decimal point or a site's name ends no sentence."""
    said = "french (pca at resid_post.14) spends 0.29 nats. It does NOT beat A. Beware: few prompts."
    assert sentences(said) == [
        "french (pca at resid_post.14) spends 0.29 nats.",
        "It does NOT beat A.",
        "Beware: few prompts.",
    ]
    page = verdict_page({**verdict().to_json(), "sentence": said}, {})
    assert page.count("<li>It does NOT beat A.</li>") == 1


def test_forecasts_are_told_from_measurements() -> None:
    """Hollow where forecast, filled where measured, and one line on why the chosen one need not be the highest."""
    data = verdict().to_json()
    measured = [{**one, "pairs": 8 * (n % 4 == 0)} for n, one in enumerate(data["search"])]
    section = part(verdict_page({**data, "search": measured}, {}), "search")
    count = sum(one["pairs"] > 0 for one in measured)
    assert section.count('class="dot"') == 2 * count
    assert section.count('class="dot hollow"') == 2 * (len(measured) - count)
    assert "need not be the highest" in section and '<i class="forecast">' in section
    assert "need not be the highest" not in part(verdict_page(data, {}), "search")
    cells = [{**vars(one), "pairs": n % 2} for n, one in enumerate(heads())]
    assert "Hollow" not in part(verdict_page({**data, "search": cells}, {}), "search"), "a grid has no points"


def test_an_ablation_that_had_nothing_to_remove_says_so() -> None:
    """A sentence stands in place of an axis without points."""
    chart, words = "Share of the gain removed, beside random directions", "there is no gain to remove"
    data = verdict().to_json()
    shown = part(verdict_page(data, {}), "ablation")
    assert chart in shown and words not in shown
    data["ablation"].update(removed=None, random_removed=[])
    nothing = part(verdict_page(data, {}), "ablation")
    assert words in nothing and chart not in nothing


def part(page: str, name: str) -> str:
    return page.split(f'<section class="part" id="{name}"')[1].split("</section>")[0]
