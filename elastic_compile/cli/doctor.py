"""`elastic-compile doctor`: what is installed here, what works, and what the compiler makes of a module.

In: this environment, and optionally a `file.py:factory`. Out: tables; status 1 when something needed is missing.
Never: installs or changes anything.
"""
from __future__ import annotations

import shutil
from typing import Annotated, Any

import typer
from rich.table import Table

from elastic_compile.bundle.provenance import device, versions
from elastic_compile.cli.console import Json, out, progress, reporting, write_json
from elastic_compile.cli.target import load_target
from elastic_compile.errors import BackendUnavailable, CompileError, InternalError
from elastic_runtime import engines
from elastic_runtime.errors import EngineMissing


@reporting
def diagnose(
    target: Annotated[str | None, typer.Argument(
        metavar="[FILE:FACTORY]", show_default=False, help="Also try to compile this module.")] = None,
    backend: Annotated[str, typer.Option(help="What to compile the module with.")] = "onnxruntime",
    json: Json = None,
) -> None:
    """Show versions, backends, engines and this machine; with a module, what the compiler refuses in it."""
    report: dict[str, Any] = {"versions": versions(), "device": device(), "c++": shutil.which("g++") or "",
                              "engines": _engines(), "backends": _backends()}
    console = out(json)
    console.print(_table("versions", report["versions"]))
    console.print(_table("machine", report["device"] | {"c++ compiler": report["c++"] or "none (torch.compile)"}))
    console.print(_table("engines of the runtime", report["engines"]))
    console.print(_table("backends of the compiler", report["backends"]))
    failed = report["engines"]["onnxruntime"] != "ready" or report["backends"]["onnxruntime"] != "ready"
    if target is not None:
        found = _refusals(target, backend)
        report["refusals"] = [_fields(refusal) for refusal in found]
        console.print("\n" + ("\n\n".join(map(str, found)) or "The module compiles."), markup=False)
        failed |= bool(found)
    write_json(json, report)
    if failed:
        raise typer.Exit(1)


def _table(title: str, rows: dict[str, str]) -> Table:
    made = Table(title=title, title_justify="left", show_header=False)
    for name, value in rows.items():
        made.add_row(name, value)
    return made


def _engines() -> dict[str, str]:
    found = {}
    for name in engines.known():
        try:
            factory = engines.factory(name)
            found[name] = "ready, runs native code" if engines.is_native(factory) else "ready"
        except EngineMissing as error:
            found[name] = f"missing: {error.reason}"
    return found


def _backends() -> dict[str, str]:
    from elastic_compile import backends

    found = {}
    for name in backends.installed():
        try:
            backends.get(name)
            found[name] = "ready"
        except BackendUnavailable as error:
            found[name] = f"missing: {error.reason or error.message}"
    return found


def _refusals(target: str, backend: str) -> list[CompileError]:
    """Everything in the module that is refused; where that is nothing, what its backend refuses."""
    module, examples = load_target(target)
    with progress() as report:
        from elastic_compile import api
        try:
            found: list[CompileError] = list(api.refusals(module, examples, progress=report))
            if not found:
                api.compile(module, examples, backend=backend, progress=report)
        except InternalError:
            raise
        except CompileError as error:
            found = [error]
    return found


def _fields(error: CompileError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "file": error.file, "line": error.line,
            "reason": error.reason, "hint": error.hint}
