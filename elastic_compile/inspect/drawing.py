"""A program as a picture: blocks in layers, what each runs, how often and for how long.

In: a program, and what was measured where that is known. Out: an SVG or PNG file.
Never: needs a graphviz binary or a display.

Layers and order follow Sugiyama, Tagawa, Toda, "Methods for Visual Understanding of Hierarchical System
Structures" (1981), as grandalf implements it; edges that close a loop run up the right-hand side.
"""
from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import networkx as nx
from grandalf.graphs import Edge, Graph, Vertex
from grandalf.layouts import SugiyamaLayout
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve
from matplotlib.textpath import TextToPath

from elastic_compile.inspect.text import block_text, region_ms, summary, tree_text, visits_text
from elastic_runtime import Statistics, schema

_INK, _FAINT, _LINE = "#1d2733", "#66717d", "#8895a3"
_COLD, _HOT, _NEVER = (0.965, 0.973, 0.984), (0.988, 0.733, 0.42), (0.985, 0.985, 0.985)
_ENTRY, _RETURN, _RAISE = "#2f6fab", "#2b7a4b", "#a8322a"
_TITLE = FontProperties(family="DejaVu Sans", size=10, weight="bold")
_PLAIN = FontProperties(family="DejaVu Sans", size=8.5)
_CODE = FontProperties(family="DejaVu Sans Mono", size=7.5)
_HEADING = FontProperties(family="DejaVu Sans", size=12, weight="bold")
_PADDING, _LEADING, _MARGIN = 9.0, 1.45, 24.0
_MOST_STEPS, _MOST_CHARACTERS = 6, 52
_MOST_PIXELS = 16_000


@dataclass(frozen=True)
class _Line:
    text: str
    font: FontProperties = field(default_factory=lambda: _PLAIN)
    colour: str = _INK
    right: str = ""

    @property
    def height(self) -> float:
        return self.font.get_size_in_points() * _LEADING

    @property
    def width(self) -> float:
        gap = 14.0 if self.right else 0.0
        return _width(self.text, self.font) + gap + _width(self.right, self.font)


@dataclass
class _Box:
    """A node; `x`, `y` are its centre, in points, y downwards. grandalf reads `w`, `h` and sets `xy`."""

    lines: tuple[_Line, ...]
    edge: str
    face: tuple[float, float, float] | str
    w: float = 0.0
    h: float = 0.0
    xy: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        self.w = max(line.width for line in self.lines) + 2 * _PADDING
        self.h = sum(line.height for line in self.lines) + 2 * _PADDING

    @property
    def top(self) -> float:
        return self.xy[1] - self.h / 2

    @property
    def bottom(self) -> float:
        return self.xy[1] + self.h / 2

    @property
    def right(self) -> float:
        return self.xy[0] + self.w / 2


@dataclass
class _Wire:
    """An edge from node to node with its label; `points` are the places that the layout leads it through."""

    source: object
    target: object
    label: str
    visits: float | None
    points: list[tuple[float, float]] = field(default_factory=list)

    def setpath(self, points: list[tuple[float, float]]) -> None:
        self.points = list(points)


def draw(program: schema.Program, path: str | os.PathLike[str], statistics: Statistics | None = None) -> None:
    """Draw `program` into the file `path`, whose suffix `.svg` or `.png` says the format.

    With `statistics`, as `Model.statistics()` gives them, blocks show their visits per call and their
    regions' median times in ms and are coloured by their share of the time; edges are as thick as frequent.
    Raises ValueError for another suffix.
    """
    target = Path(path)
    if target.suffix not in (".svg", ".png"):
        raise ValueError(f"a drawing is written as .svg or .png, not {target.suffix or 'without a suffix'!r}")
    boxes = _boxes(program, statistics)
    wires = list(_wires(program, statistics))
    closing = _lay_out(boxes, wires)
    figure = _paint(program, boxes, wires, closing, statistics)
    canvas = FigureCanvasSVG(figure) if target.suffix == ".svg" else FigureCanvasAgg(figure)
    temporary = target.with_name(f".{target.name}.part")
    longest = max(figure.get_size_inches())
    try:
        canvas.print_figure(temporary, format=target.suffix[1:], dpi=min(200, _MOST_PIXELS / longest),
                            metadata={"Date": None} if target.suffix == ".svg" else None)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _width(text: str, font: FontProperties) -> float:
    """In points; hinting makes painted text up to some 4 % wider than its outlines."""
    return 1.04 * TextToPath().get_text_width_height_descent(text, font, ismath=False)[0] if text else 0.0


