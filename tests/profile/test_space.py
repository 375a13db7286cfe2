"""A space counts, lists, checks and encodes the same set of subnets."""
from __future__ import annotations

import math

import numpy as np
import pytest

from elastic_compile.profile import Categorical, Integer, OutOfSpace, Real, Space, SpaceError, When

STAGE = Space((
    Integer("depth", 1, 3),
    Categorical("k1", (3, 5)), Categorical("k2", (3, 5), when=When("depth", (2, 3)), part=True),
    Categorical("k3", (3, 5, 7), when=When("depth", (3,)), part=True),
    Categorical("se", (True, False), when=When("k3", (7,))),
))


def test_every_subnet_is_listed_once():
    listed = [STAGE.key(c) for c in STAGE.enumerate()]
    assert len(set(listed)) == len(listed) == STAGE.size() == 2 + 4 + 4 * (2 + 2)


def test_inactive_decisions_do_not_tell_subnets_apart():
    one, other = {"depth": 1, "k1": 3, "k3": 7}, {"depth": 1, "k1": 3, "k2": 5}
    assert STAGE.key(one) == STAGE.key(other) == STAGE.key({"depth": 1, "k1": 3})
    assert (STAGE.encode([one]) == STAGE.encode([other])).all()
    assert STAGE.key(one) != STAGE.key({"depth": 2, "k1": 3, "k2": 3})


def test_equal_encodings_are_equal_subnets():
    listed = list(STAGE.enumerate())
    assert len(np.unique(STAGE.encode(listed), axis=0)) == len(listed)


def test_genes_are_another_spelling():
    rng = np.random.default_rng(0)
    drawn = STAGE.sample(40, rng)
    genes = STAGE.genes(drawn)
    assert STAGE.configurations(genes) == drawn
    assert (STAGE.encode_genes(genes) == STAGE.encode(drawn)).all()
    assert STAGE.parts([{"depth": 1, "k1": 3}, {"depth": 3, "k1": 3, "k2": 3, "k3": 3}]).tolist() == [0, 2]


def test_numbers_are_scaled_and_go_on_beyond_their_range():
    space = Space((Real("x", 0.0, 10.0), Integer("many", 0, 400)))
    assert space.width == 4 and space.size() == math.inf
    assert space.encode([{"x": 10.0, "many": 200}]).tolist() == [[1.0, 1.0, 0.0, 0.0]]
    assert space.encode([{"x": 20.0, "many": 0}])[0, 0] == 3.0
    with pytest.raises(SpaceError, match="cannot be enumerated"):
        space.enumerate()


@pytest.mark.parametrize(("configuration", "text"), [
    ({"depth": 4, "k1": 3}, "depth = 4, expected an integer from 1 to 3"),
    ({"depth": True, "k1": 3}, "depth = True"),
    ({"depth": "2", "k1": 3}, "depth = '2'"),
    ({"depth": 1}, "k1 is missing, expected one of 3, 5"),
    ({"depth": 1, "k1": [3]}, "k1 = [3]"),
    ({"depth": 1, "k1": 3, "kk": 3}, "'kk' is no decision"),
    ({"depth": 2, "k1": 3, "k2": 7}, "k2 = 7"),
])
def test_what_is_not_in_the_space_is_named(configuration, text):
    with pytest.raises(OutOfSpace) as caught:
        STAGE.canonical(configuration)
    assert any(problem.startswith(text) for problem in caught.value.problems) and text in str(caught.value)


def test_numpy_integers_are_integers():
    assert STAGE.canonical({"depth": np.int64(1), "k1": np.int32(3)}) == {"depth": 1, "k1": 3}
    assert all(type(value) is int for value in STAGE.canonical({"depth": np.int64(1), "k1": np.int32(3)}).values())


@pytest.mark.parametrize("decisions", [
    (), (Integer("a", 0, 1), Integer("a", 0, 1)),
    (Categorical("a", (1,), when=When("b", (1,))), Categorical("b", (1,))),
    (Categorical("a", (1,)), Categorical("b", (1,), when=When("a", (2,)))),
    (Categorical("a", (1,)), Categorical("b", (1,), when=When("a", ()))),
    (Real("a", 0, 1), Categorical("b", (1,), when=When("a", (0.5,)))),
])
def test_spaces_that_make_no_sense_are_refused(decisions):
    with pytest.raises(SpaceError):
        Space(decisions)


@pytest.mark.parametrize("make", [
    lambda: Categorical("a", ()), lambda: Categorical("a", (1, 1)), lambda: Integer("a", 0, 5, 2),
    lambda: Integer("a", 2, 1), lambda: Real("a", 1.0, 0.0), lambda: Real("a", 0.0, math.inf)])
def test_decisions_that_make_no_sense_are_refused(make):
    with pytest.raises(SpaceError):
        make()
