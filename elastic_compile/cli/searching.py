"""`elastic-compile search`: the subnets of an elastic network worth shipping to a device.

In: a `file.py:factory` and a latency table. Out: the Pareto front as JSON and as a picture, and what it cost.
Never: loses an evaluation: they are kept beside the output, and the same command goes on with them.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from elastic_compile.cli.console import Seed, out, progress, reporting
from elastic_compile.cli.target import load_elastic
from elastic_runtime import latency_table as lt

if TYPE_CHECKING:
    from elastic_compile.search import Problem, SearchResult

Target = Annotated[str, typer.Argument(metavar="FILE:FACTORY", help="A function that returns an Elastic.",
                                       show_default=False)]
Profile = Annotated[Path, typer.Option("--device", metavar="TABLE", help="The latency table of the device.")]
Count = Annotated[int, typer.Option("-n", "--evaluations", min=1, help="Most subnets to evaluate.")]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Processes that evaluate.")]
Insist = Annotated[bool, typer.Option("--insist", help="Use a table of another backend or thread count.")]


@dataclass(frozen=True)
class Evaluate:
    """The factory's `evaluate`, which other processes can load."""

    target: str

    def __call__(self, configuration: Mapping) -> Mapping[str, float]:
        return _elastic(self.target).evaluate(configuration)


@cache
def _elastic(target: str):
    return load_elastic(target)


@reporting
def search_target(
    target: Target, profile: Profile,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="JSON", help="Where the front goes.")],
    objective: Annotated[str, typer.Option("--objective", help="Of latency, quality, memory, energy.")]
    = "latency,quality",
    constraint: Annotated[list[str] | None, typer.Option(
        "--constraint", help="Such as 'latency_ms<=12'; held by the whole prediction interval.")] = None,
    by_point: Annotated[bool, typer.Option("--by-point", help="Hold constraints by the prediction's middle.")] = False,
    evaluations: Count = 1000,
    method: Annotated[Literal["auto", "exhaustive", "nsga2", "guided", "depth"], typer.Option(
        "--method", help="auto: exhaustive when -n covers the space, else guided. depth: dynamic programming over "
                         "layers that are there or not.")] = "auto",
    workers: Workers = 1,
    backend: Annotated[str | None, typer.Option(help="Refuse a table of another one.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="Refuse a table of another count.")] = None,
    insist: Insist = False,
    seed: Seed = 0,
) -> None:
    """Search the subnets that no other one beats in all objectives."""
    from elastic_compile.search import search
    from elastic_compile.search.shipping import problem

    table = lt.load(profile, wanted=lt.Wanted(backend=backend, threads=threads), insist=insist)
    asked = problem(_elastic(target), table, objective.split(","), constraint or (),
                    by="point" if by_point else "interval", evaluate=Evaluate(target))
    with progress() as report:
        result = search(asked, evaluations, method=method, seed=seed, cache=cache_of(output, asked), workers=workers,
                        progress=lambda account: report("search", account.evaluations, evaluations))
    result.save(output)
    console = out()
    console.print(front_table(result))
    if len(result.objectives) > 1:
        picture = output.with_suffix(".png")
        result.draw(picture)
        console.print(f"wrote {output} and {picture}")
    console.print(spent(result))


def cache_of(output: Path, asked: Problem) -> Path | None:
    """Where evaluations are kept; None when there are none."""
    return output.with_suffix(".evaluations.jsonl") if asked.measured else None


def front_table(result: SearchResult) -> Table:
    made = Table(header_style="bold", title=f"{len(result.front)} of {len(result.evaluated)} subnets",
                 title_justify="left")
    for objective in result.objectives:
        made.add_column(objective.name, justify="right")
    made.add_column("subnet", overflow="fold")
    for candidate in result.front:
        cells = []
        for objective in result.objectives:
            value = candidate.values[objective.name]
            bounds = candidate.bounds.get(objective.name)
            cells.append(f"{value:.4g}" + (f" ({bounds[0]:.4g} to {bounds[1]:.4g})" if bounds else ""))
        made.add_row(*cells, " ".join(f"{name}={value}" for name, value in candidate.configuration.items()))
    return made


def spent(result: SearchResult) -> str:
    """What a search cost, as a line."""
    account = result.account
    return (f"{result.method}: {account.evaluations} evaluations, {account.cached} of them from the cache, "
            f"{account.evaluating_s:.1f} s in evaluate; {account.ruled_out} proposals ruled out by prediction; "
            f"{account.total_s:.1f} s in all")
