"""The command line, `elastic-compile`.

In: a shell's arguments. Out: text on the terminal, files, and an exit status: 0 done, 1 failed, 2 used wrongly.
Never: holds logic that the Python API does not have, or shows a traceback for a mistake that it can name.
"""


def main() -> None:
    """The console script."""
    from elastic_compile.cli.app import app

    app(prog_name="elastic-compile")
