"""Decisions: every way in which Python chooses by what a tensor holds."""
from __future__ import annotations

import contextlib
import enum

import torch
import torch.nn.functional as F
from torch import nn

from tests.constructs.registry import case, normal, sweep


class Classifier(nn.Module):
    """An exit of an early-exit network: pooled features, a linear layer."""

    def __init__(self, width, classes=3):
        super().__init__()
        self.linear = nn.Linear(width, classes)

    def forward(self, x):
        return self.linear(x.mean(dim=(2, 3)))


class ConvStage(nn.Module):
    def __init__(self, inner, outer):
        super().__init__()
        self.conv = nn.Conv2d(inner, outer, 3, padding=1)
        self.norm = nn.BatchNorm2d(outer)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)))


class BranchyNet(nn.Module):
    """Teerapittayanon et al. 2016: leave at the first exit whose entropy is low."""

    def __init__(self, threshold=0.9):
        super().__init__()
        self.stages = nn.ModuleList([ConvStage(1, 4), ConvStage(4, 4), ConvStage(4, 4)])
        self.exits = nn.ModuleList([Classifier(4) for _ in range(3)])
        self.threshold = threshold

    def entropy(self, logits):
        p = F.softmax(logits, dim=-1)
        return -(p * torch.log(p + 1e-9)).sum(-1).mean()

    def forward(self, x):
        for i, (stage, leave) in enumerate(zip(self.stages, self.exits)):
            x = stage(x)
            logits = leave(x)
            if i < len(self.stages) - 1 and self.entropy(logits) < self.threshold:
                return logits, i
        return logits, i


@case(paths=3)
def branchynet():
    net = BranchyNet(threshold=0.9)
    with torch.no_grad():
        net.exits[0].linear.weight.mul_(3.0)
        net.exits[1].linear.weight.mul_(9.0)
    return net, [(x,) for x in sweep(32, 1, 1, 6, 6)]


class MSDBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.fine = nn.Conv2d(2, 2, 3, padding=1)
        self.coarse = nn.Conv2d(2, 2, 3, stride=2, padding=1)

    def forward(self, scales):
        fine, coarse = scales
        new_fine = torch.relu(self.fine(fine))
        new_coarse = torch.relu(self.coarse(fine)) + coarse
        return [new_fine, new_coarse]


class MSDNet(nn.Module):
    """Huang et al. 2018: features at two scales, classifiers along the depth, confidence decides."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([MSDBlock() for _ in range(3)])
        self.classifiers = nn.ModuleList([nn.Linear(2, 4) for _ in range(3)])
        self.confidence = 0.42

    def forward(self, x):
        scales = [x, F.avg_pool2d(x, 2)]
        outputs = []
        for block, classifier in zip(self.blocks, self.classifiers):
            scales = block(scales)
            logits = classifier(scales[-1].mean((2, 3)))
            outputs.append(logits)
            confident, _ = F.softmax(logits, -1).max(-1)
            if bool((confident > self.confidence).all()):
                break
        return {"logits": outputs[-1], "exit": len(outputs), "all": outputs}


@case(paths=3)
def msdnet():
    return MSDNet(), [(normal(s, 1, 2, 4, 4, scale=k),) for s, k in ((1, 0.1), (2, 4.0), (3, 9.0), (4, 1.5))]


class GatedResidual(nn.Module):
    """A block of SkipNet (Wang et al. 2018): the gate says whether the layer runs at all."""

    def __init__(self, width):
        super().__init__()
        self.gate = nn.Linear(width, 1)
        self.body = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, x):
        if torch.sigmoid(self.gate(x)).mean() > 0.5:
            return x + self.body(x)
        return x


class SkipStage(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        self.blocks = nn.ModuleList(GatedResidual(width) for _ in range(depth))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class SkipNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.stages = nn.Sequential(SkipStage(4, 2), SkipStage(4, 2))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.stages(self.stem(x)))


@case(paths=8)
def skipnet_three_modules_deep():
    return SkipNet(), [(x,) for x in sweep(32, 2, 4)]


class IfElifElse(nn.Module):
    def __init__(self):
        super().__init__()
        self.low, self.middle, self.high = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        energy = x.abs().mean()
        if energy < 0.5:
            y = self.low(x)
        elif energy < 1.5:
            y = self.middle(x)
        elif energy < 5.0:
            y = self.high(x)
        else:
            y = torch.zeros_like(x)
        return y


@case(paths=4)
def if_elif_else():
    return IfElifElse(), [(torch.full((2, 3), v),) for v in (0.1, 1.0, 3.0, 9.0)]


class ConditionalExpressions(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        y = self.a(x) if x.sum() > 0 else self.b(x)
        scale = 2.0 if y.mean() > 0 else (0.5 if y.max() > 0 else -1.0)
        return y * scale


@case(paths=5, seed=1)
def conditional_expressions():
    return ConditionalExpressions(), [(x,) for x in sweep(32, 2, 3)] + [(torch.full((2, 3), v),) for v in (-9.0, 9.0)]


class ShortCircuit(nn.Module):
    """The right-hand side must not run when the left one decides: its division by an empty sum would be NaN."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def ratio(self, x, mask):
        return (x * mask).sum() / mask.sum()

    def forward(self, x, mask):
        if mask.any() and self.ratio(x, mask) > 0 and not (x > 3).any():
            return self.linear(x)
        if not mask.any() or self.ratio(x, mask) < -1:
            return -x
        return x * 0.5


