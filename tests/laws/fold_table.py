"""What folds where: for each family and site, whether a map and a constant fold into a checkpoint, in memory alone, or
not at all. docs/benchmarks/folding.md holds the table between two marks; `make fold-table` writes it anew."""

from pathlib import Path

from trimtab.steering.errors import CannotFold
from trimtab.steering.plans.fold import fold
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan

DOC = Path(__file__).parents[2] / "docs" / "benchmarks" / "folding.md"
BEGIN, END = "<!-- table: written by `make fold-table` -->\n", "<!-- end of the table -->\n"
POINTS = ("z", "mlp_post", "attn_out", "mlp_out", "resid_mid", "resid_post")
FILE, MEMORY, REFUSED = "file", "memory", "refused"
WORDS = {
    (FILE, FILE): "yes",
    (FILE, MEMORY): "maps; constants in memory",
    (FILE, REFUSED): "maps",
    (REFUSED, FILE): "constants",
    (REFUSED, MEMORY): "constants in memory",
    (MEMORY, MEMORY): "in memory",
    (REFUSED, REFUSED): "no",
}


def outcome(model, step: Intervention) -> str:
    """Where a fold of one intervention can live."""
    plan = SteeringPlan((step,))
    try:
        fold(plan, model)
        return FILE
    except CannotFold:
        pass
    try:
        fold(plan, model, in_memory=True)
        return MEMORY
    except CannotFold:
        return REFUSED


def outcomes(model, bench) -> dict[str, tuple[str, str]]:
    """point -> (outcome of an affine map without a constant, outcome of a constant), in the middle block."""
    sites = {site.point: site for site in bench.sites(model) if site.head is None and site.point in POINTS}
    return {
        point: tuple(outcome(model, bench.step(model, site, move, strength=0.4)) for move in ("scale", "add"))
        for point, site in sites.items()
    }


def row(name: str, model, bench) -> str:
    """The table's line of one family."""
    cells = outcomes(model, bench)
    words = [WORDS[cells[point]] if point in cells else "–" for point in POINTS]
    return f"| {name} | {' | '.join(words)} |"


def stated(name: str) -> str:
    """The line that the page has for a family; empty when it has none."""
    lines = DOC.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].splitlines()
    return next((line for line in lines if line.startswith(f"| {name} |")), "")


def write(rows: list[str]) -> None:
    """Put the rows into the page."""
    before, _, rest = DOC.read_text(encoding="utf-8").partition(BEGIN)
    table = [f"| family | {' | '.join(POINTS)} |", "|---" * (len(POINTS) + 1) + "|", *rows]
    lines = "\n".join(table)
    DOC.write_text(f"{before}{BEGIN}\n{lines}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
