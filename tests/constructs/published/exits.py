"""Published families of networks that stop early or skip layers, written as their repositories write them."""
from __future__ import annotations

import functools
import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from tests.constructs.registry import case, integers, normal, sweep


# ---------------------------------------------------------------- SkipNet with an LSTM controller
class RNNGate(nn.Module):
    """Wang et al. 2018: a shared LSTM looks at pooled features and decides whether the next block runs."""

    def __init__(self, channels, hidden):
        super().__init__()
        self.rnn = nn.LSTM(channels, hidden)
        self.proj = nn.Linear(hidden, 1)
        self.hidden_dim = hidden
        self.hidden = None

    def init_hidden(self, batch_size):
        return (torch.zeros(1, batch_size, self.hidden_dim), torch.zeros(1, batch_size, self.hidden_dim))

    def forward(self, x):
        self.rnn.flatten_parameters()
        out, self.hidden = self.rnn(x.view(1, x.size(0), -1), self.hidden)
        proj = self.proj(out.squeeze(0))
        prob = torch.sigmoid(proj)
        disc = (prob > 0.5).float().detach()
        return disc.view(-1, 1, 1, 1), prob


class BasicBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        residual = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += residual
        return self.relu(out)


class RecurrentSkipNet(nn.Module):
    def __init__(self, layers=(2, 2), channels=4):
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, padding=1)
        self.num_layers = layers
        for g, n in enumerate(layers):
            for i in range(n):
                setattr(self, f"group{g + 1}_layer{i}", BasicBlock(channels))
                setattr(self, f"group{g + 1}_gate{i}", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1)))
        self.control = RNNGate(channels, 4)
        with torch.no_grad():
            self.control.proj.weight.mul_(30)
        self.fc = nn.Linear(channels, 3)

    def forward(self, x):
        self.control.hidden = self.control.init_hidden(x.size(0))
        x = self.conv1(x)
        masks, gprobs = [], []
        mask, prob = self.control(self.group1_gate0(x))
        gprobs.append(prob)
        masks.append(mask.squeeze())
        prev = x
        for g in range(len(self.num_layers)):
            for i in range(self.num_layers[g]):
                if mask.item() == 1:
                    x = getattr(self, f"group{g + 1}_layer{i}")(prev)
                else:
                    x = prev
                prev = x
                mask, prob = self.control(getattr(self, f"group{g + 1}_gate{i}")(x))
                if not (g == len(self.num_layers) - 1 and i == self.num_layers[g] - 1):
                    gprobs.append(prob)
                    masks.append(mask.squeeze())
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        self.control.hidden = None
        return self.fc(x), masks, gprobs


@case(paths=None, seed=3)
def skipnet_with_an_lstm_controller():
    return RecurrentSkipNet(), [(x,) for x in sweep(12, 1, 1, 4, 4)]


# ---------------------------------------------------------------- FastBERT, DeeBERT
def normal_shannon_entropy(p, labels_num):
    entropy = torch.distributions.Categorical(probs=p).entropy()
    normal = -torch.log(torch.tensor(1.0 / labels_num))
    return entropy / normal


class FastBERTGraph(nn.Module):
    """Liu et al. 2020: samples of the batch whose classifier is certain leave; the rest goes on, packed."""

    def __init__(self, layers=3, width=8, labels=3):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 16, dropout=0.1, batch_first=True) for _ in range(layers))
        self.layer_classifiers = nn.ModuleDict()
        for i in range(layers - 1):
            self.layer_classifiers["branch_classifier_" + str(i)] = nn.Linear(width, labels)
        self.layer_classifiers["final_classifier"] = nn.Linear(width, labels)
        self.labels_num = labels
        with torch.no_grad():
            for head in self.layer_classifiers.values():
                head.weight.mul_(6)

    @torch.no_grad()
    def forward(self, hidden_states, inference_speed: float = 0.5):
        batch = hidden_states.size(0)
        device = hidden_states.device
        final_probs = torch.zeros((batch, self.labels_num), device=device)
        uncompleted_idx = torch.arange(batch, device=device)
        exec_layer_num = torch.zeros(batch, dtype=torch.long, device=device)
        for i, layer in enumerate(self.layers):
            hidden_states = layer(hidden_states)
            if i == len(self.layers) - 1:
                logits = self.layer_classifiers["final_classifier"](hidden_states[:, 0])
                final_probs[uncompleted_idx] = F.softmax(logits, dim=-1)
                exec_layer_num[uncompleted_idx] = i + 1
                break
            logits = self.layer_classifiers["branch_classifier_" + str(i)](hidden_states[:, 0])
            prob = F.softmax(logits, dim=1)
            uncertain = normal_shannon_entropy(prob, self.labels_num)
            certain = uncertain < inference_speed
            finished = uncompleted_idx[certain]
            final_probs[finished] = prob[certain]
            exec_layer_num[finished] = i + 1
            uncompleted_idx = uncompleted_idx[~certain]
            if uncompleted_idx.numel() == 0:
                break
            hidden_states = hidden_states[~certain]
        return final_probs, exec_layer_num


