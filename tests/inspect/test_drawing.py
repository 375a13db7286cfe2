"""Drawings show every block, edge, time and frequency, whatever the graph's shape."""
from __future__ import annotations

import re
from itertools import pairwise

import msgspec
import pytest

from elastic_compile.inspect import drawing
from elastic_runtime import RegionStatistics, Statistics, schema
from tests.programs import exits_program, scalar_program

SEEN = Statistics(
    calls=100, visits=(100, 35, 80, 20, 0), edges={(0, 2): 80, (0, 1): 20, (1, 1): 15, (1, 3): 20},
    regions=(RegionStatistics("stem_0", 100, 4.1, 0.041), RegionStatistics("refine_0", 35, 5.3, 0.152)))


def texts(path) -> list[str]:
    """matplotlib writes each text of an SVG as a comment in front of its outlines."""
    return [text.strip() for text in re.findall(r"<!--(.*?)-->", path.read_text(), re.S)]


def test_blocks_regions_branches_times_and_frequencies_are_shown(tmp_path):
    drawing.draw(exits_program(), tmp_path / "g.svg", SEEN)
    found = texts(tmp_path / "g.svg")
    for text in ("forward(image)", "0 stem", "1 refine", "stem_0  ·  7 ops", "0.041 ms", "0.152 ms",
                 "true 80%", "false 20%", "0 15%", "8 never", "if is_sure(scores, self.confident):", "model.py:22",
                 "return {'scores': v11, 'exit': 0}"):
        assert text in found, text


def test_a_program_that_was_not_measured(tmp_path):
    drawing.draw(exits_program(), tmp_path / "g.svg")
    found = texts(tmp_path / "g.svg")
    assert "not measured" in found and "true" in found
    assert not any("ms" in text.split() for text in found)


def test_png(tmp_path):
    drawing.draw(scalar_program(), tmp_path / "g.png")
    assert (tmp_path / "g.png").read_bytes().startswith(b"\x89PNG")


def test_equal_programs_give_equal_layouts():
    def places() -> dict:
        program = exits_program()
        boxes, wires = drawing._boxes(program, None), list(drawing._wires(program, None))
        drawing._lay_out(boxes, wires)
        return {key: box.xy for key, box in boxes.items()}
    assert places() == places()


def graph(ends: list) -> schema.Program:
    blocks = tuple(schema.Block(params=(), steps=(), terminator=end) for end in ends)
    return msgspec.structs.replace(scalar_program(), blocks=blocks, sources=())


def jump(block: int) -> schema.Jump:
    return schema.Jump(block=block, args=())


def branch(then: int, orelse: int) -> schema.Branch:
    return schema.Branch(cond=0, then=jump(then), orelse=jump(orelse))


END = schema.Return(tree=schema.ConstLeaf(v=None))


@pytest.mark.parametrize("ends", [
    [END],
    [jump(0)],
    [branch(1, 1), END],
    [branch(0, 1), jump(0)],
    [branch(1, 2), branch(2, 3), branch(1, 3), END],
    [END, jump(0), branch(0, 1)],
    [branch(min(i + 5, 39), i + 1) for i in range(39)] + [END],
], ids=["one", "self loop", "both ways alike", "loop", "irreducible", "unreachable", "many"])
def test_any_graph_can_be_drawn_without_boxes_over_boxes(tmp_path, ends):
    program = graph(ends)
    drawing.draw(program, tmp_path / "g.svg")
    boxes, wires = drawing._boxes(program, None), list(drawing._wires(program, None))
    drawing._lay_out(boxes, wires)
    placed = sorted(boxes.values(), key=lambda box: box.xy)
    assert all(abs(a.xy[0] - b.xy[0]) >= (a.w + b.w) / 2 or abs(a.xy[1] - b.xy[1]) >= (a.h + b.h) / 2
               for i, a in enumerate(placed) for b in placed[i + 1:])


def test_what_is_left_without_the_closing_edges_runs_downwards():
    program = graph([branch(1, 2), branch(2, 3), branch(1, 3), END])
    boxes, wires = drawing._boxes(program, None), list(drawing._wires(program, None))
    closing = drawing._lay_out(boxes, wires)
    assert [(wire.source, wire.target) for wire in closing] == [(2, 1)]
    for wire in wires:
        if wire not in closing:
            assert all(lower[1] > upper[1] for upper, lower in pairwise(wire.points))


@pytest.mark.parametrize("name", ["g.jpg", "g", "g.SVG"])
def test_another_format_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"written as \.svg or \.png"):
        drawing.draw(scalar_program(), tmp_path / name)
    assert not list(tmp_path.iterdir())
