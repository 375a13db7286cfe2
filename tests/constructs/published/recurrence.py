"""Published families of networks that decode, track, iterate and keep state, written as their repositories do."""
from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from tests.constructs.registry import case, normal


# ---------------------------------------------------------------- decoding
class CTCGreedy(nn.Module):
    """Graves 2006: the best path, repeats and blanks dropped; a list of labels with its times."""

    def __init__(self, classes=4, blank=0):
        super().__init__()
        self.encoder = nn.GRU(3, 4, batch_first=True)
        self.head = nn.Linear(4, classes)
        self.blank = blank
        with torch.no_grad():
            self.head.weight.mul_(6)

    def forward(self, x):
        logits = self.head(self.encoder(x)[0])
        indices = torch.argmax(logits, dim=-1)[0]
        decoded, previous = [], -1
        for t, index in enumerate(indices):
            i = index.item()
            if i != previous and i != self.blank:
                decoded.append((i, t))
            previous = i
        return [label for label, _ in decoded], [time for _, time in decoded]


@case(paths=None, seed=2)
def ctc_greedy_decoding():
    return CTCGreedy(), [(normal(s, 1, 3, 3, scale=3),) for s in range(10)]


class RNNT(nn.Module):
    """Graves 2012: per frame emit until blank, at most `max_symbols` times; the predictor's state in a tuple."""

    def __init__(self, vocab=4, width=4, max_symbols=2):
        super().__init__()
        self.embed = nn.Embedding(vocab + 1, width)
        self.predict = nn.LSTMCell(width, width)
        self.joint = nn.Sequential(nn.Linear(2 * width, width), nn.Tanh(), nn.Linear(width, vocab + 1))
        self.blank, self.max_symbols = vocab, max_symbols
        with torch.no_grad():
            self.joint[2].weight.mul_(5)

    def forward(self, encoded):
        hypothesis: list[torch.Tensor] = []
        state: tuple[torch.Tensor, torch.Tensor] | None = None
        last = torch.full((1,), self.blank, dtype=torch.long)
        g, state_new = self.step(last, state)
        for t in range(encoded.shape[1]):
            f = encoded[:, t]
            not_blank, symbols = True, 0
            while not_blank and symbols < self.max_symbols:
                logits = self.joint(torch.cat([f, g], dim=-1))
                k = logits.argmax(-1)
                if (k == self.blank).all():
                    not_blank = False
                else:
                    hypothesis.append(k)
                    state = state_new
                    g, state_new = self.step(k, state)
                    symbols += 1
        if not hypothesis:
            return torch.zeros(0, dtype=torch.long), 0
        return torch.cat(hypothesis), len(hypothesis)

    def step(self, token, state):
        h, c = self.predict(self.embed(token), state)
        return h, (h, c)


@case(paths=None, seed=1)
def rnn_transducer_greedy():
    return RNNT(), [(normal(s, 1, 2, 4, scale=3),) for s in range(10)]


@dataclass(order=True)
class Hypothesis:
    score: float
    tokens: list[int] = field(compare=False)
    hidden: torch.Tensor = field(compare=False)
    done: bool = field(default=False, compare=False)

    def extended(self, token, logp, hidden, eos):
        return Hypothesis(self.score + logp, [*self.tokens, token], hidden, token == eos)


