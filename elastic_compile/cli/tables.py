"""`elastic-compile profile diff|merge|csv|import`: what to do with latency tables.

In: table files; Once-for-All's YAML. Out: text, CSV, table files. Never: measures, or joins what does not belong
together.
"""
from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer
from rich.table import Table

from elastic_compile.cli.console import Json, out, write_json
from elastic_runtime import latency_table as lt

TableFile = Annotated[Path, typer.Argument(metavar="TABLE", help="A latency table.", show_default=False)]
Output = Annotated[Path, typer.Option("-o", "--output", metavar="TABLE", help="Where the table goes.")]
_VERDICTS = ("slower", "faster", "added", "removed", "unjudged", "same")


def diff(
    before: TableFile, after: TableFile,
    tolerance: Annotated[float, typer.Option("--tolerance", min=0, help="Relative change that is no change.")] = 0.02,
    insist: Annotated[bool, typer.Option("--insist", help="Compare tables of different devices or settings.")] = False,
    json: Json = None,
) -> None:
    """Entries that moved beyond their noise, the largest change first. Status 1 when one got slower."""
    old = lt.load(before)
    new = lt.load(after, wanted=like(old), insist=insist)
    changes = lt.diff(old, new, tolerance=tolerance)
    counts = {verdict: sum(change.verdict == verdict for change in changes) for verdict in _VERDICTS}
    table = Table(header_style="bold")
    for name in ("entry", "before ms", "after ms", "ratio", ""):
        table.add_column(name, justify="left" if name in ("entry", "") else "right")
    for change in changes:
        if change.verdict not in ("same", "unjudged"):
            table.add_row(change.key, _ms(change.before_ms), _ms(change.after_ms),
                          "" if change.ratio is None else f"{change.ratio:.3f}", change.verdict)
    console = out(json)
    if table.row_count:
        console.print(table)
    console.print(", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count) or "no entries")
    write_json(json, {"counts": counts, "changes": [msgspec.to_builtins(change) for change in changes]})
    if counts["slower"]:
        raise typer.Exit(1)


def merge(tables: Annotated[list[Path], typer.Argument(metavar="TABLE TABLE...", show_default=False)],
          output: Output) -> None:
    """One table out of several of the same device, backend, version, threads and settings."""
    merged = lt.load(tables[0])
    for path in tables[1:]:
        merged = lt.merge(merged, lt.load(path))
    lt.save(merged, output)
    out().print(f"{len(merged.entries)} entries in {output}")


def csv(table: TableFile,
        output: Annotated[Path | None, typer.Option("-o", "--output", metavar="CSV", help="Else it is printed.")] = None
        ) -> None:
    """The entries as comma-separated values with a header line; times in ms."""
    text = lt.to_csv(lt.load(table))
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text)


def import_yaml(
    source: Annotated[Path, typer.Argument(metavar="YAML", help="A lookup table of Once-for-All or ProxylessNAS.",
                                           show_default=False)],
    output: Output,
    unit: Annotated[Literal["ms", "s", "us"], typer.Option("--unit", help="What its times are in: the file does not "
                                                                         "say it.")],
    device: Annotated[str, typer.Option("--device", help="The name of the device that it is of.")],
    model: Annotated[str, typer.Option("--model", help="Its processor.")],
    architecture: Annotated[str, typer.Option("--architecture", help="Such as aarch64.")],
    cores: Annotated[int, typer.Option("--cores", min=1)],
    backend: Annotated[str, typer.Option("--backend", help="What ran the blocks, such as tflite.")],
    version: Annotated[str, typer.Option("--version", help="Of the backend; \"unknown\" where it is not known.")],
    threads: Annotated[int, typer.Option("--threads", min=1)] = 1,
) -> None:
    """Read a YAML lookup table of Once-for-All or ProxylessNAS."""
    from elastic_compile.profile import read_ofa_yaml

    made = read_ofa_yaml(
        source, unit=unit, device=lt.Device(name=device, model=model, architecture=architecture, cores=cores),
        environment=lt.Environment(backend=backend, version=version, threads=threads))
    lt.save(made, output)
    out().print(f"{len(made.entries)} entries in {output}")


def like(table: lt.LatencyTable) -> lt.Wanted:
    """What another table has to be to be compared with `table`."""
    environment = table.environment
    return lt.Wanted(device=table.device, backend=environment.backend, version=environment.version,
                     threads=environment.threads)


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
