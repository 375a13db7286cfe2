"""The state key: equal exactly when two paths may be one."""
from __future__ import annotations

import collections
import dataclasses
import threading
import types
from typing import ClassVar

import pytest
import torch

from elastic_compile.capture.state import Heap, State, Walker
from elastic_compile.errors import CompileError
from elastic_compile.refusals import Stopped


def key(value, widened=frozenset()):
    def describe(tensor: torch.Tensor, state: State, path):
        state.tensors.append(tensor)
        return ("tensor", str(tensor.dtype), tuple(tensor.shape))

    walker = Walker(describe, {}, (), widened)
    walker.walk(value, ("root",))
    return walker.state


@dataclasses.dataclass
class Point:
    x: float
    items: list


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a, b):
        self.a, self.b = a, b


class Many(list):
    """A list of the user's own class, as libraries make them."""


class Named(str):
    pass


def closure(n):
    return lambda x: x + n


def advanced(iterator, steps):
    for _ in range(steps):
        next(iterator)
    return iterator


EQUAL = [
    lambda: [1, 2.0, "a", None, True, (3, b"x")],
    lambda: {"a": [1, {"b": 2}]},
    lambda: Point(1.5, [torch.zeros(2, 3)]),
    lambda: Slotted(1, [2]),
    lambda: collections.deque([1, 2]),
    lambda: collections.OrderedDict(a=1),
    lambda: closure_of(3),
    lambda: advanced(iter([1, 2, 3]), 1),
    lambda: advanced(enumerate("abc"), 2),
    lambda: advanced(zip([1, 2], [3, 4]), 1),
    lambda: ValueError("x", 1),
    lambda: slice(1, None, 2),
    lambda: {1, 2, 3},
    lambda: torch.nn.Module,
]
_CLOSURES = {}


def closure_of(n):
    return _CLOSURES.setdefault(n, closure(n))


@pytest.mark.parametrize("make", EQUAL)
def test_equal_states_have_equal_keys(make):
    first, second = make(), make()
    assert key(first).key == key(second).key


DIFFERENT = [
    ([1, 2], [1, 3]), ([1], [1.0]), ([1], [True]), ((1,), [1]), ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    (Point(1.0, []), Point(1.0, [1])), (Slotted(1, 2), Slotted(1, 3)), (closure(1), closure(2)),
    (iter([1, 2]), advanced(iter([1, 2]), 1)), (torch.zeros(2), torch.zeros(3)),
    (torch.zeros(2), torch.zeros(2, dtype=torch.int64)), (float("nan"), 0.0), (0.0, -0.0),
    (ValueError("x"), ValueError("y")),
    ({1}, {1, 2}), ("a", b"a"), (Many([1]), Many([2])), (Many([1]), [1]), (Named("a"), Named("b")),
]


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_different_states_have_different_keys(first, second):
    assert key(first).key != key(second).key


def test_aliasing_is_part_of_the_state():
    shared = [1]
    assert key([shared, shared]).key != key([[1], [1]]).key


def test_cycles_end():
    loop = []
    loop.append(loop)
    assert key(loop).key


def test_what_cannot_be_described_is_known_by_identity():
    one, other = threading.Lock(), threading.Lock()
    assert key(one).key == key(one).key
    assert key(one).key != key(other).key


def test_a_suspended_generator_of_a_library_is_known_by_all_that_it_holds():
    def generate(first):
        for second in [first + 1, 7]:
            yield [str(item) for item in (first, second)]

    def held(first, steps):
        generator = generate(first)
        for _ in range(steps):
            next(generator)
        return key(generator).key

    assert held(1, 1) == held(1, 1) and held(1, 2) == held(1, 2)
    assert len({held(1, 0), held(1, 1), held(1, 2), held(2, 1)}) == 4


def test_a_widened_number_is_a_scalar_and_not_part_of_the_key():
    one, other = key([1, 5], frozenset({("root", 0)})), key([7, 5], frozenset({("root", 0)}))
    assert one.key == other.key
    assert one.scalars == [1] and other.scalars == [7]
    assert key([1, 6], frozenset({("root", 0)})).key != one.key


def test_slots_write_back():
    value = {"n": 1, "inner": [2]}
    state = key(value)
    state.slots["root", "n"].write(10)
    state.slots["root", "inner", 0].write(20)
    assert value == {"n": 10, "inner": [20]}


class Holder(torch.nn.Module):
    REGISTRY: ClassVar = {"a": 1}

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)
        self.count, self.log, self.table = 0, [], {"k": [1]}


def test_the_heap_sees_and_undoes_every_kind_of_change():
    module = Holder()
    before = {**module.__dict__}
    heap = Heap([("self", module)])
    assert heap.changed() == []
    changes = [
        lambda: setattr(module, "count", 1), lambda: module.log.append(1), lambda: module.table["k"].append(2),
        lambda: module.table.pop("k"), lambda: setattr(module, "new", 1), lambda: delattr(module, "count"),
        lambda: module.linear.register_buffer("b", torch.zeros(1)), lambda: Holder.REGISTRY.update(b=2),
        lambda: setattr(module.linear, "weight", torch.nn.Parameter(torch.zeros(2, 2))),
        lambda: module.linear.register_forward_hook(lambda *a: None),
    ]
    for change in changes:
        change()
        assert heap.changed(), change
        heap.reset()
        assert heap.changed() == []
    assert module.log == [] and module.table == {"k": [1]} and Holder.REGISTRY == {"a": 1}
    assert module.__dict__ == before and "b" not in module.linear._buffers


def test_stand_ins_are_installed_and_taken_away():
    module = Holder()
    real = module.linear.weight
    heap = Heap([("self", module)])
    stand_in = torch.zeros(2, 2)
    heap.install({id(real): stand_in})
    assert module.linear.weight is stand_in and heap.changed() == []
    heap.uninstall()
    assert module.linear.weight is real


def test_globals_and_defaults_of_functions_are_watched():
    heap = Heap([])
    heap.watch_function(uses_global)
    CACHE["x"] = 1
    assert heap.changed()
    heap.reset()
    assert CACHE == {}


def test_values_of_python_modules_are_watched_and_what_they_define_is_not():
    heap = Heap([])
    heap.watch_function(uses_a_module)
    settings.rounds, settings.__warningregistry__, settings.imported = 5, {"version": 1}, types
    assert heap.changed_names() == [(settings, "rounds")]
    heap.reset()
    assert settings.rounds == 3 and not heap.changed_names()


settings = types.ModuleType("settings")
settings.rounds = 3


def uses_a_module(x):
    return x * settings.rounds


CACHE: dict = {}


def uses_global(x):
    return CACHE.get(x)


def test_too_many_objects_are_refused(monkeypatch):
    monkeypatch.setattr(Heap, "LIMIT", 3)
    with pytest.raises(Stopped) as stopped:
        Heap([("self", [[1], [2], [3], [4], [5]])])
    assert isinstance(stopped.value.refusal, CompileError) and stopped.value.refusal.code == "EC154"


def test_a_bound_builtin_is_known_by_what_it_is_bound_to():
    assert key([].append).key == key([].append).key
    assert key([].append).key != key([1].append).key
    assert key([].append).key != key([].extend).key