@case(paths=5)
def and_or_not_short_circuit():
    x = torch.tensor([[1.0, -1.0, 2.0]])
    mask = torch.tensor([[1.0, 0.0, 1.0]])
    return ShortCircuit(), [
        (x, mask), (x, torch.zeros(1, 3)), (-x, mask), (x * 3, mask), (x, torch.tensor([[0.0, 1.0, 0.0]]) * 0.5 + 0),
        (x * 0.2, torch.tensor([[0.0, 1.0, 0.0]])), (-x * 2, mask),
    ]


class BooleanValues(nn.Module):
    """`and` and `or` as values, where the operand itself is the result."""

    def forward(self, x, y):
        chosen = (x.sum() > 0) and (y.sum() > 0)
        fallback = (x.max() > 5) or (y.max() > 5)
        both = chosen and not fallback
        z = x + y if both else x - y
        return z, bool(chosen), bool(fallback)


@case(paths=6)
def and_or_as_values():
    one, big = torch.ones(2, 2), torch.full((2, 2), 6.0)
    return BooleanValues(), [
        (one, one), (-one, one), (one, -one), (big, one), (one, big), (-one, big), (-one, -one), (big, big)]


class ChainedComparisons(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside, self.outside = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        if -1 < x.mean() < 1:
            return self.inside(x)
        if 2 <= x.max().item() <= 4:
            return self.outside(x)
        return x


@case(paths=5)
def chained_comparisons():
    return ChainedComparisons(), [(torch.full((1, 2), v),) for v in (0.0, 3.0, 9.0, -9.0, 1.5)]


class MatchOnPredicates(nn.Module):
    def __init__(self):
        super().__init__()
        self.paths = nn.ModuleDict({"calm": nn.Linear(3, 3), "noisy": nn.Linear(3, 3)})

    def kind(self, x):
        if x.std() < 0.5:
            return "calm"
        return "noisy" if x.std() < 3 else "broken"

    def forward(self, x):
        match self.kind(x):
            case "calm" | "noisy" as name:
                return self.paths[name](x)
            case _:
                return torch.zeros_like(x)


@case(paths=3)
def match_on_a_string():
    return MatchOnPredicates(), [(normal(1, 2, 3, scale=s),) for s in (0.1, 2.0, 90.0)]


class Route(enum.Enum):
    SMALL = 1
    LARGE = 2


class EnumRouter(nn.Module):
    def __init__(self):
        super().__init__()
        self.routes = {Route.SMALL: nn.Linear(3, 2), Route.LARGE: nn.Linear(3, 2)}
        self.a, self.b = self.routes.values()

    def route(self, x):
        return Route.LARGE if x.norm() > 2 else Route.SMALL

    def forward(self, x):
        route = self.route(x)
        y = self.routes[route](x)
        match route:
            case Route.LARGE:
                y = torch.tanh(y)
            case Route.SMALL:
                pass
        return y, route.name


@case(paths=2)
def enum_choice_and_match():
    return EnumRouter(), [(torch.full((1, 3), v),) for v in (0.1, 4.0)]


class MatchGuards(nn.Module):
    def forward(self, pair):
        match pair:
            case (x, y) if x.mean() > y.mean():
                return x * 2
            case (x, y) if (x - y).abs().max() < 0.1:
                return (x + y) / 2
            case [x, y]:
                return y - x


@case(paths=3)
def match_with_guards():
    one = torch.ones(2)
    return MatchGuards(), [((one * 2, one),), ((one, one * 1.05),), ((one, one * 3),)]


class Checked(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x):
        assert torch.isfinite(x).all(), "the input must be finite"
        y = self.linear(x)
        assert y.abs().max() < 50
        return y


@case(paths=3)
def asserts():
    return Checked(), [(torch.ones(1, 2),), (torch.tensor([[1.0, float("inf")]]),), (torch.full((1, 2), 500.0),)]


class AnyAllOfTensors(nn.Module):
    """`any` and `all` stop at the first element that decides."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(2, 1) for _ in range(3))

    def forward(self, x):
        scores = [head(x).mean() for head in self.heads]
        if all([s > 0 for s in scores]):
            return torch.stack(scores)
        if any(s > 0.5 for s in scores):
            return x * scores[0]
        return -x


@case(paths=7)
def any_and_all_over_lists():
    net = AnyAllOfTensors()
    with torch.no_grad():
        for head, sign in zip(net.heads, (1.0, 1.0, -1.0)):
            head.weight.copy_(torch.tensor([[1.0, sign * 0.1]]))
            head.bias.zero_()
        net.heads[1].weight.copy_(torch.tensor([[0.0, 1.0]]))
    return net, [(torch.tensor([row]),) for row in (
        [1.0, 1.0], [-1.0, 0.2], [-1.0, 2.0], [2.0, -1.0], [0.2, -0.5], [0.05, 2.0], [-0.1, -8.0])]


class TensorInList(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(6, 3)
        self.stops = [2, 5]

    def forward(self, token):
        if token.item() in self.stops:
            return torch.zeros(3)
        return self.embedding(token)[0]


@case(paths=3)
def number_in_list():
    return TensorInList(), [(torch.tensor([i]),) for i in (0, 2, 5, 3)]


class TensorAmongTensors(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("eos", torch.tensor(1))
        self.register_buffer("pad", torch.tensor(0))
        self.weight = nn.Parameter(torch.randn(4))

    def forward(self, token):
        if token in [self.eos, self.pad]:
            return self.weight * 0
        return self.weight * token


@case(paths=3)
def tensor_in_list():
    return TensorAmongTensors(), [(torch.tensor(i),) for i in (0, 1, 3)]


class BestHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(3))

    def forward(self, x):
        outputs = [head(x).sum() for head in self.heads]
        best = max(outputs)
        worst = min(outputs, key=lambda value: value.abs())
        return best, worst


@case(paths=10)
def max_and_min_of_tensors():
    return BestHead(), [(x,) for x in sweep(32, 1, 2)]


class EarlyReturnDeep(nn.Module):
    """The innermost module decides; each level returns early by what the level below returns."""

    class Outer(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            y, done = self.inner(x)
            if done:
                return y, True
            return y + 1, False

    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, x):
            y = self.linear(x)
            if y.sum() > 1:
                return y, True
            if y.sum() < -1:
                return x, True
            return y * 2, False

    def __init__(self):
        super().__init__()
        self.net = self.Outer(self.Outer(self.Inner()))

    def forward(self, x):
        y, done = self.net(x)
        if done:
            return y
        return y.exp()


@case(paths=3)
def early_return_three_deep():
    return EarlyReturnDeep(), [(normal(1, 1, 2, mean=m),) for m in (-6.0, 0.0, 6.0, 0.7)]


class ExitSignal(Exception):
    """Thrown by the layer that is sure, caught by the model."""

    def __init__(self, logits):
        super().__init__("early exit")
        self.logits = logits


class ThrowingLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        x = torch.tanh(self.body(x))
        logits = self.head(x)
        if logits.softmax(-1).max() > 0.62:
            raise ExitSignal(logits)
        return x


class Throwing(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(ThrowingLayer(), ThrowingLayer())
        self.final = nn.Linear(3, 2)

    def forward(self, x):
        try:
            x = self.backbone(x)
        except ExitSignal as signal:
            return signal.logits, "early"
        return self.final(x), "late"


@case(paths=3)
def early_exit_by_exception():
    return Throwing(), [(x,) for x in sweep(32, 1, 3)]


class Recovering(nn.Module):
    """`try/except/else/finally` with an exception type of Python's own."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def solve(self, x):
        a, b, c, d = x.flatten()
        if a * d - b * c == 0:
            raise ValueError("singular")
        return torch.stack([d, -b, -c, a]).reshape(2, 2) / (a * d - b * c)

    def forward(self, x):
        trace = []
        try:
            y = self.solve(x)
        except (ValueError, ZeroDivisionError):
            y = torch.eye(2)
            trace.append("singular")
        else:
            trace.append("regular")
        finally:
            trace.append("done")
        return self.linear(y), trace


@case(paths=2)
def try_except_else_finally():
    return Recovering(), [(torch.eye(2) * 2,), (torch.zeros(2, 2),)]


class Raising(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x):
        if torch.isnan(x).any():
            raise ValueError("the input has NaNs")
        if x.abs().max() > 1e4:
            raise OverflowError(f"the input is too large: {x.abs().max().item():.1f}")
        return self.linear(x)


@case(paths=3)
def exceptions_that_leave_the_model():
    return Raising(), [(torch.ones(1, 2),), (torch.full((1, 2), float("nan")),), (torch.full((1, 2), 2e4),)]


@contextlib.contextmanager
def recorded(log, name):
    log.append(f"enter {name}")
    try:
        yield log
    finally:
        log.append(f"leave {name}")


class Contexts(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        log = []
        with torch.no_grad(), recorded(log, "body") as entries:
            if x.sum() > 0:
                y = self.a(x)
            else:
                entries.append("negative")
                y = self.b(x)
        with torch.autocast("cpu", enabled=False):
            if y.max() > 1:
                return y, log
        return y * 2, log


@case(paths=4)
def context_managers():
    return Contexts(), [(x,) for x in sweep(32, 2, 2)]


class Suppressing(nn.Module):
    def forward(self, x):
        best = x
        with contextlib.suppress(LookupError):
            if x.min() < 0:
                raise KeyError("negative")
            best = x * 10
        return best


@case(paths=2)
def contextlib_suppress():
    return Suppressing(), [(torch.ones(2),), (-torch.ones(2),)]


class Cascade(nn.Module):
    """A cascade of ever larger classifiers: an Identity of confidence, one comparison per stage, batch of one."""

    def __init__(self):
        super().__init__()
        self.small = nn.Linear(3, 2)
        self.medium = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        self.large = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))

    @staticmethod
    def margin(logits):
        top = logits.softmax(-1).topk(2, dim=-1).values
        return (top[..., 0] - top[..., 1]).min()

    def forward(self, x, margin: float = 0.4):
        logits = self.small(x)
        if self.margin(logits) >= margin:
            return logits, "small"
        logits = logits + self.medium(x)
        if self.margin(logits) >= margin:
            return logits, "medium"
        return logits + self.large(x), "large"


