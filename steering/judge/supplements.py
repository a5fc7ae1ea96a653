"""What a verdict shows beside its contenders: curves, the ablation, answers side by side, tokens against accuracy."""

import math
from collections.abc import Sequence

from trimtab.steering.judge.answering import Examiner
from trimtab.steering.judge.bench import Bench, Judged
from trimtab.steering.judge.direction_ablation import AblationSettings, RequestPairs, ablate, residual_direction
from trimtab.steering.judge.judge_input import JudgeInput
from trimtab.steering.judge.verdict import AblationResult, Answering, CurvePoint, Generation
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.tokens import Role, Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.kl import divergences, steered_from_base
from trimtab.steering.running.progress import Progress
from trimtab.steering.running.writing import Decoding, generate

CURVES = ("plan", "random")  # of each of these kinds, the first contender's curve is drawn


def curve_of(bench: Bench, judged: Sequence[Judged], progress: Progress) -> tuple[CurvePoint, ...]:
    """Effect against KL: strengths by KL ~ strength^2 from the dose, KL as measured there."""
    firsts = [next((j for j in judged if j.contender.kind == kind), None) for kind in CURVES]
    curves = [one for one in firsts if one is not None and one.plan is not None and one.contender.kl > 0]
    targets, points = bench.settings.curve, list[CurvePoint]()
    for number, one in enumerate(curves):
        dosed = one.contender
        points.append(CurvePoint(dosed.name, dosed.strength or 0.0, dosed.kl, dosed.effect.margin))
        for done, target in enumerate(targets):
            progress("curve", number * len(targets) + done, len(curves) * len(targets))
            points += _curve_point(bench, one, target)
    progress("curve", 1, 1)
    return tuple(sorted(points, key=lambda point: (point.contender, point.kl)))


def _curve_point(bench: Bench, one: Judged, target: float) -> list[CurvePoint]:
    """The point near a KL target; none when it is the dose itself, or when the logits are not finite there."""
    factor = math.sqrt(target / one.contender.kl)
    if one.plan is None or abs(target / bench.input.budget - 1) < 0.05:
        return []
    plan = one.plan.scaled(factor)
    kl = bench.calibration.kl(plan)
    if not math.isfinite(kl):
        return []
    margin = bench.effect(bench.some_margins(plan)).margin
    return [CurvePoint(one.contender.name, factor * (one.contender.strength or 0.0), kl, margin)]


def ablation_of(bench: Bench, candidate: SteeringPlan, progress: Progress) -> AblationResult | None:
    """None when no texts request the behaviour, or when no ablation was wanted."""
    judged, how = bench.input, bench.settings.ablation
    if not judged.texts.requesting or how.pairs < 2:
        return None
    progress("ablation", 0, 1)
    requesting, plain = (bench.cut(pairs, how.pairs) for pairs in (judged.texts.requesting, judged.texts.report))
    direction = residual_direction(Anatomy.of(judged.model), candidate, judged.contrast)
    settings = AblationSettings(how.random, bench.settings.seed, bootstrap=bench.settings.bootstrap)
    result = ablate(bench.scorer, direction, RequestPairs(requesting, plain, judged.request), settings)
    progress("ablation", 1, 1)
    return result


def generations_of(bench: Bench, plan: SteeringPlan, progress: Progress) -> tuple[Generation, ...]:
    """Greedy answers to held-out prompts, with and without the plan."""
    progress("generations", 0, 1)
    judged, how = bench.input, bench.settings
    prompts = bench.priced_on.prompts[: how.generations]
    decoding = Decoding(how.generation_tokens, temperature=0.0)
    base, steered = (generate(judged.model, prompts, one, decoding) for one in (None, plan))
    texts = [prompt.followed_by(ids) for prompt, ids in zip(prompts, steered, strict=True)]
    spent = divergences(bench.scorer, texts, steered_from_base(plan))
    progress("generations", 1, 1)
    return tuple(
        Generation(_prompt_words(judged, p), judged.decode(b), judged.decode(s), float(kl.mean()) if len(kl) else 0.0)
        for p, b, s, kl in zip(prompts, base, steered, spent, strict=True)
    )


def answering_of(bench: Bench, plan: SteeringPlan, progress: Progress) -> Answering | None:
    """Tokens against accuracy; None when no questions with right answers were given."""
    judged, how = bench.input, bench.settings
    if not judged.texts.exam:
        return None
    examiner = Examiner(judged.model, judged.decode, how.answering, how.bootstrap)
    return examiner.answering(judged.texts.exam, plan, progress)


def _prompt_words(judged: JudgeInput, prompt: Tokens) -> str:
    """What the user said, without the template around it."""
    said = [int(i) for i, role in zip(prompt.ids, prompt.roles, strict=True) if role in (Role.USER, Role.TEXT)]
    return judged.decode(said or prompt.ids.tolist()).strip()
