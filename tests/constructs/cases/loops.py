"""Loops: over modules, numbers, tensors, and until the data says so."""
from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import nn

from tests.constructs.registry import case, integers, normal, sweep


class PABEE(nn.Module):
    """Zhou et al. 2020: stop when `patience` consecutive classifiers agree."""

    def __init__(self, depth=4, patience=2):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(depth))
        self.heads = nn.ModuleList(nn.Linear(3, 3) for _ in range(depth))
        self.patience = patience

    def forward(self, x):
        patient_counter = 0
        patient_result = None
        for i, (layer, head) in enumerate(zip(self.layers, self.heads)):
            x = torch.tanh(layer(x)) + x
            logits = head(x)
            if patient_result is not None:
                previous = patient_result.argmax(dim=1)
                current = logits.argmax(dim=1)
                if torch.all(previous.eq(current)):
                    patient_counter += 1
                else:
                    patient_counter = 0
            patient_result = logits
            if patient_counter == self.patience:
                break
        return patient_result, i + 1


@case(paths=6)
def pabee_patience_counter():
    return PABEE(), [(x,) for x in sweep(32, 1, 3)]


class DEQLayer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Linear(width, width, bias=False)
        with torch.no_grad():
            self.inner.weight.mul_(0.5)

    def forward(self, z, x):
        return torch.tanh(self.inner(z) + x)


class DEQ(nn.Module):
    """Bai et al. 2019: iterate to a fixed point, at most `limit` times."""

    def __init__(self, limit=20, tolerance=1e-2):
        super().__init__()
        self.layer = DEQLayer(3)
        self.limit, self.tolerance = limit, tolerance

    def forward(self, x):
        z = torch.zeros_like(x)
        residual = torch.tensor(float("inf"))
        steps = 0
        while residual > self.tolerance and steps < self.limit:
            new = self.layer(z, x)
            residual = (new - z).norm() / (new.norm() + 1e-6)
            z = new
            steps += 1
        return z, steps


@case(paths=1, loop=True, longer={"limit": 400})
def deq_fixed_point(limit=20):
    return DEQ(limit), [(normal(s, 1, 3, scale=k),) for s, k in ((1, 0.1), (2, 1.0), (3, 4.0))]


class WhileTensor(nn.Module):
    """A loop on a tensor alone: a real back edge, whatever the number of trips."""

    def forward(self, x):
        while x.norm() > 1:
            x = x * 0.7
        return x


@case(paths=2, loop=True)
def while_tensor_condition():
    return WhileTensor(), [(torch.full((3,), v),) for v in (0.1, 1.0, 50.0)]


class WhileTrueBreak(nn.Module):
    def __init__(self):
        super().__init__()
        self.step = nn.Linear(2, 2)
        with torch.no_grad():
            self.step.weight.copy_(torch.eye(2) * 0.6)

    def forward(self, x):
        total = torch.zeros(())
        while True:
            x = self.step(x)
            total = total + x.abs().sum()
            if x.abs().max() < 1.5:
                break
            if total > 300:
                return x * 0, total
        return x, total


@case(paths=3, loop=True)
def while_true_with_break():
    return WhileTrueBreak(), [(torch.full((1, 2), v),) for v in (0.1, 4.0, 900.0)]


class ACT(nn.Module):
    """Graves 2016: adaptive computation time with a halting probability and a remainder."""

    def __init__(self, limit=6):
        super().__init__()
        self.cell = nn.GRUCell(2, 3)
        self.halt = nn.Linear(3, 1)
        self.limit = limit
        with torch.no_grad():
            self.halt.weight.mul_(4.0)
            self.halt.bias.fill_(-0.3)

    def forward(self, x, h):
        total = torch.zeros(())
        out = torch.zeros_like(h)
        n = 0
        while n < self.limit:
            h = self.cell(x, h)
            p = torch.sigmoid(self.halt(h)).mean()
            n += 1
            if total + p >= 0.99 or n == self.limit:
                out = out + (1 - total) * h
                break
            out = out + p * h
            total = total + p
        return out, n


