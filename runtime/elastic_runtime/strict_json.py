"""JSON out of a bundle, decoded with every bound in place.

In: bytes and the type they should have. Out: an instance of that type.
Never: parses anything that is too large or too deep, or lets a parser's own exception through.
"""
from __future__ import annotations

import re
from typing import Any

import msgspec

from elastic_runtime import schema
from elastic_runtime.errors import BundleError
from elastic_runtime.limits import Limits

# A string, even one that does not end, or a bracket; possessive, so linear in time and constant in memory.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]|[\]}]', re.DOTALL)


def decode_json(raw: bytes | memoryview, kind: Any, file: str, limits: Limits) -> Any:
    """`raw` as a `kind`.

    Raises `BundleError` naming `file`, with the rule "json-size", "json-depth", "json-duplicate-key",
    "json-schema" (an unknown or missing key, or a wrong type) or "json-syntax".
    """
    if len(raw) > limits.json_bytes:
        raise BundleError(file, "json-size", f"{len(raw)} bytes", f"<= {limits.json_bytes}")
    depth = 0
    for token in _TOKEN.finditer(raw):
        first = raw[token.start()]
        if first in b"[{":
            depth += 1
            if depth > limits.json_depth:
                raise BundleError(file, "json-depth", f"more than {limits.json_depth} levels",
                                  f"<= {limits.json_depth}")
        elif first in b"]}":
            depth -= 1
    try:
        return schema.decode(raw, kind)
    except schema.DuplicateKey as error:
        raise BundleError(file, "json-duplicate-key", f"{str(error)!r} twice", "each key once") from None
    except msgspec.ValidationError as error:
        raise BundleError(file, "json-schema", str(error), "the schema's keys and types") from None
    except (ValueError, RecursionError) as error:
        raise BundleError(file, "json-syntax", str(error), "one JSON value in UTF-8") from None
