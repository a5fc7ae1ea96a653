"""SNMF features measured: what they rebuild, whether they come back, what they detect, what they steer, what they cost.

    python benchmarks/snmf.py rebuild|speed|concepts|steer --home DIR [--site mlp_post.15]
    python benchmarks/snmf.py memory [--rows 1000000] [--rank 256]

Each prints one table. Rows are the activations of recipes/features.yaml (its capture is made in DIR when it is not
there). Concepts are chosen on the fit and select splits and reported on the report split.
"""

import argparse
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import snmf_directions as directions
import torch
from ratio import setting
from sklearn.decomposition import NMF, MiniBatchDictionaryLearning
from torch import Tensor

from trimtab.steering.features.detection import detect, sentence_scores
from trimtab.steering.features.matching import matched_cosines
from trimtab.steering.features.snmf import SNMF, explained_variance, fit_snmf, transform
from trimtab.steering.features.streaming import fit_streaming
from trimtab.steering.judge.effect import Margins
from trimtab.steering.model.tokens import PromptFormat, tokenize
from trimtab.steering.price.calibration import Calibration
from trimtab.steering.price.dose import Dosing, dose_on
from trimtab.steering.price.result import Dose
from trimtab.steering.running.answer_pair import AnswerPair
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.running.writing import Decoding, generate
from trimtab.steering.statistics import Interval
from trimtab.store import ActivationStore
from trimtab.tasks.collecting.capture import capture_recipe
from trimtab.tasks.data.examples import Example
from trimtab.tasks.data.sentences import sentences_of
from trimtab.tasks.features.rows import rows_in
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.recipes.kinds import load_recipe

RECIPE = Path(__file__).parents[1] / "recipes" / "features.yaml"
CHOSEN = ("fit", "select")
OURS = SNMF(rank=100, sparsity=0.01, start="kmeans", max_iterations=80)
PAPER = replace(OURS, start="random", inner=1, refit=0)
PROMPTS = ("I think that", "Yesterday we talked about", "The next chapter begins with", "He opened the book and read:")


@dataclass(frozen=True, eq=False)
class Bench:
    """rows: `[n d]` of all sentences in order. offsets: of each sentence. sentences: what they are."""

    recipe: object
    rows: Tensor
    offsets: np.ndarray
    sentences: Sequence[Example]

    def split(self, *names: str) -> Tensor:
        """Rows of the sentences of these splits."""
        inside = np.array([s.split in names for s in self.sentences])
        return self.rows[torch.from_numpy(np.repeat(inside, np.diff(self.offsets)))]

    def of(self, concept: str) -> tuple[Tensor, Tensor]:
        """Rows to choose on: of a concept, and of the rest."""
        chosen = np.array([s.split in CHOSEN for s in self.sentences])
        inside = np.array([s.concept == concept for s in self.sentences])
        per_row = [torch.from_numpy(np.repeat(mask, np.diff(self.offsets))) for mask in (chosen, inside)]
        return self.rows[per_row[0] & per_row[1]], self.rows[per_row[0] & ~per_row[1]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("rebuild", "speed", "concepts", "steer", "memory"))
    parser.add_argument("--home")
    parser.add_argument("--site", default="mlp_post.15")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rank", type=int, default=256)
    parser.add_argument("--ranks", type=int, nargs="+", default=[25, 100, 200])
    parser.add_argument("--methods", default="", help="of rebuild: those with this in their name")
    parser.add_argument("--concepts", nargs="+", default=["months", "food", "music"])
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.25, 0.05])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(setting(args.threads), end="\n\n", flush=True)
    if args.table == "memory":
        return memory(args.rows, args.rank)
    bench = opened(args.home, args.site)
    if args.table == "steer":
        return steer(bench, args.concepts, args.budgets)
    if args.table == "rebuild":
        return rebuild(bench, args.ranks, args.methods)
    {"speed": speed, "concepts": concepts}[args.table](bench)


def opened(home: str, site: str) -> Bench:
    recipe = load_recipe(RECIPE, [f"features.site={site}"])
    store = ActivationStore.open(capture_recipe(recipe, Home.at(home)).url)
    rows = rows_in(store, site, ["fit", "select", "report"])
    offsets = np.concatenate([[0], np.cumsum(np.diff(store.index.offsets))])
    print(f"{len(rows)} rows of width {rows.shape[1]} at {site}, {store.n_prompts} sentences\n", flush=True)
    return Bench(recipe, rows, offsets, sentences_of(recipe.data))


def line(*cells: object) -> None:
    print("| " + " | ".join(f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells) + " |", flush=True)


def head(*cells: str) -> None:
    line(*cells)
    line(*["---"] * len(cells))


# ---- rebuild


