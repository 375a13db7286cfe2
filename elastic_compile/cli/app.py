"""The commands by name.

In: the modules of the commands. Out: the Typer application. Never: imports torch; commands that need it do.
"""
from __future__ import annotations

import typer

from elastic_compile.cli import (
    benching,
    building,
    compiling,
    doctor,
    explaining,
    family,
    inspecting,
    profiling,
    running,
    searching,
    verifying,
)

app = typer.Typer(
    help="Compile PyTorch networks whose Python branches on their inputs; look at, check, time and run the result.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command("compile")(compiling.compile_target)
app.command("family")(family.compile_family)
app.command("inspect")(inspecting.inspect_bundle)
app.command("verify")(verifying.verify_bundle)
app.command("bench")(benching.bench_bundle)
app.command("run")(running.run_bundle)
app.add_typer(profiling.app, name="profile")
app.command("search")(searching.search_target)
app.command("build")(building.build_target)
app.command("doctor")(doctor.diagnose)
app.command("explain")(explaining.explain)
