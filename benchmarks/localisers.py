r"""What localisers find on the embedded model, how well they agree with activation patching, and what they cost.

    python benchmarks/localisers.py gating recipes/tasks/months.jsonl --save gates.safetensors
    python benchmarks/localisers.py toggle recipes/tasks/months.jsonl --gates gates.safetensors
    python benchmarks/localisers.py agreement recipes/tasks/months.jsonl --save truth.safetensors [--questions 8]
    python benchmarks/localisers.py against recipes/tasks/months.jsonl --truth truth.safetensors \
        --gates gates.safetensors

`gating` fits causal head gating on one half of the questions, `toggle` toggles heads on the other. `agreement` ranks
all heads and MLPs with every method on the same questions, beside the truth (denoising, one forward per unit and
question); times are ratios to one bare forward and backward of those questions, in the same process. `against` compares
what the two have saved, without a model. `cost` times every method on the shelf.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import torch
from ratio import setting, timed

from trimtab.steering import LOCALISERS, Anatomy, Packed, Question, Ranking, load_model
from trimtab.steering.causal.gradients import slopes
from trimtab.steering.causal.question import question_batches
from trimtab.steering.causal.ranking import overlap
from trimtab.steering.errors import BadQuestion
from trimtab.steering.localisers._toggling import EXPECTED, ToggleCurve, toggle_curves
from trimtab.steering.localisers.base import Localiser
from trimtab.steering.localisers.causal_head_gating import ROLES, CausalHeadGating
from trimtab.steering.localisers.relp import RelP
from trimtab.tasks.data.questions import questions_of, read_questions

SIZES = (1, 2, 4, 8, 16, 32, 64)
TOP = 10


def main() -> None:
    args = _arguments()
    if args.what == "against":
        truth, gates = (Ranking.unpack(Packed.load(path)) for path in (args.truth, args.gates))
        print(f"| causal_head_gating, facilitation ({args.task.stem}) | {' | '.join(_agreement(truth, gates))} |")
        return
    torch.set_num_threads(args.threads)
    model, tokenizer = load_model()
    anatomy = Anatomy.of(model)
    questions = questions_of(tokenizer, read_questions(args.task))
    Random(0).shuffle(questions)
    half = len(questions) // 2
    print(setting(args.threads), end="\n\n")
    if args.what == "gating":
        gating(anatomy, questions[:half], args)
    elif args.what == "toggle":
        toggle(anatomy, questions[half : half + args.questions], args)
    elif args.what == "cost":
        cost(anatomy, questions[: args.questions], args)
    else:
        agreement(anatomy, questions[: args.questions], args)


def gating(anatomy: Anatomy, train: Sequence[Question], args: argparse.Namespace) -> None:
    """Fit and count roles."""
    method = CausalHeadGating(seeds=args.seeds, steps=args.steps, questions_per_step=args.each)
    found: list[Ranking] = []
    spent = timed(lambda: found.append(method.rank(anatomy, train)))
    bare = min(timed(lambda: _bare(anatomy, train)).cpu for _ in range(2))
    ranking = found[0]
    ranking.pack().save(args.save)
    print(
        f"**{args.task.stem}: roles of {len(ranking.units)} heads** ({method.seeds} seeds, {method.steps} updates a "
        f"stage, {method.questions_per_step} of {len(train)} questions each; {spent.wall:.0f} s wall, "
        f"{spent.cpu:.0f} s CPU, {spent.cpu / bare:.0f} times a bare forward and backward of all {len(train)})\n"
    )
    print_roles(ranking)


def toggle(anatomy: Anatomy, held: Sequence[Question], args: argparse.Namespace) -> None:
    """Heads off and on inside the saved gates, on questions that the fit never saw."""
    ranking = Ranking.unpack(Packed.load(args.gates))
    spent = timed(lambda: print_curves(toggle_curves(anatomy, ranking, held, SIZES)))
    print(f"\n{args.task.stem}: off minus on, nats per token, {len(held)} held-out questions, 95% interval over them; "
          f"{spent.cpu:.0f} s CPU")  # fmt: skip


def print_roles(ranking: Ranking) -> None:
    """How many heads have each role, and whether seeds agree; then where the fits ended."""
    print("| role | heads by majority | in every seed | in any seed |\n|---|---|---|---|")
    for role, row in zip(ROLES, ranking.extra["frequency"], strict=True):
        print(f"| {role} | {(ranking.labels or ()).count(role)} | {(row == 1).sum()} | {(row > 0).sum()} |")
    ends = [[round(float(x), 2) for x in stage[-10:].mean(0)] for stage in ranking.extra["nll"]]
    fitted = int(ranking.extra["fitted"].sum())
    print(
        f"\n{fitted} of {len(ranking.extra['fitted'])} seeds fitted; nll of the model itself "
        f"{ranking.extra['open_nll']:.2f}, of the last updates by seed: lambda 0 {ends[0]}, + {ends[1]}, - {ends[2]}"
    )


def print_curves(curves: Sequence[ToggleCurve]) -> None:
    """One row per role, one column per number of heads."""
    print(f"| heads toggled | {' | '.join(map(str, SIZES))} | hold the role, by seed |")
    print("|---" * (len(SIZES) + 2) + "|")
    for curve in curves:
        low, high = curve.interval
        cells = [f"{m:+.2f} [{a:+.2f}, {b:+.2f}]" for m, a, b in zip(curve.mean, low, high, strict=True)]
        print(f"| {curve.score} (expected {EXPECTED[curve.score]}) | {' | '.join(cells)} | {curve.counts.tolist()} |")


def agreement(anatomy: Anatomy, questions: Sequence[Question], args: argparse.Namespace) -> None:
    """Every method against denoising, over heads and over MLPs, with its time over a bare forward and backward."""
    bare = min((timed(lambda: _bare(anatomy, questions)) for _ in range(3)), key=lambda s: s.cpu)
    rows, times = _ranked(anatomy, questions, args.indirect)
    truth = rows.pop("activation_patching")
    truth.pack().save(args.save)
    print(
        f"**{args.task.stem}: agreement with denoising** ({len(questions)} questions, "
        f"{sum(q.length for q in questions)} tokens; mean metric clean {truth.extra['clean'].mean():.2f}, corrupted "
        f"{truth.extra['corrupted'].mean():.2f}; bare: {bare.wall:.2f} s wall, {bare.cpu:.2f} s CPU)\n"
    )
    print(f"| method | r heads | r heads, sizes | top {TOP} of heads | r MLPs | top 5 of MLPs | CPU over bare |")
    print("|---" * 7 + "|")
    print(f"| activation_patching | 1 | 1 | 1 | 1 | 1 | {times['activation_patching'] / bare.cpu:.0f} |")
    for name, ranking in rows.items():
        cost = f"{times[name] / bare.cpu:.1f}" if name in times else "as above"
        print(f"| {name} | {' | '.join(_agreement(truth, ranking))} | {cost} |")
    print("\ntop heads by denoising:", ", ".join(f"{u} {truth.value(u):+.2f}" for u in truth.top(TOP)))


def cost(anatomy: Anatomy, questions: Sequence[Question], args: argparse.Namespace) -> None:
    """Every method on the shelf but head gating (see `gating`), its time over a bare forward and backward."""
    bare = min((timed(lambda: _bare(anatomy, questions)) for _ in range(3)), key=lambda s: s.cpu)
    print(
        f"**{args.task.stem}: cost over a bare forward and backward** ({len(questions)} questions, "
        f"{sum(q.length for q in questions)} tokens; bare: {bare.wall:.2f} s wall, {bare.cpu:.2f} s CPU)\n"
    )
    print("| method | units | CPU s | over bare |\n|---|---|---|---|")
    for name in LOCALISERS:
        method, found = LOCALISERS[name](), list[Ranking]()
        if isinstance(method, CausalHeadGating):
            continue
        try:
            spent = timed(lambda found=found, method=method: found.append(method.rank(anatomy, questions))).cpu
        except BadQuestion as error:
            print(f"| {name} | – | – | {str(error).split(';')[0]} |")
        else:
            print(f"| {name} | {len(found[0].units)} | {spent:.1f} | {spent / bare.cpu:.1f} |", flush=True)


def _ranked(
    anatomy: Anatomy, questions: Sequence[Question], indirect: bool
) -> tuple[dict[str, Ranking], dict[str, float]]:
    methods: dict[str, Localiser] = {
        name: LOCALISERS[name]()
        for name in ("activation_patching", "attribution_patching", "atp_star", "relp", "direct_logit")
    }
    if indirect:
        methods["indirect_effect"] = LOCALISERS["indirect_effect"]()
    methods["relp, attention rule too"] = RelP(("norm", "activation", "half", "attention"))
    found: dict[str, Ranking] = {}
    spent: dict[str, float] = {}
    for name, method in methods.items():
        spent[name] = timed(lambda name=name, method=method: found.update({name: method.rank(anatomy, questions)})).cpu
    signed = found["atp_star"]
    found["atp_star (signed mean)"] = Ranking("atp_star", "signed", signed.units, signed.extra["signed"])
    return found, spent


def _agreement(truth: Ranking, other: Ranking) -> list[str]:
    """Pearson over heads (signed, and of sizes), top-k recall; the same over MLPs where they are ranked."""
    cells = []
    for point, k in (("z", TOP), ("mlp_out", 5)):
        want, got = truth.only(point), other.only(point)
        if not got.units:
            cells += ["–", "–"]
            continue
        cells.append(f"{np.corrcoef(want.values, got.values)[0, 1]:.2f}")
        if point == "z":
            cells.append(f"{np.corrcoef(np.abs(want.values), np.abs(got.values))[0, 1]:.2f}")
        cells.append(f"{overlap(want.top(k, point, True), got.top(k, point, True)):.1f}")
    return cells


def _bare(anatomy: Anatomy, questions: Sequence[Question]) -> None:
    device = anatomy.device
    for batch in question_batches(questions, device):
        slopes(anatomy, batch, anatomy.sites(["z"], [0]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="localisers on the embedded model")
    parser.add_argument("what", choices=("gating", "toggle", "agreement", "against", "cost"))
    parser.add_argument("task", type=Path, help="questions, JSONL")
    parser.add_argument("--questions", type=int, default=8, help="questions ranked on, or toggled on (8)")
    parser.add_argument("--seeds", type=int, default=4, help="gating: seeds (4)")
    parser.add_argument("--steps", type=int, default=60, help="gating: updates of each stage (60)")
    parser.add_argument("--each", type=int, default=6, help="gating: questions of a seed's update (6)")
    parser.add_argument("--save", type=Path, default=Path("ranking.safetensors"), help="where the ranking goes")
    parser.add_argument("--gates", type=Path, help="against: a ranking that gating saved")
    parser.add_argument("--truth", type=Path, help="against: a ranking that agreement saved")
    parser.add_argument("--indirect", action="store_true", help="agreement: indirect effects too, as slow as the truth")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (1: threads that wait for a core spin)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
