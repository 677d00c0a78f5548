#!/usr/bin/env python3
"""Makes the tokenizer goldens of tests/engine/data/tokenizers.

Trains tiny tokenizers of every supported kind on a text of our own, and writes them with the ids
and the texts that the reference libraries (tokenizers, sentencepiece) give for a fixed list of
cases. The engine's tests read these files; nothing here is needed to build or to run.

    pip install tokenizers sentencepiece
    python3 tools/make_tokenizer_goldens.py tests/engine/data/tokenizers

Output:
    goldens.json      models, variants (a model with its other components), cases with their ids
    plain.model       SentencePiece BPE, identity normalisation, byte fallback (the Llama 2 kind)
    folding.model     SentencePiece BPE, small folding rule, extra spaces removed, no byte fallback
"""

import argparse
import io
import json
import pathlib
import random

import sentencepiece
import tokenizers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

CORPUS = """
The mill stood at the bend of the river, and the miller's daughter knew every stone of its weir.
In the morning she'd open the gate; in the evening she'd close it, and the wheel would sigh.
"Don't you get tired of water?" asked the baker's boy. "I've never met two days of it alike."
They counted 12 geese, 345 swallows and 6789 midges, which can't be counted, but they'd tried.
Rain fell on the roof. Rain fell on the road. Rain fell on the other side of the world, too.
Der Müller grüßt, die Mühle läuft. L'eau coule où elle veut, l'été comme l'hiver. El niño corre.
Мельница стоит у реки, и колесо вздыхает вечером. Ο μύλος στέκει δίπλα στο ποτάμι.
水は流れ、水車は回る。河水流，水车转。물이 흐르고 바퀴가 돈다. 🙂 🙂 🌧️
for (int i = 0; i < count; ++i) { total += weights[i] * inputs[i]; }  // a sum of products
x == y && y != z || (a - b) >= 10;   foo_bar = "baz";
"""

CASES = [
    "",
    " ",
    "  ",
    "   ",
    "\n",
    "\n\n\n",
    "\t",
    " \n \n\n \t \r\n x",
    "The river",
    " The river",
    "  The  river  ",
    "the world",
    "world",
    " world",
    "She'd've said: DON'T, I'LL, it'S, we\u017f 'ſ",
    "12 345 6789 0 3.14 1000000 ½ Ⅷ ②",
    'foo_bar = "baz"; x==y',
    "Müller grüßt die Mühle",
    "Mu\u0308ller gru\u0308ßt",
    "Мельница стоит у реки",
    "水は流れ、水車は回る。",
    "물이 흐르고",
    "🙂🌧️👩‍👩‍👧🇺🇸",
    "🙂 the 🌧️ river",
    "unseen: ᚠᚢᚦ ꙮ 𐍈 ﷽ \U0010fffd",
    "a\u00a0b\u3000c\u2003d\u180ee\u0085f\u2028g",
    "nul \x00 and \x01 and \x7f",
    "\ufeffbom \ufffd replacement",
    "▁ literal ▁▁ underscores▁",
    "a▁b",
    "<s>the river</s>",
    "<s> the <s>  the",
    "the<s>",
    "<s><s></s>",
    "<0x41><0xE6>",
    "x<mask>y",
    "x <mask> y",
    "x  <mask>\n\n<mask>  y",
    " <left>  <left>x",
    "<right>  x<right> <mask> y",
    "word words sword word-word _word word",
    "wordé éword 'word' word\u0301 word",
    "old mill old  mill OLD mill",
    "the old mill<s>the old mill",
    "<left><right>",
    " <right>  <left> ",
    "--a-b--c-",
    "a--1-22-333--",
    "-",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "rrrrraaaaiiiinnnn rain raining",
    "<|begin|>user<|end|>\n\nassistant",
    "<|begin|",
    "<|end|><|end|> <|end|>",
    "The mill stood at the bend of the river, and the wheel would sigh.",
]

# For variants that differ in one component only.
FEW_CASES = [text for text in CASES if len(text) < 16]