class BeamOfObjects(nn.Module):
    """Beam search over dataclass objects, sorted by their score; finished ones are kept aside."""

    def __init__(self, vocab=3, width=3, beam=2, steps=2):
        super().__init__()
        self.cell = nn.GRUCell(width, width)
        self.embed = nn.Embedding(vocab, width)
        self.head = nn.Linear(width, vocab)
        self.beam, self.steps, self.eos = beam, steps, vocab - 1
        with torch.no_grad():
            self.head.weight.mul_(3)

    def forward(self, h):
        live = [Hypothesis(0.0, [0], h)]
        finished: list[Hypothesis] = []
        for _ in range(self.steps):
            candidates = []
            for hyp in live:
                hidden = self.cell(self.embed(torch.tensor([0])), hyp.hidden)
                logp = F.log_softmax(self.head(hidden), -1)
                values, tokens = logp[0].topk(self.beam)
                for j in range(self.beam):
                    candidates.append(hyp.extended(int(tokens[j]), float(values[j]), hidden, self.eos))
            candidates.sort(key=lambda c: c.score, reverse=True)
            live = []
            for c in candidates[: self.beam]:
                (finished if c.done else live).append(c)
            if not live:
                break
        best = max(finished or live, key=lambda c: c.score / len(c.tokens))
        return best.tokens, best.score, len(finished)


@case(paths=None, seed=1)
def beam_search_over_objects():
    return BeamOfObjects(), [(normal(s, 1, 3, scale=2),) for s in range(8)]


# ---------------------------------------------------------------- memories and trees
class NTMHead(nn.Module):
    def __init__(self, width, n):
        super().__init__()
        self.key, self.beta, self.gate = nn.Linear(width, width), nn.Linear(width, 1), nn.Linear(width, 1)

    def forward(self, h, memory, w_prev):
        k = torch.tanh(self.key(h))
        similarity = F.cosine_similarity(memory, k.expand_as(memory), dim=-1)
        content = F.softmax(F.softplus(self.beta(h)) * similarity, dim=-1)
        g = torch.sigmoid(self.gate(h))
        return content if g > 0.5 else w_prev


class NTM(nn.Module):
    """Graves 2014: reads and writes in turn; the write head only writes what is novel enough."""

    def __init__(self, width=3, n=4):
        super().__init__()
        self.controller = nn.LSTMCell(2 * width, width)
        self.read_head, self.write_head = NTMHead(width, n), NTMHead(width, n)
        self.erase, self.add = nn.Linear(width, width), nn.Linear(width, width)
        self.memory0 = nn.Parameter(normal(1, n, width))
        with torch.no_grad():
            self.read_head.gate.weight.mul_(5)
            self.write_head.gate.weight.mul_(5)

    def forward(self, sequence):
        memory = self.memory0.clone()
        n = memory.shape[0]
        w_r = w_w = torch.full((1, n), 1 / n)
        read = torch.zeros(1, memory.shape[1])
        h = c = torch.zeros(1, memory.shape[1])
        writes = 0
        outputs = []
        for x in sequence.unbind(1):
            h, c = self.controller(torch.cat([x, read], -1), (h, c))
            w_r = self.read_head(h, memory, w_r)
            read = w_r @ memory
            w_w = self.write_head(h, memory, w_w)
            novelty = (read - torch.tanh(self.add(h))).norm()
            if novelty > 1.0:
                memory = memory * (1 - w_w.t() @ torch.sigmoid(self.erase(h))) + w_w.t() @ torch.tanh(self.add(h))
                writes += 1
            outputs.append(read)
        return torch.stack(outputs, 1), memory, writes


@case(paths=None, seed=2)
def neural_turing_machine():
    return NTM(), [(normal(s, 1, 2, 3, scale=2),) for s in range(10)]


class Tree:
    __slots__ = ("children", "value")

    def __init__(self, value, *children):
        self.value, self.children = value, children

    def depth(self):
        return 1 + max((child.depth() for child in self.children), default=0)


