"""Blocks across, heads down: one number per head. And the same for each of several seeds, small, side by side."""

from collections.abc import Mapping, Sequence

from trimtab.tasks.reporting.drawing.html import NO_ATTRIBUTES, Html, el
from trimtab.tasks.reporting.drawing.numbers import number
from trimtab.tasks.reporting.drawing.svg import Frame, drawing, framed, hover, rect, text

HeadPlace = tuple[int, int]  # block, head
MOST = 26.0  # pixels of a cell


def heads(values: Mapping[HeadPlace, float], width: int, what: str, ringed: Sequence[HeadPlace] = ()) -> Html:
    """Full colour is the largest size among the values; the other colour is below 0. ringed: outlined heads."""
    across, down = sorted({b for b, _ in values}), sorted({h for _, h in values})
    cell = min((width - 62) / len(across), MOST)
    frame = framed(width, 34 + cell * len(down) + 46, (34, 10, 46, 52))
    largest = max((abs(x) for x in values.values()), default=0.0) or 1.0
    cells = [
        _cell((frame.left + across.index(b) * cell, frame.top + down.index(h) * cell), cell, (b, h), x, largest)
        for (b, h), x in values.items()
    ]
    rings = [
        rect((frame.left + across.index(b) * cell - 0.5, frame.top + down.index(h) * cell - 0.5), (cell, cell), RING, 3)
        for b, h in ringed
        if (b, h) in values
    ]
    return drawing(frame, f"{what}, by block and head", cells, rings, _labels(frame, across, down, cell))


RING = "cell-ring"


def seeds(grids: Sequence[Mapping[HeadPlace, float]], width: int, what: str) -> Html:
    """One small map a seed, all on the scale from 0 to 1: what is the same in all of them is stable."""
    across = 1 + max(b for b, _ in grids[0])
    down = 1 + max(h for _, h in grids[0])
    each_row = max(1, min(len(grids), int(width // 200)))
    cell = min(8.0, (width / each_row - 16) / across)
    high = down * cell + 26
    rows = -(-len(grids) // each_row)
    frame = framed(width, rows * high + 4, (4, 4, 4, 4))
    drawn = []
    for k, grid in enumerate(grids):
        corner = (8 + (k % each_row) * (width / each_row), (k // each_row) * high + 20)
        drawn.append(text((corner[0], corner[1] - 5), f"seed {k}", "tick"))
        drawn += [_small(corner, cell, place, value) for place, value in grid.items()]
    return drawing(frame, f"{what} of each of {len(grids)} seeds", drawn)


def _small(corner: tuple[float, float], cell: float, place: HeadPlace, value: float) -> Html:
    at = (corner[0] + place[0] * cell, corner[1] + place[1] * cell)
    return el("g", {"opacity": f"{max(value, 0.04):.2f}"}, rect(at, (cell - 0.6, cell - 0.6), "cell for"))


def _cell(corner: tuple[float, float], side: float, place: HeadPlace, value: float, largest: float) -> Html:
    style = "cell for" if value >= 0 else "cell against"
    share = abs(value) / largest
    box = el("g", {"opacity": f"{max(share, 0.03):.2f}"}, rect(corner, (side - 1, side - 1), style, 2))
    return hover(f"z.{place[0]}.{place[1]}\n{number(value, signed=True)}", box)


def _labels(frame: Frame, across: Sequence[int], down: Sequence[int], cell: float) -> Html:
    every = max(1, round(28 / cell))
    columns = [
        text((frame.left + (n + 0.5) * cell, frame.bottom + 15), str(b), "tick mid")
        for n, b in enumerate(across)
        if n % every == 0
    ]
    rows = [text((frame.left - 8, frame.top + (n + 0.5) * cell + 4), str(h), "tick end") for n, h in enumerate(down)]
    names = [text((2, frame.top - 14), "head", "axis"), text((frame.left, frame.bottom + 36), "block", "axis")]
    return el("g", NO_ATTRIBUTES, columns, rows if cell >= 11 else rows[::2], names)
