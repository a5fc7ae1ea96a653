"""What a verdict shows beside its contenders: curves, the ablation, answers side by side, tokens against accuracy."""

import math
from collections.abc import Sequence

from trimtab.steering.judge.answering import Examiner
from trimtab.steering.judge.bench import Bench
from trimtab.steering.judge.direction_ablation import AblationSettings, RequestPairs, ablate, residual_direction
from trimtab.steering.judge.judge_input import JudgeInput
from trimtab.steering.judge.judged import Judged
from trimtab.steering.judge.verdict import AblationResult, Answering, CurvePoint, Generation
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.tokens import Role, Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.kl import divergences, steered_from_base
from trimtab.steering.price.rollouts import generate_together
from trimtab.steering.running.progress import Progress
from trimtab.steering.running.writing import Decoding

CURVES = ("plan", "random")  # of each of these kinds, the first contender's curve is drawn


def curve_of(bench: Bench, judged: Sequence[Judged], progress: Progress) -> tuple[CurvePoint, ...]:
    """Effect against KL: strengths by KL ~ strength^2 from the dose, KL as measured there."""
    firsts = [next((j for j in judged if j.contender.kind == kind), None) for kind in CURVES]
    curves = [one for one in firsts if one is not None and one.plan is not None and one.contender.kl > 0]
    points = [_dosed_point(one) for one in curves]
    progress("curve", 0, 1)
    scaled = [(one, factor) for one in curves for factor in _factors(bench, one)]
    plans = [one.plan.scaled(factor) for one, factor in scaled if one.plan is not None]
    spent = bench.calibration.kls(plans)  # written side by side
    for done, ((one, factor), plan, kl) in enumerate(zip(scaled, plans, spent, strict=True)):
        progress("curve", done, len(plans))
        if math.isfinite(kl):
            margin = bench.effect(bench.some_margins(plan)).margin
            points.append(CurvePoint(one.contender.name, factor * (one.contender.strength or 0.0), kl, margin))
    progress("curve", 1, 1)
    return tuple(sorted(points, key=lambda point: (point.contender, point.kl)))


def _dosed_point(one: Judged) -> CurvePoint:
    dosed = one.contender
    return CurvePoint(dosed.name, dosed.strength or 0.0, dosed.kl, dosed.effect.margin)


def _factors(bench: Bench, one: Judged) -> list[float]:
    """Of the dosed strength, for the KL targets that are not the dose's own."""
    others = [target for target in bench.settings.curve if abs(target / bench.input.budget - 1) >= 0.05]
    return [math.sqrt(target / one.contender.kl) for target in others]


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
    base, steered = generate_together(bench.scorer, [None, plan], prompts, decoding)
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