def _short(text: str, most: int = _MOST_CHARACTERS) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


# ------------------------------------------------------------------------------------- contents
def _boxes(program: schema.Program, statistics: Statistics | None) -> dict[object, _Box]:
    boxes: dict[object, _Box] = {}
    for number, entry in enumerate(program.entries):
        names = ", ".join(parameter.name for parameter in entry.params)
        line = _Line(_short(f"{entry.name}({names})"), _TITLE, "white")
        boxes["entry", number] = _Box((line,), _ENTRY, _ENTRY)
    times = _block_times(program, statistics)
    whole = sum(times.values())
    for number in range(len(program.blocks)):
        share = times.get(number, 0.0) / whole if whole else 0.0
        boxes[number] = _block_box(program, number, statistics, share)
    return boxes


def _block_times(program: schema.Program, statistics: Statistics | None) -> dict[int, float]:
    """Block -> ms spent in its regions, per call of the program."""
    if statistics is None or not statistics.calls:
        return {}
    times = region_ms(statistics)
    return {
        number: statistics.visits[number] / statistics.calls * sum(
            times.get(step.region, 0.0) for step in block.steps if isinstance(step, schema.RegionStep))
        for number, block in enumerate(program.blocks)
    }


def _block_box(program: schema.Program, number: int, statistics: Statistics | None, share: float) -> _Box:
    block = program.blocks[number]
    visits = "" if statistics is None else visits_text(statistics.visits[number], statistics.calls)
    times = {} if statistics is None else region_ms(statistics)
    lines = [_Line(_short(block_text(program, number)), _TITLE, right=visits)]
    regions = [step.region for step in block.steps if isinstance(step, schema.RegionStep)]
    for index in regions[:_MOST_STEPS]:
        region = program.regions[index]
        time = f"{times[index]:.3f} ms" if index in times else ""
        size = f"{region.ops} op" if region.ops == 1 else f"{region.ops} ops"
        lines.append(_Line(_short(f"{region.name}  ·  {size}"), right=time))
    if len(regions) > _MOST_STEPS:
        lines.append(_Line(f"and {len(regions) - _MOST_STEPS} more regions", colour=_FAINT))
    if host := len(block.steps) - len(regions):
        lines.append(_Line(f"{host} host operation{'s' if host > 1 else ''}", colour=_FAINT))
    end = block.terminator
    outline = _LINE
    match end:
        case schema.Return(tree=tree):
            outline = _RETURN
            lines.append(_Line(_short(f"return {tree_text(tree)}"), _CODE, _RETURN))
        case schema.Raise(type=name, message=message):
            outline = _RAISE
            lines.append(_Line(_short(f"raise {name}({message!r})"), _CODE, _RAISE))
        case schema.Branch() | schema.Switch() if 0 <= end.source < len(program.sources):
            place = program.sources[end.source]
            lines.append(_Line(_short(place.text.strip()), _CODE))
            lines.append(_Line(_short(f"{Path(place.file).name}:{place.line}"), _CODE, _FAINT))
    if statistics is not None and not statistics.visits[number]:
        return _Box(tuple(lines), "#c9cfd6", _NEVER)
    face = tuple(cold + (hot - cold) * share for cold, hot in zip(_COLD, _HOT, strict=True))
    return _Box(tuple(lines), outline, face)


def _wires(program: schema.Program, statistics: Statistics | None) -> Iterator[_Wire]:
    for number, entry in enumerate(program.entries):
        yield _Wire(("entry", number), entry.block, "", 1.0 if statistics and statistics.calls else None)
    for number, block in enumerate(program.blocks):
        labels: dict[int, list[str]] = defaultdict(list)
        match block.terminator:
            case schema.Jump(block=target):
                labels[target].append("")
            case schema.Branch(then=then, orelse=orelse):
                labels[then.block].append("true")
                labels[orelse.block].append("false")
            case schema.Switch(cases=cases, default=default):
                for value, jump in cases:
                    labels[jump.block].append(str(value))
                labels[default.block].append("else")
        for target, names in labels.items():
            taken = statistics.edges.get((number, target), 0) if statistics else 0
            visits = taken / statistics.calls if statistics and statistics.calls else None
            yield _Wire(number, target, _short(", ".join(filter(None, names)), 24), visits)