class ChildSumTreeLSTM(nn.Module):
    """Tai et al. 2015 over a Python tree of indices: subtrees whose gate is shut are not descended into."""

    def __init__(self, vocab=6, width=3):
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.ioux, self.iouh = nn.Linear(width, 3 * width), nn.Linear(width, 3 * width, bias=False)
        self.fx, self.fh = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.attend = nn.Linear(width, 1)
        self.tree = Tree(0, Tree(1, Tree(3)), Tree(2, Tree(4), Tree(5)))
        with torch.no_grad():
            self.attend.weight.mul_(4)

    def node_forward(self, x, children):
        h_sum = sum(h for h, _ in children) if children else torch.zeros_like(x)
        i, o, u = torch.split(self.ioux(x) + self.iouh(h_sum), x.shape[-1], dim=-1)
        c = torch.sigmoid(i) * torch.tanh(u)
        for h_k, c_k in children:
            c = c + torch.sigmoid(self.fh(h_k) + self.fx(x)) * c_k
        return torch.sigmoid(o) * torch.tanh(c), c

    def visit(self, node, scale):
        x = self.embed.weight[node.value] * scale[node.value]
        open_ = self.attend(x) > -0.5
        children = [self.visit(child, scale) for child in node.children] if open_ else []
        return self.node_forward(x, children)

    def forward(self, scale):
        h, c = self.visit(self.tree, scale)
        return h, self.tree.depth()


@case(paths=None, seed=0)
def tree_lstm_that_prunes_subtrees():
    return ChildSumTreeLSTM(), [(normal(s, 6, scale=3),) for s in range(10)]


# ---------------------------------------------------------------- solvers and fixed points
class ODEFunc(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 2))
        self.nfe = 0

    def forward(self, t, y):
        return self.net(y) + 0.1 * t


class BogackiShampine(nn.Module):
    """An adaptive solver with rejected steps, a step size as a 0-d tensor, and counters in a dict."""

    def __init__(self, rtol=1e-2, atol=1e-3, max_steps=60):
        super().__init__()
        self.func = ODEFunc()
        self.rtol, self.atol, self.max_steps = rtol, atol, max_steps

    def forward(self, y0, t1: float = 1.0):
        f = self.func
        t, y, h = torch.zeros(()), y0, torch.tensor(0.25)
        stats = {"accepted": 0, "rejected": 0}
        k1 = f(t, y)
        while t < t1 and stats["accepted"] + stats["rejected"] < self.max_steps:
            h = torch.minimum(h, t1 - t)
            k2 = f(t + h / 2, y + h * k1 / 2)
            k3 = f(t + 3 * h / 4, y + 3 * h * k2 / 4)
            y_new = y + h * (2 * k1 + 3 * k2 + 4 * k3) / 9
            k4 = f(t + h, y_new)
            error = h * (-5 * k1 / 72 + k2 / 12 + k3 / 9 - k4 / 8)
            tol = self.atol + self.rtol * torch.max(y.abs(), y_new.abs())
            ratio = (error / tol).pow(2).mean().sqrt()
            if ratio <= 1:
                t, y, k1 = t + h, y_new, k4
                stats["accepted"] += 1
            else:
                stats["rejected"] += 1
            factor = torch.where(ratio == 0, torch.tensor(5.0), 0.9 * ratio.clamp_min(1e-8) ** (-1 / 3))
            h = h * factor.clamp(0.2, 5.0)
        return y, stats


@case(paths=None, loop=True, seed=1)
def adaptive_solver_with_rejected_steps():
    return BogackiShampine(), [(normal(s, 1, 2, scale=k),) for s, k in ((1, 0.5), (2, 3.0), (3, 20.0))]


