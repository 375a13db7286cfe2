"""What a search found: the front, everything evaluated, what it cost; as JSON and as a picture.

In: candidates. Out: a frozen result, a JSON file, an image. Never: evaluates or ranks.
"""
from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from elastic_compile.search import pareto
from elastic_compile.search.evaluation import Account
from elastic_compile.search.problem import Candidate, Objective

FORMAT = "elastic-search"
VERSION = 1


@dataclass(frozen=True)
class SearchResult:
    """`front`: evaluated subnets that keep the limits and that no other such one dominates, ordered by the first
    objective. `evaluated`: all, in the order of evaluation."""

    objectives: tuple[Objective, ...]
    front: tuple[Candidate, ...]
    evaluated: tuple[Candidate, ...]
    method: str
    account: Account

    def hypervolume(self, reference: Mapping[str, float]) -> float:
        """See `pareto.hypervolume`."""
        return pareto.hypervolume(self.front, self.objectives, reference)

    def as_data(self) -> dict:
        """The result as JSON values."""
        return {
            "format": FORMAT, "version": VERSION, "method": self.method, "account": asdict(self.account),
            "objectives": [{"name": o.name, "maximise": o.maximise, "measured": o.estimate is None}
                           for o in self.objectives],
            "front": [asdict(candidate) for candidate in self.front],
            "evaluated": [asdict(candidate) for candidate in self.evaluated]}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON; a file at `path` is replaced in one step."""
        path = Path(path)
        raw = json.dumps(self.as_data(), indent=1).encode() + b"\n"
        descriptor, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.part-")
        try:
            with open(descriptor, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(part, 0o644)
            os.replace(part, path)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Draw the first two objectives of everything evaluated, the front as a line with the bounds of its
        predictions; the suffix of `path` says the format. Raises ValueError with a single objective."""
        if len(self.objectives) < 2:
            raise ValueError("a picture takes two objectives")
        from matplotlib.figure import Figure

        x, y = (objective.name for objective in self.objectives[:2])
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        axes.scatter([c.values[x] for c in self.evaluated], [c.values[y] for c in self.evaluated], s=8, color="0.7",
                     label=f"{len(self.evaluated)} evaluated")
        across = [c.values[x] for c in self.front]
        errors = [[abs(c.values[x] - c.bounds.get(x, (c.values[x],) * 2)[end]) for c in self.front] for end in (0, 1)]
        axes.errorbar(across, [c.values[y] for c in self.front], xerr=errors, fmt="o-", ms=4, lw=1, capsize=2,
                      color="C0", label=f"front, {len(self.front)}")
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.legend()
        figure.savefig(path)
