#!/usr/bin/env python3
"""Makes the demo checkpoints: a small LLaMA or Mixtral that tells stories.

    python3 tools/train_demo.py prepare --output DATA            tokenizer and tokenised stories
    python3 tools/train_demo.py train --data DATA --output DIR   trains, writes the checkpoint
    python3 tools/train_demo.py check DIR                        compares with transformers

`train` runs on the GPU where there is one, in bfloat16 with float32 master weights, for a given
time; the learning rate follows a cosine over that time. The checkpoint is rounded to bfloat16 and
the loss reported is that of the rounded weights. See tools/README.md for the exact commands.
"""

import argparse
import json
import math
import os
import pathlib
import shutil
import time

import numpy as np
import torch
import torch.nn.functional as F

from demo_model import Decoder, from_hugging_face, to_hugging_face

UNKNOWN, BOS, EOS, PAD_LABEL = 0, 1, 2, -100
SPACE = "\u2581"


def tokenizer_json(vocab, merges):
    """A tokenizer.json of the Llama 2 kind: prefix space, byte fallback, <s> in front."""
    added = [
        {
            "id": i,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, text in enumerate(["<unk>", "<s>", "</s>"])
    ]
    bos, text, other = (
        {"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"Sequence": {"id": "B", "type_id": 1}},
    )
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, text],
            "pair": [bos, text, other],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    }


def train_tokenizer(texts, size):
    """Learns `size` pieces. Pieces never join words, so no pre-tokeniser is needed afterwards.

    Line breaks are left out, as in Llama 2: they go through byte fallback.
    """
    import tokenizers
    from tokenizers import normalizers, pre_tokenizers, trainers

    learner = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>", byte_fallback=True))
    learner.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    pieces = f"{SPACE}?[\\p{{L}}']+|{SPACE}?[^\\p{{L}}'{SPACE}]+|{SPACE}"
    learner.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(pieces), "isolated")
    # Every printable ASCII character is a piece of its own, whether a story uses it or not.
    alphabet = [SPACE] + [chr(code) for code in range(33, 127)]
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, show_progress=False, initial_alphabet=alphabet
    )
    learner.train_from_iterator(
        (line for text in texts for line in text.split("\n") if line), trainer
    )
    model = json.loads(learner.to_str())["model"]
    return tokenizer_json(model["vocab"], model["merges"])


def tokenise(tokenizer, texts):
    """All texts as one uint16 stream: <s> text </s> <s> text </s> ..."""
    stream = []
    for begin in range(0, len(texts), 5000):
        for encoding in tokenizer.encode_batch(texts[begin : begin + 5000]):
            stream.append(np.array(encoding.ids + [EOS], dtype=np.uint16))
    return np.concatenate(stream)


def prepare(options):
    """Stories, tokenizer and token streams; the held-out stories come from another seed."""
    import tokenizers
    from make_stories import stories

    options.output.mkdir(parents=True, exist_ok=True)
    train = list(stories(options.seed, options.stories, os.cpu_count()))
    held_out = [text for text in stories(options.seed + 1, options.held_out, os.cpu_count())]
    known = set(train)
    held_out = [text for text in held_out if text not in known]
    described = train_tokenizer(train[:20000], options.vocab)
    (options.output / "tokenizer.json").write_text(
        json.dumps(described, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    (options.output / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<s>",
                "eos_token": "</s>",
                "unk_token": "<unk>",
                "model_max_length": options.context,
                "clean_up_tokenization_spaces": False,
            },
            indent=2,
        )
        + "\n"
    )
    tokenizer = tokenizers.Tokenizer.from_file(str(options.output / "tokenizer.json"))
    for text in held_out[:200]:
        if tokenizer.decode(tokenizer.encode(text).ids) != text:
            raise SystemExit(f"the tokenizer does not give this text back: {text!r}")
    for name, texts in (("train", train), ("held_out", held_out)):
        tokens = tokenise(tokenizer, texts)
        np.savez_compressed(options.output / f"{name}.npz", tokens=tokens)
        size = sum(map(len, texts))
        print(
            f"{name}: {len(texts)} stories, {size} characters, {len(tokens)} tokens, "
            f"{size / len(tokens):.2f} characters a token, id at most {tokens.max()}"
        )