class Anderson(nn.Module):
    """A deep equilibrium with Anderson acceleration as in the implicit layers tutorial: slices written at `k % m`."""

    def __init__(self, width=4, m=3, max_iter=8, tol=1e-2, beta=1.0, lam=1e-4):
        super().__init__()
        self.linear = nn.Linear(width, width)
        with torch.no_grad():
            self.linear.weight.mul_(0.6)
        self.m, self.max_iter, self.tol, self.beta, self.lam = m, max_iter, tol, beta, lam

    def f(self, z, x):
        return torch.tanh(self.linear(z) + x)

    def forward(self, x):
        bsz, d = x.shape
        m, lam = self.m, self.lam
        X = torch.zeros(bsz, m, d, dtype=x.dtype)
        G = torch.zeros(bsz, m, d, dtype=x.dtype)
        z = torch.zeros_like(x)
        X[:, 0], G[:, 0] = z, self.f(z, x)
        X[:, 1], G[:, 1] = G[:, 0], self.f(G[:, 0], x)
        H = torch.zeros(bsz, m + 1, m + 1, dtype=x.dtype)
        H[:, 0, 1:] = H[:, 1:, 0] = 1
        y = torch.zeros(bsz, m + 1, 1, dtype=x.dtype)
        y[:, 0] = 1
        res = []
        for k in range(2, self.max_iter):
            n = min(k, m)
            R = G[:, :n] - X[:, :n]
            H[:, 1 : n + 1, 1 : n + 1] = torch.bmm(R, R.transpose(1, 2)) + lam * torch.eye(n, dtype=x.dtype)[None]
            alpha = torch.linalg.solve(H[:, : n + 1, : n + 1], y[:, : n + 1])[:, 1 : n + 1, 0]
            mixed, kept = (alpha[:, None] @ G[:, :n])[:, 0], (alpha[:, None] @ X[:, :n])[:, 0]
            X[:, k % m] = self.beta * mixed + (1 - self.beta) * kept
            G[:, k % m] = self.f(X[:, k % m], x)
            res.append((G[:, k % m] - X[:, k % m]).norm().item() / (1e-5 + G[:, k % m].norm().item()))
            if res[-1] < self.tol:
                break
        return X[:, k % m], res


@case(paths=None, seed=1)
def anderson_acceleration_with_a_list_of_residuals():
    return Anderson(), [(normal(s, 1, 4, scale=k),) for s in range(4) for k in (0.3, 2.0)]


class RAFTLike(nn.Module):
    """Teed & Deng 2020: a flow refined until its update is small; a correlation looked up by grid_sample."""

    def __init__(self, channels=4, iters=6):
        super().__init__()
        self.features = nn.Conv2d(1, channels, 3, padding=1)
        self.update = nn.GRUCell(channels + 2, 8)
        self.delta = nn.Linear(8, 2)
        self.iters = iters
        with torch.no_grad():
            self.delta.weight.mul_(0.3)

    def coords_grid(self, h, w):
        coords = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        return torch.stack(coords[::-1], dim=0).float()[None]

    def forward(self, image1, image2, flow_init=None):
        f1, f2 = self.features(image1), self.features(image2)
        b, c, h, w = f1.shape
        coords0 = self.coords_grid(h, w)
        coords1 = coords0.clone()
        if flow_init is not None:
            coords1 = coords1 + flow_init
        net = torch.zeros(b * h * w, 8)
        predictions = []
        for itr in range(self.iters):
            coords1 = coords1.detach()
            xgrid, ygrid = coords1.permute(0, 2, 3, 1).split([1, 1], dim=-1)
            grid = torch.cat([2 * xgrid / (w - 1) - 1, 2 * ygrid / (h - 1) - 1], dim=-1)
            corr = f1 * F.grid_sample(f2, grid, align_corners=True)
            flow = coords1 - coords0
            inp = torch.cat([corr, flow], 1).permute(0, 2, 3, 1).reshape(-1, c + 2)
            net = self.update(inp, net)
            delta = self.delta(net).view(b, h, w, 2).permute(0, 3, 1, 2)
            coords1 = coords1 + delta
            predictions.append(coords1 - coords0)
            if delta.abs().mean() < 0.06:
                break
        return predictions[-1], itr + 1


@case(paths=None, seed=3)
def raft_until_the_update_is_small():
    return RAFTLike(), [(normal(s, 1, 1, 4, 4, scale=k), normal(s + 50, 1, 1, 4, 4, scale=k))
                        for s in range(4) for k in (0.1, 1.0, 5.0)]