@case(paths=4)
def adaptive_computation_time():
    net = ACT()
    return net, [(normal(s, 1, 2, scale=3.0), normal(s + 9, 1, 3, scale=2.0)) for s in range(8)] + [
        (torch.zeros(1, 2), torch.full((1, 3), m)) for m in (-9.0, 9.0)]


class PonderHalting(nn.Module):
    """PonderNet (Banino et al. 2021) at inference: a Bernoulli trial per step, its noise an input."""

    def __init__(self, steps=4):
        super().__init__()
        self.cell = nn.GRUCell(2, 2)
        self.out, self.lam = nn.Linear(2, 2), nn.Linear(2, 1)
        self.steps = steps

    def forward(self, x, noise):
        h = x.new_zeros(x.shape[0], 2)
        for n in range(1, self.steps + 1):
            h = self.cell(x, h)
            y = self.out(h)
            probability = torch.sigmoid(self.lam(h)).squeeze() if n < self.steps else torch.ones(())
            if noise[n - 1] < probability:
                return y, n
        return y, n


@case(paths=4)
def pondernet_noise_as_input():
    one = torch.ones(4)
    return PonderHalting(), [(normal(1, 1, 2), noise) for noise in (
        one * 0.01, torch.tensor([0.99, 0.01, 0.5, 0.5]), torch.tensor([0.99, 0.99, 0.0, 0.0]), one * 0.999)]


class Newton(nn.Module):
    """Newton's method with a tolerance, a `for … else` and a loop variable used afterwards."""

    def __init__(self, limit=8):
        super().__init__()
        self.limit = limit

    def forward(self, a):
        x = a / 2 + 0.5
        for i in range(self.limit):
            step = (x * x - a) / (2 * x)
            x = x - step
            if step.abs().max() < 1e-3:
                break
        else:
            return x, -1
        return x, i


@case(paths=4)
def newton_for_else():
    return Newton(), [(torch.tensor([v]),) for v in (1.0, 2.0, 30.0, 5e6)]


