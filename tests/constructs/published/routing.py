"""Published families of networks that route tokens and prune them, written as their repositories write them."""
from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from tests.constructs.registry import case, normal, sweep


# ---------------------------------------------------------------- experts
class Expert(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x):
        return self.net(x)


class ExpertChoice(nn.Module):
    """Zhou et al. 2022: each expert picks its tokens; tokens that nobody picked are found by a mask."""

    def __init__(self, width=4, experts=3, capacity=2):
        super().__init__()
        self.gate = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(Expert(width, 6) for _ in range(experts))
        self.capacity = capacity

    def forward(self, x):
        scores = F.softmax(self.gate(x), dim=-1)
        weights, indices = torch.topk(scores.t(), self.capacity, dim=-1)
        out = torch.zeros_like(x)
        picked = torch.zeros(x.shape[0], dtype=torch.bool)
        for e, expert in enumerate(self.experts):
            out.index_add_(0, indices[e], expert(x[indices[e]]) * weights[e].unsqueeze(-1))
            picked[indices[e]] = True
        if not picked.all():
            lost = (~picked).nonzero().squeeze(-1)
            out[lost] = x[lost]
        return out, picked.sum().item()


@case(paths=2, seed=1)
def expert_choice_and_lost_tokens():
    return ExpertChoice(), [(x,) for x in sweep(24, 4, 4)]


@dataclass
class MoEConfig:
    width: int = 4
    experts: int = 4
    top_k: int = 2
    shared: int = 1
    norm_topk: bool = True
    scale: float = 1.5