class SlotAttention(nn.Module):
    """Locatello et al. 2020 with slots as an input: iterate until the slots settle, then drop the empty ones."""

    def __init__(self, dim=4, iters=4, eps=1e-8):
        super().__init__()
        self.to_q, self.to_k, self.to_v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.gru = nn.GRUCell(dim, dim)
        self.norm_input, self.norm_slots = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 8), nn.ReLU(inplace=True), nn.Linear(8, dim))
        self.iters, self.eps, self.scale = iters, eps, dim ** -0.5

    def forward(self, inputs, slots):
        b, n, d = inputs.shape
        inputs = self.norm_input(inputs)
        k, v = self.to_k(inputs), self.to_v(inputs)
        for it in range(self.iters):
            slots_prev = slots
            q = self.to_q(self.norm_slots(slots))
            dots = torch.einsum("bid,bjd->bij", q, k) * self.scale
            attn = dots.softmax(dim=1) + self.eps
            attn = attn / attn.sum(dim=-1, keepdim=True)
            updates = torch.einsum("bjd,bij->bid", v, attn)
            slots = self.gru(updates.reshape(-1, d), slots_prev.reshape(-1, d)).reshape(b, -1, d)
            slots = slots + self.mlp(slots)
            if torch.allclose(slots, slots_prev, atol=0.5):
                break
        owner = dots.argmax(dim=1)
        used = torch.unique(owner[0])
        return slots[:, used], it


@case(paths=None, seed=1)
def slot_attention_that_settles():
    return SlotAttention(), [(normal(s, 1, 5, 4), normal(90 + s, 1, 3, 4, scale=(0.3, 3)[s % 2])) for s in range(8)]


# ---------------------------------------------------------------- detection
def box_iou(a, b):
    area = lambda t: (t[:, 2] - t[:, 0]).clamp(0) * (t[:, 3] - t[:, 1]).clamp(0)  # noqa: E731
    lt, rb = torch.max(a[:, None, :2], b[None, :, :2]), torch.min(a[:, None, 2:], b[None, :, 2:])
    inter = (rb - lt).clamp(min=0).prod(2)
    return inter / (area(a)[:, None] + area(b)[None] - inter).clamp_min(1e-6)


def nms(boxes, scores, threshold):
    """The loop over a shrinking tensor of indices that everyone writes."""
    order = scores.argsort(descending=True)
    keep = []
    while order.numel() > 0:
        i = order[0]
        keep.append(i)
        if order.numel() == 1:
            break
        iou = box_iou(boxes[i].unsqueeze(0), boxes[order[1:]])[0]
        order = order[1:][iou <= threshold]
    return torch.stack(keep) if keep else torch.zeros(0, dtype=torch.long)


class Detector(nn.Module):
    """Thresholded scores, boxes decoded, NMS per class with an offset, at most `top` detections, as a dict."""

    def __init__(self, classes=2, top=3):
        super().__init__()
        self.head = nn.Linear(4, 4 + classes)
        self.score_thresh, self.iou, self.top = 0.5, 0.3, top

    def forward(self, features):
        raw = self.head(features)
        centre, size = raw[:, :2], F.softplus(raw[:, 2:4])
        boxes = torch.cat([centre - size, centre + size], 1)
        scores, labels = raw[:, 4:].sigmoid().max(1)
        keep = scores > self.score_thresh
        boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
        if boxes.shape[0] == 0:
            return {"boxes": boxes, "scores": scores, "labels": labels}
        picked = nms(boxes + labels[:, None] * 100, scores, self.iou)[: self.top]
        return {"boxes": boxes[picked], "scores": scores[picked], "labels": labels[picked]}


@case(paths=None, seed=0)
def detector_with_nms():
    return Detector(), [(normal(s, 4, 4, scale=(0.5, 2)[s % 2]),) for s in range(10)]