def rebuild(bench: Bench, ranks: Sequence[int], wanted: str = "") -> None:
    """Explained variance about the mean, fitted and held out, and matched cosine between two seeds."""
    rows, held = bench.split(*CHOSEN), bench.split("report")
    head(
        "K",
        "method",
        "explained",
        "held out",
        "stability (2 seeds)",
        "median share of tokens above 10% of peak",
        "CPU s",
    )
    plan = [(rank, name) for rank in ranks for name in methods(rank) if wanted in name]
    plan = sorted(plan, key=lambda entry: entry[1].startswith("sklearn"))  # the slow ones last
    for rank, name in plan:
        if not (name.startswith("sklearn") and rank > 100):
            fit = methods(rank)[name]
            start = time.process_time()
            found = [fit(rows, held, seed) for seed in (range(1) if "SVD" in name else range(2))]
            seconds = (time.process_time() - start) / len(found)
            same = [matched_cosines(a.features, b.features)[1].mean() for a, b in combinations(found, 2)]
            first = found[0]
            stable = f"{np.mean(same):.3f}" if same else "1 (no seed)"
            line(rank, name, first.explained, first.held_out, stable, first.firing, f"{seconds:.1f}")


@dataclass(frozen=True, eq=False)
class Rebuilt:
    """features `[d k]`; explained variance of the rows and of held-out rows; firing: median over features."""

    features: Tensor
    explained: float
    held_out: float
    firing: float


def methods(rank: int) -> dict[str, Callable[[Tensor, Tensor, int], Rebuilt]]:
    def snmf(settings: SNMF) -> Callable[[Tensor, Tensor, int], Rebuilt]:
        return lambda rows, held, seed: by_snmf(rows, held, replace(settings, rank=rank, seed=seed))

    return {
        "SNMF, 1% kept": snmf(OURS),
        "SNMF, 1% kept, random start": snmf(replace(OURS, start="random")),
        "SNMF, 1% kept, published updates": snmf(PAPER),
        "SNMF, 5% kept": snmf(replace(OURS, sparsity=0.05)),
        "SNMF, all kept": snmf(replace(OURS, sparsity=None)),
        "truncated SVD": lambda rows, held, seed: by_svd(rows, held, rank),
        "sklearn NMF of [x+, x-]": lambda rows, held, seed: by_nmf(rows, held, rank, seed),
        "sklearn dictionary learning": lambda rows, held, seed: by_dictionary(rows, held, rank, seed),
    }


def by_snmf(rows: Tensor, held: Tensor, settings: SNMF) -> Rebuilt:
    found = fit_snmf(rows, settings)
    out = explained_variance(held, found.features, transform(held, found.features))
    return Rebuilt(found.features, found.report.explained, out, firing(found.activations))


def by_svd(rows: Tensor, held: Tensor, rank: int) -> Rebuilt:
    axes = torch.linalg.svd(rows, full_matrices=False)[2][:rank].T.contiguous()
    return Rebuilt(axes, explained_variance(rows, axes, rows @ axes), explained_variance(held, axes, held @ axes), 1.0)


def by_nmf(rows: Tensor, held: Tensor, rank: int, seed: int) -> Rebuilt:
    """NMF needs nonnegative data, so a row becomes its positive and its negative part, and the difference is taken."""
    d, fit = rows.shape[1], NMF(rank, init="random", random_state=seed, max_iter=100, tol=1e-4)
    g = torch.from_numpy(fit.fit_transform(parted(rows))).float()
    features = torch.from_numpy(fit.components_[:, :d] - fit.components_[:, d:]).float().T.contiguous()
    new = torch.from_numpy(fit.transform(parted(held))).float()
    explained = [explained_variance(x, features, y) for x, y in ((rows, g), (held, new))]
    return Rebuilt(features, *explained, firing(g))


def parted(rows: Tensor) -> np.ndarray:
    return torch.cat([rows.clamp_min(0), (-rows).clamp_min(0)], 1).numpy()


def by_dictionary(rows: Tensor, held: Tensor, rank: int, seed: int) -> Rebuilt:
    """Signed sparse codes of 10 atoms a row (OMP); atoms are dense."""
    options = {"transform_algorithm": "omp", "transform_n_nonzero_coefs": 10}
    fit = MiniBatchDictionaryLearning(rank, max_iter=2, batch_size=256, random_state=seed, **options).fit(rows.numpy())
    features = torch.from_numpy(fit.components_).float().T.contiguous()
    codes = [torch.from_numpy(fit.transform(x.numpy())).float() for x in (rows, held)]
    explained = [explained_variance(x, features, c) for x, c in zip((rows, held), codes, strict=True)]
    return Rebuilt(features, *explained, firing(codes[0].abs()))


def firing(activations: Tensor) -> float:
    return float((activations > 0.1 * activations.amax(0)).float().mean(0).median())


# ---- speed


