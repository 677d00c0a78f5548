#!/usr/bin/env python3
"""Writes tests/model/rope_goldens.inc: RoPE frequencies and table rows as transformers computes them.

Each case is a config.json text and the inverse frequencies, the attention factor and
cosines and sines of some pairs at chosen positions that LlamaRotaryEmbedding gives for it in float32.

    python tools/make_rope_goldens.py > tests/model/rope_goldens.inc
"""

import json

import torch
import transformers
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

POSITIONS = [0, 1, 7, 1000, 65535, 131071]

LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
CASES = {
    "default": (128, 4096, {"rope_theta": 10000.0}),
    "default, large theta": (64, 131072, {"rope_theta": 500000.0}),
    "default, odd half": (10, 512, {"rope_theta": 1000000.0}),
    "linear": (64, 4096, {"rope_theta": 10000.0, "rope_type": "linear", "factor": 2.5}),
    "llama3": (128, 131072, {"rope_theta": 500000.0, "rope_type": "llama3", **LLAMA3}),
    "llama3, small heads": (
        64,
        131072,
        {"rope_theta": 500000.0, "rope_type": "llama3", **{**LLAMA3, "factor": 32.0}},
    ),
    "yarn": (
        128,
        32768,
        {
            "rope_theta": 10000.0,
            "rope_type": "yarn",
            "factor": 16.0,
            "original_max_position_embeddings": 4096,
        },
    ),
    "yarn, every parameter": (
        64,
        131072,
        {
            "rope_theta": 1000000.0,
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 32768,
            "beta_fast": 24.0,
            "beta_slow": 2.0,
            "attention_factor": 0.875,
        },
    ),
    "yarn, ramp of no length": (
        8,
        64,
        {
            "rope_theta": 10000.0,
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 4,
        },
    ),
    "yarn, factor below 1": (
        16,
        2048,
        {
            "rope_theta": 10000.0,
            "rope_type": "yarn",
            "factor": 0.5,
            "original_max_position_embeddings": 2048,
        },
    ),
}


def floats(tensor):
    return "{" + ", ".join(float(x).hex() + "f" for x in tensor.flatten().tolist()) + "}"


def main():
    print("// Made by tools/make_rope_goldens.py with transformers", transformers.__version__ + ".")
    print("// Rows of a table: cosines, then sines, at the positions of kRopePositions.")
    print("constexpr std::int64_t kRopePositions[] = {" + ", ".join(map(str, POSITIONS)) + "};")
    print("const RopeGolden kRopeGoldens[] = {")
    for name, (head_dim, positions, rope) in CASES.items():
        fields = {
            "model_type": "llama",
            "hidden_size": 4 * head_dim,
            "num_attention_heads": 4,
            "max_position_embeddings": positions,
            "rope_parameters": {"rope_type": "default", **rope},
        }
        config = LlamaConfig(**json.loads(json.dumps(fields)))
        embedding = LlamaRotaryEmbedding(config)
        cos, sin = embedding(torch.zeros(1), torch.tensor([POSITIONS]))
        half = head_dim // 2
        # The middle pairs and both ends show every branch; whole rows would only be long.
        pairs = sorted(
            {0, 1, half // 4, half // 2, 2 * half // 3, half - 2, half - 1} & set(range(half))
        )
        print(f'    {{"{name}",')
        print(f'     R"({json.dumps(fields)})",')
        print(f"     {float(embedding.attention_scaling).hex()},")
        print("     {" + ", ".join(map(str, pairs)) + "},")
        print(f"     {floats(embedding.inv_freq)},")
        print(f"     {floats(cos[0][:, pairs])},")
        print(f"     {floats(sin[0][:, pairs])}}},")
    print("};")


if __name__ == "__main__":
    main()