@case(paths=None, seed=1)
def fastbert_packs_the_uncertain():
    return FastBERTGraph(), [(x,) for x in sweep(8, 4, 3, 8)]


class HighwayException(Exception):
    def __init__(self, message, exit_layer):
        self.message = message
        self.exit_layer = exit_layer


def entropy(x):
    exp_x = torch.exp(x)
    A = torch.sum(exp_x, dim=1)
    B = torch.sum(x * exp_x, dim=1)
    return torch.log(A) - B / A


class BertHighway(nn.Module):
    def __init__(self, width, labels):
        super().__init__()
        self.pooler = nn.Linear(width, width)
        self.classifier = nn.Linear(width, labels)

    def forward(self, encoder_outputs):
        pooled = torch.tanh(self.pooler(encoder_outputs[0][:, 0]))
        return self.classifier(pooled), pooled


class DeeBertEncoder(nn.Module):
    def __init__(self, layers, width, labels):
        super().__init__()
        self.layer = nn.ModuleList([nn.Linear(width, width) for _ in range(layers)])
        self.highway = nn.ModuleList([BertHighway(width, labels) for _ in range(layers)])
        self.early_exit_entropy = [-1 for _ in range(layers)]

    def set_early_exit_entropy(self, x):
        if isinstance(x, (float, int)):
            self.early_exit_entropy = [x] * len(self.layer)
        else:
            self.early_exit_entropy = x

    def forward(self, hidden_states, output_hidden_states=False):
        all_hidden_states = ()
        all_highway_exits = ()
        for i, layer_module in enumerate(self.layer):
            if output_hidden_states:
                all_hidden_states = all_hidden_states + (hidden_states,)
            hidden_states = F.gelu(layer_module(hidden_states)) + hidden_states
            current_outputs = (hidden_states,)
            if output_hidden_states:
                current_outputs = current_outputs + (all_hidden_states,)
            highway_exit = self.highway[i](current_outputs)
            highway_logits = highway_exit[0]
            highway_entropy = entropy(highway_logits)
            highway_exit = highway_exit + (highway_entropy,)
            all_highway_exits = all_highway_exits + (highway_exit,)
            if highway_entropy < self.early_exit_entropy[i]:
                new_output = (highway_logits,) + current_outputs[1:] + (all_highway_exits,)
                raise HighwayException(new_output, i + 1)
        return (hidden_states, all_highway_exits)


class DeeBert(nn.Module):
    """Xin et al. 2020: the encoder throws an exception that carries the outputs of an early exit."""

    def __init__(self, layers=3, width=4, labels=3):
        super().__init__()
        self.num_layers = layers
        self.bert = nn.ModuleDict({"encoder": DeeBertEncoder(layers, width, labels)})
        self.classifier = nn.Linear(width, labels)
        self.bert["encoder"].set_early_exit_entropy(0.95)

    def forward(self, x, output_hidden_states=False):
        exit_layer = self.num_layers
        try:
            outputs = self.bert["encoder"](x, output_hidden_states)
            logits = self.classifier(outputs[0][:, 0])
            outputs = (logits,) + outputs[1:]
        except HighwayException as e:
            outputs = e.message
            exit_layer = e.exit_layer
            logits = outputs[0]
        return (logits, [e[0] for e in outputs[-1]], exit_layer)


@case(paths=4)
def deebert_throws_its_exit():
    return DeeBert(), [(x,) for x in sweep(32, 1, 2, 4)]


# ---------------------------------------------------------------- CALM / LayerSkip decoders
@dataclass
class CalmOutput:
    sequences: torch.Tensor
    exit_layers: list[int] = field(default_factory=list)
    confidences: list[float] | None = None


def softmax_confidence(logits):
    top = torch.topk(logits.softmax(-1), 2, dim=-1).values.squeeze()
    return top[..., 0] - top[..., 1]


def state_confidence(new, old):
    return F.cosine_similarity(new, old, dim=-1).squeeze()