def speed(bench: Bench, iterations: int = 60, rounds: int = 2) -> None:
    """The published loop in plain PyTorch against ours from the same random start, to the loss it ends at."""
    rows, rank = bench.rows, 100
    head("case", "CPU ms an iteration", "iterations to the published best loss", "CPU s to it", "ratio", "best loss")
    cases: dict[str, list[tuple[float, int, float, float]]] = {}
    for _ in range(rounds):
        marks = published(rows, rank, iterations)
        goal = min(loss for _, loss in marks)
        runs = {"published loop": marks, "ours, its updates": timed(rows, replace(PAPER, rank=rank), iterations)}
        runs["ours, inner 4"] = timed(rows, replace(PAPER, rank=rank, inner=4), iterations)
        runs["ours, inner 4, refit 1"] = timed(rows, replace(PAPER, rank=rank, inner=4, refit=1), iterations)
        for name, points in runs.items():
            at = next((i for i, (_, loss) in enumerate(points) if loss <= goal * (1 + 1e-4)), None)
            until = points[at][0] if at is not None else float("inf")
            entry = (1e3 * points[-1][0] / len(points), -1 if at is None else at + 1, until, min(p[1] for p in points))
            cases.setdefault(name, []).append(entry)
    base = np.median([entry[2] for entry in cases["published loop"]])
    for name, found in cases.items():
        per, at, until, best = (float(np.median(column)) for column in zip(*found, strict=True))
        line(name, f"{per:.1f}", f"{at:.0f}", f"{until:.2f}", f"{until / base:.2f}", f"{best:.4f}")


def published(rows: Tensor, rank: int, iterations: int) -> list[tuple[float, float]]:
    """(seconds, loss / |X|^2) after every iteration: float32, full batch, one array for the whole residual."""
    a, keep, total = rows.T.contiguous(), int(np.ceil(0.01 * rows.shape[1])), float(rows.square().sum())
    g = torch.from_numpy(np.random.default_rng(0).random((len(rows), rank), dtype=np.float32))
    marks, best, start = [], float("inf"), time.process_time()
    for _ in range(iterations):
        f = a @ g @ torch.linalg.inv(g.T @ g + 1e-6 * torch.eye(rank))
        least = f.abs().topk(keep, dim=0).values[-1]
        f = torch.where(f.abs() >= least, f, 0.0)
        lengths = g.norm(dim=0)
        g, f = g / lengths, f * lengths
        p, q = a.T @ f, f.T @ f
        above = (p.abs() + p) / 2 + g @ ((q.abs() - q) / 2)
        below = (p.abs() - p) / 2 + g @ ((q.abs() + q) / 2)
        g = g * torch.sqrt(above / (below + 1e-6))
        loss = float((a - f @ g.T).square().sum()) / total
        if loss < best:
            best, _ = loss, (f.clone(), g.clone())
        marks.append((time.process_time() - start, loss))
    return marks


def timed(rows: Tensor, settings: SNMF, iterations: int) -> list[tuple[float, float]]:
    times: list[float] = []
    asked = replace(settings, max_iterations=iterations, patience=iterations)
    start = time.process_time()
    found = fit_snmf(rows, asked, lambda i, n, e: times.append(time.process_time() - start))
    return list(zip(times, found.report.losses, strict=True))


# ---- memory


