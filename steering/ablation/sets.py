"""Random sets to compare with: as many units of the same kind in the same blocks, none of them in the set itself."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from trimtab.steering.causal.units import Unit
from trimtab.steering.errors import BadRanking

FEWEST = 19  # below, no rank among random sets can reach p = 0.05


def matched_sets(universe: Sequence[Unit], units: Sequence[Unit], count: int, seed: int = 0) -> list[tuple[Unit, ...]]:
    """`count` random sets with as many units per block and kind as `units`, drawn from the rest of the universe.

    When a block has too few other units, all of them are used and the rest is drawn from the nearest blocks. Raises
    BadRanking when the universe has no more other units of a kind than a set needs, since all random sets would be the
    same.
    """
    names = {unit.name for unit in units}
    rest = [unit for unit in universe if unit.name not in names]
    per_block = Counter((unit.kind, unit.block) for unit in units)
    for kind in {kind for kind, _ in per_block}:
        need = sum(n for (k, _), n in per_block.items() if k == kind)
        have = sum(unit.kind == kind for unit in rest)
        if have <= need:
            raise BadRanking(
                f"{need} units '{kind}' are to be compared with random sets of as many others, but there are {have}: "
                f"no two such sets would differ enough; test fewer units"
            )
    draw = np.random.default_rng(seed)
    return [_drawn(rest, per_block, draw) for _ in range(count)]


def _drawn(rest: Sequence[Unit], per_block: Counter[tuple[str, int]], draw: np.random.Generator) -> tuple[Unit, ...]:
    pool = list(rest)
    units: list[Unit] = []
    for (kind, block), n in sorted(per_block.items()):
        order = draw.permutation(len(pool))
        near = sorted((int(i) for i in order if pool[i].kind == kind), key=lambda i: abs(pool[i].block - block))
        picked = set(near[:n])  # sorting is stable, so units of one block stay shuffled
        units += [pool[i] for i in picked]
        pool = [unit for i, unit in enumerate(pool) if i not in picked]
    return tuple(sorted(units, key=lambda unit: unit.name))
