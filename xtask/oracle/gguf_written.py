"""Small random models with tokenizers of every kind that GGUF files are written with, and what is wrong with such files.

    python xtask/oracle/gguf_written.py make OUT          one folder for each model
    python xtask/oracle/gguf_written.py texts OUT         texts to be split, in OUT/texts.json
    python xtask/oracle/gguf_written.py check FOLDER FILE TYPE

`check` reads FILE with the package gguf: names, the order of rows and values are those that llama.cpp's own converter gives them, blocks
are those of `gguf.quants`, byte for byte.
"""
import json
import pathlib
import sys

import numpy as np
from gguf import (
    MODEL_ARCH,
    GGMLQuantizationType as Type,
    GGUFReader,
    get_tensor_name_map,
    quants,
)

ROOT = pathlib.Path(__file__).parents[2]
HIDDEN, FEED, LAYERS, HEADS, KV_HEADS, HEAD = 64, 96, 4, 4, 2, 16
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PLAIN = dict(rope_theta=10000.0, tie_word_embeddings=False)
WINDOWS = dict(sliding_window=8, layer_types=["sliding_attention", "full_attention"] * 2, rope_local_base_freq=1000.0)
SCALED = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
# Model -> model_type, llama.cpp's architecture, what its configuration has besides, its tokenizer.
MODELS = {
    "llama": ("llama", "LLAMA", dict(PLAIN, tie_word_embeddings=True), "smollm"),
    "llama3": ("llama", "LLAMA", dict(PLAIN, rope_theta=500000.0, rope_scaling=SCALED), "llama3"),
    "llama_bias": ("llama", "LLAMA", dict(PLAIN, attention_bias=True, mlp_bias=True), "spm_prefix"),
    "mistral": ("mistral", "LLAMA", dict(PLAIN, head_dim=32, sliding_window=None), "tekken"),
    "smollm3": ("smollm3", "SMOLLM3", dict(PLAIN, no_rope_layers=[1, 1, 1, 0], tie_word_embeddings=True), "llama3"),
    "qwen2": ("qwen2", "QWEN2", dict(PLAIN, rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)), "qwen2"),
    "qwen3": ("qwen3", "QWEN3", dict(PLAIN, head_dim=32), "qwen2"),
    "gemma3": ("gemma3_text", "GEMMA3", dict(WINDOWS, head_dim=32, query_pre_attn_scalar=32, tie_word_embeddings=True,
               rope_theta=1e6, rope_scaling=dict(rope_type="linear", factor=8.0), hidden_activation="gelu_pytorch_tanh"), "spm"),
}  # fmt: skip
TEXTS = [
    "Hello, World!  It's  WE'LL see 'tis don'T",
    " leading and trailing \n\n\n lines\t\ttabs  ",
    "1 22 333 4444 55555 1234567890 3.14159 v2x",
    "Größe straße ÀÉÎ naïve façade — “quoted” …",
    "Привет мир, как дела? 我想在apple工作 こんにちは 안녕하세요 🚀🦙🦙 a🦙b",
    "fn main() { let x = a[i] + b_c::<T>(); } // <=> != === ``` ####",
    "<|im_start|>user\nHi<|im_end|>\n<start_of_turn>model\n</s>",
]


def corpus():
    return [line for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] for line in (ROOT / name).read_text().splitlines()] + TEXTS