def memory(rows: int, rank: int, width: int = 1536, iterations: int = 2) -> None:
    """Out of core on rows that lie in a file (random signed float16, read as float32)."""
    with TemporaryDirectory() as folder:
        source = _Stored(Path(folder) / "rows", rows, width)
        before, marks = anonymous(), [time.perf_counter()]
        settings = SNMF(rank=rank, sparsity=0.01, max_iterations=iterations, inner=4)
        fit_streaming(source, settings, lambda i, n, e: marks.append(time.perf_counter()))
        head(
            "rows", "width", "K", "rows as float32, GiB", "peak resident, GiB", "before the fit, GiB", "s an iteration"
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        line(rows, width, rank, 4 * rows * width / 2**30, peak, before, float(np.diff(marks)[-1]))


class _Stored:
    """Blocks of a float16 file; written once."""

    def __init__(self, path: Path, rows: int, width: int, block: int = 8192):
        self.path, self.shape, self.block = path, (rows, width), block
        draw = np.random.default_rng(0)
        with path.open("wb") as file:
            for start in range(0, rows, block):
                some = draw.standard_normal((min(block, rows - start), width), dtype=np.float32)
                file.write(some.astype(np.float16).tobytes())

    def __iter__(self) -> Iterator[np.ndarray]:
        with self.path.open("rb") as file:
            for start in range(0, self.shape[0], self.block):
                count = min(self.block, self.shape[0] - start)
                read = np.frombuffer(file.read(2 * count * self.shape[1]), np.float16)
                yield read.reshape(count, -1).astype(np.float32)


def anonymous() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 2**20


# ---- concepts


def concepts(bench: Bench) -> None:
    """Held-out AUROC of the best feature per concept, chosen on other sentences; nulls with shuffled labels."""
    held = np.array([s.split == "report" for s in bench.sentences])
    names = [s.concept for s in bench.sentences]
    sets = directions.candidates(bench.split(*CHOSEN), OURS)
    found = {}
    for name, features in sets.items():
        scores = sentence_scores(bench.rows, bench.offsets, features)
        found[name] = {d.concept: d for d in detect(scores, names, held, nulls=20)}
    found["mean difference (one per concept)"] = supervised(bench, names, held)
    head("concept", "sentences (concept / rest)", *found)
    for concept in sorted(set(names)):
        cells = [f"{d[concept].auroc:.2f} [{d[concept].low:.2f}, {d[concept].high:.2f}]" for d in found.values()]
        some = next(iter(found.values()))[concept]
        line(concept, f"{some.n[0]} / {some.n[1]}", *cells)
    line("**mean**", "", *(f"**{np.mean([x.auroc for x in d.values()]):.3f}**" for d in found.values()))
    line("shuffled labels", "", *(f"{np.mean([x.null for x in d.values()]):.3f}" for d in found.values()))
    line("beat the 95th percentile of their null", "", *(sum(x.beats_null for x in d.values()) for d in found.values()))


def supervised(bench: Bench, names: list[str], held: np.ndarray) -> dict:
    out = {}
    for concept in sorted(set(names)):
        high, low = bench.of(concept)
        scores = sentence_scores(bench.rows, bench.offsets, (high.mean(0) - low.mean(0))[:, None])
        against = [concept if name == concept else "(rest)" for name in names]
        out[concept] = next(d for d in detect(scores, against, held, nulls=20) if d.concept == concept)
    return out


# ---- steer


def steer(bench: Bench, wanted: Sequence[str], budgets: Sequence[float]) -> None:
    """Each direction at the same site, dosed to the same KL on sampled rollouts, both signs apart. Effect: change of
    log p(held-out sentence of the concept) - log p(one of another concept), nats per token, after neutral prompts."""
    model, tokenizer = model_of(bench.recipe.model)  # type: ignore[attr-defined]
    form, scorer = PromptFormat(chat=False), Scorer(model)
    prompts = [tokenize(tokenizer, p, form=form) for p in PROMPTS]
    calibration = Calibration(scorer, prompts * 2, Decoding(12, 1.0, 0))
    sets = directions.candidates(bench.split(*CHOSEN), OURS)
    head("concept", "direction", "sign", "KL asked", "KL got", "strength", "margin change [95%]", "pairs", "sample")
    measured = {c: Margins(scorer, pairs_of(bench, tokenizer, c)) for c in wanted}
    for budget, concept in product(budgets, wanted):
        margins = measured[concept]
        for name, vector in directions.chosen(sets, bench, concept).items():
            plan = directions.plan(bench.recipe.site, vector)  # type: ignore[attr-defined]
            for sign in (1, -1):
                dosed, dose = dose_on(calibration, plan, budget, Dosing(tolerance=0.2, sign=sign, cap=8))
                text = generate(model, [prompts[1]], dosed, Decoding(14, 0.0, 0))[0]
                shown = " ".join(str(tokenizer.decode(text)).replace("|", "/").split())
                effect = margins.effect(margins.of(dosed)).margin
                line(concept, name, *cells(sign, dose, effect), len(margins.pairs), shown)


def cells(sign: int, dose: Dose, effect: Interval) -> tuple[str, ...]:
    """What one dose cost and did."""
    got = f"{dose.achieved:.3f}" + ("" if dose.reachable else " (unreachable)")
    interval = f"{effect.mean:+.3f} [{effect.low:+.3f}, {effect.high:+.3f}]"
    return (f"{sign:+d}", f"{dose.asked:g}", got, f"{dose.strength:.3g}", interval)


def pairs_of(bench: Bench, tokenizer, concept: str, count: int = 16) -> list[AnswerPair]:
    """Held-out sentences of the concept against held-out sentences of others, after the neutral prompts in turn."""
    held = [s for s in bench.sentences if s.split == "report"]
    inside, outside = [s for s in held if s.concept == concept], [s for s in held if s.concept != concept]
    draw, form = np.random.default_rng(0), PromptFormat(chat=False)
    found = []
    for k in range(count):
        prompt, other = PROMPTS[k % len(PROMPTS)], outside[int(draw.integers(len(outside)))]
        texts = [tokenize(tokenizer, prompt, str(s.prompt), form) for s in (inside[k % len(inside)], other)]
        found.append(AnswerPair(*texts))
    return found


if __name__ == "__main__":
    main()
