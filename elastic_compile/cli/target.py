"""`file.py:factory` as a module and its example calls, as a supernet and its configurations, or as an elastic network.

In: the text of the argument. Out: what the factory returned.
Never: looks for the file anywhere but where it was named.
"""
from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from elastic_compile.errors import CompileError
from elastic_compile.profile.elastic import Elastic
from elastic_runtime import schema


class TargetError(CompileError):
    """The file or its factory raised, or the factory returned something else than it should."""

    code = "EC502"


def load_target(text: str) -> tuple[Any, Sequence[Any]]:
    """Run the factory that `text`, "file.py:factory", names, and give its `(module, example_inputs)`. Raises as
    `made_by` does."""
    made = made_by(text)
    if not isinstance(made, tuple) or len(made) != 2:
        raise TargetError(
            f"{text} returned a {type(made).__name__}", reason="a factory returns the module and a list of example "
            "calls", hint="write: return module, [(x,)]")
    return made


def load_family(text: str) -> tuple[Any, Mapping[str, Any], Any, Mapping[str, Any]]:
    """Run the factory that `text` names, and give its `(supernet, {name: configuration}, example_inputs)` and the
    further arguments of `compile_family` that it may give as a fourth item. Raises as `made_by` does."""
    made = made_by(text)
    if not isinstance(made, tuple) or len(made) not in (3, 4) or not all(
            isinstance(made[item], Mapping) for item in (1, 3)[: len(made) - 2]):
        raise TargetError(
            f"{text} returned a {type(made).__name__}", reason="a factory of a family returns the supernet, a dict of "
            "configurations by name, and example calls", hint='write: return supernet, {"d12": 12, "d6": 6}, [(x,)]')
    return (*made, {})[:4] if len(made) == 3 else made


def load_elastic(text: str) -> Elastic:
    """Run the factory that `text` names, and give the `Elastic` that it returns. Raises as `made_by` does."""
    made = made_by(text)
    if not isinstance(made, Elastic):
        raise TargetError(
            f"{text} returned a {type(made).__name__}",
            reason="the factory of an elastic network returns what a search has to know of it",
            hint="write: return elastic_compile.profile.Elastic(supernet, space, example_inputs, evaluate)")
    return made


def budget_of(regions: int | None, deadline_ms: float | None) -> schema.Budget | None:
    """What one call may cost; None where nothing limits it."""
    if regions is None and deadline_ms is None:
        return None
    return schema.Budget(regions=regions, deadline_s=None if deadline_ms is None else deadline_ms / 1e3)


def method(module: Any, name: str) -> Callable[..., Any]:
    """The bound method `name` of what a factory made. Raises `typer.BadParameter` where there is none."""
    found = getattr(module, name, None)
    if not callable(found):
        raise typer.BadParameter(f"a {type(module).__name__} has no method {name!r}", param_hint="--fallback")
    return found


def made_by(text: str) -> Any:
    """What the factory that `text`, "file.py:factory", names returns.

    The file's directory is put in front of `sys.path`, as Python does for a script, so that the file can import
    its neighbours. Raises `typer.BadParameter` when the text names no such thing and `TargetError` when what it
    names does not work.
    """
    name, _, attribute = text.rpartition(":")
    path = Path(name)
    if not name or not attribute.isidentifier():
        raise typer.BadParameter(f"given {text!r}, expected FILE.py:FACTORY, such as model.py:factory")
    if not path.is_file():
        raise typer.BadParameter(f"there is no file {name!r}")
    module = _load(path.resolve())
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise typer.BadParameter(f"{name!r} defines no function {attribute!r}")
    try:
        return factory()
    except Exception as error:
        raise _failed(path, f"{attribute}() raised {type(error).__name__}: {error}", error) from error


def _load(path: Path) -> Any:
    sys.path.insert(0, str(path.parent))
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    name = path.stem if known is None else f"_target_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise typer.BadParameter(f"{str(path)!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _failed(path, f"{path.name} raised {type(error).__name__}: {error}", error) from error
    return module


def _failed(path: Path, message: str, error: Exception) -> TargetError:
    """The error with the innermost line of the user's file."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__)
           if Path(frame.filename).resolve().parent == path.resolve().parent]
    if not own:
        return TargetError(message)
    last = own[-1]
    return TargetError(message, file=last.filename, line=last.lineno or 0, column=0, source=last.line or "",
                       width=len(last.line or " "))
