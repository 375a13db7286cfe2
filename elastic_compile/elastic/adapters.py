"""Supernets of known libraries as `compile_family` takes them: `subnet(config) -> nn.Module`.

In: a supernet as its library makes it. Out: subnets whose parameters are the supernet's own, or views of them.
Never: copies a weight that a view can give, changes the supernet, or imports the library that it adapts.

`Sliced`: whatever a smaller module of the same names describes (slimmable networks, EfficientTDNN, SortedNet width).
`Prefixes`: the first n blocks and a shared head (SortedNet). `Transformer`: depth, heads and widths of feed-forward
layers of the models of `transformers` (DynaBERT, AutoFormer, AmoebaLLM, MatFormer). `OnceForAll`: the package `ofa`.
"""
from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from elastic_compile.errors import ExampleError

Config = Mapping[str, Any]


class Sliced:
    """Subnets whose every tensor is a part of the supernet's tensor of the same name.

    `build(config)` makes the small module; its values do not matter. A dimension of channels (0 and 1) is cut at its
    end; one of a kernel (2 and later) around its centre, as EfficientTDNN (Wang et al., TASLP 2022) and Once-for-All
    do. `name(config, name)` gives the supernet's name of a small module's tensor where they differ.
    """

    def __init__(self, supernet: nn.Module, build: Callable[[Any], nn.Module],
                 name: Callable[[Any, str], str] = lambda config, name: name) -> None:
        self.supernet, self.build, self.name = supernet, build, name

    def subnet(self, config: Any) -> nn.Module:
        """Raises `ExampleError` for a tensor that the supernet does not have, or not that large."""
        made = self.build(config)
        tensors = {**dict(self.supernet.named_parameters()), **dict(self.supernet.named_buffers())}
        for name, own in [*made.named_parameters(), *made.named_buffers()]:
            of = self.name(config, name)
            if of not in tensors:
                raise ExampleError(f"the supernet has no tensor {of!r}", reason=f"the subnet has one called {name!r}",
                                   hint="build the subnet with the supernet's names, or map them with name=")
            part = _part(tensors[of].detach(), own.shape, of)
            where, _, last = name.rpartition(".")
            owner = made.get_submodule(where)
            if isinstance(own, nn.Parameter):
                setattr(owner, last, nn.Parameter(part, requires_grad=False))
            else:
                owner._buffers[last] = part
        return made.eval()


