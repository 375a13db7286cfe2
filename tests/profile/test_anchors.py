"""A table's measured subnets reach the predictor, and nothing else does."""
from __future__ import annotations

import numpy as np
import pytest

from elastic_compile.profile import Integer, OutOfSpace, Space, anchors, fit
from elastic_runtime import latency_table as lt
from tests.profile.tables import entry, small

SPACE = Space((Integer("depth", 1, 12, part=True), Integer("width", 1, 4)))


def subnet(depth: int, width: int, measured: str = "", **fields) -> lt.Entry:
    config = {"depth": depth, "width": width}
    return lt.Entry(id=lt.content_id("subnet", config), key=str(config), kind="subnet", config=config,
                    measured=measured, **{"timing": lt.summarise([1.0 + depth * width] * 8), **fields})


def test_measured_subnets_in_the_order_of_time():
    table = small(entry("a region"), subnet(2, 1, "2026-01-02T00:00:00Z"), subnet(1, 1, "2026-01-01T00:00:00+00:00"),
                  subnet(3, 1, timing=None, flags=(lt.FAILED,)))
    found = anchors(table, SPACE)
    assert [c["depth"] for c in found.configurations] == [1, 2]
    assert found.latency_ms == (2.0, 3.0) and found.at[1] - found.at[0] == 86400


def test_a_missing_time_is_no_time():
    assert anchors(small(subnet(2, 1, "2026-01-02T00:00:00Z"), subnet(1, 1)), SPACE).at is None
    assert anchors(small(), SPACE).configurations == ()


def test_they_fit_a_predictor():
    table = small(*(subnet(depth, width) for depth in range(1, 13) for width in range(1, 5)))
    found = anchors(table, SPACE)
    prediction = fit(SPACE, found.configurations, found.latency_ms, at=found.at).predict(found.configurations)
    assert np.abs(prediction.ms / found.latency_ms - 1).mean() < 0.05


def test_anchors_of_another_space_or_time_are_refused():
    with pytest.raises(OutOfSpace):
        anchors(small(subnet(13, 1)), SPACE)
    with pytest.raises(lt.TableError, match="ISO 8601"):
        anchors(small(subnet(1, 1, "yesterday")), SPACE)
