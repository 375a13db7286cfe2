"""Functions that stay on the host: NumPy code, an image library, a sensor.

In: a Python function over NumPy arrays with a declared signature. Out: a function over tensors that the compiler
leaves in the host program, by name; the application gives the function to `elastic_runtime.load(host_ops={name: f})`.
Never: stored in a bundle.

    @ec.host_op("app.sort", inputs=["float32[n]"], outputs=["float32[n]"])
    def sort(x: np.ndarray) -> np.ndarray:
        return np.sort(x)
"""
from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from elastic_compile.errors import CompileError
from elastic_runtime import schema

_FORM = re.compile(r"^(\w+)\[([\w\s,]*)\]$")


class HostOpError(CompileError):
    """A host function is declared wrongly, or given or giving something else than it declares."""

    code = "EC170"


def tensor_type(text: str) -> schema.TensorType:
    """`"float32[2, n]"` as a type: a size is a number, or a name that denotes one size within a call.

    Raises HostOpError.
    """
    form = _FORM.match(text.strip())
    if form is None or form[1] not in schema.DTYPES:
        raise HostOpError(
            f"{text!r} is not a tensor type", reason=f"a type is a dtype and sizes; dtypes: {', '.join(schema.DTYPES)}",
            hint='write for example "float32[2, n]", or "int64[]" for one number',
        )
    sizes = [part.strip() for part in form[2].split(",") if part.strip()]
    return schema.TensorType(dtype=form[1], shape=tuple(int(s) if s.isdecimal() else s for s in sizes))


@dataclass(frozen=True)
class HostFunction:
    """A host function with its signature; called with tensors, it runs the function on their NumPy arrays."""

    name: str
    function: Callable[..., Any]
    inputs: tuple[schema.TensorType, ...]
    outputs: tuple[schema.TensorType, ...]

    @property
    def signature(self) -> schema.HostSignature:
        return schema.HostSignature(name=self.name, inputs=self.inputs, outputs=self.outputs)

    def __call__(self, *tensors: torch.Tensor) -> Any:
        self.check(tensors)
        with torch.no_grad():
            result = self.function(*(tensor.detach().cpu().numpy() for tensor in tensors))
        single = len(self.outputs) == 1 and not isinstance(result, (tuple, list))
        arrays = [np.asarray(one) for one in ((result,) if single else result)]
        made = [torch.from_numpy(np.array(array, order="C")) for array in arrays]
        self.match(self.outputs, made, self.match(self.inputs, tensors, {}, "input"), "output")
        return made[0] if len(self.outputs) == 1 else tuple(made)

    def check(self, tensors: Sequence[Any]) -> dict[str, Any]:
        """The sizes that the names of the signature take. Raises HostOpError."""
        if len(tensors) != len(self.inputs):
            raise HostOpError(
                f"host function {self.name} takes {len(self.inputs)} tensors and was given {len(tensors)}")
        return self.match(self.inputs, tensors, {}, "input")

    def match(
        self, wanted: Sequence[schema.TensorType], tensors: Sequence[Any], sizes: dict[str, Any], side: str
    ) -> dict[str, Any]:
        for number, (kind, tensor) in enumerate(zip(wanted, tensors, strict=True)):
            given = str(tensor.dtype).removeprefix("torch.")
            fits = given == kind.dtype and tensor.dim() == len(kind.shape)
            for size, here in zip(kind.shape, tensor.shape) if fits else ():
                fits = fits and (sizes.setdefault(size, here) if isinstance(size, str) else size) == here
            if not fits:
                raise HostOpError(
                    f"host function {self.name}: {side} {number} is {given}{list(tensor.shape)}",
                    reason=f"it is declared as {kind.dtype}{list(kind.shape)}",
                    hint="convert the tensor, or correct the declaration",
                )
        return sizes


def host_op(
    name: str, *, inputs: Sequence[str], outputs: Sequence[str]
) -> Callable[[Callable[..., Any]], HostFunction]:
    """Declare a function over NumPy arrays as a host operation.

    `name`: how the bundle calls it (dotted ASCII identifiers). `inputs`, `outputs`: types such as "float32[2, n]";
    a name stands for one size within a call, and a name that only an output has for a size that the function
    decides. The runtime checks dtypes and shapes at the boundary. Raises HostOpError.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name, re.ASCII):
        raise HostOpError(f"{name!r} is not a name", reason="names are dotted ASCII identifiers", hint='"app.sort"')

    def declare(function: Callable[..., Any]) -> HostFunction:
        return HostFunction(name, function, tuple(map(tensor_type, inputs)), tuple(map(tensor_type, outputs)))

    return declare