class Bisection(nn.Module):
    """Bisection on a monotone function of the features; both ends are tensors."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def function(self, t, x):
        return t**3 + t - self.linear(x).squeeze()

    def forward(self, x):
        low, high = torch.tensor(-10.0), torch.tensor(10.0)
        while high - low > 1e-3:
            middle = (low + high) / 2
            if self.function(middle, x) > 0:
                high = middle
            else:
                low = middle
        return (low + high) / 2


@case(paths=1, loop=True)
def bisection():
    return Bisection(), [(normal(s, 1, 2, scale=3.0),) for s in (1, 2, 3)]


class AdaptiveODE(nn.Module):
    """Heun against Euler with step-size control; rejected steps are tried again."""

    def __init__(self):
        super().__init__()
        self.field = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))

    def forward(self, y, end: float = 1.0):
        t = torch.zeros(())
        h = torch.tensor(0.5)
        accepted = 0
        rejected = 0
        while t < end:
            h = torch.minimum(h, end - t)
            k1 = self.field(y)
            k2 = self.field(y + h * k1)
            error = (h * (k2 - k1) / 2).abs().max()
            if error <= 0.02:
                y = y + h * (k1 + k2) / 2
                t = t + h
                accepted += 1
            else:
                rejected += 1
            h = h * torch.clamp(0.9 * (0.02 / (error + 1e-8)).sqrt(), 0.3, 2.0)
        return y, accepted, rejected


@case(paths=2, loop=True)
def adaptive_ode_solver():
    return AdaptiveODE(), [(normal(s, 1, 2, scale=k),) for s, k in ((1, 0.1), (2, 3.0), (3, 9.0))]


class GreedyDecoder(nn.Module):
    """Greedy decoding of a recurrent cell until the end token or the limit; a list of growing length."""

    def __init__(self, limit=5, eos=0):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.cell = nn.GRUCell(3, 3)
        self.out = nn.Linear(3, 5)
        self.limit, self.eos = limit, eos

    def forward(self, h):
        token = torch.ones(1, dtype=torch.long)
        tokens = []
        for _ in range(self.limit):
            h = self.cell(self.embed(token), h)
            token = self.out(h).argmax(-1)
            tokens.append(token)
            if token.item() == self.eos:
                break
        return torch.stack(tokens, dim=1), h


@case(paths=6)
def greedy_decoding_with_eos():
    net = GreedyDecoder()
    with torch.no_grad():
        net.out.weight.mul_(3.0)
    return net, [(x,) for x in sweep(32, 1, 3)]


class BeamSearch(nn.Module):
    """A beam of two: candidates in Python lists of (score, sequence), finished ones set aside."""

    def __init__(self, steps=2):
        super().__init__()
        self.table = nn.Parameter(torch.randn(3, 3))
        self.steps = steps

    def forward(self, start):
        beams = [(start.sum(), [start])]
        finished = []
        for _ in range(self.steps):
            candidates = []
            for score, tokens in beams:
                logits = torch.log_softmax(tokens[-1] @ self.table, -1)
                values, indices = logits.topk(2)
                for k in range(2):
                    hot = F.one_hot(indices[k], 3).float()
                    candidates.append((score + values[k], [*tokens, hot]))
            candidates.sort(key=lambda pair: pair[0], reverse=True)
            beams = []
            for score, tokens in candidates[:2]:
                if tokens[-1][0] > 0.5:
                    finished.append((score, tokens))
                else:
                    beams.append((score, tokens))
            if not beams:
                break
        best = max(finished + beams, key=lambda pair: pair[0])
        return best[0], torch.stack(best[1])


@case(paths=8)
def beam_search_over_lists():
    return BeamSearch(), [(x,) for x in sweep(32, 3)]


class OverModuleDict(nn.Module):
    def __init__(self):
        super().__init__()
        self.steps = nn.ModuleDict({"first": nn.Linear(2, 2), "second": nn.Linear(2, 2), "third": nn.Linear(2, 2)})

    def forward(self, x):
        used = []
        for name, layer in self.steps.items():
            y = layer(x)
            if y.sum() < 0:
                continue
            used.append(name)
            x = y
        for name in reversed(used):
            x = x + len(name)
        return x, used


@case(paths=7)
def over_a_module_dict_with_continue():
    return OverModuleDict(), [(x,) for x in sweep(32, 1, 2)]


class ZipEnumerateReversed(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
        self.up = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))

    def forward(self, x):
        skips = []
        for layer in self.down:
            x = torch.tanh(layer(x))
            skips.append(x)
        for i, (layer, skip) in enumerate(zip(self.up, reversed(skips))):
            x = layer(x)
            if (x * skip).sum() > 0.1:
                x = x + skip * (i + 1)
        return x


@case(paths=4, seed=3)
def unet_zip_enumerate_reversed():
    return ZipEnumerateReversed(), [(x,) for x in sweep(32, 1, 2)]


class RangeOfInt(nn.Module):
    """The number of refinements is predicted from the input."""

    def __init__(self):
        super().__init__()
        self.refine = nn.Linear(2, 2)

    def forward(self, x, steps):
        for _ in range(int(steps)):
            x = torch.tanh(self.refine(x))
        return x


@case(paths=1, loop=True)
def range_of_int_of_tensor():
    return RangeOfInt(), [(normal(1, 1, 2), torch.tensor(n)) for n in (0, 1, 4)]


class RangeOfMax(nn.Module):
    """`range(t.max() + 1)`: segment means over as many segments as there are."""

    def forward(self, x, segment):
        total = torch.zeros(x.shape[1])
        for s in range(segment.max() + 1):
            chosen = (segment == s).to(x.dtype).unsqueeze(1)
            total = total + (x * chosen).sum(0) / chosen.sum().clamp(min=1)
        return total


@case(paths=1, loop=True)
def range_of_tensor_maximum():
    x = normal(1, 4, 2)
    return RangeOfMax(), [(x, torch.tensor(s)) for s in ([0, 0, 0, 0], [0, 1, 1, 2], [3, 0, 5, 1])]


class OverRows(nn.Module):
    """Iteration over a tensor's rows, a recurrent update per row, stopping at padding."""

    def __init__(self):
        super().__init__()
        self.cell = nn.Linear(4, 2)

    def forward(self, rows):
        h = torch.zeros(2)
        for row in rows:
            if row.abs().sum() == 0:
                break
            h = torch.tanh(self.cell(torch.cat([row, h])))
        return h


