"""A control-flow graph as nested `If` and `Loop`.

In: a program (blocks with parameters) and a builder. Out: nodes in the builder, and the names of what is returned.
Never: emits a block twice: n decisions in a row give n times `If`, not 2^n copies.

Method: dominator-tree translation (Ramsey, "Beyond Relooper", ICFP 2022, section 4), with values instead of labels.
A fragment of the graph is emitted as nodes that compute its *outcome*: for each place where control may go next the
values of that place's parameters, and a number that says which place it is, where there are several. A block with one
predecessor goes inside the arm that reaches it; one where paths join goes after the `If`, under a test of that number
when control may also be elsewhere; a natural loop is a `Loop` that ends when the number is not its header's.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import networkx as nx
from onnx import helper

from elastic_compile.onnx_file import scalars
from elastic_compile.onnx_file.graph import BOOL, INT, Builder, Kind, described
from elastic_compile.program.ir import Program, jumps
from elastic_runtime import schema

EXIT, RAISE = -1, -2

Emit = Callable[[schema.Step, dict[int, str]], None]


class Irreducible(Exception):
    """A loop with two entries: no nesting of `If` and `Loop` without copying blocks."""

    def __init__(self, block: int) -> None:
        super().__init__(block)
        self.block = block


@dataclass(frozen=True)
class Outcome:
    """Where control may go, with the names of the values that each place takes; `next` names the number of the place
    where there is more than one."""

    to: Mapping[int, tuple[str, ...]]
    next: str = ""


class Control:
    """Emits a program from its entry block. `results`: types of what a return gives; `returned(end, env)`: their names;
    `emit(step, env)` appends the nodes of a step and adds the names of its outputs to `env`."""

    def __init__(self, build: Builder, program: Program, entry: int, results: Sequence[Kind],
                 returned: Callable[[schema.Return, dict[int, str]], tuple[str, ...]], emit: Emit) -> None:
        self.build, self.program, self.results = build, program, tuple(results)
        self.returned, self.emit = returned, emit
        self.env: dict[int, str] = {}
        self.graph = nx.MultiDiGraph()
        self.graph.add_node(entry)
        work = [entry]
        while work:
            block = work.pop()
            for jump in jumps(program.blocks[block].terminator):
                if jump.block not in self.graph:
                    work.append(jump.block)
                self.graph.add_edge(block, jump.block)
        plain = nx.DiGraph(self.graph)
        self.order = {b: i for i, b in enumerate(reversed(list(nx.dfs_postorder_nodes(plain, entry))))}
        parents = nx.immediate_dominators(plain, entry)
        tree = nx.DiGraph((parents[b], b) for b in parents if parents.get(b, b) not in (b, None))
        tree.add_nodes_from(plain)
        self.dominated = {b: frozenset({b, *nx.descendants(tree, b)}) for b in plain}
        self.loops: dict[int, frozenset[int]] = {}
        for source, target in plain.edges:
            if self.order[source] >= self.order[target]:
                if source not in self.dominated[target]:
                    raise Irreducible(target)
                self.loops[target] = self.loops.get(target, frozenset({target})) | self._natural(plain, source, target)

    @staticmethod
    def _natural(graph: nx.DiGraph, source: int, header: int) -> frozenset[int]:
        found, work = {header, source}, [source]
        while work:
            block = work.pop()
            if block != header:
                new = set(graph.predecessors(block)) - found
                found |= new
                work.extend(new)
        return frozenset(found)

    def run(self, entry: int) -> Outcome:
        """Emit everything from the entry, whose parameters are in `env`."""
        return self.fragment(entry, self.dominated[entry])

    # ---------------------------------------------------------------------------------------- fragments
    def fragment(self, block: int, allowed: frozenset[int], body: bool = False) -> Outcome:
        """Emit `block` and whatever of `allowed` is reached from it only. `body`: it is the header of the loop that is
        being emitted, and jumps to it leave the fragment."""
        allowed -= {block}
        out = self.block(block, allowed) if body or block not in self.loops else self.loop(block)
        while pending := [target for target in out.to if target in allowed]:
            target = min(pending, key=self.order.__getitem__)
            rest = {place: names for place, names in out.to.items() if place != target}
            if not rest:
                self.bind(target, out.to[target])
                allowed -= {target}
                out = self.block(target, allowed) if target not in self.loops else self.loop(target)
                continue
            here = self.build.node("Equal", out.next, self.place(target))

            def then(target=target, names=out.to[target], allowed=allowed) -> Outcome:
                self.bind(target, names)
                return self.fragment(target, allowed & self.dominated[target])

            out = self.choose(here, then, lambda rest=rest, out=out: Outcome(rest, out.next if len(rest) > 1 else ""))
        return out

    def place(self, target: int) -> str:
        return self.build.constant(target, "int64")

    def bind(self, block: int, names: Sequence[str]) -> None:
        self.env.update(zip(self.program.blocks[block].params, names, strict=True))

    def block(self, number: int, allowed: frozenset[int]) -> Outcome:
        block = self.program.blocks[number]
        for step in block.steps:
            self.emit(step, self.env)
        return self.end(block.terminator, allowed)

    def end(self, end: schema.Terminator, allowed: frozenset[int]) -> Outcome:
        if isinstance(end, schema.Jump):
            return self.jump(end, allowed)
        if isinstance(end, schema.Return):
            return Outcome({EXIT: self.returned(end, self.env)})
        if isinstance(end, schema.Raise):
            return Outcome({RAISE: ()})
        if isinstance(end, schema.Branch):
            condition = scalars.truth(self.build, self.env[end.cond], self.program.values[end.cond])
            return self.choose(condition, lambda: self.jump(end.then, allowed), lambda: self.jump(end.orelse, allowed))
        index, kind = self.env[end.index], self.program.values[end.index]
        if isinstance(kind, schema.TensorType):
            index = self.build.cast(self.build.node("Reshape", index, self.build.constant([], "int64")), "int64")
        return self.cases(index, list(end.cases), end.default, allowed)

    def cases(self, index: str, cases: list[tuple[int, schema.Jump]], default: schema.Jump,
              allowed: frozenset[int]) -> Outcome:
        """A switch as a binary search would do no better here: the cases in turn."""
        if not cases:
            return self.jump(default, allowed)
        (value, jump), *others = cases
        here = self.build.node("Equal", index, self.build.constant(value, "int64"))
        return self.choose(here, lambda: self.jump(jump, allowed),
                           lambda: self.cases(index, others, default, allowed))

    def jump(self, jump: schema.Jump, allowed: frozenset[int]) -> Outcome:
        names = tuple(self.env[value] for value in jump.args)
        if jump.block in allowed and self.graph.in_degree(jump.block) == 1:
            self.bind(jump.block, names)
            return self.fragment(jump.block, allowed & self.dominated[jump.block])
        return Outcome({jump.block: names})

    # --------------------------------------------------------------------------------------- If and Loop
    def kinds(self, place: int) -> tuple[Kind, ...]:
        """The types of the values that a place takes."""
        if place == EXIT:
            return self.results
        if place == RAISE:
            return ()
        return tuple(self.program.values[value] for value in self.program.blocks[place].params)

    def choose(self, condition: str, then: Callable[[], Outcome], orelse: Callable[[], Outcome]) -> Outcome:
        """An `If`. Values that both arms take from outside need not go through it."""
        arms = []
        for emit in (then, orelse):
            with self.build.inside() as scope:
                arms.append((emit(), scope))
        places = sorted({place for out, _ in arms for place in out.to}, reverse=True)
        wanted: list[tuple[int, int, Kind]] = []
        taken: dict[tuple[int, int], str] = {}
        for place in places:
            for index, kind in enumerate(self.kinds(place)):
                given = {out.to[place][index] for out, _ in arms if place in out.to}
                inner = any(name in scope.defined for name in given for _, scope in arms)
                if len(given) == 1 and not inner:
                    taken[place, index] = given.pop()
                else:
                    wanted.append((place, index, kind))
        several = len(places) > 1
        if not wanted and not several:
            return Outcome({place: tuple(taken[place, i] for i in range(len(self.kinds(place)))) for place in places})
        graphs = []
        for out, scope in arms:
            self.build.scopes.append(scope)
            names = [out.to[place][index] if place in out.to else self.build.dummy(kind)
                     for place, index, kind in wanted]
            if several:
                names.append(out.next or self.place(next(iter(out.to))))
            names = self.build.own(names)
            self.build.scopes.pop()
            types = [*(kind for _, _, kind in wanted), *[INT] * several]
            graphs.append(self.build.subgraph(scope, (), list(zip(names, types, strict=True))))
        made = [self.build.name() for _ in range(len(wanted) + several)]
        self.build.append(helper.make_node("If", [condition], made, then_branch=graphs[0], else_branch=graphs[1]))
        taken |= {(place, index): name for (place, index, _), name in zip(wanted, made, strict=False)}
        return Outcome({place: tuple(taken[place, i] for i in range(len(self.kinds(place)))) for place in places},
                       made[-1] if several else "")

    def loop(self, header: int) -> Outcome:
        """A `Loop` that carries the header's parameters and those of each place where the loop may end."""
        build, program = self.build, self.program
        nodes = self.loops[header]
        exits = sorted({place for block in nodes for place in self.places(block)} - nodes, reverse=True)
        params = program.blocks[header].params
        kinds = [program.values[value] for value in params]
        places = [(place, index, kind) for place in exits for index, kind in enumerate(self.kinds(place))]
        given = [self.env[value] for value in params]
        given += [build.dummy(kind) for _, _, kind in places] + [self.place(header)]
        types = [*kinds, *(kind for _, _, kind in places), INT]
        carried = [build.name() for _ in types]
        inputs = [described(build.name("i"), INT, []), described(build.name("go"), BOOL, [])]
        inputs += [described(name, kind) for name, kind in zip(carried, types, strict=True)]
        with build.inside([value.name for value in inputs]) as scope:
            self.bind(header, carried[:len(params)])
            out = self.fragment(header, nodes, body=True)
            going = out.next or self.place(next(iter(out.to)))
            names = [build.node("Equal", going, self.place(header))]
            names += out.to.get(header, carried[:len(params)])
            names += [out.to[place][index] if place in out.to else build.dummy(kind) for place, index, kind in places]
            names = build.own([*names, going])
        graph = build.subgraph(scope, inputs, list(zip(names, [BOOL, *types], strict=True)))
        made = [build.name() for _ in types]
        build.append(helper.make_node("Loop", ["", build.constant(True, "bool"), *given], made, body=graph))
        ended = iter(made[len(params):-1])
        return Outcome({place: tuple(next(ended) for _ in self.kinds(place)) for place in exits},
                       made[-1] if len(exits) > 1 else "")

    def places(self, block: int) -> set[int]:
        """Where a block's terminator may go."""
        end = self.program.blocks[block].terminator
        if isinstance(end, schema.Return):
            return {EXIT}
        return {RAISE} if isinstance(end, schema.Raise) else {jump.block for jump in jumps(end)}

