"""The ONNX scan, against models written byte by byte."""
from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elastic_runtime import onnx_scan
from elastic_runtime.errors import BundleError
from elastic_runtime.onnx_scan import scan


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def node(operator: str = "Add", domain: str = "", attributes: bytes = b"") -> bytes:
    return field(1, "x") + field(2, "y") + field(4, operator) + (field(7, domain) if domain else b"") + attributes


def graph(*nodes: bytes, initializers: tuple[bytes, ...] = (), more: bytes = b"") -> bytes:
    return b"".join(field(1, item) for item in nodes) + field(2, "g") + b"".join(
        field(5, item) for item in initializers) + more


def model(body: bytes, more: bytes = b"") -> bytes:
    return field(1, 10) + field(8, field(1, "") + field(2, 20)) + field(7, body) + more


def tensor(name: str = "w", entries: tuple[tuple[str, str], ...] = (), location: int | None = None) -> bytes:
    out = field(1, 2) + field(2, 1) + field(8, name)
    out += b"".join(field(13, field(1, key) + field(2, value)) for key, value in entries)
    return out + (field(14, location) if location is not None else field(9, b"\0" * 8))


def external(name: str = "w", location: str = onnx_scan.SENTINEL, *more: tuple[str, str]) -> bytes:
    return tensor(name, (("location", location), *more), 1)



def subgraph(body: bytes) -> bytes:
    return field(5, field(1, "body") + field(6, body) + field(20, 5))


def tensor_attribute(made: bytes) -> bytes:
    return field(5, field(1, "value") + field(5, made))