@case(paths=3)
def over_the_rows_of_a_tensor():
    full = normal(1, 3, 2)
    return OverRows(), [(full,), (torch.cat([full[:1], torch.zeros(2, 2)]),), (torch.zeros(3, 2),)]


class OverNonzero(nn.Module):
    """Iteration over the positions that a mask selects."""

    def __init__(self):
        super().__init__()
        self.expert = nn.Linear(2, 2)

    def forward(self, x):
        active = (x.sum(-1) > 0).nonzero().squeeze(-1)
        out = torch.zeros(2)
        for index in active:
            out = torch.tanh(out + self.expert(x[index]))
        return out


@case(paths=1, loop=True)
def over_nonzero():
    x = normal(2, 4, 2)
    return OverNonzero(), [(x,), (x.abs(),), (-x.abs(),)]


class NestedLoops(nn.Module):
    """Nested loops with break and continue, the inner one's variable read after it."""

    def __init__(self):
        super().__init__()
        self.grid = nn.ModuleList(nn.ModuleList(nn.Linear(2, 2) for _ in range(2)) for _ in range(2))

    def forward(self, x):
        visited = 0
        for row in self.grid:
            for j, layer in enumerate(row):
                y = layer(x)
                if y.sum() < -1:
                    continue
                visited += 1
                if y.sum() > 1:
                    break
                x = y
            x = x + j
        return x, visited


@case(paths=10)
def nested_loops_break_continue():
    return NestedLoops(), [(x,) for x in sweep(32, 1, 2)]


class NestedWhile(nn.Module):
    def forward(self, x):
        rounds = torch.zeros((), dtype=torch.long)
        while x.sum() > 1:
            y = x
            while y.max() > 0.5:
                y = y * 0.5
            x = x * 0.5 - y * 0.01
            rounds = rounds + 1
        return x, rounds


@case(paths=2, loop=True)
def nested_while_on_tensors():
    return NestedWhile(), [(torch.full((2,), v),) for v in (0.1, 3.0, 40.0)]


class HostCarried(nn.Module):
    """A Python float that the loop carries: a decaying rate, and a counter that scales the step."""

    def forward(self, x):
        rate = 1.0
        count = 0
        while x.abs().max() > 0.5:
            rate = rate * 0.9
            count += 1
            x = x * (1.0 - 0.5 * rate)
        return x, rate, count


@case(paths=2, loop=True)
def host_scalars_carried_by_a_loop():
    return HostCarried(), [(torch.full((2,), v),) for v in (0.2, 1.0, 30.0)]


