"""One-file ONNX: a compiled program as a single ONNX model with `If` and `Loop`, for hosts in other languages.

In: a compiled program. Out: a model file that ONNX Runtime has run on the program's reference calls.
Never: writes a file that was not compared, or leaves out what ONNX cannot say: that is refused with the reason.
"""
from elastic_compile.onnx_file.writing import OnnxFile, write

__all__ = ["OnnxFile", "write"]
