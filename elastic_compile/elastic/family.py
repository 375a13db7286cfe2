"""Compiles subnets of a supernet into one bundle.

In: a supernet (`subnet(config) -> nn.Module`, or `activate(config)` in place), named configurations, example calls.
Out: a `CompiledFamily`: a `CompiledProgram` per configuration, each compared with eager PyTorch in the bundle of them
all, as it will be loaded.
Never: takes anyone's word for which weights subnets share, or leaves the supernet's statistics changed.

A subnet goes the ordinary road of `compile`, so it may be dynamic. Regions that are equal in two subnets are
compiled once; weights are shared by what they hold (`elastic_compile.weights`).
"""
from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

import elastic_runtime as er
from elastic_compile import api, backends, bundle
from elastic_compile.backends.once import Once
from elastic_compile.bundle.provenance import collect
from elastic_compile.elastic.statistics import own_statistics
from elastic_compile.elastic.widths import Widths, divided, engine_choices
from elastic_compile.errors import CompileError, ExampleError, VerificationError
from elastic_compile.inspect import render_sharing, render_text
from elastic_compile.verify import verified
from elastic_runtime import schema
from elastic_runtime.check import SUBNET_NAME

Calls = Sequence[Any]
Progress = Callable[[str, int, "int | None"], None]

#: How many times as long a region may take so that subnets of other widths share its packed weights. In the family
#: the mapped packed weights make up for it: 0.86 to 1.00 x of the subnet alone where blocks alone took 1.00 to 1.03 x.
SLOWER = 1.05