GOOD = {
    "plain": model(graph(node(), initializers=(tensor(),))),
    "domains": model(graph(*(node("Op", domain) for domain in ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")))),
    "weights": model(graph(node(), initializers=(external(), external("v", onnx_scan.SENTINEL, ("offset", "0"),
                                                                     ("length", "8"))))),
    "subgraph": model(graph(node("If", attributes=subgraph(graph(node(), initializers=(tensor(),)))))),
    "function": model(graph(node("Gelu", "mine")), field(25, field(1, "Gelu") + field(7, node()) + field(10, "mine"))),
    "attribute": model(graph(node("Constant", attributes=tensor_attribute(tensor())))),
    "typed": model(graph(node(), more=field(11, field(1, "x") + field(2, field(1, field(1, 1)))))),
}


@pytest.mark.parametrize("name", GOOD)
def test_models_that_keep_to_themselves(name):
    scan(GOOD[name], {"w", "v"})


def nested_subgraphs(depth: int) -> bytes:
    body = graph(node())
    for _ in range(depth):
        body = graph(node("If", attributes=subgraph(body)))
    return model(body)


def nested_types(depth: int) -> bytes:
    kind = field(1, field(1, 1))
    for _ in range(depth):
        kind = field(4, field(1, kind))
    return model(graph(more=field(11, field(2, kind))))


BAD = {
    "empty": (b"", "onnx-malformed"), "text": (b"hello, world", "onnx-field"),
    "no-graph": (field(1, 10), "onnx-malformed"),
    "truncated": (GOOD["plain"][:-3], "onnx-malformed"),
    "long-varint": (b"\x08" + b"\x80" * 11, "onnx-malformed"),
    "huge-length": (field(1, 10) + b"\x3a" + varint((1 << 63) - 1), "onnx-malformed"),
    "group": (b"\x0b\x0c", "onnx-malformed"), "cut-fixed": (b"\x0d\0\0", "onnx-malformed"),
    "graph-as-int": (field(7, 3), "onnx-malformed"), "unknown-field": (GOOD["plain"] + field(99, 1), "onnx-field"),
    "far-field": (GOOD["plain"] + field(7 + (1 << 29), b""), "onnx-field"),
    "two-graphs": (model(graph(), field(7, graph())), "onnx-field"),
    "training": (model(graph(), field(20, b"")), "onnx-field"),
    "configuration": (model(graph(), field(26, b"")), "onnx-field"),
    "bad-utf8": (model(graph(node("\xff").replace(b"\xc3\xbf", b"\xff\xff"))), "onnx-malformed"),
    "long-name": (model(graph(node("A" * 5000))), "onnx-size"),
    "deep-graphs": (nested_subgraphs(200), "onnx-depth"), "deep-types": (nested_types(200), "onnx-depth"),
    "domain": (model(graph(node("Evil", "custom.ops"))), "onnx-domain"),
    "domain-in-subgraph": (model(graph(node("If", attributes=subgraph(graph(node("Evil", "custom.ops")))))),
                           "onnx-domain"),
    "domain-in-function": (model(graph(node("F", "mine")), field(25, field(1, "F") + field(10, "mine") + field(
        7, node("Evil", "custom.ops")))), "onnx-domain"),
    "undefined-function": (model(graph(node("G", "mine")), field(25, field(1, "F") + field(10, "mine"))),
                           "onnx-domain"),
    "function-hides-operator": (model(graph(node()), field(25, field(1, "Add") + field(7, node()))), "onnx-domain"),
    "opens-files": (model(graph(node("EPContext", "com.microsoft"))), "onnx-operator"),
}
for name, made in {
    "path": external(location="../../etc/passwd"), "absolute": external(location="/etc/passwd"),
    "empty-location": external(location=""), "undeclared": external("other"),
    "no-location": tensor("w", (), 1), "no-flag": tensor("w", (("location", onnx_scan.SENTINEL),)),
    "flag-0": tensor("w", (("location", onnx_scan.SENTINEL),), 0), "flag-2": external()[:-1] + b"\2",
    "wide-flag": tensor("w", (("location", onnx_scan.SENTINEL),), (1 << 32) + 1),
    "two-locations": external("w", onnx_scan.SENTINEL, ("location", "/etc/passwd")),
    "other-key": external("w", onnx_scan.SENTINEL, ("basepath", "/etc")),
}.items():
    BAD[f"external-{name}"] = (model(graph(node(), initializers=(made,))), "onnx-external-data")
BAD |= {
    "external-twice": (model(graph(node(), initializers=(external(), external()))), "onnx-external-data"),
    "external-in-subgraph": (model(graph(node("If", attributes=subgraph(graph(initializers=(external(),)))))),
                             "onnx-external-data"),
    "external-in-attribute": (model(graph(node("Constant", attributes=tensor_attribute(external())))),
                              "onnx-external-data"),
    "external-in-list": (model(graph(node("Constant", attributes=field(5, field(10, external()))))),
                         "onnx-external-data"),
    "external-in-sparse": (model(graph(more=field(15, field(1, external())))), "onnx-external-data"),
    "external-in-sparse-attribute": (model(graph(node("Constant", attributes=field(5, field(22, field(
        2, external())))))), "onnx-external-data"),
    "external-in-function": (model(graph(), field(25, field(1, "F") + field(10, "m") + field(7, node(
        "Constant", attributes=tensor_attribute(external()))))), "onnx-external-data"),
    "external-in-default": (model(graph(), field(25, field(1, "F") + field(10, "m") + field(11, field(
        5, external())))), "onnx-external-data"),
    "two-names": (model(graph(initializers=(external() + field(8, "v"),))), "onnx-field"),
    "segment": (model(graph(initializers=(tensor() + field(3, b""),))), "onnx-field"),
}


@pytest.mark.parametrize("name", BAD)
def test_models_that_reach_out_or_are_malformed(name):
    made, rule = BAD[name]
    with pytest.raises(BundleError) as caught:
        scan(made, {"w", "v"}, "region.onnx")
    assert (caught.value.file, caught.value.rule) == ("region.onnx", rule), caught.value


def test_the_work_is_bounded(monkeypatch):
    monkeypatch.setattr(onnx_scan, "MAX_FIELDS", 100)
    with pytest.raises(BundleError, match="onnx-size"):
        scan(model(graph(*[node()] * 100)), set())


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.data())
def test_damaged_bytes_raise_nothing_else(name, data):
    made = bytearray(GOOD[name])
    for _ in range(data.draw(st.integers(1, 3))):
        made[data.draw(st.integers(0, len(made) - 1))] = data.draw(st.integers(0, 255))
    with suppress(BundleError):
        scan(bytes(made), {"w", "v"})


def test_the_field_numbers_are_those_of_onnx():
    pb = pytest.importorskip("onnx").onnx_ml_pb2
    names = {"model": "ModelProto", "graph": "GraphProto", "function": "FunctionProto", "node": "NodeProto",
             "attribute": "AttributeProto", "tensor": "TensorProto", "sparse": "SparseTensorProto",
             "entry": "StringStringEntryProto", "value": "ValueInfoProto", "type": "TypeProto"}
    for kind, message in names.items():
        known = {number: name for number, (name, holds, _) in onnx_scan._MESSAGES[kind].items() if holds != "skip"}
        real = {item.number: item for item in getattr(pb, message).DESCRIPTOR.fields}
        assert {number: real[number].name for number in known} == known
        walked = {names[holds] for _, holds, _ in onnx_scan._MESSAGES[kind].values() if holds in names}
        reaching = set(names.values()) - {"ValueInfoProto", "TypeProto", "StringStringEntryProto"}
        for number, item in real.items():
            if item.message_type is not None and item.message_type.name in reaching:
                assert item.message_type.name in walked and number in known, item.full_name