# Bytes that are not UTF-8, for the kinds whose reference takes bytes.
BYTE_CASES = [
    "ff",
    "c3",
    "41c3",
    "41c341",
    "e6b0",
    "e6b041",
    "f09f99",
    "eda080",
    "c080",
    "80808041",
    "f4908080",
    "746865ff20726976ff6572",
    "e6b0b4ffe6b0b4",
]

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+"
    r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def added(number, content, **flags):
    token = {
        "id": number,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": False,
    }
    return token | flags


def template(bos, eos=None):
    single = [
        {"SpecialToken": {"id": bos[0], "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    if eos:
        single.append({"SpecialToken": {"id": eos[0], "type_id": 0}})
    special = {
        name: {"id": name, "ids": [number], "tokens": [name]}
        for name, number in filter(None, [bos, eos])
    }
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": single + [{"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": special,
    }


def byte_level_model():
    """A vocabulary in the byte-level alphabet, with pieces that only ignore_merges reaches."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(
        [CORPUS],
        trainers.BpeTrainer(
            vocab_size=380,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    model = json.loads(tokenizer.to_str())["model"]
    for piece in ["Ġworld", "DON", "ĠÙħ", "345"]:
        model["vocab"].setdefault(piece, len(model["vocab"]))
    return model


def byte_fallback_model():
    """Unknown, BOS, EOS, the 256 byte pieces, then characters and merges."""
    tokenizer = Tokenizer(models.BPE())
    text = CORPUS.replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(vocab_size=330, show_progress=False))
    trained = json.loads(tokenizer.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    pieces += sorted(trained["vocab"], key=trained["vocab"].get)
    merges = trained["merges"]
    merges += [["\u2581", "\u2581"], ["\u2581\u2581", "\u2581\u2581"], ["\u2581", "a"]]
    pieces += [p for p in ["\u2581" * 2, "\u2581" * 4, "\u2581a"] if p not in pieces]
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": "<unk>",
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": {p: i for i, p in enumerate(pieces)},
        "merges": merges,
    }


def variants(byte_level, byte_fallback):
    wide, narrow = len(byte_level["vocab"]), len(byte_fallback["vocab"])
    specials = [
        added(0, "<unk>", special=True),
        added(1, "<s>", special=True),
        added(2, "</s>", special=True),
    ]
    extras = [
        added(narrow, "<mask>", lstrip=True, special=True),
        added(narrow + 1, "<left>", lstrip=True),
        added(narrow + 2, "<right>", rstrip=True),
        added(narrow + 3, "word", single_word=True, normalized=True),
        added(narrow + 4, "old mill", normalized=True),
    ]
    byte_extras = [
        added(wide, "<|begin|>", special=True),
        added(wide + 1, "<|end|>", special=True),
        added(wide + 2, "<mask>", lstrip=True, rstrip=True, normalized=True),
        added(wide + 3, "<|end", normalized=False),
        added(wide + 4, "old mill", normalized=True, special=True),
    ]
    prepend = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        ],
    }
    llama_decoder = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    }
    byte_decoder = {
        "type": "ByteLevel",
        "add_prefix_space": True,
        "trim_offsets": True,
        "use_regex": True,
    }
    bos = template(("<s>", 1))

    def byte_step(prefix, regex):
        return {
            "type": "ByteLevel",
            "add_prefix_space": prefix,
            "trim_offsets": True,
            "use_regex": regex,
        }

    def split(regex, behavior, invert=False):
        return {
            "type": "Split",
            "pattern": {"Regex": regex},
            "behavior": behavior,
            "invert": invert,
        }

    def metaspace(**fields):
        return {"type": "Metaspace", "replacement": "\u2581"} | fields

    def sequence(*steps):
        return {"type": "Sequence", "pretokenizers": list(steps)}

    def low(
        name,
        model_patch=None,
        tokens=specials + extras,
        normalizer=None,
        pre=None,
        post=bos,
        decoder=llama_decoder,
        few=False,
    ):
        return dict(
            name=name,
            few=few,
            model="byte_fallback",
            model_patch=model_patch or {},
            parts=dict(
                added_tokens=tokens,
                normalizer=normalizer,
                pre_tokenizer=pre,
                post_processor=post,
                decoder=decoder,
            ),
        )

    def high(
        name, pre, model_patch=None, post=None, decoder=byte_decoder, tokens=byte_extras, few=False
    ):
        return dict(
            name=name,
            few=few,
            model="byte_level",
            model_patch=model_patch or {},
            parts=dict(
                added_tokens=tokens,
                normalizer=None,
                pre_tokenizer=pre,
                post_processor=post,
                decoder=decoder,
            ),
        )

    yield low("llama2", normalizer=prepend)
    yield low(
        "llama2 with EOS", normalizer=prepend, post=template(("<s>", 1), ("</s>", 2)), few=True
    )
    yield low("llama2 without added tokens", normalizer=prepend, tokens=[], post=None)
    yield low("unknown fused", {"byte_fallback": False}, normalizer=prepend)
    yield low(
        "unknown one by one",
        {"byte_fallback": False, "fuse_unk": False},
        normalizer=prepend,
        few=True,
    )
    yield low(
        "unknown left out",
        {"byte_fallback": False, "unk_token": None},
        normalizer=prepend,
        few=True,
    )
    yield low("metaspace first", pre=metaspace(prepend_scheme="first", split=False))
    yield low(
        "metaspace first split",
        pre=metaspace(prepend_scheme="first", split=True),
        decoder=metaspace(prepend_scheme="first", split=True),
        few=True,
    )
    yield low("metaspace always", pre=metaspace(prepend_scheme="always", split=False), few=True)
    yield low(
        "metaspace never",
        pre=metaspace(prepend_scheme="never", split=True),
        decoder=metaspace(prepend_scheme="never", split=True),
        few=True,
    )
    yield low(
        "metaspace old form",
        pre=metaspace(add_prefix_space=True),
        decoder=metaspace(add_prefix_space=True),
        few=True,
    )
    yield low(
        "metaspace old form without prefix",
        pre=metaspace(add_prefix_space=False, prepend_scheme="never"),
        decoder=metaspace(add_prefix_space=False, prepend_scheme="never"),
        few=True,
    )
    yield low(
        "strip and regex normalisers",
        normalizer={
            "type": "Sequence",
            "normalizers": [
                {"type": "Strip", "strip_left": True, "strip_right": True},
                {"type": "Replace", "pattern": {"Regex": r"\s{2,}"}, "content": " "},
                {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
            ],
        },
        decoder={
            "type": "Sequence",
            "decoders": [
                {"type": "Fuse"},
                {"type": "Replace", "pattern": {"String": "\u2581t"}, "content": "*"},
                {"type": "Strip", "content": "*", "start": 2, "stop": 2},
            ],
        },
    )
    yield low("no decoder", normalizer=prepend, decoder=None, few=True)
    yield high(
        "llama3",
        sequence(split(LLAMA3, "Isolated"), byte_step(False, False)),
        {"ignore_merges": True},
        template(("<|begin|>", wide)),
    )
    yield high(
        "llama3 with merges", sequence(split(LLAMA3, "Isolated"), byte_step(False, False)), few=True
    )
    yield high("gpt-2", byte_step(False, True))
    yield high("gpt-2 with prefix space", byte_step(True, True), few=True)
    yield high("byte level alone", byte_step(False, False), few=True)
    yield high(
        "digits one by one",
        sequence({"type": "Digits", "individual_digits": True}, byte_step(False, True)),
        few=True,
    )
    yield high(
        "digits together",
        sequence({"type": "Digits", "individual_digits": False}, byte_step(False, False)),
        few=True,
    )
    for behavior in ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]:
        for invert in [False, True]:
            yield high(
                f"split {behavior}{' inverted' if invert else ''}",
                sequence(split(r"-|\s", behavior, invert), byte_step(False, False)),
                few=True,
            )
    yield high(
        "literal split",
        sequence(
            {
                "type": "Split",
                "pattern": {"String": "--"},
                "behavior": "MergedWithNext",
                "invert": False,
            },
            byte_step(False, False),
        ),
        few=True,
    )
    yield high(
        "line anchors and classes",
        sequence(split(r"^\w+$|[\s\d]+|[^\S\n]\p{L}", "Isolated"), byte_step(False, False)),
        few=True,
    )


def compose(variant, bases):
    parts = dict(variant["parts"])
    return (
        {"version": "1.0", "truncation": None, "padding": None}
        | parts
        | {"model": bases[variant["model"]] | variant["model_patch"]}
    )


def id_sequences(rng, known, count=12):
    """Random ids, half of them from the low end, where the byte pieces are."""
    return [
        [
            rng.choice(known if rng.random() < 0.5 else known[:262])
            for _ in range(rng.randrange(1, 14))
        ]
        for _ in range(count)
    ]


def golden_variant(variant, bases, rng):
    tokenizer = Tokenizer.from_str(json.dumps(compose(variant, bases)))
    known = sorted(set(tokenizer.get_vocab().values()))
    result = dict(variant)
    texts = FEW_CASES if variant["few"] else CASES
    result["ids"] = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    result["bos_ids"] = [tokenizer.encode(text, add_special_tokens=True).ids for text in texts[:9]]
    result["decoded"] = [
        dict(
            ids=ids,
            skip=tokenizer.decode(ids, skip_special_tokens=True),
            keep=tokenizer.decode(ids, skip_special_tokens=False),
        )
        for ids in id_sequences(rng, known, 2 if variant["few"] else 12)
    ]
    return result


def train_sentencepiece(path, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.strip().split("\n")),
        model_writer=model,
        model_type="bpe",
        num_threads=1,
        minloglevel=2,
        **options,
    )
    path.write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def golden_sentencepiece(name, processor, rng):
    known = list(range(processor.vocab_size()))
    return dict(
        file=name,
        bos=processor.bos_id(),
        eos=processor.eos_id(),
        ids=[processor.encode(text) for text in CASES],
        byte_ids=[processor.encode(bytes.fromhex(text)) for text in BYTE_CASES],
        decoded=[dict(ids=ids, skip=processor.decode(ids)) for ids in id_sequences(rng, known, 40)],
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=pathlib.Path)
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    rng = random.Random(20240521)
    bases = {"byte_level": byte_level_model(), "byte_fallback": byte_fallback_model()}

    plain = train_sentencepiece(
        output / "plain.model",
        vocab_size=600,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        character_coverage=0.98,
    )
    rules = output / "rules.tsv"
    rules.write_text(
        "".join(
            f"{ord(a):X}\t{' '.join(f'{ord(c):X}' for c in b)}\n"
            for a, b in [
                ("\u00a0", " "),
                ("\u3000", " "),
                ("\u00bd", "1/2"),
                ("Ü", "U"),
                ("ü", "ue"),
                ("ſ", "s"),
                ("\ufeff", ""),
            ]
        )
    )
    folding = train_sentencepiece(
        output / "folding.model",
        vocab_size=300,
        normalization_rule_tsv=str(rules),
        user_defined_symbols=["<mask>", "old mill"],
        control_symbols=["<ctl>"],
    )
    rules.unlink()

    goldens = dict(
        made_by=f"tokenizers {tokenizers.__version__}, sentencepiece {sentencepiece.__version__}",
        cases=CASES,
        few_cases=FEW_CASES,
        byte_cases=BYTE_CASES,
        models=bases,
        variants=[golden_variant(v, bases, rng) for v in variants(**bases)],
        sentencepiece=[
            golden_sentencepiece("plain.model", plain, rng),
            golden_sentencepiece("folding.model", folding, rng),
        ],
    )
    (output / "goldens.json").write_text(
        json.dumps(goldens, ensure_ascii=True, separators=(",", ":")) + "\n"
    )


if __name__ == "__main__":
    main()
