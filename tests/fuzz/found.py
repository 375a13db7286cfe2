"""Programs that random search found to go wrong once, made small.

In: nothing. Out: `FOUND`, sources as the generator writes them, by what was wrong.
Never: holds a program that still goes wrong.
"""
from __future__ import annotations

from tests.fuzz.generator import FOOTER

_BEGIN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.count = 0
"""


def _program(forward: str, stateful: bool = False) -> str:
    body = "".join(f"    {line}\n" for line in forward.strip().splitlines())
    return f"{_BEGIN}\n{body}{FOOTER.format(seed=1, calls=8, arguments='x,')}\nSTATEFUL = {stateful}\n"


FOUND = {
    "a join that another mode reaches by one way only": _program("""
def forward(self, x):
    h = torch.tanh(x)
    n = 0
    while n < 3 and h[1, 1]:
        n += 1
        h = h.reshape(4, 2)
        h[h > 0.8421] = 0.6501
        self.flag = True
""", stateful=True),
    "a view of what was not contiguous before it left its region": _program("""
def forward(self, x):
    h = x
    for i in range(4):
        h = torch.tanh(h).reshape(4, 2).t()
        if h.sum(0).argmax():
            h.add_(0.1779)
    return h
"""),
    "a number of the call before decides": _program("""
def forward(self, x):
    h = x
    if self.count:
        h, n = h * h, self.count
    self.count = h.argmax().item()
    return {"out": h, "more": [h]}
""", stateful=True),
    "a test without effect that asks for another": _program("""
def forward(self, x):
    h = x
    h = next((q + h for q in (h.masked_fill(h > 0.04, 0.4), h if -0.6 < h.mean() < 0.64 else h) if q[1, 3]), h)
    return {"out": h, "more": [h]}
"""),
    "a path whose state only the next call tells from another's": _program("""
def forward(self, x):
    n, asked = 0, x.argmax().item()
    while n < 4 and asked % 2:
        n += 1
    before, self.count = self.count, n
    return {"out": x, "more": [before]}
""", stateful=True),
    "a test without effect beside a walk whose state only the next call tells": """
import torch
from torch import nn

class Exit(Exception):
    pass

class Leaf(nn.Module):

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, h):
        return self.linear(h)

class Net(nn.Module):

    def __init__(self):
        super().__init__()
        self.first = Leaf()
        self.cache = None

    def forward(self, x):
        h = self.first(x)
        try:
            if int(h.sum(0).argmax()) in (2,):
                self.cache = h
                raise Exit(h if h.max() <= 0.4341 else h)
            n = 0
            while n < 2:
                n += 1
                kept = h if self.cache is None else self.cache
                if (kept - h).abs().max().item() > 0.3405:
                    pass
                else:
                    h = h[n]
        except Exit:
            pass
        return {'out': h, 'more': [h]}

def make():
    torch.manual_seed(736)
    net = Net()
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(2.0)
    return net.eval()

def calls():
    drawn = torch.Generator().manual_seed(736)
    made = []
    for i in range(8):
        x = torch.randn(2, 4, generator=drawn) * (0.3, 1.0, 3.0)[i % 3] + (0.0, 0.5, -0.5, 0.0)[i % 4]
        made.append((x,))
    return made
STATEFUL = True
""",
}
