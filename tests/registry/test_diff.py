"""Two versions beside each other."""

import json

import numpy as np
import pytest
import torch

from tests.registry.conftest import publish
from trimtab.flows.cli import main
from trimtab.steering import Ablate, Add, Intervention, SteeringPlan
from trimtab.tasks.registry.diff import diff


def plan(*moves) -> SteeringPlan:
    return SteeringPlan(tuple(Intervention(site=f"resid_post.{block}", move=move) for block, move in moves))


@pytest.fixture
def home(home):
    one, other = torch.eye(4)[0], torch.tensor([3.0, 4.0, 0.0, 0.0])
    plane = torch.eye(4)[:2]
    turned = torch.eye(4)[1:3]
    for number, moves in enumerate([((1, Add(one)), (2, Ablate(plane))), ((1, Add(other)), (2, Ablate(turned)))]):
        packed = plan(*moves).pack()
        recipe = {
            "budget": {"kl": 0.1 + number},
            "data": {"pairs": {"path": f"/a/p{number}.jsonl", "sha256": "ab" * 32}},
        }
        metrics = {
            "effect": {"mean": float(number), "low": number - 0.3, "high": number + 0.4, "n": 9},
            "strength": 1.0,
        }
        home.catalog.publish("p", "plan", packed.arrays, packed.header, recipe=recipe, metrics=metrics)
    return home


def test_what_differs_is_told_by_part(home):
    result = diff(home, "p@1", "p@2")
    assert result["recipe"] == [{"key": "budget.kl", "first": 0.1, "second": 1.1}]
    assert result["data"][0]["key"] == "data.pairs" and "p1.jsonl" in result["data"][0]["second"]
    (number,) = result["numbers"]
    assert number["key"] == "effect" and number["change"]["mean"] == 1.0
    assert number["change"]["low"] == pytest.approx(1 - np.hypot(0.3, 0.4)) and result["libraries"] == []


def test_vectors_are_compared_by_angle_and_size_and_subspaces_by_their_principal_angles(home):
    first, second = diff(home, "p@1", "p@2")["sites"]
    assert (first["site"], first["cosine"], first["ratio"]) == ("resid_post.1", pytest.approx(0.6), pytest.approx(5.0))
    assert second["cosine"] == pytest.approx(np.sqrt(0.5)) and second["ratio"] is None, "one of two axes is shared"


def test_the_command_prints_it_and_a_version_does_not_differ_from_itself(home, capsys):
    publish(home)
    assert main(["--home", home.url, "diff", "p@1", "p@2"]) == 0
    text = capsys.readouterr().out
    assert "budget.kl" in text and "0.6" in text and "second minus first" in text
    assert main(["--home", home.url, "diff", "warm.verdict", "warm.verdict"]) == 0
    assert "do not differ" in capsys.readouterr().out
    assert main(["--home", home.url, "diff", "p@1", "warm.verdict", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sites"] == []