def _part(tensor: torch.Tensor, shape: Sequence[int], name: str) -> torch.Tensor:
    if tensor.dim() != len(shape) or any(small > large for small, large in zip(shape, tensor.shape)):
        raise ExampleError(f"the supernet's {name!r} is no larger than the subnet's",
                           reason=f"{list(tensor.shape)} holds no {list(shape)}", hint="build a smaller subnet")
    for axis, (small, large) in enumerate(zip(shape, tensor.shape)):
        tensor = tensor.narrow(axis, (large - small) // 2 if axis > 1 else 0, small)
    return tensor


class Prefixes:
    """The first n of `blocks`, then `head`: nested subnets, whose choice needs no search (SortedNet, Valipour et al.,
    2023). `configs` has one per number of blocks, the largest first."""

    def __init__(self, blocks: Sequence[nn.Module], head: nn.Module) -> None:
        self.blocks, self.head = tuple(blocks), head

    @property
    def configs(self) -> dict[str, int]:
        return {f"n{count}": count for count in range(len(self.blocks), 0, -1)}

    def subnet(self, count: int) -> nn.Module:
        return nn.Sequential(*self.blocks[:count], self.head).eval()


#: What a linear layer of a transformer's layer produces and takes, by the end of its name.
_ROLES = {
    "query": ("heads", ""), "key": ("keys", ""), "value": ("keys", ""),
    "q_proj": ("heads", ""), "k_proj": ("keys", ""), "v_proj": ("keys", ""),
    "attention.output.dense": ("", "heads"), "o_proj": ("", "heads"), "out_proj": ("", "heads"),
    "intermediate.dense": ("ffn", ""), "fc1": ("ffn", ""), "gate_proj": ("ffn", ""), "up_proj": ("ffn", ""),
    "output.dense": ("", "ffn"), "fc2": ("", "ffn"), "down_proj": ("", "ffn"),
}


class Transformer:
    """Subnets of a model of `transformers` (ViT, BERT, Llama and what is built like them).

    A configuration may have "layers" (how many, from the first; or a list of their numbers), "heads" and "ffn" (the
    first so many attention heads and hidden units; one number, or one per kept layer). With grouped keys and values,
    "heads" is a multiple of the group. `wrap(model)` makes what is compiled of the narrowed model, if not itself.
    """

    def __init__(self, model: nn.Module, wrap: Callable[[nn.Module], nn.Module] | None = None) -> None:
        self.model, self.wrap = model, wrap

    def subnet(self, config: Config) -> nn.Module:
        """Raises `ExampleError` for a key that is none, or a number that the model does not have."""
        if unknown := set(config) - {"layers", "heads", "ffn"}:
            raise ExampleError(f"{sorted(unknown)[0]!r} is no elastic dimension of a transformer",
                               reason='it has "layers", "heads" and "ffn"', hint="leave it out")
        tensors = [*self.model.parameters(), *self.model.buffers()]
        made = copy.deepcopy(self.model, {id(tensor): tensor for tensor in tensors})
        path, layers = self._layers(made)
        kept = config.get("layers", len(layers))
        kept = list(range(kept)) if isinstance(kept, int) else list(kept)
        if not kept or not all(0 <= number < len(layers) for number in kept):
            raise ExampleError(f"the model has no layers {kept}", reason=f"its layers are 0 to {len(layers) - 1}",
                               hint="name one or more of them")
        owner = made.get_submodule(path.rpartition(".")[0])
        setattr(owner, path.rpartition(".")[2], nn.ModuleList(layers[number] for number in kept))
        for place, number in enumerate(kept):
            self._narrow(layers[number], {
                key: config[key] if isinstance(config[key], int) else config[key][place]
                for key in ("heads", "ffn") if key in config})
            for part in layers[number].modules():
                if hasattr(part, "layer_idx"):
                    part.layer_idx = place  # the place in a cache, which has as many as there are layers
        made.config.num_hidden_layers = len(kept)
        made = made.eval()
        return made if self.wrap is None else self.wrap(made).eval()

    @staticmethod
    def _layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
        for path, part in model.named_modules():
            if isinstance(part, nn.ModuleList) and len(part) == model.config.num_hidden_layers:
                return path, part
        raise ExampleError("the model has no list of its layers", reason="no ModuleList has as many members as "
                           "config.num_hidden_layers", hint="write subnet(config) yourself: examples/own_supernet.py")

    def _narrow(self, layer: nn.Module, sizes: Mapping[str, int]) -> None:
        config = self.model.config
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        heads = config.num_attention_heads
        group = heads // (getattr(config, "num_key_value_heads", None) or heads)
        units = {"ffn": sizes.get("ffn"), "heads": None, "keys": None, "": None}
        if "heads" in sizes:
            if sizes["heads"] % group:
                raise ExampleError(f"{sizes['heads']} heads do not share keys and values evenly",
                                   reason=f"{group} heads share one", hint=f"take a multiple of {group}")
            units |= {"heads": sizes["heads"] * width, "keys": sizes["heads"] // group * width}
        for name, part in layer.named_modules():
            if not isinstance(part, nn.Linear):
                continue
            role = next((role for end, role in _ROLES.items() if f".{name}".endswith(f".{end}")), ("", ""))
            rows, columns = (units[one] for one in role)
            if rows is not None or columns is not None:
                self._cut(part, rows or part.out_features, columns or part.in_features, name)

    @staticmethod
    def _cut(part: nn.Linear, rows: int, columns: int, name: str) -> None:
        shape = (rows, columns)
        part.weight = nn.Parameter(_part(part.weight.detach(), shape, f"{name}.weight"), requires_grad=False)
        if part.bias is not None:
            part.bias = nn.Parameter(_part(part.bias.detach(), shape[:1], f"{name}.bias"), requires_grad=False)
        part.out_features, part.in_features = shape


class OnceForAll:
    """Subnets of the package `ofa`: OFAMobileNetV3, OFAProxylessNASNets, OFAResNets (Cai et al., ICLR 2020).

    A configuration is what `set_active_subnet` takes: "ks" (kernel sizes), "e" (expand ratios), "d" (depths), "w"
    (widths), each one value or one per block, stage or part; "r", a resolution, is for `example_inputs` alone. Kernels
    made by a transform matrix are weights of the subnet's own; everything else is a prefix of the supernet's.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def subnet(self, config: Config) -> nn.Module:
        self.net.set_active_subnet(**{key: copy.copy(value) for key, value in config.items() if key != "r"})
        return self.net.get_active_subnet(preserve_weight=True).eval()