class ItemCarried(nn.Module):
    """`.item()` each round, compared in Python with the last round's."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[0.4, 0.1], [0.0, 0.3]]))

    def forward(self, x):
        best = float("inf")
        while True:
            x = self.linear(x) + 0.1
            loss = x.pow(2).sum().item()
            if loss > best - 1e-3:
                break
            best = loss
        return x, best


@case(paths=1, loop=True)
def best_so_far_with_item():
    return ItemCarried(), [(torch.full((1, 2), v),) for v in (0.2, 1.0, 20.0)]


class GrowingCat(nn.Module):
    """`torch.cat` in a bounded loop: every length is its own shape."""

    def __init__(self, limit=3):
        super().__init__()
        self.project = nn.Linear(2, 2)
        self.limit = limit

    def forward(self, x):
        sequence = x
        for _ in range(self.limit):
            nxt = torch.tanh(self.project(sequence.mean(0, keepdim=True)))
            sequence = torch.cat([sequence, nxt], dim=0)
            if nxt.sum() > 0.5:
                break
        return sequence


@case(paths=4)
def growing_cat_bounded():
    return GrowingCat(), [(x,) for x in sweep(32, 1, 2)]


class GrowingCatUnbounded(nn.Module):
    """`torch.cat` in a `while`: the length is data."""

    def forward(self, x):
        sequence = x
        while sequence[-1].sum() < 3:
            sequence = torch.cat([sequence, sequence[-1:].abs() * 1.5 + 0.1])
        return sequence


@case(paths=2, loop=True)
def growing_cat_unbounded():
    return GrowingCatUnbounded(), [(torch.full((1, 2), v),) for v in (2.0, 1.0, 0.1)]


class Decoder(nn.Module):
    """Greedy decoding with a cache of keys and values, until a token says that it is the last."""

    def __init__(self, limit=6):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))
        self.head = nn.Linear(4, 5)
        self.limit = limit

    def attend(self, tokens, cache):
        x = self.embed(tokens)
        keys, values = self.key(x), self.value(x)
        if cache is not None:
            keys, values = torch.cat([cache[0], keys], 1), torch.cat([cache[1], values], 1)
        mask = torch.ones(tokens.shape[1], keys.shape[1], dtype=torch.bool).tril(keys.shape[1] - tokens.shape[1])
        heads = (part[:, None] for part in (self.query(x), keys, values))
        return nn.functional.scaled_dot_product_attention(*heads, mask)[:, 0], (keys, values)

    def forward(self, tokens):
        cache, new = None, tokens
        while tokens.shape[1] < self.limit:
            x, cache = self.attend(new, cache)
            new = self.head(x[:, -1]).argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, new], 1)
            if new == 0:
                break
        return tokens, cache[0].sum(1)


@case(paths=2, loop=True, longer={"limit": 20}, seed=3)
def decode_with_a_cache(limit=7):
    calls = [(torch.tensor([[a, b]]),) for a in range(5) for b in range(5)]
    return Decoder(limit), calls


class GrowsByData(nn.Module):
    """Each round keeps as many rows as its data says."""

    def forward(self, x):
        kept, rows, rounds = x, x, 0
        while kept.sum() < 12:
            rows = rows.abs() * 1.25 + 0.1
            kept = torch.cat([kept, rows[rows.sum(1) > 1]])
            rounds = rounds + 1
        return kept, kept.shape[0], rounds


@case(paths=None, loop=True)
def growth_by_what_data_keeps():
    return GrowsByData(), [(x.abs() + 0.1,) for x in sweep(6, 3, 2)]


class TwoRates(nn.Module):
    """Two caches, of which one takes two rows in the time that the other takes one."""

    def forward(self, x, n):
        slow, fast = x[:2], x[:3]
        for i in range(int(n)):
            step = torch.tanh(x[:1] + slow.mean(0, keepdim=True) - fast.mean(0, keepdim=True))
            slow = torch.cat([slow, step])
            fast = torch.cat([fast, step * 2, step + i])
        return slow, fast, slow.shape[0] + fast.shape[0]


@case(paths=None, loop=True)
def two_caches_at_different_rates():
    return TwoRates(), [(x, torch.tensor(n)) for n, x in zip((0, 1, 2, 5, 9), sweep(5, 3, 2))]


class TakeWhile(nn.Module):
    """Library iterators with tensor predicates."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))

    def forward(self, x):
        outputs = list(itertools.accumulate(self.layers, lambda h, layer: torch.tanh(layer(h)), initial=x))
        kept = list(itertools.takewhile(lambda h: h.sum() > -0.5, outputs))
        return torch.stack(kept).sum(0) if kept else x, len(kept)