class MoEGate(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.weight = nn.Parameter(normal(3, cfg.experts, cfg.width))
        self.top_k, self.norm, self.scale = cfg.top_k, cfg.norm_topk, cfg.scale

    def forward(self, hidden_states):
        logits = F.linear(hidden_states.type(torch.float32), self.weight.type(torch.float32), None)
        scores = logits.softmax(dim=-1, dtype=torch.float32)
        topk_weight, topk_idx = torch.topk(scores, k=self.top_k, dim=-1, sorted=False)
        if self.top_k > 1 and self.norm:
            topk_weight = topk_weight / (topk_weight.sum(dim=-1, keepdim=True) + 1e-20) * self.scale
        return topk_idx, topk_weight


class DeepseekMoE(nn.Module):
    """DeepSeek-V2's inference path: tokens sorted by expert, counts read with `cpu().numpy()` there, a list here."""

    def __init__(self, cfg=MoEConfig()):
        super().__init__()
        self.experts = nn.ModuleList([Expert(cfg.width, 6) for _ in range(cfg.experts)])
        self.gate = MoEGate(cfg)
        self.shared_experts = Expert(cfg.width, 6 * cfg.shared) if cfg.shared else None

    def forward(self, hidden_states):
        identity = hidden_states
        orig_shape = hidden_states.shape
        topk_idx, topk_weight = self.gate(hidden_states.view(-1, orig_shape[-1]))
        hidden_states = hidden_states.view(-1, hidden_states.shape[-1])
        y = self.moe_infer(hidden_states, topk_idx, topk_weight).view(*orig_shape)
        if self.shared_experts is not None:
            y = y + self.shared_experts(identity)
        return y

    @torch.no_grad()
    def moe_infer(self, x, topk_ids, topk_weight):
        cnts = topk_ids.new_zeros((topk_ids.shape[0], len(self.experts)))
        cnts.scatter_(1, topk_ids, 1)
        tokens_per_expert = cnts.sum(dim=0)
        idxs = topk_ids.view(-1).argsort()
        sorted_tokens = x[idxs // topk_ids.shape[1]]
        outputs = []
        start_idx = 0
        for i, num_tokens in enumerate(tokens_per_expert.tolist()):
            end_idx = start_idx + num_tokens
            if num_tokens == 0:
                continue
            outputs.append(self.experts[i](sorted_tokens[start_idx:end_idx]))
            start_idx = end_idx
        outs = torch.cat(outputs, dim=0) if len(outputs) else sorted_tokens.new_empty(0)
        new_x = torch.empty_like(outs)
        new_x[idxs] = outs
        return (
            new_x.view(*topk_ids.shape, -1).type(topk_weight.dtype).mul_(topk_weight.unsqueeze(dim=-1))
            .sum(dim=1).type(new_x.dtype))


# The branch for no expert with a token cannot be taken: every token has two.
@case(paths=None, seed=2, forced=False)
def deepseek_sorts_tokens_by_expert():
    return DeepseekMoE(), [(x,) for x in sweep(8, 1, 3, 4)]


class MixtureOfDepths(nn.Module):
    """Raposo et al. 2024: per block the best tokens go through, by a threshold at inference."""

    def __init__(self, width=4, depth=2, capacity=0.5):
        super().__init__()
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(width, 2, 8, batch_first=True) for _ in range(depth))
        self.routers = nn.ModuleList(nn.Linear(width, 1, bias=False) for _ in range(depth))
        self.capacity = capacity

    def forward(self, x):
        b, s, d = x.shape
        k = max(1, int(self.capacity * s))
        processed = torch.zeros((b, s, d), dtype=x.dtype)
        for block, router in zip(self.blocks, self.routers):
            weights = router(x).squeeze(-1)
            top_k = torch.topk(weights, k, sorted=True)[0][:, -1:]
            selected_mask = (weights > top_k) if not self.training else (weights >= top_k)
            processed = torch.zeros_like(x)
            for i in range(b):
                current = selected_mask[i]
                selected = x[i][current]
                if selected.size(0) > 0:
                    processed[i][current] = block(selected.unsqueeze(0))[0] * weights[i][current].unsqueeze(-1)
            x = processed + torch.where(selected_mask.unsqueeze(-1), torch.zeros_like(x), x)
        return x


@case(paths=None, seed=1)
def mixture_of_depths():
    return MixtureOfDepths(), [(x,) for x in sweep(8, 2, 4, 4)]


class HashRouted(nn.Module):
    """Heads in a ModuleDict by domain name, chosen per sample, results gathered in order in a defaultdict."""

    def __init__(self):
        super().__init__()
        self.domains = ["code", "text", "speech"]
        self.detect = nn.Linear(3, 3)
        self.heads = nn.ModuleDict({d: nn.Linear(3, i + 2) for i, d in enumerate(self.domains)})

    def forward(self, x):
        which = self.detect(x).argmax(-1)
        by_domain: dict[str, list[torch.Tensor]] = defaultdict(list)
        order = []
        for i in range(x.shape[0]):
            name = self.domains[which[i].item()]
            by_domain[name].append(x[i])
            order.append(name)
        return {k: self.heads[k](torch.stack(v)) for k, v in sorted(by_domain.items())}, order


@case(paths=9)
def heads_by_domain_of_each_sample():
    return HashRouted(), [(x,) for x in sweep(60, 2, 3)]


# ---------------------------------------------------------------- token pruning
class Attn(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.num_heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x, policy=None):
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        attn = (q @ k.transpose(-2, -1)) * self.scale
        attn = attn.softmax(dim=-1) if policy is None else self.softmax_with_policy(attn, policy)
        x = (attn @ v).transpose(1, 2).reshape(B, N, C)
        return self.proj(x), attn

    def softmax_with_policy(self, attn, policy, eps=1e-6):
        B, N, _ = policy.size()
        B, H, N, N = attn.size()
        attn_policy = policy.reshape(B, 1, 1, N)
        eye = torch.eye(N, dtype=attn_policy.dtype).view(1, 1, N, N)
        attn_policy = attn_policy + (1.0 - attn_policy) * eye
        max_att = torch.max(attn, dim=-1, keepdim=True)[0]
        attn = attn - max_att
        attn = attn.to(torch.float32).exp_() * attn_policy.to(torch.float32)
        attn = (attn + eps / N) / (attn.sum(dim=-1, keepdim=True) + eps)
        return attn.type_as(max_att)


class ViTBlock(nn.Module):
    def __init__(self, dim=8, heads=2):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = Attn(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x, policy=None):
        y, attn = self.attn(self.norm1(x), policy)
        x = x + y
        return x + self.mlp(self.norm2(x)), attn


def batch_index_select(x, idx):
    if len(x.size()) == 3:
        B, N, C = x.size()
        N_new = idx.size(1)
        offset = torch.arange(B, dtype=torch.long).view(B, 1) * N
        idx = idx + offset
        return x.reshape(B * N, C)[idx.reshape(-1)].reshape(B, N_new, C)
    elif len(x.size()) == 2:
        B, N = x.size()
        N_new = idx.size(1)
        offset = torch.arange(B, dtype=torch.long).view(B, 1) * N
        return x.reshape(B * N)[(idx + offset).reshape(-1)].reshape(B, N_new)
    else:
        raise NotImplementedError


class DynamicViT(nn.Module):
    """Rao et al. 2021: a predictor keeps a fixed ratio, or (adaptive) all tokens above a probability."""

    def __init__(self, dim=8, depth=3, ratio=(0.5,), loc=(1,), adaptive=False):
        super().__init__()
        self.cls_token = nn.Parameter(normal(1, 1, 1, dim))
        self.blocks = nn.ModuleList(ViTBlock(dim) for _ in range(depth))
        self.score_predictor = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, 2), nn.LogSoftmax(-1))
            for _ in loc)
        self.pruning_loc, self.token_ratio, self.adaptive = list(loc), ratio, adaptive
        self.head = nn.Linear(dim, 3)

    def forward(self, x):
        B = x.shape[0]
        x = torch.cat((self.cls_token.expand(B, -1, -1), x), dim=1)
        p_count = 0
        init_n = x.shape[1] - 1
        prev_decision = torch.ones(B, init_n, 1, dtype=x.dtype)
        policy = torch.ones(B, init_n + 1, 1, dtype=x.dtype)
        for i, blk in enumerate(self.blocks):
            if i in self.pruning_loc:
                spatial_x = x[:, 1:]
                pred_score = self.score_predictor[p_count](spatial_x).reshape(B, -1, 2)
                score = pred_score[:, :, 0]
                if self.adaptive:
                    keep_policy = (score.exp() > self.token_ratio[p_count]).nonzero(as_tuple=True)[1].unsqueeze(0)
                else:
                    num_keep_node = int(init_n * self.token_ratio[p_count])
                    keep_policy = torch.argsort(score, dim=1, descending=True)[:, :num_keep_node]
                cls_policy = torch.zeros(B, 1, dtype=keep_policy.dtype)
                now_policy = torch.cat([cls_policy, keep_policy + 1], dim=1)
                x = batch_index_select(x, now_policy)
                prev_decision = batch_index_select(prev_decision, keep_policy)
                x, _ = blk(x)
                p_count += 1
            else:
                x, _ = blk(x)
        return self.head(x[:, 0]), prev_decision.shape[1]