class CALM(nn.Module):
    """Schuster et al. 2022: a decoder in which every token leaves at its own layer, with a threshold that decays."""

    def __init__(self, vocab=7, width=8, layers=3, max_tokens=3, measure="softmax"):
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
                                    for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocab, bias=False)
        self.max_tokens, self.eos = max_tokens, vocab - 1
        self.confidence_fn = {"softmax": softmax_confidence, "state": state_confidence}[measure]
        self.measure = measure
        self.thresholds = {i: 0.9 / 10 * math.exp(-4 * i / max_tokens) + 0.35 for i in range(max_tokens)}
        with torch.no_grad():
            self.lm_head.weight.mul_(4)

    def forward(self, ids, context):
        out = CalmOutput(ids, [], [])
        for t in range(self.max_tokens):
            hidden = self.embed(out.sequences[:, -1]) + context
            for i, block in enumerate(self.blocks):
                previous, hidden = hidden, hidden + block(hidden)
                last = i == len(self.blocks) - 1
                if self.measure == "softmax":
                    confidence = self.confidence_fn(self.lm_head(self.norm(hidden)))
                else:
                    confidence = self.confidence_fn(hidden, previous)
                if not last and confidence >= self.thresholds[t]:
                    break
            token = self.lm_head(self.norm(hidden)).argmax(-1, keepdim=True)
            out.sequences = torch.cat([out.sequences, token], dim=1)
            out.exit_layers.append(i)
            out.confidences.append(confidence.item())
            if token.item() == self.eos:
                break
        return out


@case(paths=None, seed=2)
def calm_with_decaying_thresholds():
    return CALM(), [(integers(s, 6, 1, 2), normal(s, 1, 8, scale=2)) for s in range(10)]


@case(paths=None, seed=2)
def calm_with_state_saturation():
    return CALM(measure="state", max_tokens=2), [(integers(s, 6, 1, 2), normal(s, 1, 8, scale=2)) for s in range(10)]


# ---------------------------------------------------------------- self-speculative decoding
class TinyLM(nn.Module):
    def __init__(self, vocab, width, layers):
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.layers = nn.ModuleList(nn.GRU(width, width, batch_first=True) for _ in range(layers))
        self.head = nn.Linear(width, vocab)
        with torch.no_grad():
            self.head.weight.mul_(4)

    def forward(self, ids, exit_layer=-1):
        h = self.embed(ids)
        for layer in self.layers[:exit_layer] if exit_layer > 0 else self.layers:
            h = h + layer(h)[0]
        return self.head(h)


class LayerSkip(nn.Module):
    """Elhoushi et al. 2024: drafts come from the first layers, the whole model checks them in one call."""

    def __init__(self, vocab=5, width=6, layers=3, exit_layer=1, speculations=2, max_new=3):
        super().__init__()
        self.model = TinyLM(vocab, width, layers)
        self.exit_layer, self.num_speculations, self.max_new = exit_layer, speculations, max_new

    def single_step(self, ids, budget):
        draft = ids
        drafted = []
        for _ in range(min(self.num_speculations, budget)):
            token = self.model(draft, exit_layer=self.exit_layer)[:, -1].argmax(-1)
            drafted.append(token)
            draft = torch.cat((draft, token[:, None]), dim=-1)
        verified = self.model(draft)[:, ids.size(1) - 1:].argmax(-1)
        matches = 0
        while matches < len(drafted) and drafted[matches].item() == verified[0, matches].item():
            matches += 1
        return torch.cat([ids, verified[:, :matches + 1]], dim=1), matches, len(drafted)

    def forward(self, ids):
        start = ids.size(1)
        total_matches = total_draft = 0
        while ids.size(1) - start < self.max_new:
            ids, matches, drafted = self.single_step(ids, self.max_new - (ids.size(1) - start))
            total_matches += matches
            total_draft += drafted
        return ids[:, : start + self.max_new], total_matches / total_draft


@case(paths=None, seed=5)
def layer_skip_self_speculation():
    return LayerSkip(), [(integers(s, 5, 1, 3),) for s in range(10)]