def make_config(options):
    """config.json of the model that the options describe."""
    mixture = options.experts > 0
    config = {
        "architectures": ["MixtralForCausalLM" if mixture else "LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "hidden_act": "silu",
        "hidden_size": options.hidden,
        "initializer_range": 0.02,
        "intermediate_size": options.feed_forward,
        "max_position_embeddings": options.context,
        "mlp_bias": False,
        "model_type": "mixtral" if mixture else "llama",
        "num_attention_heads": options.heads,
        "num_hidden_layers": options.layers,
        "num_key_value_heads": options.kv_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": options.vocab,
    }
    if mixture:
        for name in ("attention_bias", "mlp_bias", "pretraining_tp", "rope_scaling"):
            del config[name]
        config.update(
            num_local_experts=options.experts,
            num_experts_per_tok=options.top_k,
            output_router_logits=False,
            router_aux_loss_coef=options.balance,
            router_jitter_noise=0.0,
            sliding_window=None,
        )
    return config


class Stories:
    """A token stream on the device, cut into windows that begin where a story begins.

    A window starts with <s> at position 0, as a prompt does, and holds a story and the beginning
    of the next.
    """

    def __init__(self, path, context, device, seed=0):
        tokens = np.load(path)["tokens"]
        starts = np.flatnonzero(tokens == BOS)
        self.ends = torch.from_numpy(np.append(starts[1:], len(tokens)))
        self.starts = torch.from_numpy(starts)
        self.windows = self.starts[self.starts + context + 1 <= len(tokens)].to(device)
        self.tokens = torch.from_numpy(tokens.astype(np.int32)).to(device)
        self.offsets = torch.arange(context + 1, device=device)
        self.generator = torch.Generator(device).manual_seed(seed)

    def batch(self, size):
        """(inputs, labels), both (size, context) int64, of random windows."""
        pick = torch.randint(
            len(self.windows), (size,), device=self.tokens.device, generator=self.generator
        )
        rows = self.tokens[self.windows[pick][:, None] + self.offsets].long()
        return rows[:, :-1], rows[:, 1:]

    def single(self, begin, end):
        """Stories begin to end, each alone in its row: (inputs, labels) with padding ignored."""
        width = len(self.offsets) - 1
        inputs = torch.full((end - begin, width), EOS, device=self.tokens.device)
        labels = torch.full_like(inputs, PAD_LABEL)
        for row, story in enumerate(range(begin, end)):
            text = self.tokens[self.starts[story] : self.ends[story]].long()[: width + 1]
            inputs[row, : len(text) - 1] = text[:-1]
            labels[row, : len(text) - 1] = text[1:]
        return inputs, labels


@torch.no_grad()
def held_out_loss(model, stories, count):
    """Mean negative log-likelihood a token, in float32 and nats.

    Each of `count` stories is scored by itself from its <s> to its </s>.
    """
    total, tokens = 0.0, 0
    for begin in range(0, count, 32):
        inputs, labels = stories.single(begin, min(begin + 32, count))
        logits = model(inputs)
        total += F.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=PAD_LABEL
        ).item()
        tokens += int((labels != PAD_LABEL).sum())
    return total / tokens


@torch.no_grad()
def expert_load(model, stories):
    """Share of the choices that each expert of each layer gets, over 64 windows of stories."""
    model(stories.batch(64)[0])
    return [[round(share, 4) for share in mixture.load.tolist()] for mixture in model.mixtures()]


def make_step(model, optimizer, stories, options, device):
    """A function that does one optimiser step and returns (loss, balance loss) as tensors."""
    parameters = list(model.parameters())

    def losses(inputs, labels):
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(inputs)
        loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
        mixtures = model.mixtures()
        balance = sum(m.balance_loss for m in mixtures) / len(mixtures) if mixtures else loss * 0
        return loss, balance

    compiled = torch.compile(losses) if device.type == "cuda" else losses

    def step():
        loss, balance = compiled(*stories.batch(options.batch))
        (loss + options.balance * balance).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach(), balance.detach()

    return step


