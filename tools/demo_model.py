"""A LLaMA or Mixtral decoder in plain PyTorch, as small and as fast to train as it can be.

Parameters carry the names of Hugging Face checkpoints, so that a state dictionary needs no
renaming but for the experts, which lie in one tensor here (see MixtureOfExperts).
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


class RMSNorm(nn.Module):
    """x / rms(x) * weight, in float32."""

    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        value = x.float()
        value = value * torch.rsqrt(value.square().mean(-1, keepdim=True) + self.eps)
        return value.to(x.dtype) * self.weight.to(x.dtype)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions (pairs i and i + head_dim / 2)."""

    def __init__(self, config):
        super().__init__()
        width, self.heads = config["hidden_size"], config["num_attention_heads"]
        self.kv_heads = config["num_key_value_heads"]
        self.head_dim = width // self.heads
        self.q_proj = nn.Linear(width, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(width, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(width, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, width, bias=False)

    def forward(self, x, cos, sin):
        batch, length, _ = x.shape
        split = lambda y, heads: y.view(batch, length, heads, self.head_dim).transpose(1, 2)
        q = rotate(split(self.q_proj(x), self.heads), cos, sin)
        k = rotate(split(self.k_proj(x), self.kv_heads), cos, sin)
        v = split(self.v_proj(x), self.kv_heads)
        repeat = self.heads // self.kv_heads
        k, v = (y.repeat_interleave(repeat, dim=1) for y in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


def rotate(x, cos, sin):
    """x: (B, H, T, Dh); cos, sin: (T, Dh / 2) in float32."""
    low, high = x.float().chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], -1).to(x.dtype)


class FeedForward(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config):
        super().__init__()
        width, inner = config["hidden_size"], config["intermediate_size"]
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class MixtureOfExperts(nn.Module):
    """Top-k experts, computed densely: all experts side by side are one wide feed-forward.

    Multiplying an expert's inner activations by its routing weight (0 where it was not chosen)
    gives the values and the gradients of sparse routing. With experts this small that is faster
    than gathering. w1, w3: (E * F, D), w2: (D, E * F), expert by expert.
    """

    def __init__(self, config):
        super().__init__()
        width, inner = config["hidden_size"], config["intermediate_size"]
        self.experts, self.top_k = config["num_local_experts"], config["num_experts_per_tok"]
        self.gate = nn.Linear(width, self.experts, bias=False)
        self.w1 = nn.Linear(width, self.experts * inner, bias=False)
        self.w3 = nn.Linear(width, self.experts * inner, bias=False)
        self.w2 = nn.Linear(self.experts * inner, width, bias=False)
        self.balance_loss = None  # of the latest forward: 1 where the load is even
        self.load = None  # of the latest forward: (E), share of the choices, sums to 1

    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):
            probability = F.linear(x.float(), self.gate.weight.float()).softmax(-1)
        value, index = probability.topk(self.top_k, dim=-1)
        value = value / value.sum(-1, keepdim=True)
        route = torch.zeros_like(probability).scatter(-1, index, value)
        self.load = (route > 0).float().mean((0, 1)) / self.top_k
        self.balance_loss = self.experts * (self.load * probability.mean((0, 1))).sum()
        inner = F.silu(self.w1(x)) * self.w3(x)
        inner = inner.unflatten(-1, (self.experts, -1)) * route.to(inner.dtype).unsqueeze(-1)
        return self.w2(inner.flatten(-2))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, eps = config["hidden_size"], config["rms_norm_eps"]
        self.input_layernorm = RMSNorm(width, eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(width, eps)
        if "num_local_experts" in config:
            self.block_sparse_moe = MixtureOfExperts(config)
        else:
            self.mlp = FeedForward(config)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        feed_forward = self.block_sparse_moe if hasattr(self, "block_sparse_moe") else self.mlp
        return x + feed_forward(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """ids (B, T) -> logits (B, T, V), with tied embeddings."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        layers = config["num_hidden_layers"]
        self.model.layers = nn.ModuleList(Block(config) for _ in range(layers))
        self.model.norm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])
        head_dim = config["hidden_size"] // config["num_attention_heads"]
        exponent = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        inv_freq = 1.0 / config["rope_theta"] ** exponent
        angle = torch.arange(config["max_position_embeddings"]).float()[:, None] * inv_freq
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                last = name.endswith(("o_proj.weight", "down_proj.weight", "w2.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if last else 0.02)

    def forward(self, ids):
        length = ids.shape[1]
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x, self.cos[:length], self.sin[:length])
        return F.linear(self.model.norm(x), self.model.embed_tokens.weight)

    def mixtures(self):
        return [m for m in self.modules() if isinstance(m, MixtureOfExperts)]


def to_hugging_face(model, dtype):
    """The state under Hugging Face names in `dtype`: wide expert tensors cut into experts."""
    state = {}
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().cpu().to(dtype)
        stem, _, kind = name.removesuffix(".weight").rpartition(".")
        if stem.endswith("block_sparse_moe") and kind in ("w1", "w2", "w3"):
            parts = tensor.chunk(model.config["num_local_experts"], dim=1 if kind == "w2" else 0)
            for expert, part in enumerate(parts):
                state[f"{stem}.experts.{expert}.{kind}.weight"] = part.contiguous()
        else:
            state[name] = tensor.contiguous()
    return state


def from_hugging_face(model, state):
    """The reverse of to_hugging_face; refuses names that are missing or not known."""
    joined = {}
    for name in model.state_dict():
        stem, _, kind = name.removesuffix(".weight").rpartition(".")
        if stem.endswith("block_sparse_moe") and kind in ("w1", "w2", "w3"):
            parts = [
                state.pop(f"{stem}.experts.{expert}.{kind}.weight")
                for expert in range(model.config["num_local_experts"])
            ]
            joined[name] = torch.cat(parts, dim=1 if kind == "w2" else 0)
        else:
            joined[name] = state.pop(name)
    if state:
        raise ValueError(f"unknown tensors: {sorted(state)}")
    model.load_state_dict({name: tensor.float() for name, tensor in joined.items()})