@dataclass(frozen=True)
class CompiledFamily:
    """Compiled subnets, ready to save as one bundle. `programs`: by name, in the order given; the first is active
    when the bundle is loaded. `widths`: the same as the bundle has them. `regions`: (compiled, taken from another
    subnet)."""

    name: str
    programs: Mapping[str, api.CompiledProgram]
    widths: Widths
    supernet: Mapping[str, np.ndarray]
    regions: tuple[int, int]
    tables: Mapping[str, bytes]
    fallback: str = ""

    @cached_property
    def packed(self) -> bundle.Packed:
        """What the bundle holds."""
        members = [replace(member, reference=program.reference, reference_tensors=program.reference_tensors,
                           budget=program.budget)
                   for member, program in zip(self.widths.members, self.programs.values())]
        first = next(iter(self.programs.values()))
        hashes = [program.provenance.source_sha256 for program in self.programs.values()]
        provenance = collect(hashes, {"backend": first.backend, "subnets": len(self.programs)})
        packed = bundle.pack(self.name, members, self.widths.files, provenance, supernet=self.supernet,
                             tables=self.tables, fallback=self.fallback)
        return replace(packed, sharing=msgspec.structs.replace(
            packed.sharing, decisions=(*engine_choices(packed), *self.widths.decisions)))

    @property
    def sharing(self) -> schema.Sharing:
        """Which bytes and regions the subnets share, per subnet, and why."""
        return self.packed.sharing

    def inspect(self) -> str:
        """The subnets, what they share and why, then each host program."""
        packed = self.packed
        texts = [render_sharing(packed.subnets, packed.sharing, packed.fallback)]
        texts += [f"subnet {subnet.name}\n\n{render_text(program)}"
                  for subnet, program in zip(packed.subnets, packed.programs)]
        return "\n".join(texts)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the bundle at `path` (a directory), atomically; an existing bundle there is replaced."""
        bundle.write(path, self.packed)


def compile_family(
    supernet: Any,
    configs: Mapping[str, Any],
    example_inputs: Calls | Mapping[str, Calls] | Callable[[Any], Calls],
    *,
    backend: str = "onnxruntime",
    name: str | None = None,
    recalibrate: Calls | Callable[[torch.nn.Module], None] | None = None,
    quality: Mapping[str, float] | Callable[[torch.nn.Module], float] | None = None,
    progress: Progress | None = None,
    budget: schema.Budget | None = None,
    fallback: str = "",
    slower: float = SLOWER,
) -> CompiledFamily:
    """Compile the subnets `configs` of `supernet` into one bundle that shares their weights.

    `configs`: name -> configuration, which is handed to the supernet as it is. A name has 1 to 64 letters, digits,
    '_', '.', '-'. `example_inputs`: as `compile` takes them; or per name, or a function of the configuration, where
    subnets take different inputs (resolution). `recalibrate`: calls to run through each subnet so that its batch
    norms have statistics of their own, or a function that does that to a subnet; the supernet's statistics are put
    back. `quality`: what a subnet is worth (higher is better), by name or as a function of the eager subnet.

    `budget`: what one call may cost, looked at between regions. `fallback`: the subnet, such as the smallest, that runs
    on the same arguments when a call of another exceeds its budget.

    `slower`: with ONNX Runtime subnets of several widths share packed weights where their linear layers are computed
    in blocks. A region is, where that was measured to take at most `slower` times as long; `math.inf` divides wherever
    memory is saved, 0 nowhere.

    With `activate` the supernet is left as the last configuration made it.

    Raises `ExampleError` for a supernet or names that are none, and what `compile` raises, with the subnet's name.
    """
    _check(supernet, configs)
    if fallback and fallback not in configs:
        raise ExampleError(f"the fallback {fallback!r} is no subnet", reason=f"there are {', '.join(configs)}",
                           hint="name one of them, such as the smallest")
    once = Once(backends.get(backend))
    report = progress or (lambda stage, done, total: None)
    programs: dict[str, api.CompiledProgram] = {}
    worth: dict[str, float | None] = {}
    title = name or type(supernet).__name__
    held = _tensors(supernet)
    for number, (label, config) in enumerate(configs.items()):
        report("subnets", number, len(configs))
        module = subnet_of(supernet, label, config)
        try:
            with own_statistics(module, recalibrate):
                worth[label] = _quality(quality, label, module)
                programs[label] = api.unverified(
                    module, examples_of(example_inputs, label, config), backend=once, name=f"{title}.{label}",
                    progress=progress)
        except CompileError as error:
            if f"subnet {label}" not in error.message:
                error.message = f"subnet {label}: {error.message}"
            raise
    report("subnets", len(configs), len(configs))
    if fallback:
        api.check_fallback(fallback, programs[fallback], [one for n, one in programs.items() if n != fallback])
    flat = {label: flattened(config) for label, config in configs.items()}
    members = [program.member(label, flat[label], worth[label]) for label, program in programs.items()]
    files = {file: data for program in programs.values() for file, data in program.files.items()}
    made = _verified(CompiledFamily(
        title, programs, divided(members, files, held, slower), held, (once.compiled, once.remembered), {}, fallback),
        once.native, report)
    if budget is None:
        return made
    return replace(made, programs={name: replace(one, budget=budget) for name, one in made.programs.items()})


def flattened(config: Any, at: str = "") -> dict[str, bool | int | float | str]:
    """A configuration as a flat dict, for people: {"depth": 3, "width.0": 64}."""
    if is_dataclass(config) and not isinstance(config, type):
        config = vars(config)
    if isinstance(config, Mapping):
        items = list(config.items())
    elif isinstance(config, (list, tuple)):
        items = list(enumerate(config))
    else:
        plain = isinstance(config, (bool, int, str)) or (isinstance(config, float) and math.isfinite(config))
        return {at or "config": config if plain else str(config)}
    return {key: value for name, item in items
            for key, value in flattened(item, f"{at}.{name}" if at else str(name)).items()}


def _check(supernet: Any, configs: Mapping[str, Any]) -> None:
    if not callable(getattr(supernet, "subnet", None)) and not callable(getattr(supernet, "activate", None)):
        raise ExampleError(
            f"a {type(supernet).__name__} is no supernet", reason="it has neither subnet(config) nor activate(config)",
            hint="wrap it: a class whose subnet(config) returns the nn.Module of that configuration")
    bad = [label for label in configs if not isinstance(label, str) or not SUBNET_NAME.fullmatch(label)]
    if bad or not configs or len({label.lower() for label in configs}) != len(configs):
        raise ExampleError(
            f"{bad[0]!r} cannot name a subnet" if bad else "there are no subnets, or two whose names differ in case",
            reason="names become names of files", hint="1 to 64 letters, digits, '_', '.', '-', such as \"d16\"")


def subnet_of(supernet: Any, label: str, config: Any) -> torch.nn.Module:
    """The eager subnet `config`; with `activate` it is the supernet itself, until it is activated anew. Raises
    `ExampleError`."""
    if callable(getattr(supernet, "subnet", None)):
        module = supernet.subnet(config)
    else:
        made = supernet.activate(config)
        module = made if isinstance(made, torch.nn.Module) else supernet
    if not isinstance(module, torch.nn.Module):
        raise ExampleError(
            f"subnet {label}: the supernet gave a {type(module).__name__}", reason="a subnet is an nn.Module",
            hint="let subnet(config) return the module, or make the supernet with activate(config) a module itself")
    return module


def examples_of(given: Any, label: str, config: Any) -> Calls:
    """The example calls of one subnet, out of what `compile_family` takes for all. Raises `ExampleError`."""
    if isinstance(given, Mapping):
        if label not in given:
            raise ExampleError(f"there are no example calls for subnet {label}",
                               reason=f"there are some for {', '.join(map(str, given))}",
                               hint="give example_inputs one list of calls per name, or one list for all")
        return given[label]
    return given(config) if callable(given) else given


def _quality(given: Any, label: str, module: torch.nn.Module) -> float | None:
    if given is None:
        return None
    with torch.no_grad():
        value = given.get(label) if isinstance(given, Mapping) else given(module)
    if value is None:
        return None
    if not math.isfinite(value):
        raise ExampleError(f"the quality of subnet {label} is {value}", reason="subnets are compared by it",
                           hint="give a finite number, higher for better")
    return float(value)


def _tensors(supernet: Any) -> dict[str, np.ndarray]:
    """The supernet's tensors, by name: where its subnets' weights may lie. Those that it has as plain attributes
    are found as what the largest subnet holds."""
    def named() -> Iterator[tuple[str, torch.Tensor]]:
        if isinstance(supernet, torch.nn.Module):
            yield from supernet.named_parameters()
            yield from supernet.named_buffers()
            return
        for key, value in vars(supernet).items():
            if isinstance(value, torch.nn.Module):
                yield from ((f"{key}.{n}", t) for n, t in (*value.named_parameters(), *value.named_buffers()))

    return {label: tensor.detach().numpy() for label, tensor in named()
            if tensor.device.type == "cpu" and tensor.dtype != torch.bfloat16 and tensor.layout == torch.strided}


def _verified(family: CompiledFamily, native: bool, report: Progress) -> CompiledFamily:
    """Load the bundle as an application would, and compare each subnet in it with eager PyTorch."""
    hosts = {name: function for program in family.programs.values() for name, function in program.host_ops.items()}
    programs: dict[str, api.CompiledProgram] = {}
    with tempfile.TemporaryDirectory(prefix="elastic-verify-") as directory:
        path = Path(directory) / "family.elastic"
        family.save(path)
        model = er.load(path, allow_native=native, host_ops=hosts, cache=False)
        for number, (name, program) in enumerate(family.programs.items()):
            report("verify", number, len(family.programs))
            model.reset()
            model.switch(name)
            try:
                programs[name] = verified(program, model)
            except VerificationError as error:
                error.message = f"subnet {name}: {error.message}"
                raise
    return replace(family, programs=programs)
