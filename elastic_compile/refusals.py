"""The catalogue of what the compiler refuses, and why.

In: a stable code and the position in the user's program. Out: a `Refusal` with the reason and what to write instead.
Never: a refusal whose text is made anywhere else.
"""
from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elastic_compile.errors import Refusal

_COMPILER = Path(__file__).resolve().parent
_TORCH = Path(importlib.util.find_spec("torch").origin).resolve().parent  # type: ignore[union-attr, arg-type]


@dataclass(frozen=True)
class Entry:
    """One kind of refusal: its title, the reason and the rewrite to make."""

    title: str
    reason: str
    hint: str


CATALOGUE: dict[str, Entry] = {
    "EC110": Entry(
        "the program's control flow does not settle",
        "a loop's state differs at every iteration in a way that cannot be carried as run-time values",
        "keep what changes per iteration in tensors of fixed shape, or in int and float locals, and nothing else",
    ),
    "EC111": Entry(
        "a Python int or float is needed where the data decides the number",
        "the number is known only at run time, and Python needs it now (as an index of a Python list, a hash, "
        "a format or a count)",
        "index a stacked tensor instead of a list (torch.stack(items)[i]), or compare the number in an if",
    ),
    "EC112": Entry(
        "a complex number is read into Python",
        "host scalars are bool, int and float",
        "keep the real and the imaginary part in two tensors, from the inputs on",
    ),
    "EC113": Entry(
        "a host computation that the runtime does not have: {expression}",
        "the runtime's scalar operations are a small closed set",
        "compute it on a tensor, or in two simpler steps",
    ),
    "EC114": Entry(
        "a Python container of {count} entries is indexed by data",
        "one path is made for each entry, and that is too many",
        "stack the entries into a tensor and index that",
    ),
    "EC115": Entry(
        "a list whose length only the data decides",
        "Python lists have a static length in a compiled program",
        "keep it a tensor, and iterate over the tensor's rows",
    ),
    "EC120": Entry(
        "the program is not deterministic",
        "run twice along the same decisions it executed different operations (it depends on a set's order, the "
        "clock, Python's random, or state the compiler cannot see)",
        "make the forward a function of its inputs and of module attributes",
    ),
    "EC121": Entry(
        "the host's clock or random numbers decide: {function}",
        "a compiled program is a function of its inputs; what {function} returned now would be fixed for ever",
        "pass the number in as an input",
    ),
    "EC130": Entry(
        "a random operation: {operator}",
        "random draws are not compiled yet",
        "draw the noise outside and pass it as an input",
    ),
    "EC131": Entry(
        "an operation whose result's size or type only the data decides: {operator}",
        "the operator has no symbolic shape rule",
        "use an operation with a static output shape, or torch.nonzero / boolean masks, which have one",
    ),
    "EC132": Entry(
        "a tensor of type {dtype}",
        "a bundle's tensors are booleans, integers, floats of 16, 32 and 64 bits and complex numbers: what NumPy has",
        "compute it in float32, or in float16: module.float(), torch.autocast('cpu', dtype=torch.float16)",
    ),
    "EC133": Entry(
        "an operation cannot be traced: {message}",
        "PyTorch does not run it on tensors without data, or it fails for these shapes on this path",
        "use operations on tensors only; keep NumPy and other libraries behind a function registered on the host",
    ),
    "EC134": Entry(
        "a tensor's data is handed to another library: {function}",
        "NumPy and other libraries compute outside PyTorch, where the compiler sees nothing",
        "use PyTorch's own operations",
    ),
    "EC171": Entry(
        "host function {name} is given something that is not a tensor",
        "host functions take and give tensors",
        "pass numbers as tensors: torch.tensor(n)",
    ),
    "EC140": Entry(
        "an output that cannot be represented: {kind}",
        "a bundle returns tensors, numbers, strings, None, and tuples, lists, dicts, namedtuples and dataclasses "
        "of them",
        "return one of those",
    ),
    "EC141": Entry(
        "text that depends on data is used",
        "the runtime does not format strings",
        "return the number itself and format it in the application",
    ),
    "EC150": Entry(
        "module state is written in forward: {name}",
        "state that survives the call is not compiled yet",
        "return the new state and pass it back in with the next call",
    ),
    "EC153": Entry(
        "a global variable is assigned: {name}",
        "state outside the module does not survive in a bundle",
        "keep it as an attribute of the module",
    ),
    "EC154": Entry(
        "the module reaches too many objects to watch: more than {count}",
        "state that could change unseen could make the program wrong",
        "move large Python data structures out of the module, or turn them into tensors",
    ),
    "EC152": Entry(
        "state that grows from call to call",
        "a tensor kept between two calls has a size that only the data decides",
        "keep the state in a buffer of fixed size, and its used length in an int",
    ),
    "EC151": Entry(
        "an argument is changed in place: {name}",
        "the caller of a bundle does not see its arguments change",
        "clone the argument first, or return the changed tensor",
    ),
    "EC160": Entry(
        "an input that cannot be represented: {kind} at {name}",
        "inputs are tensors, numbers, strings, None, and tuples, lists, dicts, namedtuples and dataclasses of them",
        "pass one of those",
    ),
}


class Stopped(BaseException):
    """A refusal on its way out of the running program: not an Exception, so that no handler of the user's program
    takes it for an error of its own. `watch`: what finds the place at fault where the path is run once more."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal
        self.watch: Any = None

    def stands_at(self, site: Any) -> None:
        """The refusal is about `site`."""
        position = _position(site)
        for name in position:
            setattr(self.refusal, name, position[name])

    def called_at(self, site: Any) -> None:
        """The refusal leaves a call at `site`: where it names a line of a library, that call is what the user wrote."""
        if site is not None and in_a_library(self.refusal.file) and not in_a_library(site.file):
            self.stands_at(site)


#: File, line, column and width of an expression.
Place = tuple[str, int, int, int]


def place_of(site: Any) -> Place:
    """Where a site (anything with file, line, column, end_line, end_column, text) stands, as refusals say it."""
    width = site.end_column - site.column if site.end_line == site.line else len(site.text) - site.column
    return site.file, site.line, site.column, max(1, width)


@functools.cache
def in_a_library(file: str) -> bool:
    """Whether a line of `file` says nothing to the user: one of PyTorch's, of the compiler's, or of none."""
    return not file or Path(file).resolve().is_relative_to(_TORCH) or Path(file).resolve().is_relative_to(_COMPILER)


def _position(site: Any) -> dict[str, Any]:
    file, line, column, width = place_of(site)
    return {"file": file, "line": line, "column": column, "width": width,
            "source": site.text.splitlines()[0] if site.text else ""}


def stop(code: str, site: Any = None, **fields: Any) -> Stopped:
    """The refusal `code`, to be raised while the program runs."""
    return Stopped(refuse(code, site, **fields))


def refuse(code: str, site: Any = None, **fields: Any) -> Refusal:
    """The refusal `code` at `site` (anything with file, line, column, end_column, text), to be raised."""
    entry = CATALOGUE[code]
    position = {} if site is None else _position(site)
    return Refusal(
        entry.title.format(**fields), code=code, reason=entry.reason.format(**fields), hint=entry.hint.format(**fields),
        **position)