def tokenizer(kind, folder):
    special = {
        "smollm": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "llama3": ["<|begin_of_text|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>"],
        "tekken": ["<unk>", "<s>", "</s>", "[INST]"],
        "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    }.get(kind)
    model = byte_level(kind, special) if special else sentence_piece(kind)
    bos, eos = {
        "smollm": ("<|im_start|>", "<|im_end|>"),
        "llama3": ("<|begin_of_text|>", "<|eot_id|>"),
        "tekken": ("<s>", "</s>"),
        "qwen2": (None, "<|im_end|>"),
        "spm": ("<bos>", "<eos>"),
        "spm_prefix": ("<s>", "</s>"),
    }[kind]
    if kind not in ("smollm", "qwen2"):
        ids = {t["content"]: t["id"] for t in model["added_tokens"]}
        bos_piece, text = {"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
        model["post_processor"] = dict(
            type="TemplateProcessing", single=[bos_piece, text],
            pair=[bos_piece, text, {"Sequence": {"id": "B", "type_id": 1}}],
            special_tokens={bos: dict(id=bos, ids=[ids[bos]], tokens=[bos])},
        )  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(model, ensure_ascii=False))
    config = dict(bos_token=bos, eos_token=eos, chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    used = [*model["model"]["vocab"].values(), *(t["id"] for t in model["added_tokens"])]
    # Models have more rows than tokens.
    return (max(used) // 32 + 2) * 32


def byte_level(kind, special):
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    pre = pre_tokenizers
    bytes_ = pre.ByteLevel(add_prefix_space=False, use_regex=kind == "smollm")
    regex = {"llama3": LLAMA3, "qwen2": QWEN2, "tekken": TEKKEN}.get(kind)
    first = pre.Digits(individual_digits=True) if kind == "smollm" else pre.Split(Regex(regex), "isolated")
    made = Tokenizer(models.BPE(ignore_merges=kind in ("llama3", "tekken")))
    made.pre_tokenizer, made.decoder = pre.Sequence([first, bytes_]), decoders.ByteLevel()
    alphabet = pre.ByteLevel.alphabet()
    made.train_from_iterator(
        corpus(), trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    return json.loads(made.to_str())


def sentence_piece(kind):
    """A vocabulary as SentencePiece has it and as transformers writes it: every way to make a token is a merge."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trained.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=500, limit_alphabet=120, show_progress=False))
    learned = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    pieces = [p for p, _ in learned if len(p) > 1] + [p for p, _ in learned if len(p) == 1]
    gemma = kind == "spm"
    special = ["<pad>", "<eos>", "<bos>", "<unk>"] if gemma else ["<unk>", "<s>", "</s>"]
    added = special + (["<start_of_turn>", "\n\n", "▁▁"] if gemma else [])
    tokens = special + [f"<0x{b:02X}>" for b in range(256)] + [a for a in added if a not in special] + ["\n"] + pieces
    tokens = list(dict.fromkeys(tokens))
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = []
    # Runs of white space merge first, and are looked for besides.
    runs = [a for a in added if a not in special and not a.startswith("<")]
    for piece in runs + [p for p in pieces if p not in added]:
        ways = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        merges += sorted((w for w in ways if w[0] in vocab and w[1] in vocab), key=lambda w: (vocab[w[0]], vocab[w[1]]))
    spaces = dict(type="Replace", pattern={"String": " "}, content="▁")
    prefix = dict(type="Sequence", normalizers=[dict(type="Prepend", prepend="▁"), spaces])
    split = dict(type="Split", pattern={"String": " "}, behavior="MergedWithPrevious", invert=False)
    back = [dict(type="Replace", pattern={"String": "▁"}, content=" "), dict(type="ByteFallback"), dict(type="Fuse")]
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False)
    return dict(
        version="1.0", truncation=None, padding=None,
        added_tokens=[dict(id=vocab[a], content=a, special=a in special or a.startswith("<"), **flags) for a in added],
        normalizer=spaces if gemma else prefix, pre_tokenizer=split if gemma else None, post_processor=None,
        decoder=dict(type="Sequence", decoders=back + ([] if gemma else [dict(type="Strip", content=" ", start=1, stop=0)])),
        model=dict(type="BPE", dropout=None, unk_token="<unk>", continuing_subword_prefix=None, end_of_word_suffix=None,
                   fuse_unk=True, byte_fallback=True, ignore_merges=False, vocab=vocab, merges=[list(m) for m in merges]),
    )  # fmt: skip


def weights(model_type, config, rng):
    """Every tensor of a model, float32, named and shaped as published."""
    head = config["head_dim"]
    norm = 0.0 if model_type == "gemma3_text" else 1.0
    out = {}

    def matrix(name, rows, columns, scale=None):
        out[name + ".weight"] = rng.standard_normal((rows, columns)) * (scale or columns**-0.5)

    def vector(name, size, center):
        out[name] = center + 0.1 * rng.standard_normal(size)

    matrix("model.embed_tokens", config["vocab_size"], HIDDEN, 1.0)
    if not config["tie_word_embeddings"]:
        matrix("lm_head", config["vocab_size"], HIDDEN)
    vector("model.norm.weight", HIDDEN, norm)
    norms = ["input_layernorm", "post_attention_layernorm"]
    if model_type == "gemma3_text":
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        for name in norms:
            vector(f"{at}{name}.weight", HIDDEN, norm)
        for name, rows, columns in [
            ("self_attn.q_proj", HEADS * head, HIDDEN), ("self_attn.k_proj", KV_HEADS * head, HIDDEN),
            ("self_attn.v_proj", KV_HEADS * head, HIDDEN), ("self_attn.o_proj", HIDDEN, HEADS * head),
            ("mlp.gate_proj", FEED, HIDDEN), ("mlp.up_proj", FEED, HIDDEN), ("mlp.down_proj", HIDDEN, FEED),
        ]:  # fmt: skip
            matrix(at + name, rows, columns)
            attention = name.startswith("self_attn")
            qwen2 = model_type == "qwen2" and attention and "o_proj" not in name
            if qwen2 or config.get("attention_bias" if attention else "mlp_bias"):
                vector(f"{at}{name}.bias", rows, 0.0)
        if model_type in ("qwen3", "gemma3_text"):
            vector(f"{at}self_attn.q_norm.weight", head, norm)
            vector(f"{at}self_attn.k_norm.weight", head, norm)
    return {name: w.astype(np.float32) for name, w in out.items()}


def make(out):
    import mlx.core as mx

    for seed, (name, (model_type, _, more, kind)) in enumerate(MODELS.items()):
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        config = dict(
            model_type=model_type, hidden_size=HIDDEN, intermediate_size=FEED, num_hidden_layers=LAYERS,
            num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=HEAD, rms_norm_eps=1e-5,
            max_position_embeddings=256, vocab_size=tokenizer(kind, folder),
        )  # fmt: skip
        config |= more
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        arrays = weights(model_type, config, np.random.default_rng(seed))
        mx.save_safetensors(str(folder / "model.safetensors"), {k: mx.array(v) for k, v in arrays.items()})
        print(name)


def expected(folder):
    """Tensors under llama.cpp's names, as its converter has them before they are packed."""
    import mlx.core as mx

    model_type, arch, _, _ = MODELS[folder.name]
    names = get_tensor_name_map(MODEL_ARCH[arch], LAYERS)
    for name, array in mx.load(str(folder / "model.safetensors")).items():
        w = np.array(array)
        if arch in ("LLAMA", "SMOLLM3") and ("q_proj" in name or "k_proj" in name):
            heads = HEADS if "q_proj" in name else KV_HEADS
            w = w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)
        if model_type == "gemma3_text" and name.endswith("norm.weight"):
            w = w + np.float32(1)
        yield names.get_name(name, try_suffixes=(".weight", ".bias")), w


def check(folder, file, kind):
    kind = Type[kind.upper()]
    reader = GGUFReader(file)
    tensors = {t.name: t for t in reader.tensors}
    factors = tensors.pop("rope_freqs.weight", None)
    wanted = dict(expected(folder))
    assert set(tensors) == set(wanted), set(tensors) ^ set(wanted)
    logits = "output.weight" if "output.weight" in wanted else "token_embd.weight"
    for name, w in wanted.items():
        own = Type.F32 if w.ndim == 1 else Type.Q8_0 if kind == Type.Q4_0 and name == logits else kind
        t = tensors[name]
        assert t.tensor_type == own, (name, t.tensor_type, own)
        assert list(t.shape) == list(w.shape)[::-1], (name, t.shape, w.shape)
        packed = quants.quantize(w, own)
        assert np.asarray(t.data).tobytes() == packed.tobytes(), f"{name}: bytes differ"
        found = quants.dequantize(np.asarray(t.data).view(packed.dtype).reshape(packed.shape), own)
        assert np.array_equal(found, quants.dequantize(packed, own)), name
    scaling = json.loads((folder / "config.json").read_text()).get("rope_scaling") or {}
    assert (factors is not None) == (scaling.get("rope_type") == "llama3")
    if factors is not None:
        assert np.allclose(factors.data, llama3(scaling), rtol=1e-6), (factors.data, llama3(scaling))
    tokens = reader.get_field("tokenizer.ggml.tokens")
    assert len(tokens.data) == wanted["token_embd.weight"].shape[0]
    print(f"{len(wanted)} tensors equal")


def llama3(scaling):
    freqs = 1.0 / 500000.0 ** (np.arange(0, HEAD, 2) / HEAD)
    out = []
    for f in freqs:
        length, original = 2 * np.pi / f, scaling["original_max_position_embeddings"]
        low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
        smooth = (original / length - low) / (high - low)
        out.append(1 if length < original / high else factor if length > original / low else 1 / ((1 - smooth) / factor + smooth))
    return np.array(out, np.float32)


def main():
    command, where = sys.argv[1], pathlib.Path(sys.argv[2])
    if command == "make":
        make(where)
    elif command == "texts":
        (where / "texts.json").write_text(json.dumps(TEXTS))
    else:
        check(where, *sys.argv[3:])


main()
