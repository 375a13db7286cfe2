"""Bounds on what a bundle may hold and on what a call may do.

In: nothing. Out: `Limits`, a frozen set of numbers that every check reads. Never: decides anything itself.
"""
from __future__ import annotations

from dataclasses import dataclass

MiB = 1 << 20
GiB = 1 << 30


@dataclass(frozen=True)
class Limits:
    """The defaults hold for any program that fits a workstation; lower them for a small device.

    Files: `files` in the bundle, `name` characters of a file, tensor, port or parameter name; `json_bytes` of
    a JSON file, `json_depth` of its nesting, `region_bytes` of all region files together, `tensors_bytes` of a
    tensor file and `header_bytes` of its header, `parts` tensors that are parts of stored ones and `part_bytes` of
    those that have to be made. Programs: `subnets` of them, in each `values`, `blocks`, `steps`, `regions`,
    `entries`, `modes` and `sources`, `ports` of one block, region or tree, `rank` and `elements` of one tensor,
    `depth` of a tree, `text` characters of a message or source line. Calls: `max_steps` basic blocks in one call (None:
    unlimited), `int_bits` of a host integer, `random_elements` of one random tensor.
    """

    files: int = 10_000
    name: int = 512
    json_bytes: int = 32 * MiB
    json_depth: int = 100
    region_bytes: int = GiB
    tensors_bytes: int = 256 * GiB
    header_bytes: int = 32 * MiB
    parts: int = 1_000_000
    part_bytes: int = 64 * GiB
    subnets: int = 1_000
    values: int = 1_000_000
    blocks: int = 100_000
    steps: int = 1_000_000
    regions: int = 20_000
    entries: int = 1_000
    modes: int = 1_000
    sources: int = 1_000_000
    ports: int = 20_000
    rank: int = 16
    elements: int = 1 << 40
    depth: int = 32
    text: int = 20_000
    max_steps: int | None = 1_000_000
    int_bits: int = 65_536
    random_elements: int = 1 << 28


DEFAULT_LIMITS = Limits()