@case(paths=3)
def cascade_with_default_argument():
    return Cascade(), [(x,) for x in sweep(32, 1, 3)]


class DynamicResolution(nn.Module):
    """Dynamic resolution (Zhu et al. 2021): a small predictor chooses the input's size."""

    def __init__(self):
        super().__init__()
        self.predictor = nn.Conv2d(1, 1, 3)
        self.body = nn.Conv2d(1, 2, 3, padding=1)
        self.head = nn.Linear(2, 2)

    def forward(self, image):
        hint = self.predictor(image).mean()
        if hint < -0.2:
            image = F.interpolate(image, scale_factor=0.5, mode="bilinear", align_corners=False)
        elif hint < 0.2:
            image = F.avg_pool2d(image, 2, ceil_mode=True)
        features = torch.relu(self.body(image)).mean((2, 3))
        return self.head(features)


@case(paths=3)
def dynamic_resolution():
    net = DynamicResolution()
    with torch.no_grad():
        net.predictor.weight.fill_(0.1)
        net.predictor.bias.zero_()
    return net, [(torch.full((1, 1, 6, 6), v) + normal(1, 1, 1, 6, 6, scale=0.05),) for v in (-1.0, 0.0, 1.0)]


class ConvAIG(nn.Module):
    """ConvNet-AIG (Veit and Belongie 2018): hard gates per residual block, an argmax over two logits."""

    def __init__(self, blocks=3):
        super().__init__()
        self.gates = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)) for _ in range(blocks))
        self.blocks = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(blocks))

    def forward(self, x):
        executed = 0
        for gate, block in zip(self.gates, self.blocks):
            keep = gate(x.mean((2, 3))).argmax(-1)
            if keep.item():
                x = x + torch.relu(block(x))
                executed += 1
        return x, executed


