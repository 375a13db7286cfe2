"""Where linear layers of subnets of different widths are cut, and what that saves."""
from __future__ import annotations

import numpy as np
import pytest

from elastic_compile.weights import share
from elastic_compile.weights.nested import cuts

WHOLE = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)


def found(subnets, axis: int = 0):
    shared = share({name: {"w": array} for name, array in subnets.items()}, {"w": WHOLE})
    return cuts(shared, {(name, "w"): axis for name in subnets})


def test_layers_are_cut_at_the_widths_of_the_others():
    made = found({"a": WHOLE, "b": WHOLE[:512], "c": WHOLE[:300]})
    assert made.places == {("a", "w"): (300, 512), ("b", "w"): (300,)}
    assert made.packed == WHOLE.nbytes and made.saved == WHOLE[:812].nbytes


def test_the_output_features_may_be_the_columns():
    made = found({"a": WHOLE, "b": WHOLE[:, :512]}, axis=1)
    assert made.places == {("a", "w"): (512,)} and made.saved == WHOLE[:512].nbytes


def test_whole_runs_of_input_features_are_the_beginning_of_a_longer_matrix():
    made = found({"a": WHOLE, "b": WHOLE[:512, :512]})
    assert made.places == {("a", "w"): (512,)}
    assert made.packed == WHOLE.nbytes and made.saved == 4 * 512 * 512


def test_broken_runs_of_input_features_are_packed_again():
    made = found({"a": WHOLE, "b": WHOLE[:512, :500]})
    assert made.places == {} and made.saved == 0 and made.packed == WHOLE.nbytes + 4 * 512 * 500


@pytest.mark.parametrize("other", [WHOLE[:, 256:768], WHOLE[::2], WHOLE[::-1][:512].copy(), WHOLE[:8], WHOLE.copy()],
                         ids=["other input features", "every second", "gathered", "small", "the same"])
def test_nothing_is_cut_where_nothing_is_saved(other):
    made = found({"a": WHOLE, "b": other})
    assert made.places == {} and made.saved == 0


def test_rows_from_the_middle():
    made = found({"a": WHOLE[100:700], "b": WHOLE[400:1000]})
    assert made.places == {("a", "w"): (300,), ("b", "w"): (300,)} and made.saved == WHOLE[:300].nbytes