# ---------------------------------------------------------------- streaming state
class StreamingVAD(nn.Module):
    """A voice detector with hysteresis: on after `attack` frames above, off after `release` below; a noise floor."""

    def __init__(self, attack=2, release=3):
        super().__init__()
        self.net = nn.Linear(4, 1)
        self.attack, self.release = attack, release
        self.register_buffer("noise", torch.zeros(()))
        self.active, self.run = False, 0

    def forward(self, frame, reset: bool = False):
        if reset:
            self.active, self.run = False, 0
            self.noise.zero_()
        p = torch.sigmoid(self.net(frame)).squeeze()
        energy = frame.pow(2).mean()
        voiced = p > (0.4 if self.active else 0.6) and energy > 2 * self.noise
        if voiced == self.active:
            self.run = 0
            if not self.active:
                self.noise.mul_(0.9).add_(0.1 * energy)
        else:
            self.run += 1
            if self.run >= (self.release if self.active else self.attack):
                self.active, self.run = not self.active, 0
        return self.active, p


@case(paths=None, sequence=True, seed=1)
def streaming_voice_activity():
    frames = [normal(s, 1, 4, scale=(0.2, 1, 3)[s % 3]) for s in range(14)]
    return StreamingVAD(), [(f,) if i % 7 else (f, True) for i, f in enumerate(frames)]


