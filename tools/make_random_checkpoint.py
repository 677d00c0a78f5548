#!/usr/bin/env python3
"""Writes a random LLaMA checkpoint of any size in the Hugging Face layout, fast.

    python3 tools/make_random_checkpoint.py --preset llama2-7b --output /tmp/random-7b

It is for timing a loader and for runs at real sizes: 13.5 GB in well under two minutes on 16
cores. Only numpy is needed. Weights are N(0, 0.02^2) in bfloat16 and norms are 1; they are drawn
from one block of normal numbers that every tensor reads from an offset of its own, because drawing
7 billion independent ones would take minutes. Output is deterministic by --seed.
"""

import argparse
import concurrent.futures
import json
import math
import os
import pathlib
import shutil
import zlib

import numpy as np

PRESETS = {
    "llama2-7b": dict(
        hidden=4096,
        layers=32,
        heads=32,
        kv_heads=32,
        feed_forward=11008,
        vocab=32000,
        positions=4096,
        theta=10000.0,
    ),
    "llama3-8b": dict(
        hidden=4096,
        layers=32,
        heads=32,
        kv_heads=8,
        feed_forward=14336,
        vocab=128256,
        positions=8192,
        theta=500000.0,
    ),
    "llama-1b": dict(
        hidden=2048,
        layers=16,
        heads=32,
        kv_heads=8,
        feed_forward=8192,
        vocab=128256,
        positions=131072,
        theta=500000.0,
    ),
    "tiny": dict(
        hidden=64,
        layers=2,
        heads=4,
        kv_heads=2,
        feed_forward=172,
        vocab=512,
        positions=512,
        theta=10000.0,
    ),
}
BLOCK_VALUES = 1 << 27  # 256 MiB of bfloat16
ONE_BFLOAT16 = 0x3F80


def to_bfloat16(values):
    """float32 -> the bits of the nearest bfloat16, ties to even. No NaN comes in."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def random_block(seed, count, threads):
    """`count` bfloat16 values of N(0, 0.02^2), as uint16, drawn in parallel."""
    block = np.empty(count, np.uint16)
    step = max(1, min(1 << 22, -(-count // threads)))

    def fill(begin):
        generator = np.random.Generator(np.random.SFC64([seed, begin]))
        part = block[begin : begin + step]
        part[:] = to_bfloat16(generator.standard_normal(len(part), np.float32) * np.float32(0.02))

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, range(0, count, step)))
    return block


def tensor_shapes(options):
    """name -> shape, in the order of the files."""
    hidden, head_dim = options.hidden, options.hidden // options.heads
    shapes = {"model.embed_tokens.weight": (options.vocab, hidden)}
    for layer in range(options.layers):
        prefix = f"model.layers.{layer}."
        for name, rows, columns in (
            ("self_attn.q_proj", options.heads * head_dim, hidden),
            ("self_attn.k_proj", options.kv_heads * head_dim, hidden),
            ("self_attn.v_proj", options.kv_heads * head_dim, hidden),
            ("self_attn.o_proj", hidden, options.heads * head_dim),
            ("mlp.gate_proj", options.feed_forward, hidden),
            ("mlp.up_proj", options.feed_forward, hidden),
            ("mlp.down_proj", hidden, options.feed_forward),
        ):
            shapes[f"{prefix}{name}.weight"] = (rows, columns)
        shapes[prefix + "input_layernorm.weight"] = (hidden,)
        shapes[prefix + "post_attention_layernorm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    if not options.tied:
        shapes["lm_head.weight"] = (options.vocab, hidden)
    return shapes


def plan_shards(shapes, limit):
    """Lists of names, filled one after the other up to `limit` bytes each."""
    shards, size = [[]], 0
    for name, shape in shapes.items():
        need = 2 * math.prod(shape)
        if shards[-1] and size + need > limit:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += need
    return shards


def write_shard(path, names, shapes, block, seed):
    """One safetensors file, written beside its final name and renamed."""
    header, position = {"__metadata__": {"format": "pt"}}, 0
    for name in names:
        end = position + 2 * math.prod(shapes[name])
        header[name] = {
            "dtype": "BF16",
            "shape": list(shapes[name]),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    part = path.with_suffix(".part")
    with part.open("wb", buffering=0) as file:
        write_all(file, len(text).to_bytes(8, "little") + text)
        for name in names:
            count = math.prod(shapes[name])
            if len(shapes[name]) == 1:
                write_all(file, np.full(count, ONE_BFLOAT16, np.uint16))
                continue
            start = zlib.crc32(f"{seed}/{name}".encode()) % len(block)
            while count:
                piece = block[start : start + count]
                write_all(file, piece)
                count -= len(piece)
                start = 0
    part.rename(path)


def write_all(file, data):
    """Writes every byte; one call of write stops at 2 GiB."""
    view = memoryview(data).cast("B")
    while view:
        view = view[file.write(view) :]


def write_config(options):
    head_dim = options.hidden // options.heads
    config = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "hidden_size": options.hidden,
        "intermediate_size": options.feed_forward,
        "max_position_embeddings": options.positions,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": options.heads,
        "num_hidden_layers": options.layers,
        "num_key_value_heads": options.kv_heads,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": options.theta,
        "tie_word_embeddings": options.tied,
        "torch_dtype": "bfloat16",
        "vocab_size": options.vocab,
    }
    (options.output / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="llama2-7b")
    for name, kind in (
        ("hidden", int),
        ("layers", int),
        ("heads", int),
        ("kv-heads", int),
        ("feed-forward", int),
        ("vocab", int),
        ("positions", int),
        ("theta", float),
    ):
        parser.add_argument(f"--{name}", type=kind, help="default: the preset's")
    parser.add_argument("--tied", action="store_true", help="no lm_head")
    parser.add_argument("--shard-gb", type=float, default=2.0)
    parser.add_argument(
        "--tokenizer",
        type=pathlib.Path,
        action="append",
        default=[],
        help="a tokenizer file to copy in; may be given more than once",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    for name, value in PRESETS[options.preset].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.hidden % options.heads or options.heads % options.kv_heads:
        parser.error("--hidden must be a multiple of --heads, and --heads one of --kv-heads")
    return options


def main():
    options = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    for old in options.output.glob("*.safetensors*"):
        old.unlink()
    shapes = tensor_shapes(options)
    total = sum(2 * math.prod(shape) for shape in shapes.values())
    free = shutil.disk_usage(options.output).free
    if total > free:
        raise SystemExit(f"{total} bytes are needed and {free} are free")
    # An odd length keeps the offsets of repeated passes from lining up with rows.
    largest = max(math.prod(shape) for shape in shapes.values())
    block = random_block(options.seed, min(BLOCK_VALUES, 2 * largest) - 1, options.threads)
    shards = plan_shards(shapes, int(options.shard_gb * 1e9))
    files = (
        ["model.safetensors"]
        if len(shards) == 1
        else [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    )
    with concurrent.futures.ThreadPoolExecutor(options.threads) as pool:
        list(
            pool.map(
                lambda job: write_shard(
                    options.output / job[0], job[1], shapes, block, options.seed
                ),
                zip(files, shards),
            )
        )
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": total},
            "weight_map": {name: file for file, names in zip(files, shards) for name in names},
        }
        (options.output / "model.safetensors.index.json").write_text(
            json.dumps(index, indent=1) + "\n"
        )
    write_config(options)
    for file in options.tokenizer:
        shutil.copyfile(file, options.output / file.name)
    print(f"{options.output}: {len(shapes)} tensors in {len(files)} files, {total} bytes")


if __name__ == "__main__":
    main()
