"""A lineage as a drawn graph: sources on the left, what was made from them to the right."""

from collections import defaultdict

from trimtab.store.catalog.lineage import LineageNode
from trimtab.tasks.reporting.drawing.html import Html, el
from trimtab.tasks.reporting.drawing.numbers import shorten
from trimtab.tasks.reporting.drawing.svg import WIDE, Frame, drawing, hover, line, rect, text

BOX, ROW, GAP, MARGIN = 34.0, 50.0, 26.0, 8.0
LETTER = 8.0  # pixels of one letter in a box, on average and rounded up


def draw(root: LineageNode, width: int = WIDE) -> Html:
    """Every node once, in the column of its longest way to the version itself."""
    columns = _columns(root)
    boxes = _boxes(columns, width)
    height = 2 * MARGIN + ROW * max(map(len, columns)) - (ROW - BOX)
    frame = Frame(width, height, 0, width, 0, height)
    links = [_link(boxes[child.ref], boxes[node.ref]) for node in _nodes(root) for child in node.children]
    nodes = [_box(node, boxes[node.ref], node is root) for column in columns for node in column]
    return drawing(frame, f"What {root.ref} was made from", links, nodes)


def _nodes(root: LineageNode) -> list[LineageNode]:
    return list({node.ref: node for _, node in root.walk()}.values())


def _columns(root: LineageNode) -> list[list[LineageNode]]:
    """Nodes by column, the sources first."""
    depths: dict[str, int] = {}
    for depth, node in root.walk():
        depths[node.ref] = max(depth, depths.get(node.ref, 0))
    columns: dict[int, list[LineageNode]] = defaultdict(list)
    for node in _nodes(root):
        columns[depths[node.ref]].append(node)
    return [columns[depth] for depth in sorted(columns, reverse=True)]


def _boxes(columns: list[list[LineageNode]], width: int) -> dict[str, tuple[float, float, float]]:
    """ref -> left, top and width of its box."""
    room = (width - 2 * MARGIN - GAP * (len(columns) - 1)) / len(columns)
    tallest = max(map(len, columns))
    return {
        node.ref: (MARGIN + n * (room + GAP), MARGIN + ROW * (row + (tallest - len(column)) / 2), room)
        for n, column in enumerate(columns)
        for row, node in enumerate(column)
    }


def _link(child: tuple[float, float, float], node: tuple[float, float, float]) -> Html:
    middle = BOX / 2
    return line((child[0] + child[2], child[1] + middle), (node[0], node[1] + middle), "zero")


def _box(node: LineageNode, place: tuple[float, float, float], last: bool) -> Html:
    left, top, width = place
    words = shorten(node.ref, max(6, int((width - 16) / LETTER)))
    tip = f"{node.ref}, {node.kind}, {node.digest[:12]} {node.note}".rstrip()
    shape = rect((left, top), (width, BOX), "plan-band" if last else "box", 6)
    label = text((left + 8, top + 21), words, "strong" if last else "name")
    return hover(tip, shape, el("g", {}, label))