class FrameSkip(nn.Module):
    """A video network that reuses cached features while the picture hardly changes; keyframes at least every third."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.light = nn.Linear(16, 8)
        self.head = nn.Linear(8, 3)
        self.key = None
        self.cached = None
        self.age = 0

    def forward(self, frame):
        if self.key is None or (frame - self.key).abs().mean() > 0.8 or self.age >= 3:
            self.key, self.cached, self.age = frame, self.backbone(frame), 0
            ran = "backbone"
        else:
            self.age += 1
            self.cached = self.cached + 0.1 * self.light(frame.flatten(1))
            ran = "light"
        return self.head(self.cached), ran, self.age


@case(paths=None, sequence=True, seed=1)
def video_frames_that_reuse_features():
    base = normal(0, 1, 1, 4, 4)
    return FrameSkip(), [(base + normal(s, 1, 1, 4, 4, scale=(0.1, 0.1, 2)[s % 3]),) for s in range(12)]


class DeltaConv(nn.Module):
    """DeltaCNN-like: only pixels whose input changed are updated, by a mask; nothing when nothing did."""

    def __init__(self, threshold=0.5):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.register_buffer("previous", torch.zeros(1, 1, 4, 4))
        self.register_buffer("output", torch.zeros(1, 2, 4, 4))
        self.threshold = threshold
        self.updates = 0

    def forward(self, x):
        delta = x - self.previous
        mask = delta.abs() > self.threshold
        if not mask.any():
            return self.output.clone(), self.updates
        sparse = torch.where(mask, delta, torch.zeros_like(delta))
        self.output += F.conv2d(sparse, self.conv.weight, None, padding=1)
        self.previous[mask] = x[mask]
        self.updates += 1
        return self.output + self.conv.bias.view(1, -1, 1, 1), self.updates


@case(paths=None, sequence=True, seed=1)
def delta_convolution_with_buffers():
    base = normal(0, 1, 1, 4, 4)
    return DeltaConv(), [(base + normal(s, 1, 1, 4, 4, scale=(0.05, 1)[s % 2]) * (s % 3),) for s in range(9)]


@dataclass
class Track:
    ident: int
    mean: torch.Tensor
    var: torch.Tensor
    misses: int = 0
    hits: int = 1


class KalmanTracker(nn.Module):
    """Tracks are born and die within a clip; greedy association by distance; a list of dataclasses."""

    def __init__(self, gate=2.0, q=0.1, r=0.5, patience=1):
        super().__init__()
        self.embed = nn.Linear(2, 2)
        self.gate, self.q, self.r, self.patience = gate, q, r, patience

    def forward(self, clip):
        tracks: list[Track] = []
        next_id = 0
        dead = []
        for detections in clip:
            z = self.embed(detections)
            free = [True] * z.shape[0]
            for track in tracks:
                track.var = track.var + self.q
                best, chosen = None, -1
                for j in range(z.shape[0]):
                    if not free[j]:
                        continue
                    d = (z[j] - track.mean).norm()
                    if d < self.gate and (best is None or d < best):
                        best, chosen = d, j
                if chosen >= 0:
                    free[chosen] = False
                    gain = track.var / (track.var + self.r)
                    track.mean = track.mean + gain * (z[chosen] - track.mean)
                    track.var = (1 - gain) * track.var
                    track.misses, track.hits = 0, track.hits + 1
                else:
                    track.misses += 1
            dead += [t.ident for t in tracks if t.misses > self.patience]
            tracks = [t for t in tracks if t.misses <= self.patience]
            for j, is_free in enumerate(free):
                if is_free:
                    tracks.append(Track(next_id, z[j], torch.ones(2)))
                    next_id += 1
        return [(t.ident, t.mean, t.hits) for t in tracks], dead


@case(paths=None, seed=0)
def kalman_tracks_are_born_and_die():
    return KalmanTracker(), [(normal(s, 2, 2, 2, scale=2),) for s in range(12)]


# ---------------------------------------------------------------- retrieval
class Retriever(nn.Module):
    """Retrieval with a threshold: none, one or several documents; a reader per count; scores as a dict by name."""

    def __init__(self, width=4, docs=5):
        super().__init__()
        self.query = nn.Linear(width, width)
        self.index = nn.Parameter(F.normalize(normal(2, docs, width), dim=-1))
        self.reader = nn.MultiheadAttention(width, 1, batch_first=True)
        self.names = [f"doc{i}" for i in range(docs)]

    def forward(self, x, threshold: float = 0.5, limit: int | None = 3):
        q = F.normalize(self.query(x), dim=-1)
        scores = (q @ self.index.t()).squeeze(0)
        hits = (scores > threshold).nonzero().flatten()
        if len(hits) == 0:
            return x, {}
        if limit is not None and len(hits) > limit:
            hits = hits[scores[hits].topk(limit).indices]
        context = self.index[hits].unsqueeze(0)
        read, _ = self.reader(q.unsqueeze(0), context, context, need_weights=False)
        best = scores.argmax().item()
        return x + read[0], {"best": self.names[best], "count": hits.numel()}


@case(paths=None, seed=4)
def retrieval_with_a_threshold():
    return Retriever(), [(normal(s, 1, 4),) for s in range(12)]


class AdaFrame(nn.Module):
    """Wu et al. 2019: a recurrent policy chooses the next frame to look at, and when to stop."""

    def __init__(self, width=4, budget=4):
        super().__init__()
        self.cell = nn.LSTMCell(width, width)
        self.classify, self.select, self.utility = nn.Linear(width, 3), nn.Linear(width, 1), nn.Linear(width, 1)
        self.budget = budget

    def forward(self, video):
        frames = video.shape[1]
        h = c = torch.zeros(video.shape[0], video.shape[2])
        position, seen = 0, []
        best = torch.tensor(-math.inf)
        patience = 0
        window: deque[float] = deque(maxlen=2)
        while len(seen) < self.budget:
            seen.append(position)
            h, c = self.cell(video[:, position], (h, c))
            utility = self.utility(h).squeeze()
            window.append(utility.item())
            if utility > best:
                best, patience = utility, 0
            else:
                patience += 1
            if patience >= 2:
                break
            ahead = torch.sigmoid(self.select(h)).squeeze()
            position = min(position + 1 + int(ahead * (frames - 1)), frames - 1)
            if position == frames - 1 and seen[-1] == frames - 1:
                break
        return self.classify(h), seen, list(window)


@case(paths=None, seed=2)
def adaframe_chooses_where_to_look():
    return AdaFrame(), [(normal(s, 1, 5, 4, scale=3),) for s in range(8)]