def run_steps(step, optimizer, options, device):
    """Trains until the time or the steps are used up. Returns (steps, seconds, last loss)."""
    peak, warmup = options.learning_rate, options.warmup
    begin, done, loss = None, 0, None
    while True:
        elapsed = 0.0 if begin is None else time.monotonic() - begin
        progress = elapsed / (60 * options.minutes)
        if options.steps:
            progress = max(progress, done / options.steps)
        if progress >= 1:
            return done, elapsed, loss
        rate = peak * min(1.0, (done + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = rate
        latest, balance = step()
        done += 1
        if done == 3 and begin is None:
            begin = time.monotonic()  # compilation does not count
        if done % 25 == 0:  # waiting now and then keeps the clock of the schedule honest
            loss = latest.item()
            if not math.isfinite(loss):
                raise SystemExit(f"the loss is {loss} at step {done}")
            if done % options.log_every == 0:
                print(
                    f"step {done} seconds {elapsed:.0f} rate {rate:.2e} loss {loss:.4f} "
                    f"balance {balance.item():.3f}",
                    flush=True,
                )


def train(options):
    """Trains and writes the checkpoint with a record of how (training.json)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    config = make_config(options)
    model = Decoder(config).to(device)
    stories = Stories(options.data / "train.npz", options.context, device, options.seed)
    held_out = Stories(options.data / "held_out.npz", options.context, device)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=options.learning_rate,
        betas=(0.9, 0.95),
        fused=device.type == "cuda",
    )
    count = sum(p.numel() for p in model.parameters())
    print(f"{count} parameters, {len(stories.tokens)} tokens, {device}", flush=True)
    step = make_step(model, optimizer, stories, options, device)
    steps, seconds, last = run_steps(step, optimizer, options, device)

    torch.set_float32_matmul_precision("highest")
    scored = min(options.scored, len(held_out.starts))
    master = held_out_loss(model, held_out, scored)
    state = to_hugging_face(model, torch.bfloat16)
    from_hugging_face(model, dict(state))  # the weights as they will be stored
    loss = held_out_loss(model, held_out, scored)
    record = {
        "parameters": count,
        "steps": steps,
        "batch": options.batch,
        "context": options.context,
        "tokens_seen": steps * options.batch * options.context,
        "seconds": round(seconds, 1),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "learning_rate": options.learning_rate,
        "seed": options.seed,
        "last_training_loss": last,
        "held_out_stories": scored,
        "held_out_loss_float32": master,
        "held_out_loss_bfloat16": loss,
        "held_out_perplexity": math.exp(loss),
        "expert_load": expert_load(model, held_out) or None,
    }
    print(json.dumps({key: value for key, value in record.items() if key != "expert_load"}))
    save(options, config, state, record)


def save(options, config, state, record):
    """Writes the Hugging Face directory, flat, and refuses one over the limit."""
    import safetensors.torch

    options.output.mkdir(parents=True, exist_ok=True)
    write = lambda name, value: (options.output / name).write_text(
        json.dumps(value, indent=2) + "\n"
    )
    safetensors.torch.save_file(state, options.output / "model.safetensors", {"format": "pt"})
    write("config.json", config)
    write(
        "generation_config.json",
        {
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "do_sample": True,
            "temperature": 0.8,
            "top_k": 50,
        },
    )
    write("training.json", record)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(options.data / name, options.output / name)
    total = sum(file.stat().st_size for file in options.output.iterdir())
    print(f"{options.output}: {total} bytes")
    if total > 7_950_000:  # leaves room for a README below 8,000,000
        raise SystemExit("the checkpoint is larger than it may be")


@torch.no_grad()
def check(options):
    """Compares the logits of demo_model with those of transformers and prints samples."""
    import safetensors.torch
    import transformers

    reference = transformers.AutoModelForCausalLM.from_pretrained(
        options.model, dtype=torch.float32
    ).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    model = Decoder(json.loads((options.model / "config.json").read_text())).eval()
    from_hugging_face(model, safetensors.torch.load_file(options.model / "model.safetensors"))
    difference = 0.0
    for prompt in options.prompts:
        inputs = tokenizer(prompt, return_tensors="pt")
        for mode in ({"do_sample": False}, {"do_sample": True, "temperature": 0.8, "top_k": 50}):
            torch.manual_seed(options.seed)
            ids = reference.generate(inputs["input_ids"], max_new_tokens=450, **mode)
            expected = reference(ids).logits
            difference = max(difference, float((model(ids) - expected).abs().max()))
            print(f"--- {prompt!r} {mode}\n{tokenizer.decode(ids[0], skip_special_tokens=True)}\n")
    print(
        f"largest difference of a logit: {difference:.3e} (logits up to "
        f"{float(expected.abs().max()):.1f})"
    )
    if difference > 1e-3:
        raise SystemExit("demo_model and transformers disagree")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    path = pathlib.Path

    one = commands.add_parser("prepare")
    one.add_argument("--output", type=path, required=True)
    one.add_argument("--stories", type=int, default=140000)
    one.add_argument("--held-out", type=int, default=2000)
    one.add_argument("--seed", type=int, default=1)

    two = commands.add_parser("train")
    two.add_argument("--data", type=path, required=True)
    two.add_argument("--output", type=path, required=True)
    two.add_argument("--minutes", type=float, default=4.0)
    two.add_argument("--steps", type=int, default=0, help="stop earlier, after so many steps")
    two.add_argument("--hidden", type=int, default=256)
    two.add_argument("--layers", type=int, default=5)
    two.add_argument("--heads", type=int, default=8)
    two.add_argument("--kv-heads", type=int, default=4)
    two.add_argument("--feed-forward", type=int, default=576)
    two.add_argument("--experts", type=int, default=0, help="0: LLaMA; more: Mixtral")
    two.add_argument("--top-k", type=int, default=2)
    two.add_argument("--balance", type=float, default=0.02, help="weight of the balance loss")
    two.add_argument("--batch", type=int, default=128)
    two.add_argument("--learning-rate", type=float, default=1.5e-3)
    two.add_argument("--warmup", type=int, default=200)
    two.add_argument("--scored", type=int, default=1000, help="held-out stories to score")
    two.add_argument("--log-every", type=int, default=500)
    two.add_argument("--seed", type=int, default=1)
    for command in (one, two):
        command.add_argument("--vocab", type=int, default=2048)
        command.add_argument("--context", type=int, default=512)

    three = commands.add_parser("check")
    three.add_argument("model", type=path)
    three.add_argument("--prompts", nargs="*", default=["Once upon a time", "Lily", "One morning"])
    three.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main():
    options = parse()
    {"prepare": prepare, "train": train, "check": check}[options.command](options)


if __name__ == "__main__":
    main()