@case(paths=4)
def convnet_aig():
    return ConvAIG(), [(normal(s, 1, 4, 3, 3, mean=m, scale=2.0),) for s in range(6) for m in (-2.0, 0.0, 2.0)]


class FloatTruth(nn.Module):
    """A number, a tensor of one element and the length of a list as conditions."""

    def forward(self, x, flags):
        kept = [row for row, flag in zip(x, flags) if flag]
        if not kept:
            return torch.zeros(2)
        total = torch.stack(kept).sum(0)
        if total[0]:
            return total / total[0]
        return total


@case(paths=6)
def truth_of_numbers_and_lists():
    x = torch.tensor([[1.0, 2.0], [-1.0, 3.0]])
    return FloatTruth(), [(x, torch.tensor(f)) for f in ([0, 0], [0, 1], [1, 0], [1, 1])] + [
        (torch.zeros(2, 2), torch.tensor([1, 0])), (torch.zeros(2, 2), torch.tensor([0, 1])),
    ]


class Ternary(nn.Module):
    """The same decision twice: the second is known from the first where the number is the same."""

    def forward(self, x):
        n = int(x.sum())
        y = x * 2 if n > 3 else x
        if n > 3:
            y = y + 1
        if n == 3:
            y = y * n
        return y, n


@case(paths=3)
def the_same_number_decides_twice():
    return Ternary(), [(torch.full((2,), v),) for v in (1.0, 1.5, 4.0)]


class GlobalThreshold(nn.Module):
    """A decision in a helper function that gets the module's parts as callables."""

    def __init__(self):
        super().__init__()
        self.cheap, self.dear = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return dispatch(x, self.cheap, otherwise=self.dear, test=lambda v: v.var() < 1.0)


def dispatch(x, first, *, otherwise, test):
    if test(x):
        return first(x)
    return otherwise(x)


@case(paths=2)
def helper_function_with_callables():
    return GlobalThreshold(), [(normal(3, 2, 2, scale=s),) for s in (0.1, 5.0)]


class WalrusNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x):
        if (score := self.linear(x).mean()) > 0:
            return x * score
        elif (other := score + 1) > 0:
            return x * other
        return x


@case(paths=3)
def assignment_expressions():
    return WalrusNet(), [(x,) for x in sweep(32, 1, 2)]


class UnlikelyGuard(nn.Module):
    """Both sides of a branch leave the same static state: the paths must join, but not their values."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        for layer in (self.a, self.b):
            y = layer(x)
            x = y if y.sum() > 0 else x
        return x


@case(paths=4)
def joined_paths_keep_their_values():
    return UnlikelyGuard(), [(x,) for x in sweep(32, 1, 2)]