@case(paths=4)
def itertools_with_tensor_predicates():
    return TakeWhile(), [(x,) for x in sweep(32, 1, 2)]


class BudgetedAnytime(nn.Module):
    """Anytime prediction: the budget is a Python number of the call."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        self.costs = [1, 2, 4]

    def forward(self, x, budget):
        spent = 0
        for layer, cost in zip(self.layers, self.costs):
            if spent + cost > budget:
                break
            x = torch.tanh(layer(x))
            spent += cost
        return x, spent


@case(paths=4)
def anytime_with_a_budget():
    return BudgetedAnytime(), [(normal(1, 1, 2), b) for b in (0, 1, 3, 7)]


class TopOneMoE(nn.Module):
    """A Python loop over experts; the chosen one is found by comparing in Python."""

    def __init__(self, experts=3):
        super().__init__()
        self.router = nn.Linear(2, experts)
        self.experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(experts))

    def forward(self, x):
        probabilities = self.router(x).softmax(-1)
        weight, chosen = probabilities.max(-1)
        for i, expert in enumerate(self.experts):
            if chosen.item() == i:
                return expert(x) * weight.unsqueeze(-1)
        raise RuntimeError("no expert")


@case(paths=3)
def top_one_moe_loop():
    return TopOneMoE(), [(x,) for x in sweep(32, 1, 2)]


class SampledMoE(nn.Module):
    """Mixtral's eager expert loop in small: experts without tokens are skipped, results added by index."""

    def __init__(self, experts=3):
        super().__init__()
        self.router = nn.Linear(2, experts, bias=False)
        self.experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(experts))

    def forward(self, tokens):
        weights, chosen = self.router(tokens).softmax(-1).max(-1)
        out = torch.zeros_like(tokens)
        for i, expert in enumerate(self.experts):
            (where,) = torch.where(chosen == i)
            if where.numel() == 0:
                continue
            out.index_add_(0, where, expert(tokens[where]) * weights[where].unsqueeze(-1))
        return out


@case(paths=6)
def expert_loop_over_token_groups():
    return SampledMoE(), [(x,) for x in sweep(32, 3, 2)]


class CountDown(nn.Module):
    """Integers of the data drive a `while` in Python: the greatest common divisor of two inputs."""

    def forward(self, a, b):
        x, y = int(a), int(b)
        while y:
            x, y = y, x % y
        return a * 0 + x, x


@case(paths=2, loop=True)
def euclid_on_host_integers():
    return CountDown(), [(torch.tensor(a), torch.tensor(b)) for a, b in ((12, 18), (7, 5), (9, 0))]


class LoopVariable(nn.Module):
    """The loop variable and a name bound only inside the loop, both used after it."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))

    def forward(self, x):
        for depth, layer in enumerate(self.layers, start=1):
            x = torch.relu(layer(x))
            norm = x.norm()
            if norm < 0.5:
                break
        return x / depth, norm, type(layer).__name__


@case(paths=3)
def loop_variable_after_the_loop():
    return LoopVariable(), [(x,) for x in sweep(32, 1, 2)]


class WhileElse(nn.Module):
    def forward(self, x):
        tries = 0
        while tries < 3:
            x = x * 0.5
            tries += 1
            if x.sum() < 1:
                break
        else:
            x = x.clamp(max=1)
        return x, tries


@case(paths=4)
def while_else():
    return WhileElse(), [(torch.full((2,), v),) for v in (0.3, 1.5, 3.5, 30.0)]


class TokenLoop(nn.Module):
    """A loop over a list of tensors in the call, skipping the tokens that a test rejects."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(2, 2)

    def forward(self, parts):
        state = torch.zeros(2)
        skipped = 0
        for part in parts:
            if part.abs().max() < 0.1:
                skipped += 1
                continue
            state = torch.tanh(self.mix(state) + part)
        return state, skipped