class SpeculativeSampler(nn.Module):
    """Leviathan et al. 2023, with the uniform numbers as an input: accept with min(1, p/q), else draw from (p-q)+."""

    def __init__(self, vocab=4, width=4, gamma=3):
        super().__init__()
        self.draft = TinyLM(vocab, width, 1)
        self.target = TinyLM(vocab, width, 2)
        self.gamma = gamma

    def sample(self, probs, r):
        return (probs.cumsum(-1) < r).sum(-1).clamp(max=probs.shape[-1] - 1)

    def forward(self, prefix, noise):
        x, q = prefix, []
        for i in range(self.gamma):
            probs = F.softmax(self.draft(x)[:, -1], dim=-1)
            q.append(probs)
            x = torch.cat([x, self.sample(probs, noise[0, i]).unsqueeze(1)], dim=1)
        p = F.softmax(self.target(x), dim=-1)
        n = prefix.shape[1] + self.gamma - 1
        for i in range(self.gamma):
            j = x[0, prefix.shape[1] + i]
            if noise[1, i] > p[0, prefix.shape[1] + i - 1, j] / q[i][0, j]:
                n = prefix.shape[1] + i - 1
                break
        assert n >= prefix.shape[1] - 1, f"n {n}, prefix_len {prefix.shape[1]}"
        out = x[:, : n + 1]
        if n < prefix.shape[1] + self.gamma - 1:
            residual = torch.clamp(p[:, n] - q[n - prefix.shape[1] + 1], min=0)
            t = self.sample(residual / residual.sum(-1, keepdim=True).clamp_min(1e-9), noise[2, 0])
        else:
            t = self.sample(p[:, -1], noise[2, 0])
        return torch.cat((out, t.unsqueeze(1)), dim=1)


@case(paths=4, seed=1)
def speculative_sampling_with_noise():
    return SpeculativeSampler(), [
        (integers(s, 4, 1, 2), torch.rand(3, 3, generator=torch.Generator().manual_seed(s))) for s in range(40)]


# ---------------------------------------------------------------- halting
class UniversalTransformer(nn.Module):
    """Dehghani et al. 2019 with ACT: positions halt one by one, the loop ends when all have."""

    def __init__(self, width=6, max_hop=4, threshold=0.9):
        super().__init__()
        self.enc = nn.TransformerEncoderLayer(width, 2, 12, dropout=0.0, batch_first=True)
        self.sigma = nn.Sigmoid()
        self.p = nn.Linear(width, 1)
        self.max_hop, self.threshold = max_hop, threshold
        self.register_buffer("timing", normal(9, 1, 8, width, scale=0.3))
        self.register_buffer("position", normal(8, 1, max_hop, width, scale=0.3))
        with torch.no_grad():
            self.p.weight.mul_(3)
            self.p.bias.fill_(0.5)

    def forward(self, state):
        inputs = state
        halting_probability = torch.zeros(inputs.shape[0], inputs.shape[1])
        remainders = torch.zeros(inputs.shape[0], inputs.shape[1])
        n_updates = torch.zeros(inputs.shape[0], inputs.shape[1])
        previous_state = torch.zeros_like(inputs)
        step = 0
        while (((halting_probability < self.threshold) & (n_updates < self.max_hop)).byte().any()):
            state = state + self.timing[:, : inputs.shape[1], :].type_as(inputs.data)
            state = state + self.position[:, step, :].unsqueeze(1).repeat(1, inputs.shape[1], 1).type_as(inputs.data)
            p = self.sigma(self.p(state)).squeeze(-1)
            still_running = (halting_probability < 1.0).float()
            new_halted = (halting_probability + p * still_running > self.threshold).float() * still_running
            still_running = (halting_probability + p * still_running <= self.threshold).float() * still_running
            halting_probability = halting_probability + p * still_running
            remainders = remainders + new_halted * (1 - halting_probability)
            halting_probability = halting_probability + new_halted * remainders
            n_updates = n_updates + still_running + new_halted
            update_weights = p * still_running + new_halted * remainders
            state = self.enc(state)
            previous_state = (state * update_weights.unsqueeze(-1)) + (
                previous_state * (1 - update_weights.unsqueeze(-1)))
            step += 1
        return previous_state, (remainders, n_updates)


@case(paths=None, seed=2)
def universal_transformer_with_act():
    return UniversalTransformer(), [(x,) for x in sweep(10, 1, 3, 6)]


class PonderOutput(NamedTuple):
    y: torch.Tensor
    steps: int
    halted: torch.Tensor


