#!/usr/bin/env python3
"""Writes the parity goldens of tests/model/data.

Each case is a tiny random checkpoint in the Hugging Face layout, a prompt, and the float32 logits
that the transformers library computes from it on a CPU. Weights are rounded to the type they are
stored in first, so the golden belongs to the stored weights whatever type an engine computes in.

The manifest says beside each case how far transformers' float32 logits are from an independent
float64 evaluation (`reference_logits` below), and how far transformers is in bfloat16 and float16.
These figures show that a tolerance is neither out of reach nor loose.

    python3 tools/make_goldens.py [--output tests/model/data]

The same versions of torch and transformers give the same files.
"""

import argparse
import functools
import json
import math
import pathlib
import re
import shutil

import numpy as np
import safetensors.torch
import torch
import transformers

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MAX_TOTAL_BYTES = 3_000_000
MIN_ROUTER_MARGIN = 1e-3  # of logits; float32 gets these right to about 1e-6
CLOSE_ROUTER_MARGIN = 0.05  # below it bfloat16 may choose another expert
MAX_FLIP_SPILL = 5e-4  # NMSE of the rows whose own routes are not close


def llama(hidden, heads, kv_heads, feed_forward, vocab, layers, **more):
    """A LLaMA config.json as a dictionary; `more` overrides, and a value of None drops a field."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }
    config.update(more)
    return {key: value for key, value in config.items() if value is not None}


def mistral(*shape, **more):
    """The same for Mistral."""
    return llama(
        *shape,
        architectures=["MistralForCausalLM"],
        model_type="mistral",
        attention_bias=None,
        **more,
    )


def mixtral(*shape, experts, top_k, **more):
    """The same for Mixtral, with room for the 300 tokens of its prompts."""
    return llama(
        *shape,
        architectures=["MixtralForCausalLM"],
        model_type="mixtral",
        attention_bias=None,
        max_position_embeddings=512,
        num_local_experts=experts,
        num_experts_per_tok=top_k,
        **more,
    )


def build_cases():
    """name -> {config, tokens, rows, close_rows, shards, fused, greedy, note}.

    rows None stores every row; close_rows adds those with the smallest router margins; fused stacks
    the experts in one tensor.
    """
    gqa = dict(hidden=32, heads=4, kv_heads=2, feed_forward=72, vocab=97, layers=2)
    llama3 = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    cases = {
        "gqa": dict(config=llama(**gqa), greedy=32, note="grouped queries, 4 heads on 2"),
        "gqa_bf16": dict(
            config=llama(**gqa, torch_dtype="bfloat16"),
            greedy=32,
            note="as gqa, stored in bfloat16",
        ),
        "gqa_f16": dict(
            config=llama(**gqa, torch_dtype="float16"), note="as gqa, stored in float16"
        ),
        "mqa": dict(config=llama(32, 4, 1, 43, 97, 2), note="one key-value head, F = 43"),
        "mha_defaults": dict(
            config=llama(
                40,
                5,
                None,
                43,
                101,
                2,
                rope_theta=None,
                head_dim=None,
                rms_norm_eps=1e-6,
                attention_bias=None,
            ),
            note="D = 40, five heads; num_key_value_heads, head_dim and rope_theta are absent",
        ),
        "tied_bf16": dict(
            config=llama(32, 4, 2, 86, 128, 3, tie_word_embeddings=True, torch_dtype="bfloat16"),
            note="tied embeddings, no lm_head in the file",
        ),
        "odd_vocab_f16": dict(
            config=llama(24, 3, 1, 37, 997, 2, torch_dtype="float16"),
            rows=[0, 1, 2, 5, 11, 17, 22, 23],
            tokens=24,
            note="V = 997, F = 37, D = 24: no row is a multiple of 16 bytes",
        ),
        "feed_forward_172_bf16": dict(
            config=llama(64, 8, 4, 172, 97, 1, torch_dtype="bfloat16"),
            note="F = 172 and head_dim 8: rows of 344 bytes",
        ),
        "head_dim_wide": dict(
            config=llama(32, 4, 2, 56, 97, 2, head_dim=16), note="head_dim 16 where D / H is 8"
        ),
        "head_dim_20": dict(
            config=llama(48, 2, 1, 40, 97, 2, head_dim=20), note="head_dim 20 where D / H is 24"
        ),
        "rope_theta_v5": dict(
            config=llama(
                32,
                2,
                1,
                40,
                97,
                2,
                rope_theta=None,
                rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
            ),
            note="theta 500000 in the rope_parameters schema",
        ),
        "rope_linear": dict(
            config=llama(32, 2, 1, 40, 97, 2, rope_scaling={"type": "linear", "factor": 4.0}),
            note="linear scaling under the older key `type`",
        ),
        "rope_llama3": dict(
            config=llama(32, 2, 1, 40, 97, 2, rope_theta=500000.0, rope_scaling=llama3),
            note="llama3 scaling in the rope_scaling schema; all three bands occur",
        ),
        "rope_llama3_v5": dict(
            config=llama(
                32,
                2,
                1,
                40,
                97,
                2,
                rope_theta=None,
                torch_dtype="bfloat16",
                rope_parameters=dict(llama3, factor=32.0, rope_theta=20000.0),
            ),
            note="llama3 scaling in the rope_parameters schema",
        ),
        "rope_yarn_v5": dict(
            config=llama(
                32,
                2,
                1,
                40,
                97,
                2,
                rope_theta=None,
                rope_parameters={
                    "rope_type": "yarn",
                    "rope_theta": 10000.0,
                    "factor": 4.0,
                    "original_max_position_embeddings": 64,
                },
            ),
            tokens=160,
            rows=[0, 1, 2, 31, 63, 64, 65, 95, 96, 127, 128, 129, 158, 159],
            note="yarn past its original length, in the rope_parameters schema",
        ),
        "rope_yarn": dict(
            config=llama(
                32,
                2,
                1,
                40,
                97,
                2,
                rope_scaling={
                    "rope_type": "yarn",
                    "factor": 8.0,
                    "beta_fast": 16.0,
                    "beta_slow": 2.0,
                    "attention_factor": 1.3,
                    "original_max_position_embeddings": 32,
                },
            ),
            note="yarn in the rope_scaling schema, with its own betas and attention factor",
        ),
        "window": dict(
            config=mistral(32, 4, 2, 40, 97, 2, sliding_window=8),
            greedy=32,
            note="Mistral with a window of 8, shorter than the prompt",
        ),
        "window_long_bf16": dict(
            config=mistral(
                32, 4, 2, 40, 97, 3, sliding_window=33, rope_theta=1000000.0, torch_dtype="bfloat16"
            ),
            tokens=150,
            rows=[0, 31, 32, 33, 34, 63, 64, 65, 66, 99, 127, 128, 148, 149],
            note="a window of 33 in a prompt of 150 tokens",
        ),
        "window_null": dict(
            config=dict(mistral(32, 4, 4, 56, 97, 2, torch_dtype="float16"), sliding_window=None),
            note="Mistral with sliding_window null",
        ),
        "sharded_bf16": dict(
            config=llama(**gqa, torch_dtype="bfloat16"),
            shards=3,
            note="three files with an index; every layer straddles them",
        ),
    }
    # 300 tokens, so that steps of 64 and of 300 have something to group by expert.
    mixture = dict(tokens=300, rows=[1, 2, 63, 64, 65, 298, 299, *range(0, 300, 7)], close_rows=12)
    cases |= {
        "mixtral_8_top2": dict(
            config=mixtral(32, 4, 2, 24, 97, 2, experts=8, top_k=2),
            greedy=32,
            note="eight experts, two chosen, grouped queries",
            seed=4002,
            **mixture,
        ),
        "mixtral_5_top3_bf16": dict(
            config=mixtral(40, 5, 1, 19, 101, 2, experts=5, top_k=3, torch_dtype="bfloat16"),
            note="five experts, three chosen; F = 19: no expert's row is a multiple of 16 bytes",
            seed=4003,
            **mixture,
        ),
        "mixtral_fused": dict(
            config=mixtral(32, 4, 2, 20, 97, 2, experts=6, top_k=2, rope_theta=1e6),
            fused=True,
            note="the experts of a layer stacked in one tensor",
            seed=4003,
            **mixture,
        ),
        "mixtral_sharded_bf16": dict(
            config=mixtral(
                32, 4, 4, 24, 97, 3, experts=4, top_k=2, sliding_window=50, torch_dtype="bfloat16"
            ),
            shards=3,
            note="three files with an index, the experts of every layer spread over them; a window",
            seed=4018,
            **mixture,
        ),
    }
    for index, case in enumerate(cases.values()):
        case.setdefault("tokens", 40)
        case.setdefault("rows", None)
        case.setdefault("close_rows", 0)
        case.setdefault("shards", 1)
        case.setdefault("fused", False)
        case.setdefault("greedy", 0)
        case.setdefault("seed", 3000 + index)
    cases["gqa_bf16"]["seed"] = cases["gqa_f16"]["seed"] = cases["gqa"]["seed"]
    return cases


def random_weights(model, seed, dtype):
    """Fills every parameter and returns the state that is stored.

    Deviations keep activations near 1 (gain / sqrt(inputs)), which leaves the softmax far from
    uniform and the logits well spread; the usual 0.02 would hide errors of attention and of RoPE.
    In a mixture, attention and experts are weaker, so that a token whose route bfloat16 flips
    changes its own logits and not those of every token after it (check_flips).
    """
    mixture = hasattr(model.config, "num_local_experts")
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            value = 1.0 + 0.3 * noise
        elif "embed_tokens" in name:
            value = noise * (2.0 / math.sqrt(parameter.shape[1]) if is_tied(model) else 1.0)
        elif "q_proj" in name or "k_proj" in name:
            value = noise * (0.7 if mixture else 1.3) / math.sqrt(parameter.shape[1])
        elif "lm_head" in name:
            value = noise * 1.3 / math.sqrt(parameter.shape[1])
        elif "mlp.gate.weight" in name:
            value = noise * 1.5 / math.sqrt(parameter.shape[1])
        elif mixture and ("down_proj" in name or "o_proj" in name):
            value = noise * 0.7 / math.sqrt(parameter.shape[-1])
        else:
            value = noise * 1.1 / math.sqrt(parameter.shape[-1])
        stored = value.to(dtype)
        parameter.data.copy_(stored.float())
        state[name] = stored.contiguous()
    return state


def is_tied(model):
    return bool(model.config.tie_word_embeddings)


def split_experts(state):
    """The layout of most Mixtral checkpoints: a tensor for each matrix of each expert."""
    result = {}
    for name, tensor in state.items():
        stem, _, last = name.partition(".mlp.")
        experts = f"{stem}.block_sparse_moe.experts"
        if last == "gate.weight":
            result[f"{stem}.block_sparse_moe.gate.weight"] = tensor
        elif last == "experts.gate_up_proj":
            for e, (gate, up) in enumerate(expert.chunk(2) for expert in tensor):
                result[f"{experts}.{e}.w1.weight"] = gate.contiguous()
                result[f"{experts}.{e}.w3.weight"] = up.contiguous()
        elif last == "experts.down_proj":
            for e, down in enumerate(tensor):
                result[f"{experts}.{e}.w2.weight"] = down.contiguous()
        else:
            result[name] = tensor
    return result


def gated(h, gate, up, down):
    """down(silu(gate(h)) * up(h)) for matrices [out, in]."""
    inner = h @ gate.T
    return (inner * torch.sigmoid(inner) * (h @ up.T)) @ down.T


def mixture(h, router, gate_up, down, top_k, renormalise, flipped=()):
    """(what the experts add [T, D], the router's margin [T]).

    The margin is how far the logit of the last expert chosen lies above that of the next one;
    `flipped` tokens take that next one instead.
    """
    logits = h @ router.T
    ordered, order = torch.sort(logits, dim=-1, descending=True, stable=True)
    for token in flipped:
        order[token, [top_k - 1, top_k]] = order[token, [top_k, top_k - 1]]
    weights = torch.softmax(logits, -1).gather(-1, order[:, :top_k])
    if renormalise:
        weights = weights / weights.sum(-1, keepdim=True)
    rows = [
        sum(
            weight * gated(row, *gate_up[expert].chunk(2), down[expert])
            for weight, expert in zip(row_weights, row_order[:top_k])
        )
        for row, row_weights, row_order in zip(h, weights, order)
    ]
    return torch.stack(rows), ordered[:, top_k - 1] - ordered[:, top_k]


def reference_logits(
    config, state, ids, inv_freq, attention_scaling, margins=None, renormalise=True, flipped=None
):
    """The logits in float64, written from the formulas and not from the library.

    ids: [T]; state: name -> tensor as stored, experts stacked. Returns [T, V] float64. Angles are
    the float32 products position * inv_freq, as every implementation of these models defines them;
    cosines, norms, softmax and products are float64. `margins`, a list, gets the router's margins
    [T] of each layer; without `renormalise` the weights of the chosen experts stay as they are;
    `flipped` names, by layer, tokens whose last expert is replaced by the next one.
    """
    weights = {name: tensor.double() for name, tensor in state.items()}
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    eps, length = config["rms_norm_eps"], len(ids)

    def norm(x, name):
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weights[name]

    positions = torch.arange(length, dtype=torch.float32)
    angles = (positions[:, None] * inv_freq[None, :].float()).double()
    cos, sin = (f(angles)[:, None, :] * attention_scaling for f in (torch.cos, torch.sin))

    def rope(x):
        low, high = x[..., : head_dim // 2], x[..., head_dim // 2 :]
        return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)

    distance = torch.arange(length)[:, None] - torch.arange(length)[None, :]
    visible = (distance >= 0) & (distance < (config.get("sliding_window") or length))

    x = weights["model.embed_tokens.weight"][torch.tensor(ids)]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        h = norm(x, prefix + "input_layernorm.weight")
        project = lambda kind: h @ weights[f"{prefix}self_attn.{kind}_proj.weight"].T
        q = rope(project("q").view(length, heads, head_dim))
        k = rope(project("k").view(length, kv_heads, head_dim))
        v = project("v").view(length, kv_heads, head_dim)
        outputs = []
        for head in range(heads):
            group = head // (heads // kv_heads)
            scores = q[:, head] @ k[:, group].T / math.sqrt(head_dim)
            scores = scores.masked_fill(~visible, -math.inf)
            outputs.append(torch.softmax(scores, -1) @ v[:, group])
        x = x + torch.cat(outputs, -1) @ weights[prefix + "self_attn.o_proj.weight"].T
        h = norm(x, prefix + "post_attention_layernorm.weight")
        if "num_local_experts" in config:
            names = ("gate.weight", "experts.gate_up_proj", "experts.down_proj")
            matrices = (weights[f"{prefix}mlp.{name}"] for name in names)
            flips = (flipped or {}).get(layer, ())
            added, margin = mixture(h, *matrices, config["num_experts_per_tok"], renormalise, flips)
            x = x + added
            if margins is not None:
                margins.append(margin)
        else:
            names = ("gate_proj", "up_proj", "down_proj")
            x = x + gated(h, *(weights[f"{prefix}mlp.{name}.weight"] for name in names))
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    return norm(x, "model.norm.weight") @ head.T


def nmse(value, reference):
    """Sum of squared errors over the sum of squares of the reference."""
    value, reference = value.double(), reference.double()
    return float(((value - reference) ** 2).sum() / (reference**2).sum())


def save_checkpoint(folder, state, shards):
    """model.safetensors, or `shards` files with an index whose layers straddle the files."""
    if shards == 1:
        safetensors.torch.save_file(state, folder / "model.safetensors", {"format": "pt"})
        return
    names = sorted(state)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: state[name] for name in names[shard::shards]}
        safetensors.torch.save_file(part, folder / file, {"format": "pt"})
        weight_map.update({name: file for name in part})
    total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def greedy(model, ids, count):
    """(ids, smallest margin between the first and the second logit) of a greedy continuation."""
    ids, margin = list(ids), math.inf
    for _ in range(count):
        logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        top = torch.topk(logits, 2)
        margin = min(margin, float(top.values[0] - top.values[1]))
        ids.append(int(top.indices[0]))
    return ids[-count:], margin


def check_rope(name, config, inv_freq, scaling):
    """Fails where a config that names a RoPE variant leaves the frequencies at the default.

    Returns the frequencies that a reader would use who knows the base but not the scaling.
    """
    parameters = config.get("rope_parameters") or {}
    theta = parameters.get("rope_theta", config.get("rope_theta", 10000.0))
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    default = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    differs = not torch.allclose(inv_freq.double(), default, rtol=1e-5)
    expected = name.startswith(("rope_linear", "rope_llama3", "rope_yarn"))
    if differs != expected or (scaling != 1.0) != name.startswith("rope_yarn"):
        raise SystemExit(f"{name}: the configuration does not give the variant it names")
    return default.float()


def check_flips(name, evaluate, margins, exact):
    """Fails where a route that bfloat16 may flip spoils logits of tokens without close routes.

    evaluate: flipped -> logits [T, V]; margins: per layer [T]. Returns the largest NMSE of such a
    row over all single flips.
    """
    far = torch.stack(margins).min(0).values >= CLOSE_ROUTER_MARGIN
    spill = 0.0
    for layer, margin in enumerate(margins):
        for token in (margin < CLOSE_ROUTER_MARGIN / 2).nonzero()[:, 0].tolist():
            error = ((evaluate({layer: [token]}) - exact) ** 2).sum(-1) / (exact**2).sum(-1)
            spill = max(spill, float(error[far].max()))
    if spill > MAX_FLIP_SPILL:
        raise SystemExit(f"{name}: a flipped route spoils other rows by {spill:.1e}; another seed?")
    return spill


def mixture_facts(name, margin, rows, bfloat16, exact):
    """What the manifest says of a mixture beside the rest.

    margin: [T], of each token the smallest router margin of all layers. Fails where a float32
    implementation could choose another expert.
    """
    if float(margin.min()) < MIN_ROUTER_MARGIN:
        raise SystemExit(f"{name}: a router margin of {float(margin.min()):.1e} is too small")
    by_row = torch.tensor([nmse(a, b) for a, b in zip(bfloat16, exact)])
    return {
        "router_margins": [round(float(value), 5) for value in margin[rows]],
        "router_min_margin": float(margin.min()),
        "bfloat16_median_row": float(by_row.median()),
        "bfloat16_rows_above_2e-3": int((by_row > 2e-3).sum()),
        "bfloat16_largest_margin_above_2e-3": max(margin[by_row > 2e-3].tolist(), default=0.0),
    }


@torch.no_grad()
def make_case(folder, name, case):
    """Writes one case and returns its row of the manifest."""
    config = case["config"]
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    parsed = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_config(
        parsed, dtype=torch.float32, attn_implementation="eager"
    )
    state = random_weights(model, case["seed"], DTYPES[config["torch_dtype"]])
    save_checkpoint(folder, state if case["fused"] else split_experts(state), case["shards"])

    # What is measured is what lies on the disk, read back as a user's program would.
    def load(dtype):
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager"
        ).eval()

    model = load(torch.float32)
    rotary = model.model.rotary_emb
    default = check_rope(name, config, rotary.inv_freq, rotary.attention_scaling)
    random = np.random.default_rng(case["seed"])
    ids = [1] + random.integers(3, config["vocab_size"], case["tokens"] - 1).tolist()
    (folder / "input_ids.json").write_text(json.dumps(ids) + "\n")

    logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    margins = []
    evaluate = functools.partial(
        reference_logits, config, state, ids, rotary.inv_freq, rotary.attention_scaling
    )
    exact = evaluate(margins=margins)
    ulp = torch.nextafter(rotary.inv_freq, torch.zeros(()))
    nudged = reference_logits(config, state, ids, ulp, rotary.attention_scaling)
    margin = torch.stack(margins).min(0).values if margins else None
    rows = case["rows"] if case["rows"] is not None else list(range(len(ids)))
    if margins:
        rows = sorted({*rows, *margin.argsort()[: case["close_rows"]].tolist()})
    np.save(folder / "logits.npy", logits[rows].numpy().astype("<f4"))
    bfloat16 = load(torch.bfloat16)(torch.tensor([ids])).logits[0]
    row = {
        "name": name,
        "note": case["note"],
        "stored": config["torch_dtype"],
        "tokens": len(ids),
        "vocab": config["vocab_size"],
        "rows": rows,
        "logits_std": round(float(logits.std()), 4),
        "nmse_float32": nmse(logits, exact),
        "nmse_bfloat16": nmse(bfloat16, exact),
        "nmse_float16": nmse(load(torch.float16)(torch.tensor([ids])).logits[0], exact),
        "nmse_inv_freq_one_ulp": nmse(nudged, exact),
        "inv_freq": [float(value) for value in rotary.inv_freq],
        "attention_scaling": float(rotary.attention_scaling),
    }
    plain = {key: value for key, value in config.items() if key != "sliding_window"}
    ignored = nmse(reference_logits(plain, state, ids, default, 1.0), exact)
    if name.startswith(("rope_", "window")) and ignored > 1e-10:
        row["nmse_variant_ignored"] = ignored
    if margins:
        row |= mixture_facts(name, margin, rows, bfloat16, exact)
        row["nmse_not_renormalised"] = nmse(evaluate(renormalise=False), exact)
        row["flip_spill"] = check_flips(
            name, lambda flipped: evaluate(flipped=flipped), margins, exact
        )
    if case["greedy"]:
        row["greedy_ids"], row["greedy_min_margin"] = greedy(model, ids, case["greedy"])
    if row["nmse_float32"] > 1e-11:
        raise SystemExit(f"{name}: float32 is {row['nmse_float32']:.1e} from float64")
    return row


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=root / "tests" / "model" / "data")
    output = parser.parse_args().output
    torch.set_num_threads(1)  # one order of summation, so that a rerun gives the same bytes
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rows = []
    for name, case in build_cases().items():
        folder = output / name
        shutil.rmtree(folder, ignore_errors=True)
        rows.append(make_case(folder, name, case))
        print(
            " ".join(
                f"{key}={value:.2g}" if isinstance(value, float) else f"{value}"
                for key, value in rows[-1].items()
                if key.startswith(("name", "nmse", "logits", "greedy_min"))
            )
        )
    manifest = {
        "about": "Made by tools/make_goldens.py. logits.npy holds the listed rows of the float32 "
        "logits of the weights as stored; nmse_* is against a float64 evaluation.",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "cases": rows,
    }
    text = json.dumps(manifest, indent=1)
    text = re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), text)
    (output / "manifest.json").write_text(text + "\n")
    total = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    print(f"{len(rows)} cases, {total} bytes")
    if total > MAX_TOTAL_BYTES:
        raise SystemExit(f"over the limit of {MAX_TOTAL_BYTES} bytes")


if __name__ == "__main__":
    main()
