"""Ways to make JANG bundles with the format's own package, and the changes that older writers and careless ones amount to."""
import argparse
import contextlib
import io
import json
import re
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

import mlx.core as mx
import numpy as np
import safetensors.numpy
from engine import V, build, flat
from safetensors.numpy import load_file, save_file

INDEX = "model.safetensors.index.json"
TOKENIZER = dict(tokenizer_class="PreTrainedTokenizerFast", eos_token="t2", bos_token="t1", unk_token="t0",
                 model_max_length=128, chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}")

flatten = safetensors.numpy._flatten


def flatten_contiguous(tensors, alive):
    """safetensors 0.8 stores arrays that are not contiguous wrongly, and the package saves slices."""
    tensors = {name: np.ascontiguousarray(t) if t.ndim else t for name, t in tensors.items()}
    alive.append(tensors)
    return flatten(tensors, alive)


safetensors.numpy._flatten = flatten_contiguous


def read(file):
    return json.loads(file.read_text())


def put(file, value):
    file.write_text(json.dumps(value, indent=1) + "\n")


def change(file, f):
    value = read(file)
    f(value)
    put(file, value)


# ---- sources ---------------------------------------------------------------------------------------


def source(a, folder):
    """The model of an entry as it would be published, in bfloat16."""
    folder.mkdir()
    weights = flat(build(a))
    if a.layout is not None:
        weights = {**a.layout(weights, a.config), **{n: mx.ones(s, a.dtype) for n, s in a.extras.items()}}
    file = "model-00001-of-00001.safetensors"
    mx.save_safetensors(str(folder / file), weights, metadata={"format": "pt"})
    put(folder / INDEX, dict(metadata={}, weight_map=dict.fromkeys(weights, file)))
    put(folder / "config.json", a.config)
    put(folder / "generation_config.json", dict(eos_token_id=[2]))
    put(folder / "tokenizer_config.json", TOKENIZER)
    put(folder / "tokenizer.json", dict(
        version="1.0", truncation=None, padding=None, added_tokens=[], normalizer=None,
        pre_tokenizer=dict(type="Whitespace"), post_processor=None, decoder=None,
        model=dict(type="WordLevel", vocab={f"t{i}": i for i in range(V)}, unk_token="t0")))
    return folder


def values(source):
    """The tensors of a source in float32."""
    tensors = mx.load(str(next(source.glob("model-*.safetensors"))))
    return {name: np.array(t.astype(mx.float32)) for name, t in tensors.items()}


def tokenizer(source):
    return {f: read(source / f) for f in ("tokenizer.json", "tokenizer_config.json")}


# ---- ways to make a bundle: function(source, folder, bundle) -> {module: (bits, group)} ---------------


def convert(source, folder, bundle):
    """`jang convert`."""
    from jang_tools.allocate import is_k_quant, k_quant_target
    from jang_tools.convert import convert_model

    # The package keeps the number of experts of the first model that it converts.
    vars(convert_model).pop("_n_experts_expected", None)
    k = is_k_quant(bundle.profile)
    target = k_quant_target(bundle.profile) if k else float(re.search(r"\d", bundle.profile)[0])
    try:
        convert_model(source, folder, target_bits=target, profile=bundle.profile, **bundle.options)
    except SystemExit as e:  # A family that it has no name for: the bundle is complete.
        print(f"the converter ends with {e}")
    manifest = read(folder / "jang_config.json")["quantization"]["tensor_quantization_manifest"]
    return {module: (m["bits"], m["group_size"]) for module, m in manifest.items()}


def sharded(source, folder, bundle):
    """Many small files."""
    from jang_tools.format.writer import write_jang_v2_model

    whole = source / "whole"
    whole.mkdir()
    bits = convert(source, whole, bundle)
    config = {k: v for k, v in read(whole / "config.json").items() if k != "quantization"}
    write_jang_v2_model(folder, tensors(whole), config, read(whole / "jang_config.json"), tokenizer(whole),
                        max_shard_bytes=30_000)
    return bits


