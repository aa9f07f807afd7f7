"""Verbs that turn mlx-lm's names and shapes into published ones: each makes a function(weights, config) -> weights."""
import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.base import create_attention_mask
from mlx_lm.models.cache import KVCache, RotatingKVCache

GATED = {"gate_proj": "gate_proj", "up_proj": "up_proj", "down_proj": "down_proj"}
W123 = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


def same(weights, config):
    """The published checkpoint differs by tensors of other models only."""
    return weights


def chain(*layouts):
    def f(weights, config):
        for layout in layouts:
            weights = layout(weights, config)
        return weights

    return f


def rename(*pairs):
    """Replaces parts of names."""

    def f(weights, config):
        out = {}
        for name, w in weights.items():
            for old, new in pairs:
                name = name.replace(old, new)
            out[name] = w
        return out

    return f


def prefix(*pairs):
    """Replaces beginnings of names."""

    def f(weights, config):
        def renamed(name):
            found = (new + name.removeprefix(old) for old, new in pairs if name.startswith(old))
            return next(found, name)

        return {renamed(name): w for name, w in weights.items()}

    return f


WRAPPED = prefix(("language_model.model.", "model.language_model."), ("language_model.lm_head.", "lm_head."))
"""The names that transformers writes for the text model of a model that also sees."""


def each(change, *endings):
    """Changes the tensors whose names end so."""

    def f(weights, config):
        return {name: change(w) if name.endswith(endings) else w for name, w in weights.items()}

    return f


def conv_torch(*endings):
    """Depthwise convolutions [C, K, 1] -> [C, 1, K]."""
    return each(lambda w: mx.contiguous(mx.moveaxis(w, 1, 2)), *(endings or ("conv1d.weight",)))


def minus_one(*endings):
    """Norm weights that the published model adds 1 to. Exact for weights in [0.5, 2]."""
    return each(lambda w: w - 1 if w.ndim == 1 else w, *endings)


def unstack_experts(stack="mlp.switch_mlp", experts="mlp.experts", parts=GATED):
    """<stack>.<part>.weight [E, out, in] -> <experts>.<e>.<part>.weight [out, in]"""

    def f(weights, config):
        out = {}
        for name, w in weights.items():
            if f".{stack}." in name:
                head, part, kind = name.replace(f".{stack}.", f".{experts}.{{}}.").rsplit(".", 2)
                for e in range(w.shape[0]):
                    out[f"{head.format(e)}.{parts[part]}.{kind}"] = w[e]
            else:
                out[name] = w
        return out

    return f


def fuse_gate_up(stack, experts, transposed=False):
    """<stack>.{gate,up,down}_proj.weight -> <experts>.gate_up_proj [E, 2 * wide, in] and <experts>.down_proj [E, out, wide];
    `transposed`: both with their last two axes swapped."""
    stored = lambda w: mx.contiguous(mx.swapaxes(w, -1, -2)) if transposed else w

    def f(weights, config):
        out = {}
        for name, w in weights.items():
            head, found, part = name.partition(f".{stack}.")
            if not found or part == "up_proj.weight":
                out.update({} if found else {name: w})
            elif part == "gate_proj.weight":
                up = weights[f"{head}.{stack}.up_proj.weight"]
                out[f"{head}.{experts}.gate_up_proj"] = stored(mx.concatenate([w, up], axis=-2))
            else:
                out[f"{head}.{experts}.down_proj"] = stored(w)
        return out

    return f


def join_kv_b(weights, config):
    """Latent attention: embed_q [H, rank, nope] and unembed_out [H, v, rank] -> kv_b_proj [H * (nope + v), rank]"""
    out = {}
    for name, w in weights.items():
        if name.endswith(".embed_q.weight"):
            head = name.removesuffix(".embed_q.weight")
            both = mx.concatenate([mx.swapaxes(w, -1, -2), weights[f"{head}.unembed_out.weight"]], axis=1)
            out[f"{head}.kv_b_proj.weight"] = mx.contiguous(both.reshape(-1, both.shape[-1]))
        elif not name.endswith(".unembed_out.weight"):
            out[name] = w
    return out


class Windowed(nn.Module):
    """A layer that makes its own mask."""

    def __init__(self, layer, window):
        super().__init__()
        self.layer, self.window = layer, window

    def __call__(self, x, mask=None, cache=None):
        arrays = mask is None or isinstance(mask, mx.array)
        return self.layer(x, create_attention_mask(x, cache, window_size=self.window, return_array=arrays), cache)


def windows(sizes):
    """For `Arch.correct`: how far the layers see (None: to the beginning), in turn, where mlx-lm's model knows no windows."""

    def correct(model):
        each = [sizes[i % len(sizes)] for i in range(len(model.layers))]
        model.model.layers = [Windowed(layer, size) for layer, size in zip(model.layers, each)]
        model.make_cache = lambda: [RotatingKVCache(max_size=n, keep=0) if n else KVCache() for n in each]

    return correct