class MaskedPonder(nn.Module):
    """Banino et al. 2021 at inference: a batch halts sample by sample; the draws are inputs."""

    def __init__(self, width=4, max_steps=5):
        super().__init__()
        self.cell = nn.GRUCell(width, width)
        self.lambda_ = nn.Linear(width, 1)
        self.out = nn.Linear(width, 2)
        self.max_steps = max_steps

    def forward(self, x, draws):
        b = x.shape[0]
        h = x.new_zeros((b, x.shape[1]))
        h = self.cell(x, h)
        un_halted_prob = h.new_ones((b,))
        halted = h.new_zeros((b,))
        y_m = None
        p_m = h.new_zeros((b,))
        for n in range(1, self.max_steps + 1):
            if n == self.max_steps:
                lambda_n = h.new_ones(h.shape[0])
            else:
                lambda_n = torch.sigmoid(self.lambda_(h))[:, 0]
            y_n = self.out(h)
            p_n = un_halted_prob * lambda_n
            un_halted_prob = un_halted_prob * (1 - lambda_n)
            halt = (draws[n - 1] < lambda_n).float() * (1 - halted)
            p_m = p_m * (1 - halt) + p_n * halt
            y_m = y_n * halt[:, None] if y_m is None else y_m * (1 - halt[:, None]) + y_n * halt[:, None]
            halted = halted + halt
            h = self.cell(x, h)
            if halted.sum() == b:
                break
        return PonderOutput(y_m, n, halted)


@case(paths=5)
def ponder_batch_halts_one_by_one():
    return MaskedPonder(), [
        (normal(s, 2, 4), torch.rand(5, 2, generator=torch.Generator().manual_seed(s))) for s in range(40)]


# ---------------------------------------------------------------- MSDNet, anytime and budgeted
class MSDFirst(nn.Module):
    def __init__(self, grow):
        super().__init__()
        self.layers = nn.ModuleList([
            nn.Sequential(nn.Conv2d(1, grow, 3, padding=1), nn.BatchNorm2d(grow), nn.ReLU(True)),
            nn.Sequential(nn.Conv2d(grow, grow, 3, stride=2, padding=1), nn.BatchNorm2d(grow), nn.ReLU(True)),
        ])

    def forward(self, x):
        res = []
        for layer in self.layers:
            x = layer(x)
            res.append(x)
        return res


class MSDLayer(nn.Module):
    def __init__(self, channels, grow):
        super().__init__()
        self.layers = nn.ModuleList([
            nn.Conv2d(channels, grow, 3, padding=1),
            nn.ModuleList([nn.Conv2d(channels, grow, 3, stride=2, padding=1), nn.Conv2d(channels, grow, 3, padding=1)]),
        ])

    def forward(self, x):
        inp = [[x[0]]] + [[x[i - 1], x[i]] for i in range(1, len(x))]
        res = []
        for layer, parts in zip(self.layers, inp):
            if isinstance(layer, nn.ModuleList):
                made = [part(one) for part, one in zip(layer, parts)]
                res.append(torch.cat([parts[-1], sum(made)], dim=1))
            else:
                res.append(torch.cat([parts[0], layer(parts[0])], dim=1))
        return res


class MSDNetBudgeted(nn.Module):
    """Huang et al. 2018: exits with thresholds of a budget, given as a list that a solver computed."""

    def __init__(self, blocks=3, grow=2, classes=3):
        super().__init__()
        self.blocks, self.classifier = nn.ModuleList(), nn.ModuleList()
        channels = grow
        for i in range(blocks):
            first = [MSDFirst(grow)] if i == 0 else []
            self.blocks.append(nn.Sequential(*first, MSDLayer(channels, grow)))
            channels += grow
            self.classifier.append(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)))
        self.nBlocks = blocks
        with torch.no_grad():
            for head in self.classifier:
                head[2].weight.mul_(5)

    def forward(self, x, thresholds):
        res = []
        for i in range(self.nBlocks):
            x = self.blocks[i](x)
            res.append(self.classifier[i](x[-1]))
            max_preds, argmax_preds = F.softmax(res[-1], dim=1).max(dim=1, keepdim=False)
            if max_preds.item() >= thresholds[i]:
                return res[-1], argmax_preds.item(), i
        raise AssertionError("the last threshold is zero")


@case(paths=None, seed=4)
def msdnet_with_thresholds_of_a_budget():
    thresholds = [[0.6, 0.55, -1.0], [0.45, 0.4, -1.0]]
    return MSDNetBudgeted(), [(x, thresholds[i % 2]) for i, x in enumerate(sweep(10, 1, 1, 4, 4))]


