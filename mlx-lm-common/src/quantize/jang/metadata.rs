//! The configurations of a bundle: `config.json` with the width of every module, and `jang_config.json`, which says how it was made.

use super::{Profile, plan::Plan};
use serde_json::{Map, Value, json};

/// What marks the end of a text, and what ends a turn, in Qwen's vocabulary.
const END_OF_TEXT: u64 = 248_044;
const END_OF_TURN: u64 = 248_046;

/// Families that are published with the first where the second is meant.
const SAY_END_OF_TEXT: [&str; 5] = ["qwen3_5", "qwen3_5_moe", "qwen3_vl", "qwen3_moe_vl", "qwen3_5_vl"];

/// What a tokenizer's class is called that names none, by family.
const NO_CLASS: &str = "TokenizersBackend";
const LLAMA_CLASS: [&str; 4] = ["llama", "mistral", "phi", "phi3"];
const GEMMA_CLASS: [&str; 3] = ["gemma", "gemma2", "gemma3"];

/// A module that was quantized.
pub(super) struct Quantized {
    /// Its name in the bundle.
    pub module: String,
    /// The published tensor that it comes from, or the last of several.
    pub source: String,
    /// Bits a value.
    pub bits: u8,
    /// Values that share a scale.
    pub group: i32,
    /// Shapes of codes, scales and biases.
    pub shapes: [Vec<i32>; 3],
}

/// What was done besides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    /// Zero-centred norms have their one.
    pub norms_are_whole: bool,
    /// Factors of activations are in the weights.
    pub has_folded_factors: bool,
}

/// The configuration of a bundle, from the published one.
pub(super) fn config(published: &Value, plan: &Plan, modules: &[Quantized], marks: Marks) -> Value {
    let mut config = published.as_object().cloned().unwrap_or_default();
    config.shift_remove("quantization_config");
    if marks.has_folded_factors {
        config.insert("jang_mup_folded".into(), true.into());
    }
    if marks.norms_are_whole {
        config.insert("jang_norms_pre_shifted".into(), true.into());
    }
    let mut quantization = Map::new();
    quantization.insert("group_size".into(), plan.group.into());
    quantization.insert("bits".into(), plan.widths.first().copied().unwrap_or(4).into());
    quantization.insert("mode".into(), "affine".into());
    for module in modules {
        let entry = json!({ "group_size": module.group, "bits": module.bits, "mode": "affine" });
        quantization.insert(module.module.clone(), entry);
    }
    for key in ["eos_token_id", "bos_token_id", "pad_token_id"] {
        let inner = published["text_config"][key].clone();
        if config.get(key).is_none_or(Value::is_null) && !inner.is_null() {
            config.insert(key.into(), inner);
        }
    }
    config.insert("quantization".into(), quantization.into());
    let mut config = Value::Object(config);
    if says_end_of_text(published) {
        mend_end(&mut config);
        if let Some(text) = config.get_mut("text_config") {
            mend_end(text);
        }
    }
    config
}

/// `jang_config.json` of a bundle of so many bytes.
pub(super) fn provenance(
    profile: Profile,
    name: &str,
    published: &Value,
    plan: &Plan,
    modules: &[Quantized],
    bytes: u64,
) -> Value {
    let manifest: Map<String, Value> = modules.iter().map(manifest_entry).collect();
    let mut file = json!({
        "format": "jang",
        "format_version": "2.0",
        "quantization": {
            "method": "jang-importance",
            "profile": profile.to_string(),
            "target_bits": f64::from(profile.target_bits()),
            "actual_bits": (plan.average * 100.0).round() / 100.0,
            "block_size": plan.group,
            "bit_widths_used": plan.widths,
            "quantization_scheme": "asymmetric",
            "quantization_backend": "mx.quantize",
            "hadamard_rotation": false,
            "mlp_asymmetry_floor": true,
            "tensor_quantization_manifest_schema": 1,
            "tensor_quantization_manifest_count": manifest.len(),
            "tensor_quantization_manifest": manifest,
        },
        "source_model": { "name": name },
        "architecture": architecture(published, plan),
        "runtime": {
            "total_weight_bytes": bytes,
            "total_weight_gb": (bytes as f64 / (1u64 << 30) as f64 * 100.0).round() / 100.0,
        },
    });
    add_look_ahead(&mut file, published, plan);
    file
}