# --------------------------------------------------------------------------------------- layout
def _lay_out(boxes: dict[object, _Box], wires: list[_Wire]) -> list[_Wire]:
    """Place the boxes and lead the wires. Gives the wires that close a loop, which go past the others."""
    closing = _closing(wires, [key for key in boxes if isinstance(key, tuple)])
    vertices = {key: Vertex(key) for key in boxes}
    for key, vertex in vertices.items():
        vertex.view = boxes[key]
    edges = []
    for wire in wires:
        if wire not in closing:
            edge = Edge(vertices[wire.source], vertices[wire.target])
            edge.view = wire
            edges.append(edge)
    graph = Graph(list(vertices.values()), edges)
    left = 0.0
    for component in graph.C:
        layout = SugiyamaLayout(component)
        layout.xspace, layout.yspace = 34, 46
        layout.init_all(roots=[vertex for vertex in component.sV if not vertex.e_in()], inverted_edges=[])
        layout.draw(12)
        inside = [vertex.view for vertex in component.sV]
        shift = left - min(box.xy[0] - box.w / 2 for box in inside)
        drop = -min(box.top for box in inside)
        for box in inside:
            box.xy = (box.xy[0] + shift, box.xy[1] + drop)
        for edge in component.sE:
            edge.view.points = [(x + shift, y + drop) for x, y in edge.view.points]
        left = max(box.right for box in inside) + 60
    return closing


def _closing(wires: list[_Wire], roots: list[object]) -> list[_Wire]:
    """The wires that close a loop on the depth-first walk from the entries, which takes low blocks first."""
    graph = nx.DiGraph((wire.source, wire.target) for wire in sorted(wires, key=lambda wire: wire.target))
    closing: set[tuple[object, object]] = set()
    seen: set[object] = set()
    for root in [*roots, *graph.nodes]:
        if root in seen or root not in graph:
            continue
        active: set[object] = set()
        for source, target, kind in nx.dfs_labeled_edges(graph, root):
            if kind == "forward":
                active.add(target)
                seen.add(target)
            elif kind == "reverse":
                active.discard(target)
            elif target in active:
                closing.add((source, target))
    return [wire for wire in wires if (wire.source, wire.target) in closing]


