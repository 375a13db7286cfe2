"""`elastic-compile run`: one call of a bundle on arrays from a file.

In: a bundle and an .npz file whose arrays are named by parameter. Out: the result's leaves, and the path taken.
Never: does anything that `elastic-run`, which needs no compiler, would do otherwise.
"""
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from elastic_compile.cli.console import AllowNative, Bundle, Json, Threads, reporting
from elastic_runtime import cli as runtime_cli


@reporting
def run_bundle(
    bundle: Bundle,
    input: Annotated[Path, typer.Option(
        "--input", metavar="NPZ", help="Arrays named by parameter: x, or x/0 and x/mask inside lists and dicts.")],
    output: Annotated[Path | None, typer.Option("--output", metavar="NPZ", help="Write the result here.")] = None,
    subnet: Annotated[str | None, typer.Option(
        "--subnet", metavar="NAME", help="Which of the bundle's subnets to run. [default: the first]")] = None,
    threads: Threads = 1,
    allow_native: AllowNative = False,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the random generator.")] = None,
    json: Json = None,
) -> None:
    """Run a bundle once, as elastic-run does."""
    if json == Path("-"):
        raise typer.BadParameter("run writes its result to standard output: name a file", param_hint="--json")
    arguments = [str(bundle), "--input", str(input), "--threads", str(threads)]
    arguments += ["--subnet", subnet] if subnet is not None else []
    arguments += ["--output", str(output)] if output else []
    arguments += ["--allow-native"] if allow_native else []
    arguments += ["--seed", str(seed)] if seed is not None else []
    arguments += ["--json", str(json)] if json else []
    raise typer.Exit(1 if runtime_cli.main(arguments) else 0)
