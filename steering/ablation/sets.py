"""Random sets to compare with: as many units of the same kind in the same blocks, none of them in the set itself."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from trimtab.steering.causal.units import Unit
from trimtab.steering.errors import BadRanking

FEWEST = 19  # below, no rank among random sets can reach p = 0.05


def matched_sets(universe: Sequence[Unit], chosen: Sequence[Unit], count: int, seed: int = 0) -> list[tuple[Unit, ...]]:
    """`count` sets with as many units per block and kind as `chosen`, drawn from the rest of the universe.

    A block whose other units are too few gives all of them, and the nearest blocks the remainder. Raises BadRanking
    when the universe has too few other units, or none to choose between.
    """
    taken = {unit.name for unit in chosen}
    rest = [unit for unit in universe if unit.name not in taken]
    wanted = Counter((unit.kind, unit.block) for unit in chosen)
    for kind in {kind for kind, _ in wanted}:
        need = sum(n for (k, _), n in wanted.items() if k == kind)
        have = sum(unit.kind == kind for unit in rest)
        if have <= need:
            raise BadRanking(
                f"{need} units '{kind}' are to be compared with random sets of as many others, but there are {have}: "
                f"no two such sets would differ enough; test fewer units"
            )
    draw = np.random.default_rng(seed)
    return [_drawn(rest, wanted, draw) for _ in range(count)]


def _drawn(rest: Sequence[Unit], wanted: Counter[tuple[str, int]], draw: np.random.Generator) -> tuple[Unit, ...]:
    left = list(rest)
    found: list[Unit] = []
    for (kind, block), n in sorted(wanted.items()):
        order = draw.permutation(len(left))
        near = sorted((int(i) for i in order if left[i].kind == kind), key=lambda i: abs(left[i].block - block))
        picked = set(near[:n])  # sorting is stable, so units of one block stay shuffled
        found += [left[i] for i in picked]
        left = [unit for i, unit in enumerate(left) if i not in picked]
    return tuple(sorted(found, key=lambda unit: unit.name))
