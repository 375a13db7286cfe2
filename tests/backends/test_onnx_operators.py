"""Each operator snippet, compiled by the ONNX Runtime backend and run by its engine, equals eager PyTorch."""
from __future__ import annotations

import pytest

from elastic_compile import backends
from tests.backends.regions import compiled, differences
from tests.backends.snippets import SNIPPETS, Snippet


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.name)
def test_equals_eager(snippet: Snippet) -> None:
    kernel = compiled(backends.get("onnxruntime"), snippet.model, snippet.inputs[0], snippet.dynamic)
    for inputs in snippet.inputs:
        assert differences(kernel, snippet.model, inputs) == []
