"""All the refusals of a program are listed in one run."""
from __future__ import annotations

import inspect
import time

import numpy as np
import pytest
import torch
from torch import nn

from elastic_compile import api
from tests.constructs import refused


class Middle(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            x = torch.poisson(x)  # EC130
        return x * 2


class ThreeThings(nn.Module):
    def __init__(self):
        super().__init__()
        self.middle = Middle()

    def forward(self, x):
        x = self.middle(x)
        y = torch.from_numpy(np.sort(x))  # EC134
        if y.max() > 0:
            return y * time.time()  # EC121
        return x, f"{y.max().item():.2f}"  # EC141


def test_three_refusals_in_one_run():
    found = api.refusals(ThreeThings().eval(), [(torch.ones(3),)])
    lines, _ = inspect.getsourcelines(inspect.getmodule(ThreeThings))
    expected = [(number, text.rpartition("# ")[2].strip()) for number, text in enumerate(lines, start=1)
                if text.rstrip().endswith(("# EC130", "# EC134", "# EC121", "# EC141"))]
    assert [(one.line, one.code) for one in found] == expected
    assert all(one.file == __file__ and one.reason and one.hint for one in found)


@pytest.mark.parametrize("code", sorted(set(refused.PROGRAMS) - {"EC113", "EC120", "EC154"}))
def test_a_survey_finds_what_the_compilation_finds(code):
    target, calls = refused.PROGRAMS[code][0]()
    assert code in [one.code for one in api.refusals(target, calls)]


def test_a_program_without_refusals():
    class Gate(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    assert api.refusals(Gate().eval(), [(torch.ones(3),)]) == ()
