"""What all commands have in common: their options, progress, errors and reports.

In: results and exceptions. Out: text on standard output, everything else on standard error, JSON files.
Never: turns a defect of the compiler itself into a friendly message.
"""
from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from elastic_compile.errors import CompileError, InternalError
from elastic_runtime import ElasticRuntimeError

P = ParamSpec("P")

Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Directory of the bundle.", show_default=False)]
Source = Annotated[str | None, typer.Option(
    "--source", metavar="FILE:FACTORY", help="Where the module comes from: file.py:factory, which returns "
    "(module, example_inputs).")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads inside one operator.")]
AllowNative = Annotated[bool, typer.Option(
    "--allow-native", help="Run machine code that the bundle brings. Only for bundles that you trust.")]
BudgetRegions = Annotated[int | None, typer.Option(
    "--budget", min=1, metavar="REGIONS", help="Most regions that one call may run; looked at between regions.")]
DeadlineMs = Annotated[float | None, typer.Option(
    "--deadline-ms", min=0, metavar="MS", help="Longest that one call may take; looked at between regions.")]
Seed = Annotated[int, typer.Option("--seed", help="Of all random choices.")]
Json = Annotated[Path | None, typer.Option(
    "--json", metavar="FILE", help="Write a report here; - for standard output, then nothing else goes there.")]

_PIPE_WIDTH = 120
status = Console(stderr=True, highlight=False)


def out(json: Path | None = None) -> Console:
    """The console for results: standard output, or standard error when JSON goes to standard output."""
    console = Console(stderr=json == Path("-"), highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = max(console.width, _PIPE_WIDTH)
    return console


def reporting(command: Callable[P, None]) -> Callable[P, None]:
    """End `command` with status 1 and a readable message for errors that say what to do about them."""
    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except InternalError:
            raise
        except CompileError as error:
            fail(error.code, str(error).removeprefix(f"{error.code}: "))
        except ElasticRuntimeError as error:
            fail(type(error).__name__, str(error))
        except OSError as error:
            fail(type(error).__name__, str(error))
    return run


def fail(kind: str, message: str) -> None:
    """Print an error and end with status 1."""
    first, _, rest = message.partition("\n")
    status.print(Text.assemble((f"error[{kind}]", "bold red"), ": ", (first, "bold")), soft_wrap=True)
    if rest:
        status.print(Text(rest), soft_wrap=True)
    raise typer.Exit(1)


@contextmanager
def progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """Shows stages as they go; the callable takes a stage, how much of it is done and how much there is."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
               TimeElapsedColumn())
    with Progress(*columns, console=status, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                for task in tasks.values():
                    bars.stop_task(task)
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)
        yield report


def write_json(target: Path | None, report: dict[str, Any]) -> None:
    """Write `report` to a file, whole or not at all, or to standard output for "-"."""
    if target is None:
        return
    text = json.dumps(report, indent=1) + "\n"
    if target == Path("-"):
        typer.echo(text, nl=False)
        return
    partial = target.with_name(f".{target.name}.part")
    try:
        partial.write_text(text)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