@case(paths=4)
def over_a_list_argument():
    big, small = torch.ones(2), torch.zeros(2)
    return TokenLoop(), [([a, b],) for a in (big, small) for b in (big, small)]


class LevelTokens(nn.Module):
    """Tokens as data of an embedding, a table of Python numbers by level, an index from enumerate."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(4, 2)
        self.scales = (1.0, 0.5, 0.25)

    def forward(self, tokens):
        h = torch.zeros(2)
        for i, scale in enumerate(self.scales):
            h = h + self.embed(tokens[i]) * scale
            if h.sum() > 0.5:
                return h, i
        return h, None


@case(paths=4, seed=2)
def table_of_scales():
    return LevelTokens(), [(integers(s, 4, 3),) for s in range(48)]


class ParameterGates(nn.Module):
    """`nn.ParameterList` is iterated by a generator of its own."""

    def __init__(self):
        super().__init__()
        self.gates = nn.ParameterList(nn.Parameter(torch.randn(4)) for _ in range(3))

    def forward(self, x):
        for gate in self.gates:
            if (x * gate).sum() > 0:
                x = torch.tanh(x * gate) - 0.1
        return x


@case(paths=8)
def parameter_list():
    return ParameterGates(), [(x,) for x in sweep(200, 1, 4)]


_made = {}
exec("def steps(self, n):\n    for a in range(n):\n        for b in range(2):\n            yield a * 2 + b\n", _made)


class GeneratorWithoutSource(nn.Module):
    """A generator that cannot be rewritten holds where it is in iterators without a name."""

    steps = _made["steps"]

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        for i in self.steps(2):
            if self.layers[i](x).sum() > 0:
                x = torch.tanh(self.layers[i](x))
        return x


@case(paths=None)
def generator_without_source():
    return GeneratorWithoutSource(), [(x,) for x in sweep(40, 1, 4)]


class RoundsInRounds(nn.Module):
    """The rounds of a loop that data ends, in one round of another and not in the next."""

    def forward(self, x):
        for i in range(4):
            if x.max() > 0.5:
                for _ in range(min(int(x.sum() * 3), 4)):
                    x = torch.tanh(x).roll(1, 1)
                x = x * 1.25
        return x


@case(paths=None, loop=True)
def a_loop_by_data_in_a_static_loop():
    return RoundsInRounds(), [(x,) for x in sweep(40, 1, 4)]


class InTurn(nn.Module):
    """Rounds do one thing and another in turn, as long as data says."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x):
        n = 0
        while x.abs().max() > 0.5:
            x = torch.tanh(self.a(x)) if n % 2 else x * 0.5
            n += 1
        return x, n


@case(paths=None, loop=True)
def rounds_in_turn():
    return InTurn(), [(x,) for x in sweep(40, 1, 4)]


class CountsForAnother(nn.Module):
    """A generator keeps a number that data decided while its caller decides."""

    def steps(self, x):
        most = x.argmax().item() + 1
        for _ in range(3):
            x = torch.tanh(x) * most
            yield x

    def forward(self, x):
        total = x
        for step in self.steps(x):
            if step.sum() > 0:
                total = total - step
        return total


@case(paths=None)
def a_number_kept_by_a_generator():
    return CountsForAnother(), [(x,) for x in sweep(40, 1, 4)]


class CropsByData(nn.Module):
    """What is kept is shifted by one and cropped by a number from data; where too little is kept, that fails."""

    def forward(self, x):
        kept = x[x > 0]
        by = int(x.argmax()) // 3
        return F.pad(kept, (1, -by), value=2.5), F.pad(kept > 1, (-by, 6 - kept.shape[0]))


@case(paths=None)
def padding_and_cropping_what_data_keeps():
    nothing = torch.tensor([-3.0, -3.0, -3.0, -3.0, -1.0, -3.0])
    return CropsByData(), [(nothing,), *((x[0],) for x in sweep(60, 1, 6))]