# ------------------------------------------------------------------------------------- painting
def _paint(program: schema.Program, boxes: dict[object, _Box], wires: list[_Wire], closing: list[_Wire],
           statistics: Statistics | None) -> Figure:
    curves = [(wire, *_descent(wire, boxes, wires)) for wire in wires if wire not in closing]
    curves += [(wire, *_climb(wire, boxes, lane)) for lane, wire in enumerate(closing)]
    heading, note = summary(program), _note(statistics)
    header = 52.0
    xs = [box.xy[0] - box.w / 2 for box in boxes.values()]
    reach = [float(path.vertices[:, 0].max()) for _, path, _ in curves]
    right = max([*(box.right for box in boxes.values()), *reach])
    left = min([*xs, *(float(path.vertices[:, 0].min()) for _, path, _ in curves)])
    width = max(right - left + 40, _width(heading, _HEADING), _width(note, _PLAIN)) + 2 * _MARGIN
    height = max(box.bottom for box in boxes.values()) + header + 2 * _MARGIN
    figure = Figure(figsize=(width / 72, height / 72), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    centre = (left + right) / 2
    axes.set_xlim(centre - width / 2, centre + width / 2)
    axes.set_ylim(height - header - _MARGIN, -header - _MARGIN)
    axes.axis("off")
    start = centre - width / 2 + _MARGIN
    axes.text(start, -header - 2, heading, fontproperties=_HEADING, color=_INK, va="top")
    axes.text(start, -header + 18, note, fontproperties=_PLAIN, color=_FAINT, va="top")
    for wire, path, at in curves:
        _paint_wire(axes, wire, path, at)
    for box in boxes.values():
        _paint_box(axes, box)
    return figure


def _note(statistics: Statistics | None) -> str:
    if statistics is None:
        return "not measured"
    calls = "1 call" if statistics.calls == 1 else f"{statistics.calls} calls"
    timed = "; ms: median of one run of a region; colour: share of the time" if statistics.regions else ""
    return f"measured on {calls}; %, ×: visits per call{timed}"


def _paint_box(axes, box: _Box) -> None:
    axes.add_patch(FancyBboxPatch(
        (box.xy[0] - box.w / 2, box.top), box.w, box.h, boxstyle="round,pad=0,rounding_size=5",
        facecolor=box.face, edgecolor=box.edge, linewidth=1.1, zorder=3))
    y = box.top + _PADDING
    for line in box.lines:
        middle = y + line.height / 2
        common = {"fontproperties": line.font, "color": line.colour, "va": "center_baseline", "zorder": 4}
        axes.text(box.xy[0] - box.w / 2 + _PADDING, middle, line.text, ha="left", parse_math=False, **common)
        if line.right:
            axes.text(box.right - _PADDING, middle, line.right, ha="right", **common)
        y += line.height


def _paint_wire(axes, wire: _Wire, path: Curve, at: tuple[float, float]) -> None:
    visited = wire.visits is None or wire.visits > 0
    width = 1.2 if wire.visits is None else 0.8 + 2.6 * min(1.0, wire.visits)
    colour = "#4a5a6a" if visited else "#c9cfd6"
    tip, reach = path.vertices[-1], 5.0 + 1.4 * width
    before = path.vertices[-2]
    length = max(1e-6, float(((tip - before) ** 2).sum()) ** 0.5)
    along = (tip - before) / length
    across = along[::-1] * (-1, 1)
    shaft = path.vertices.copy()
    shaft[-2:] -= along * reach * 0.8
    axes.add_patch(PathPatch(Curve(shaft, path.codes), fill=False, edgecolor=colour, linewidth=width,
                             capstyle="butt", zorder=1, linestyle="-" if visited else (0, (3, 3))))
    base, half = tip - along * reach, across * reach / 2.2
    corners = [tip, base + half, base - half, tip]
    axes.add_patch(PathPatch(Curve(corners, closed=True), facecolor=colour, edgecolor="none", zorder=2))
    share = "" if wire.visits is None or not wire.label else visits_text(wire.visits)
    if label := f"{wire.label} {share}".strip():
        axes.text(*at, label, fontproperties=_PLAIN, color=_INK if visited else _FAINT,
                  ha="center", va="center", zorder=5, parse_math=False,
                  bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"})


def _descent(wire: _Wire, boxes: dict[object, _Box], wires: list[_Wire]) -> tuple[Curve, tuple[float, float]]:
    """A curve that leaves below its source, runs through the layout's points and arrives from above."""
    source, target = boxes[wire.source], boxes[wire.target]
    start = (_port(wire, source, [other for other in wires if other.source == wire.source], 1), source.bottom)
    end = (_port(wire, target, [other for other in wires if other.target == wire.target], -2), target.top)
    points = [start, *wire.points[1:-1], end]
    vertices, codes = [start], [Curve.MOVETO]
    for (x0, y0), (x1, y1) in pairwise(points):
        bend = max(12.0, (y1 - y0) / 2)
        vertices += [(x0, y0 + bend), (x1, y1 - bend), (x1, y1)]
        codes += [Curve.CURVE4] * 3
    (x0, y0), (x1, y1) = points[0], points[1]
    return Curve(vertices, codes), ((x0 + x1) / 2, (y0 + y1) / 2)


def _port(wire: _Wire, box: _Box, rivals: list[_Wire], side: int) -> float:
    """Where on its edge a box is met: wires side by side, in the order of where they come from or go to."""
    order = sorted(rivals, key=lambda other: other.points[side][0] if len(other.points) > 1 else box.right)
    place = next(number for number, other in enumerate(order) if other is wire)
    span = min(box.w * 0.6, 26.0 * (len(order) - 1))
    return box.xy[0] + (span * (place / (len(order) - 1) - 0.5) if len(order) > 1 else 0.0)


def _climb(wire: _Wire, boxes: dict[object, _Box], lane: int) -> tuple[Curve, tuple[float, float]]:
    """A curve that leaves its source at the right, passes what is on the way and comes in at the right."""
    source, target = boxes[wire.source], boxes[wire.target]
    y0, y1 = source.xy[1] + source.h * 0.2, target.xy[1] - target.h * 0.2 * (wire.source == wire.target)
    low, high = min(target.top, y1), max(source.bottom, y0)
    between = [box.right for box in boxes.values() if box.bottom > low and box.top < high]
    x = max(between) + 30 + 14 * lane
    bend = 16.0
    vertices = [(source.right, y0), (x - bend, y0), (x, y0), (x, y0 - bend),
                (x, y1 + bend), (x, y1), (x - bend, y1), (target.right, y1)]
    codes = [Curve.MOVETO, *[Curve.CURVE4] * 3, Curve.LINETO, *[Curve.CURVE4] * 3]
    return Curve(vertices, codes), (x, (y0 + y1) / 2)