@case(paths=1)
def dynamic_vit_with_a_ratio():
    return DynamicViT(), [(x,) for x in sweep(4, 2, 6, 8)]


@case(paths=None)
def dynamic_vit_with_a_threshold():
    return DynamicViT(adaptive=True), [(x,) for x in sweep(8, 1, 6, 8)]


class EViT(nn.Module):
    """Liang et al. 2022: attentive tokens stay; the others are fused into one, weighted by attention."""

    def __init__(self, dim=8, depth=2):
        super().__init__()
        self.blocks = nn.ModuleList(ViTBlock(dim) for _ in range(depth))
        self.threshold = 0.16

    def forward(self, x):
        kept = []
        for blk in self.blocks:
            x, attn = blk(x)
            cls_attn = attn[:, :, 0, 1:].mean(1)
            left = int((cls_attn > self.threshold).sum())
            if left < x.shape[1] - 1:
                _, idx = torch.topk(cls_attn, left, dim=1, largest=True, sorted=True)
                mask = torch.ones(x.shape[1] - 1, dtype=torch.bool)
                mask[idx[0]] = False
                others = x[:, 1:][:, mask]
                weight = cls_attn[:, mask]
                extra = torch.sum(others * weight.unsqueeze(-1), dim=1, keepdim=True)
                picked = torch.gather(x[:, 1:], 1, idx.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
                x = torch.cat([x[:, :1], picked, extra], dim=1)
            kept.append(left)
        return x[:, 0], kept


@case(paths=None, seed=3)
def evit_fuses_inattentive_tokens():
    return EViT(), [(x,) for x in sweep(8, 1, 6, 8)]


def do_nothing(x, mode=None):
    return x


def bipartite_soft_matching(metric, r: int, class_token=False) -> tuple[Callable, Callable]:
    """Bolya et al. 2023, Token Merging, from its repository."""
    protected = 1 if class_token else 0
    t = metric.shape[1]
    r = min(r, (t - protected) // 2)
    if r <= 0:
        return do_nothing, do_nothing
    with torch.no_grad():
        metric = metric / metric.norm(dim=-1, keepdim=True)
        a, b = metric[..., ::2, :], metric[..., 1::2, :]
        scores = a @ b.transpose(-1, -2)
        if class_token:
            scores[..., 0, :] = -math.inf
        node_max, node_idx = scores.max(dim=-1)
        edge_idx = node_max.argsort(dim=-1, descending=True)[..., None]
        unm_idx = edge_idx[..., r:, :]
        src_idx = edge_idx[..., :r, :]
        dst_idx = node_idx[..., None].gather(dim=-2, index=src_idx)
        if class_token:
            unm_idx = unm_idx.sort(dim=1)[0]

    def merge(x, mode="mean"):
        src, dst = x[..., ::2, :], x[..., 1::2, :]
        n, t1, c = src.shape
        unm = src.gather(dim=-2, index=unm_idx.expand(n, t1 - r, c))
        src = src.gather(dim=-2, index=src_idx.expand(n, r, c))
        dst = dst.scatter_reduce(-2, dst_idx.expand(n, r, c), src, reduce=mode)
        return torch.cat([unm, dst], dim=1)

    def unmerge(x):
        unm_len = unm_idx.shape[1]
        unm, dst = x[..., :unm_len, :], x[..., unm_len:, :]
        n, _, c = unm.shape
        src = dst.gather(dim=-2, index=dst_idx.expand(n, r, c))
        out = torch.zeros(n, metric.shape[1], c, dtype=x.dtype)
        out[..., 1::2, :] = dst
        out.scatter_(dim=-2, index=(2 * unm_idx).expand(n, unm_len, c), src=unm)
        out.scatter_(dim=-2, index=(2 * src_idx).expand(n, r, c), src=src)
        return out

    return merge, unmerge


def merge_wavg(merge, x, size=None):
    if size is None:
        size = torch.ones_like(x[..., 0, None])
    x = merge(x * size, mode="sum")
    size = merge(size, mode="sum")
    return x / size, size


class ToMe(nn.Module):
    """Tokens are merged while similar ones remain: r depends on how many pairs are alike."""

    def __init__(self, dim=8, depth=2):
        super().__init__()
        self.blocks = nn.ModuleList(ViTBlock(dim) for _ in range(depth))

    def forward(self, x):
        size = None
        for blk in self.blocks:
            x, attn = blk(x)
            flat = F.normalize(x[0], dim=-1)
            alike = ((flat[::2] @ flat[1::2].t()) > 0.3).any(-1).sum()
            r = 2 if alike >= 2 else 1 if alike == 1 else 0
            merge, _ = bipartite_soft_matching(x, r, class_token=True)
            if merge is not do_nothing:
                x, size = merge_wavg(merge, x, size)
        return x.mean(1), x.shape[1]


@case(paths=None, seed=1)
def token_merging_by_similarity():
    return ToMe(), [(x,) for x in sweep(12, 1, 6, 8)]


class LTP(nn.Module):
    """Kim et al. 2022, learned token pruning: hard masks with a threshold per layer; empty rows become -inf."""

    def __init__(self, dim=8, depth=2):
        super().__init__()
        self.blocks = nn.ModuleList(ViTBlock(dim) for _ in range(depth))
        self.keep_threshold = nn.Parameter(torch.tensor([0.1, 0.2]))

    def forward(self, x, attention_mask=None):
        mask = torch.ones(x.shape[:2]) if attention_mask is None else attention_mask.float()
        lengths = []
        for i, blk in enumerate(self.blocks):
            x, attn = blk(x, policy=mask.unsqueeze(-1))
            importance = attn.mean(1).mean(1) * mask
            new = mask * (importance > self.keep_threshold[i]).float()
            new[:, 0] = 1
            if torch.equal(new, mask):
                lengths.append(lengths[-1] if lengths else x.shape[1])
                continue
            mask = new
            lengths.append(int(mask.sum(1).max()))
        return (x * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True), lengths


@case(paths=None, seed=1)
def learned_token_pruning_masks():
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    return LTP(), [(x,) for x in sweep(8, 1, 5, 8)] + [(x, mask) for x in sweep(8, 1, 5, 8)]


class AdaptiveTokenSampling(nn.Module):
    """Fayyaz et al. 2022: inverse transform sampling of tokens by their scores; duplicates vanish with `unique`."""

    def __init__(self, dim=8, tokens=4):
        super().__init__()
        self.first, self.second = ViTBlock(dim), ViTBlock(dim)
        self.tokens = tokens

    def forward(self, x):
        x, attn = self.first(x)
        score = attn[:, :, 0, 1:].mean(1) * x[:, 1:].norm(dim=-1)
        score = score / score.sum(dim=-1, keepdim=True)
        cdf = score.cumsum(dim=-1)
        steps = torch.linspace(1.0 / (2 * self.tokens), 1 - 1.0 / (2 * self.tokens), self.tokens)
        picked = (cdf.unsqueeze(-1) < steps.view(1, 1, -1)).sum(1).clamp(max=cdf.shape[-1] - 1)
        ids = torch.unique(picked[0])
        x = torch.cat([x[:, :1], x[:, 1:][:, ids]], dim=1)
        x, _ = self.second(x)
        return x[:, 0], ids


@case(paths=None)
def adaptive_token_sampling():
    return AdaptiveTokenSampling(), [(x,) for x in sweep(6, 1, 7, 8)]


# ---------------------------------------------------------------- dynamic kernels and hypernetworks
class CondConv(nn.Module):
    """Yang et al. 2019: one kernel mixed per sample; samples whose routing is sparse use one expert only."""

    def __init__(self, channels=2, experts=3):
        super().__init__()
        self.weight = nn.Parameter(normal(5, experts, channels, channels, 3, 3))
        self.routing = nn.Linear(channels, experts)
        self.num_experts = experts

    def _route(self, x):
        return torch.softmax(2 * self.routing(F.adaptive_avg_pool2d(x, 1).flatten(1)), dim=-1)

    def forward(self, x):
        res = []
        for sample in x:
            sample = sample.unsqueeze(0)
            r = self._route(sample)[0]
            if (top := r.max()) > 0.7:
                kernel = self.weight[r.argmax()]
            else:
                kernel = torch.sum(r[:, None, None, None, None] * self.weight, 0)[0] if r.dim() == 2 else (
                    r.view(-1, 1, 1, 1, 1) * self.weight).sum(0)
            res.append(F.conv2d(sample, kernel, padding=1) * top)
        return torch.cat(res, dim=0)


@case(paths=None, seed=2)
def conditional_convolution_per_sample():
    return CondConv(), [(x,) for x in sweep(12, 2, 2, 4, 4)]


class KernelSelect(nn.Module):
    """A kernel size chosen by data among convolutions keyed by their size, with padding computed from the key."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleDict({str(k): nn.Conv2d(1, 2, k, bias=False) for k in (1, 3, 5)})
        self.selector = nn.Linear(1, 3)

    def forward(self, x):
        index = int(self.selector(x.mean((2, 3))).argmax(1))
        kernel_size = [1, 3, 5][index]
        pad = kernel_size // 2
        x = F.pad(x, [pad] * 4)
        return self.convs[str(kernel_size)](x), {"kernel": kernel_size, "pad": pad}


@case(paths=3, seed=1)
def kernel_size_by_data():
    return KernelSelect(), [(x,) for x in sweep(40, 1, 1, 5, 5)]


class HyperNetwork(nn.Module):
    """Ha et al. 2016: a small network writes the weights of the main one; its depth is read from the embedding."""

    def __init__(self, z=3, width=3):
        super().__init__()
        self.make = nn.Linear(z, width * width + width)
        self.width = width

    def layer(self, z):
        made = self.make(z)
        w, b = made.split([self.width * self.width, self.width])
        return lambda h, w=w.view(self.width, self.width), b=b: F.relu(F.linear(h, w, b))

    def forward(self, x, z):
        layers = [self.layer(row) for row in z if row[0] > 0]
        for f in layers:
            x = f(x)
        return x, len(layers)


@case(paths=4)
def hypernetwork_of_data_dependent_depth():
    return HyperNetwork(), [(normal(s, 1, 3), normal(100 + s, 2, 3)) for s in range(16)]