def streams(source, folder, bundle):
    """Version 1: streams of codes for each matrix."""
    from jang_tools.allocate import allocate_bits_profile_compact
    from jang_tools.architectures import detect_architecture
    from jang_tools.format.spec import compute_block_offsets
    from jang_tools.format.writer import write_jang_model
    from jang_tools.quantize import quantize_tensor

    version, arch, config = bundle.options["version"], detect_architecture(source), read(source / "config.json")
    packs = lambda name, w: w.ndim == 2 and "norm" not in name and w.shape[1] % 64 == 0
    all = {name: w for name, w in values(source).items() if not name.startswith("mtp.")}
    blocks = [(name, w.size // 64) for name, w in all.items() if packs(name, w)]
    widths = allocate_bits_profile_compact(blocks, bundle.profile, num_experts=arch.num_experts)
    packed = {name.removesuffix(".weight"): quantize_tensor(
        all[name], np.full(n, widths[name], np.uint8), 64, method="mse") for name, n in blocks}
    rest = {name: w.astype(np.float16) for name, w in all.items() if not packs(name, w)}
    noted = dict(format="jang", format_version=version, quantization=dict(
        method="jang-importance", profile=bundle.profile, block_size=64, bit_widths_used=sorted(set(widths.values()))))
    write_jang_model(folder, packed, config, noted, tokenizer_files=tokenizer(source), passthrough_tensors=rest)
    file = next(folder.glob("*.jang.safetensors"))
    stored = load_file(str(file))
    for base, q in packed.items():
        n = len(q.scales)
        if version < "1.2":
            zeros = np.round(-stored.pop(f"{base}.biases").astype(np.float32) / q.scales.astype(np.float32))
            stored[f"{base}.zeros"] = zeros.astype(np.float16)
        if version == "1.0":
            del stored[f"{base}.bits"]
            stored[f"{base}.bit_map"] = np.full(n, q.bits, np.uint8)
            stored[f"{base}.block_offsets"] = np.array(compute_block_offsets([q.bits] * n), np.uint32)
    save_file(stored, str(file))
    change(folder / "model.jang.index.json", lambda i: i.update(weight_map=dict.fromkeys(stored, file.name)))
    stacked = lambda base: re.sub(r"\.experts\.\d+\.", ".switch_mlp.", base)
    return {stacked(base): (q.bits, 64) for base, q in packed.items()}


def upgraded(source, folder, bundle):
    """Version 1 after `jang upgrade`."""
    from jang_tools.loader import upgrade_v1_to_v2

    bits = streams(source, folder, bundle)
    upgrade_v1_to_v2(folder)
    return bits


def single_bits(source, folder, bundle):
    """Signs alone, a bit each; the package's loader needs them expanded (see `loadable`)."""
    from jang_tools.affine import quantize_discrete_affine
    from jang_tools.format.writer import write_jang_v2_model

    stored, manifest = {}, {}
    for name, w in values(source).items():
        if w.ndim != 2 or w.shape[1] % 32:
            stored[name] = w.astype(np.float16)
            continue
        group = 64 if w.shape[1] % 64 == 0 else 32
        grouped = w.reshape(w.shape[0], -1, group)
        scale = np.abs(grouped).mean(-1, keepdims=True).astype(np.float16).astype(np.float32)
        signs = np.where(grouped >= 0, scale, -scale).reshape(w.shape).astype(np.float32)
        module = name.removesuffix(".weight")
        parts = quantize_discrete_affine(signs, bits=1, group_size=group)[:3]
        stored.update(zip((f"{module}.weight", f"{module}.scales", f"{module}.biases"), parts))
        manifest[module] = dict(bits=1, storage_bits=1, group_size=group, mode="affine", source_tensor=name)
    noted = dict(format="jang", format_version="2.0", weight_format="affine", quantization=dict(
        method="jang-affine-discrete", bits=1, block_size=64, group_size=64, mode="affine", bit_widths_used=[1],
        tensor_quantization_manifest_schema=2, tensor_quantization_manifest=manifest))
    write_jang_v2_model(folder, stored, read(source / "config.json"), noted, tokenizer(source))
    return {module: (1, m["group_size"]) for module, m in manifest.items()}


# ---- what the package's loader needs ------------------------------------------------------------------


def loadable(folder, work):
    """The bundle, or a copy that the package's loader of today reads."""
    streams = list(folder.glob("*.jang.safetensors"))
    dense_lfm = read(folder / "config.json")["model_type"] == "lfm2"
    if not (streams or dense_lfm or has_single_bits(folder)):
        return folder
    shutil.copytree(folder, work)
    if dense_lfm:
        # mlx-lm knows the names that the writer replaces.
        names = (("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2"))
        old = lambda name: next((name.replace(a, b) for a, b in names if f"feed_forward.{a}" in name), name)
        store(work, {old(name): t for name, t in tensors(work).items()})
        no_claims(work, {})
    elif streams:
        from jang_tools.loader import upgrade_v1_to_v2

        upgrade_v1_to_v2(work)
    else:
        expand(work)
    return work


def has_single_bits(folder):
    return read(folder / "jang_config.json")["quantization"].get("bits") == 1


def expand(folder):
    from jang_tools.affine import expand_affine1_shard_mlx, prepare_affine1_runtime_config

    config, modules = prepare_affine1_runtime_config(read(folder / "config.json"), read(folder / "jang_config.json"))
    for entry in config["quantization"].values():
        if isinstance(entry, dict):
            entry.pop("storage_bits", None)
    put(folder / "config.json", config)
    for file in folder.glob("model-*.safetensors"):
        wide, _ = expand_affine1_shard_mlx(mx.load(str(file)), modules)
        mx.eval(wide)
        mx.save_safetensors(str(file), wide, metadata={"format": "mlx"})


def unround(model, folder):
    """Replaces what the loaders round. mlx-lm splits `kv_b_proj` and packs the parts again; the package unpacks routers that the
    model has as floats into float16."""
    from mlx_lm.models.mla import MultiLinear

    stored = tensors(folder)
    for path, module in model.named_modules():
        if f"{path}.scales" in stored and path.endswith(".gate") and "scales" not in module:
            module.weight = unpacked(stored, path, model.args.hidden_size)
        if "embed_q" not in module or not hasattr(module.embed_q, "scales"):
            continue
        heads, rank, nope = module.num_heads, module.kv_lora_rank, module.qk_nope_head_dim
        whole = unpacked(stored, f"{path}.kv_b_proj", rank).reshape(heads, -1, rank)
        for part, w in (("embed_q", whole[:, :nope].swapaxes(-1, -2)), ("unembed_out", whole[:, nope:])):
            module[part] = MultiLinear(w.shape[-1], w.shape[-2], heads)
            module[part].weight = mx.contiguous(w)


def unpacked(stored, module, columns):
    """A matrix in float32."""
    codes, scales, biases = (mx.array(stored[f"{module}.{part}"]) for part in ("weight", "scales", "biases"))
    return mx.dequantize(codes, scales.astype(mx.float32), biases.astype(mx.float32), bits=codes.shape[-1] * 32 // columns,
                         group_size=columns // scales.shape[-1])


# ---- changes of what is stored: function(folder, bits) -----------------------------------------------


def tensors(folder):
    all = {}
    for file in sorted(folder.glob("model-*.safetensors")):
        all.update(load_file(str(file)))
    return all


def store(folder, all):
    (file,) = folder.glob("model-*.safetensors")
    save_file(all, str(file), metadata={"format": "mlx"})
    change(folder / INDEX, lambda index: index.update(weight_map=dict.fromkeys(all, file.name)))


def packed_routers(folder, bits):
    """Routers in 8 bits, as before converters left them alone."""
    all = tensors(folder)
    for name in [n for n in all if n.endswith(".gate.weight")]:
        module = name.removesuffix(".weight")
        parts = mx.quantize(mx.array(all.pop(name)), group_size=64, bits=8)
        all.update(zip((name, f"{module}.scales", f"{module}.biases"), map(np.array, parts)))
        bits[module] = (8, 64)
    store(folder, all)


def old_nemotron_names(folder, bits):
    old = lambda name: name.replace("switch_mlp.fc1", "switch_mlp.up_proj").replace("switch_mlp.fc2", "switch_mlp.down_proj")
    store(folder, {old(name): t for name, t in tensors(folder).items()})
    for module in [m for m in bits if old(m) != m]:
        bits[old(module)] = bits.pop(module)


# ---- changes of configuration files: function(folder, bits) -> modules lied about ----------------------


def no_manifest(config):
    for key in [k for k in config["quantization"] if k.startswith("tensor_quantization_manifest")]:
        del config["quantization"][key]


def only_global_claims(folder, bits):
    """As before there were entries for single modules: a width that holds for some of them."""
    change(folder / "jang_config.json", no_manifest)
    lowest = min(b for b, _ in bits.values())
    change(folder / "config.json", lambda c: c.update(quantization=dict(group_size=64, bits=lowest)))


def no_claims(folder, bits):
    change(folder / "jang_config.json", no_manifest)
    change(folder / "config.json", lambda c: c.pop("quantization"))


def named(name, format):
    def f(folder, bits):
        change(folder / "jang_config.json", lambda c: c.update(format=format))
        (folder / "jang_config.json").rename(folder / name)

    return f


def no_version(folder, bits):
    """Many writers leave it out, or write it as a number."""
    change(next(folder.glob("*_cfg.json")), lambda c: (c.pop("format_version"), c.pop("format"), c.update(version=2)))


def lies(folder, bits):
    wrong_width, wrong_group, in_manifest = sorted(m for m in bits if "layers.0" in m)[:3]

    def in_config(config):
        config["quantization"][wrong_width]["bits"] = 5
        config["quantization"][wrong_group]["group_size"] = 128

    change(folder / "config.json", in_config)
    manifest = lambda c: c["quantization"]["tensor_quantization_manifest"][in_manifest].update(bits=2)
    change(folder / "jang_config.json", manifest)
    return [wrong_width, wrong_group, in_manifest]


def ends_of_text(folder, bits):
    """Configurations of Qwen as they are published: the end of a text where the end of a turn is meant."""
    change(folder / "config.json", lambda c: (c["text_config"].update(eos_token_id=248044), c.update(eos_token_id=248044)))
    change(folder / "generation_config.json", lambda c: c.update(eos_token_id=[248044, 3]))


def eos(folder):
    """Ids that end a text, by the package's rule."""
    ids = read(folder / "generation_config.json")["eos_token_id"] if (folder / "generation_config.json").exists() else 2
    ids = ids if isinstance(ids, list) else [ids]
    return sorted({248046 if id == 248044 else id for id in ids})

def main(doc, bundles, write):
    """Writes those that the command line names, each in a folder of its own."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--only", default="", help="beginnings of names, comma separated")
    args = parser.parse_args()
    chosen = {n: b for n, b in bundles.items() if n.startswith(tuple(args.only.split(",")))}
    failed = 0
    for name, bundle in chosen.items():
        log = io.StringIO()
        try:
            with tempfile.TemporaryDirectory() as work, contextlib.redirect_stdout(log):
                write(name, bundle, args.out, Path(work))
        except (Exception, SystemExit):  # one failure does not stop the rest
            print(f"{log.getvalue()[-2000:]}\n{name}: {traceback.format_exc()}", file=sys.stderr)
            failed += 1
    print(f"{len(chosen) - failed} bundles in {args.out}; {failed} failed")
    sys.exit(failed != 0)
