"""Shows a program to a person: as text here, as a picture in `elastic_compile.inspect.drawing`.

In: a program, and what was measured while it ran where that is known. Out: text, or an image file.
Never: runs, changes or checks a program.
"""
from elastic_compile.inspect.text import render_sharing, render_text

__all__ = ["render_sharing", "render_text"]
