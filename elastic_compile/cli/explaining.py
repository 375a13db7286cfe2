"""`elastic-compile explain`: what a refusal's code means, and what to write instead.

In: a code, or none for the list. Out: text; status 2 for a code that does not exist.
Never: says anything that the catalogue does not.
"""
from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from elastic_compile.cli.console import out, reporting
from elastic_compile.refusals import CATALOGUE


@reporting
def explain(
    code: Annotated[str | None, typer.Argument(metavar="[CODE]", show_default=False, help="For example EC111.")] = None,
) -> None:
    """Say what a refusal means and what to write instead."""
    console = out()
    if code is None:
        table = Table(title="what the compiler refuses", title_justify="left")
        table.add_column("code")
        table.add_column("refused")
        for name, entry in CATALOGUE.items():
            table.add_row(name, entry.title.replace("{", "").replace("}", ""))
        console.print(table)
        return
    entry = CATALOGUE.get(code.upper())
    if entry is None:
        raise typer.BadParameter(f"there is no {code}; the codes are {', '.join(CATALOGUE)}")
    console.print(f"{code.upper()}: {entry.title}", markup=False, soft_wrap=True)
    console.print(f"  reason: {entry.reason}", markup=False, soft_wrap=True)
    console.print(f"  instead: {entry.hint}", markup=False, soft_wrap=True)