# ---------------------------------------------------------------- cascades and resolution
class BigLittle(nn.Module):
    """A cascade of models in an OrderedDict, cheap first; agreement of two ends it, else they vote."""

    def __init__(self):
        super().__init__()
        self.members = nn.ModuleDict(OrderedDict(
            (name, nn.Sequential(nn.Linear(4, n), nn.ReLU(), nn.Linear(n, 3)))
            for name, n in (("tiny", 2), ("small", 4), ("base", 8))))
        self.costs = {"tiny": 1.0, "small": 2.5, "base": 6}

    def forward(self, x):
        votes: dict[int, float] = {}
        spent = 0.0
        used = []
        for name, member in self.members.items():
            p = member(x).softmax(-1)
            top, label = p.max(-1)
            spent += self.costs[name]
            used.append(name)
            k = int(label)
            votes[k] = votes.get(k, 0.0) + float(top)
            if votes[k] > 0.9:
                break
        best = max(votes, key=votes.get)
        return {"label": best, "score": votes[best], "used": used, "spent": spent}


# A dict asks whether two labels are equal only where their hashes are: that labels which differ are equal cannot be
# forced. Inputs by which members agree and disagree take the branches instead.
@case(paths=None, seed=6, forced=False)
def cascade_that_votes_in_a_dict():
    return BigLittle(), [(x,) for x in sweep(12, 1, 4)]


class ResolutionAdaptive(nn.Module):
    """RANet (Yang et al. 2020): from coarse to fine, features of the coarse network are reused by the next."""

    def __init__(self, scales=(2, 4, 8), width=3):
        super().__init__()
        self.scales = scales
        self.stems = nn.ModuleList(nn.Conv2d(1, width, 3, padding=1) for _ in scales)
        self.fuse = nn.ModuleList(nn.Conv2d(2 * width, width, 1) for _ in scales[1:])
        self.heads = nn.ModuleList(nn.Linear(width, 3) for _ in scales)
        with torch.no_grad():
            for head in self.heads:
                head.weight.mul_(8)

    def stage(self, i, x, carried):
        small = F.interpolate(x, size=(self.scales[i],) * 2, mode="bilinear", align_corners=False)
        h = F.relu(self.stems[i](small))
        if carried is not None:
            up = F.interpolate(carried, scale_factor=h.shape[-1] // carried.shape[-1], mode="nearest")
            h = self.fuse[i - 1](torch.cat([h, up], 1))
        return h

    def forward(self, x):
        features = None
        for i in range(len(self.scales)):
            features = self.stage(i, x, features)
            logits = self.heads[i](features.mean((2, 3)))
            margin = logits.topk(2).values
            if (margin[0, 0] - margin[0, 1] > 1.0) or i + 1 == len(self.scales):
                return logits, self.scales[i]


@case(paths=3, seed=1)
def ranet_from_coarse_to_fine():
    return ResolutionAdaptive(), [(x,) for x in sweep(24, 1, 1, 8, 8)]


# ---------------------------------------------------------------- stochastic depth, layer drop by budget
def skippable(fn):
    @functools.wraps(fn)
    def wrapper(self, hidden, *args, **kwargs):
        if self.skip_rate is not None and self.router is not None:
            if torch.sigmoid(self.router(hidden[:, -1])).mean() < self.skip_rate:
                return hidden, None
        return fn(self, hidden, *args, **kwargs)
    return wrapper


class RoutedLayer(nn.Module):
    def __init__(self, width, index):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.router = nn.Linear(width, 1) if index % 2 else None
        self.skip_rate = 0.5

    @skippable
    def forward(self, hidden, mask=None, need_weights=False):
        q = self.norm1(hidden)
        a, w = self.attn(q, q, q, attn_mask=mask, need_weights=need_weights)
        hidden = hidden + a
        return hidden + self.mlp(self.norm2(hidden)), w


class SkippingDecoder(nn.Module):
    def __init__(self, width=4, depth=4):
        super().__init__()
        self.layers = nn.ModuleList([RoutedLayer(width, i) for i in range(depth)])

    def forward(self, x, output_attentions=False):
        mask = torch.triu(torch.full((x.shape[1], x.shape[1]), float("-inf")), diagonal=1)
        attentions = () if output_attentions else None
        for layer in self.layers:
            x, w = layer(x, mask=mask, need_weights=output_attentions)
            if output_attentions and w is not None:
                attentions += (w,)
        return tuple(v for v in [x, attentions] if v is not None)


@case(paths=None, seed=2)
def router_in_a_decorator():
    return SkippingDecoder(), [(x,) for x in sweep(8, 1, 3, 4)] + [(x, True) for x in sweep(8, 1, 3, 4)]