fn manifest_entry(module: &Quantized) -> (String, Value) {
    let Quantized { module: name, source, bits, group, shapes: [weight, scales, biases] } = module;
    let entry = json!({
        "source_tensor": source,
        "bits": bits,
        "group_size": group,
        "weight_key": format!("{name}.weight"),
        "scales_key": format!("{name}.scales"),
        "biases_key": format!("{name}.biases"),
        "weight_shape": weight,
        "scales_shape": scales,
        "biases_shape": biases,
    });
    (name.clone(), entry)
}

/// What kind of model it is, in the format's words.
fn architecture(published: &Value, plan: &Plan) -> Value {
    let key = |key: &str| match &published[key] {
        Value::Null => &published["text_config"][key],
        value => value,
    };
    let family = published["model_type"].as_str().unwrap_or_default();
    let has_state = ["mamba", "zamba", "jamba", "delta_net"].iter().any(|part| family.contains(part))
        || family.contains("qwen") && !key("layer_types").is_null();
    let has_vision = published.get("vision_config").is_some();
    let kind = match (has_state, plan.experts > 0, has_vision) {
        (true, true, _) => "hybrid_moe_ssm",
        (true, false, _) => "hybrid_ssm",
        (false, true, _) => "moe",
        (false, false, true) => "vision_language",
        (false, false, false) => "transformer",
    };
    let attention = if key("kv_lora_rank").as_i64().unwrap_or(0) > 0 { "mla" } else { "gqa" };
    let keeps_vision = has_vision
        && plan.pieces.iter().any(|piece| piece.to.iter().any(|name| name.contains("patch_embed")));
    json!({
        "type": kind,
        "attention": attention,
        "has_vision": keeps_vision,
        "has_ssm": has_state,
        "has_moe": plan.experts > 0,
    })
}

/// Layers that predict several tokens ahead, if there are any.
fn add_look_ahead(file: &mut Value, published: &Value, plan: &Plan) {
    let keys = ["num_nextn_predict_layers", "mtp_num_hidden_layers"];
    let places = [published, &published["text_config"]];
    let layers = places.iter().flat_map(|place| keys.iter().filter_map(|key| place[*key].as_u64())).next();
    let layers = layers.unwrap_or(0);
    let is_ahead =
        |name: &&String| name.starts_with("mtp.") || name.contains(".mtp.") || name.contains(".mtp_");
    let count = plan.pieces.iter().flat_map(|piece| &piece.sources).filter(is_ahead).count();
    if layers == 0 && count == 0 {
        return;
    }
    let has = count > 0;
    let mode = if has { "preserved_enabled" } else { "metadata_only_missing_weights" };
    file["runtime"]["bundle_has_mtp"] = has.into();
    file["runtime"]["mtp_layers"] = layers.into();
    file["runtime"]["mtp_mode"] = mode.into();
    file["mtp"] = json!({ "kept": has, "enabled": has, "num_layers": layers, "tensor_count": count });
    file["bundle_has_mtp"] = has.into();
    file["mtp_layers"] = layers.into();
}

/// Whether the model is one that is published with the wrong end.
fn says_end_of_text(published: &Value) -> bool {
    published["model_type"].as_str().is_some_and(|family| SAY_END_OF_TEXT.contains(&family))
}

/// Mends `eos_token_id` of a configuration, a number or several.
fn mend_end(config: &mut Value) {
    let mend = |end: &mut Value| {
        if end.as_u64() == Some(END_OF_TEXT) {
            *end = END_OF_TURN.into();
        }
    };
    match config.get_mut("eos_token_id") {
        Some(Value::Array(ends)) => ends.iter_mut().for_each(mend),
        Some(end) => mend(end),
        None => {}
    }
}

/// The configuration of the tokenizer or of generation that a bundle has, if it differs from the published one.
pub(super) fn mended(published: &Value, file: &Value) -> Option<Value> {
    let mut mended = file.clone();
    if says_end_of_text(published) {
        mend_end(&mut mended);
    }
    if mended.get("tokenizer_class").and_then(Value::as_str) == Some(NO_CLASS) {
        let family = published["model_type"].as_str().unwrap_or_default();
        let class = match family {
            _ if LLAMA_CLASS.contains(&family) => "LlamaTokenizer",
            _ if GEMMA_CLASS.contains(&family) => "GemmaTokenizer",
            _ => "Qwen2Tokenizer",
        };
        mended["tokenizer_class"] = class.into();
    }
    (mended != *file).then_some(mended)
}
