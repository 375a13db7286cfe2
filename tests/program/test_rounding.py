"""Where rounding decides: differences of rounding are told from defects."""
from __future__ import annotations

import torch
from torch import nn

from elastic_compile.program.export import run_eager
from elastic_compile.program.rounding import undecided, unsolved
from tests.capture.test_explore import program


class Closer(nn.Module):
    """A step of a fixed-point iteration that keeps the best estimate, as solvers do."""

    def __init__(self):
        super().__init__()
        self.step = nn.Linear(4, 4)
        with torch.no_grad():
            self.step.weight.mul_(0.5)

    def forward(self, x, lowest):
        new = torch.tanh(self.step(x))
        residual = (new - x).norm()
        better = residual < lowest
        return new, better, torch.where(better, 1, 0), residual == 0


def masks(x, lowest):
    made = program(Closer().eval(), x, lowest)
    graph = made.graphs[0]
    inputs = [x, lowest]
    expected = run_eager(made, graph, inputs)
    return [mask.any().item() for mask in undecided(made, graph, inputs, expected, 1e-3, 1e-4)]


def test_a_comparison_of_two_numbers_that_are_rounding_is_undecided():
    torch.manual_seed(0)
    module, x = Closer().eval(), torch.zeros(1, 4)
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(100):
            x = module(x, torch.tensor(1.0))[0]
    assert masks(x, torch.tensor(3e-8)) == [False, True, True, True]


def test_a_comparison_of_different_numbers_is_decided():
    torch.manual_seed(0)
    assert masks(torch.ones(1, 4), torch.tensor(1e-3)) == [False, False, False, False]
    torch.manual_seed(0)
    assert masks(torch.ones(1, 4), torch.tensor(1e3)) == [False, False, False, False]


class Whole(nn.Module):
    def forward(self, x):
        return x == 2, x * 3 >= 6


def test_whole_numbers_are_exact():
    x = torch.tensor([1.0, 2.0, 3.0])
    made = program(Whole().eval(), x)
    expected = run_eager(made, made.graphs[0], [x])
    assert not any(mask.any() for mask in undecided(made, made.graphs[0], [x], expected, 1e-3, 1e-4))


class Solves(nn.Module):
    def forward(self, a, b):
        solution, _, _, info = torch.ops.aten._linalg_solve_ex(a, b)
        return solution + 1, b * 2, info != 0


def test_only_the_solution_of_a_system_that_has_none_is_masked():
    a, b = torch.stack([torch.eye(2), torch.ones(2, 2)]), torch.ones(2, 2, 1)
    made = program(Solves(), a, b)
    expected = run_eager(made, made.graphs[0], [a, b])
    solution, other, failed = unsolved(made, made.graphs[0], [a, b], expected)
    assert solution.squeeze(-1).tolist() == [[False, False], [True, True]]
    assert not other.any() and not failed.any()
