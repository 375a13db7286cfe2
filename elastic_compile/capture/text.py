"""Text with numbers in it that only the data decides.

In: a symbolic number that the program formats. Out: a placeholder inside an ordinary string, from which a use of the
text as a key, an attribute's name or an operand of `==` finds the number again.
Never: text that leaves the program; what cannot be resolved is refused by the caller.
"""
from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

OPEN, CLOSE = "\ue000", "\ue001"
_PLACE = re.compile(f"{OPEN}(\\d*){CLOSE}")


def is_data(value: Any) -> bool:
    """Whether a value is text that holds a number from data."""
    return isinstance(value, str) and OPEN in value


def readable(text: str) -> str:
    """The text for an exception's message."""
    return _PLACE.sub("<data>", text)


class Texts:
    """The numbers that one path has put into text."""

    def __init__(self) -> None:
        self.numbers: list[Any] = []

    def place(self, number: Any = None) -> str:
        """A placeholder. `number`: a symbolic int written in plain decimal; None for anything else."""
        if number is None:
            return OPEN + CLOSE
        self.numbers.append(number)
        return f"{OPEN}{len(self.numbers) - 1}{CLOSE}"

    def candidates(self, text: str, among: Iterable[Any]) -> Iterator[tuple[str, Any, int]] | None:
        """(candidate, number, value): `text` is the candidate exactly when the number has that value. None when the
        text holds more than one plain integer, or something else."""
        places = _PLACE.findall(text)
        if len(places) != 1 or not places[0]:
            return None
        before, _, rest = text.partition(OPEN)
        after = rest.partition(CLOSE)[2]
        number = self.numbers[int(places[0])]
        form = re.compile(re.escape(before) + r"(-?(?:0|[1-9][0-9]*))" + re.escape(after), re.DOTALL)
        matches = ((one, form.fullmatch(one)) for one in among if isinstance(one, str))
        return ((one, number, int(found[1])) for one, found in matches if found and found[1] != "-0")
