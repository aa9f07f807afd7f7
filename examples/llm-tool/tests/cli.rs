//! The commands for scripts, on the committed fixtures and on tiny files made here; and what goes wrong.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "../../../mlx-lm-common/tests/common/gguf.rs"]
mod gguf;

use common::{Logits, TEMPLATE, Tiny, fixture, fixtures, ids, stdout};
use mlx_rs::{Array, Dtype, ops};
use serde_json::{Value, json};
use std::{fs, path::Path};
use tempfile::tempdir;

/// The largest difference, in units of max(1, max |b|).
fn distance(a: &Array, b: &Array) -> f32 {
    assert_eq!(a.shape(), b.shape());
    let most = |x: &Array| ops::max(ops::abs(x).unwrap(), None).unwrap().item_cast::<f32>();
    most(&a.subtract(b).unwrap()) / most(b).max(1.0)
}

/// Runs `logits` on a fixture's own prompt and decode tokens.
fn logits(folder: &Path, reference: &Logits, out: &Path, more: &[&str]) -> Logits {
    let (prompt, decode) = (ids(&reference.tokens("prompt")), ids(&reference.tokens("decode_tokens")));
    let greedy = reference.tokens("greedy").len().to_string();
    let arguments = [
        "logits",
        "--model",
        folder.to_str().unwrap(),
        "--prompt-tokens",
        &prompt,
        "--decode-tokens",
        &decode,
    ];
    stdout(&[&arguments[..], &["--greedy", &greedy, "--out", out.to_str().unwrap()], more].concat());
    Logits::read(out)
}

#[test]
fn logits_are_those_of_the_reference() {
    let dir = tempdir().unwrap();
    let out = dir.path().join("logits.safetensors");
    for folder in fixtures() {
        let reference = Logits::read(&folder.join("reference.safetensors"));
        for more in [&[][..], &["--chunk", "3"], &["--kv", "max:64", "--chunk", "2"]] {
            let found = logits(&folder, &reference, &out, more);
            for name in ["prefill", "decode"] {
                let d = distance(found.array(name), reference.array(name));
                assert_eq!(found.array(name).dtype(), Dtype::Float32);
                assert!(d <= 1e-4, "{} {more:?}: {name} differs by {d:.1e}", folder.display());
            }
            assert_eq!(found.array("greedy").dtype(), Dtype::Int32);
            assert_eq!(found.tokens("greedy"), reference.tokens("greedy"), "{} {more:?}", folder.display());
        }
    }
}

#[test]
fn a_bounded_cache_and_another_type_change_logits() {
    let (dir, folder) = (tempdir().unwrap(), fixture("llama3"));
    let out = dir.path().join("logits.safetensors");
    let reference = Logits::read(&folder.join("reference.safetensors"));
    for more in [["--kv", "max:5"], ["--dtype", "float16"]] {
        let d = distance(logits(&folder, &reference, &out, &more).array("decode"), reference.array("decode"));
        assert!(d > 1e-5, "{more:?} was ignored");
    }
    // No partial file is left beside the one asked for.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn texts_become_ids() {
    let tiny = Tiny::new(64);
    let file = tiny.path("text.txt");
    fs::write(&file, "Hi <|im_end|>\n you!").unwrap();
    let found = stdout(&["tokenize", "--model", tiny.model(), "--file", file.to_str().unwrap()]);
    let found: Vec<u32> = serde_json::from_str(&found).unwrap();
    assert_eq!(found, tiny.encode("Hi <|im_end|>\n you!"));
}

#[test]
fn special_tokens_can_be_left_out() {
    let tiny = Tiny::new(64);
    let config = json!({ "bos_token": "<|im_start|>", "add_bos_token": true });
    tiny.write("tokenizer_config.json", &config);
    fs::write(tiny.path("text.txt"), "ab").unwrap();
    let text = tiny.path("text.txt");
    let arguments = ["tokenize", "--model", tiny.model(), "--file", text.to_str().unwrap()];
    let run =
        |more: &[&str]| serde_json::from_str::<Vec<u32>>(&stdout(&[&arguments[..], more].concat())).unwrap();
    assert_eq!(run(&[]), tiny.encode("<|im_start|>ab"));
    assert_eq!(run(&["--no-special"]), tiny.encode("ab"));
}

#[test]
fn templates_are_rendered_and_nothing_else_is_printed() {
    let tiny = Tiny::new(64);
    let messages = json!([{ "role": "user", "content": "Hello!" }, { "role": "assistant", "content": "Hi" }]);
    let messages = tiny.write("messages.json", &messages);
    let from_model = ["template", "--model", tiny.model(), "--messages", &messages];
    let turns = "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\nHi<|im_end|>\n";
    assert_eq!(stdout(&from_model), turns);
    let opened = stdout(&[&from_model[..], &["--add-generation-prompt"]].concat());
    assert_eq!(opened, format!("{turns}<|im_start|>assistant\n"));

    let file = tiny.path("own.jinja");
    fs::write(&file, "{{ mood }} {{ tools | length }} {{ tools[0].name }} {{ messages[1].content }}")
        .unwrap();
    let context = tiny.write("context.json", &json!({ "mood": "calm" }));
    let tools = tiny.write("tools.json", &json!([{ "name": "clock" }]));
    let own = ["template", "--template", file.to_str().unwrap(), "--messages", &messages];
    let more = ["--tools", &tools, "--context", &context];
    assert_eq!(stdout(&[&own[..], &more].concat()), "calm 1 clock Hi");
}

#[test]
fn a_template_of_one_s_own_renders_as_the_model_s() {
    let tiny = Tiny::new(64);
    let messages = tiny.write("messages.json", &json!([{ "role": "user", "content": "ä\"<" }]));
    fs::write(tiny.path("t.jinja"), TEMPLATE).unwrap();
    let file = tiny.path("t.jinja");
    let own = stdout(&["template", "--template", file.to_str().unwrap(), "--messages", &messages]);
    assert_eq!(own, stdout(&["template", "--model", tiny.model(), "--messages", &messages]));
    assert_eq!(own, "<|im_start|>user\nä\"<<|im_end|>\n");
}

#[test]
fn models_lists_the_registry() {
    let list: Vec<Value> = serde_json::from_str(&stdout(&["models", "--json"])).unwrap();
    let names: Vec<_> = list.iter().map(|m| m["model_type"].as_str().unwrap()).collect();
    assert!(names.contains(&"llama") && names.contains(&"qwen3"), "{names:?}");
    assert_eq!(stdout(&["models"]).lines().collect::<Vec<_>>(), names);
}

#[test]
fn the_last_line_of_bench_is_json() {
    let model = fixture("qwen3_moe-4bit");
    let arguments = [
        "bench",
        "--model",
        model.to_str().unwrap(),
        "--prompt-tokens",
        "8",
        "--gen-tokens",
        "6",
        "--threads",
        "1",
    ];
    for more in [&[][..], &["--json"], &["--kv", "max:8", "--repeat", "2"]] {
        let text = stdout(&[&arguments[..], more].concat());
        assert_eq!(text.lines().count() == 1, more.contains(&"--json"), "{text}");
        let figures: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        let positive =
            ["prefill_tok_s", "decode_tok_s", "peak_bytes", "ttft_s", "load_s", "host_us_per_token"];
        for name in positive {
            assert!(figures[name].as_f64().unwrap() > 0.0, "{name} in {text}");
        }
        assert_eq!((&figures["prompt_tokens"], &figures["gen_tokens"]), (&json!(8), &json!(6)));
        assert_eq!((&figures["threads"], &figures["device"]), (&json!(1), &json!("cpu")));
        assert!(figures["load_bytes"].is_u64() && figures["kernels"].is_boolean(), "{text}");
        // Two layers have more operations than that even if each is a single one.
        assert!(figures["nodes_per_token"].as_u64().unwrap() > 4, "{text}");
    }
}

#[test]
fn info_counts_parameters_however_they_are_stored() {
    let info = |name: &str| -> Value {
        let model = fixture(name);
        serde_json::from_str(&stdout(&["info", "--model", model.to_str().unwrap(), "--json"])).unwrap()
    };
    let plain = info("llama3");
    assert_eq!(plain["classes"]["embedding"]["parameters"], 128 * 64);
    assert_eq!(plain["bits_per_weight"], 16.0);
    for twin in ["4bit", "mixed", "mixed-bare", "mxfp4", "mxfp8", "nvfp4", "sharded"] {
        let twin = info(&format!("llama3-{twin}"));
        assert_eq!(twin["parameters"], plain["parameters"], "{twin}");
        assert!(twin["bits_per_weight"].as_f64().unwrap() < 9.0, "{twin}");
    }
    assert!(info("qwen3_moe-hf")["classes"]["experts"]["parameters"].as_u64().unwrap() > 0);
}

/// The encodings that `info` lists: as they are stored, what becomes of them, how many.
fn encodings(info: &Value) -> Vec<String> {
    let row = |e: &Value| {
        let [stored, kept, to] = ["stored", "kept", "as"].map(|key| e[key].as_str().unwrap());
        assert!(e["bytes"].as_u64().unwrap() > 0 && (kept == "widened") == e["why"].is_string(), "{e}");
        format!("{} x {stored}: {kept}, {to}", e["tensors"])
    };
    let mut rows: Vec<_> = info["encodings"].as_array().unwrap().iter().map(row).collect();
    rows.sort();
    rows
}

#[test]
fn info_lists_what_stays_packed() {
    let run = |model: &Path, more: &[&str]| {
        stdout(&[&["info", "--device", "cpu", "--model", model.to_str().unwrap()], more].concat())
    };
    let json = |model: &Path| -> Value { serde_json::from_str(&run(model, &["--json"])).unwrap() };
    for (name, wanted) in [
        ("qwen3", vec!["24 x bfloat16: plain, float32"]),
        (
            "qwen3-4bit",
            vec!["15 x MLX affine 4-bit, groups of 32: packed, affine 4-bit", "9 x bfloat16: plain, float32"],
        ),
        ("llama3-nvfp4", vec!["15 x MLX nvfp4, groups of 16: packed, nvfp4", "5 x bfloat16: plain, float32"]),
    ] {
        let info = json(&fixture(name));
        assert_eq!(encodings(&info), wanted, "{name}");
        assert_eq!(info["remarks"], json!([]));
        let bytes: u64 =
            info["encodings"].as_array().unwrap().iter().map(|e| e["bytes"].as_u64().unwrap()).sum();
        assert_eq!(info["file_bytes"], bytes);
    }

    // Of GPTQ, with and without an order; the configuration is wrong about both.
    let tiny = Tiny::new(64);
    let mut tensors = Array::load_safetensors(fixture("qwen3/model.safetensors")).unwrap();
    let zeros =
        |shape: &[i32], dtype| Array::from_int(0).as_dtype(dtype).and_then(|z| ops::broadcast_to(z, shape));
    for layer in 0..2 {
        let module = format!("model.layers.{layer}.mlp.down_proj");
        tensors.remove(&format!("{module}.weight")).unwrap();
        let parts = [
            ("qweight", [12, 64], Dtype::Int32),
            ("qzeros", [3, 8], Dtype::Int32),
            ("scales", [3, 64], Dtype::Float16),
        ];
        for (part, shape, dtype) in parts {
            tensors.insert(format!("{module}.{part}"), zeros(&shape, dtype).unwrap());
        }
        let order: Vec<i32> = (0..96).map(|i| if layer == 0 { i / 32 } else { i % 3 }).collect();
        tensors.insert(format!("{module}.g_idx"), Array::from_slice(&order, &[96]));
    }
    Array::save_safetensors(&tensors, None, tiny.path("model.safetensors")).unwrap();
    let mut config: Value = serde_json::from_slice(&fs::read(tiny.path("config.json")).unwrap()).unwrap();
    config["quantization_config"] = json!({ "quant_method": "gptq", "bits": 8, "group_size": 32 });
    tiny.write("config.json", &config);
    let info = json(tiny.folder.path());
    let wanted = [
        "1 x GPTQ 4-bit, groups of 32: packed, affine 4-bit",
        "1 x GPTQ 4-bit, listed groups: widened, float32",
        "22 x bfloat16: plain, float32",
    ];
    assert_eq!(encodings(&info), wanted);
    let lie = "`quantization_config` says bits 8, but `model.layers.0.mlp.down_proj.qweight` has 4; the tensors are right";
    assert_eq!(info["remarks"], json!([lie]));
    let text = run(tiny.folder.path(), &[]);
    assert!(text.contains("widened to float32: MLX has no groups of columns that lie apart\n"), "{text}");
    assert!(text.contains(&format!("remark           {lie}\n")), "{text}");

    let file = tiny.path("model.gguf");
    let blocks = |values: usize| vec![0; values / 32 * 18];
    let model = gguf::Builder::model("llama")
        .tensor("blk.0.attn_v.weight", &[64, 32], 2, blocks(64 * 32))
        .tensor("blk.1.attn_v.weight", &[64, 32], 20, blocks(64 * 32));
    fs::write(&file, model.bytes()).unwrap();
    let wanted = [
        "1 x IQ4_NL: packed, 8-bit affine, groups of 32",
        "1 x Q4_0: packed, 4-bit affine, groups of 32",
        "18 x float32: plain, float32",
    ];
    assert_eq!(encodings(&json(&file)), wanted);
}

#[test]
fn info_knows_codes_of_turned_rows() {
    let Some(root) = std::env::var_os("MLX_LM_JANG_FIXTURES") else { return };
    let bundle = Path::new(&root).join("qwen3_moe-tq2");
    let info = stdout(&["info", "--model", bundle.to_str().unwrap(), "--device", "cpu", "--json"]);
    let found = encodings(&serde_json::from_str(&info).unwrap());
    let is_codes = |row: &String| row.ends_with(" x JANGTQ codes: packed, levels of turned rows");
    assert!(found.iter().any(is_codes), "{found:?}");
    assert!(!found.iter().any(|row| row.contains("uint")), "{found:?}");
}

#[test]
fn info_knows_what_caches_take() {
    let model = fixture("llama_swa");
    let arguments = ["info", "--model", model.to_str().unwrap(), "--device", "cpu", "--json"];
    let at = |dtype: &str| -> Value {
        serde_json::from_str(&stdout(&[&arguments[..], &["--dtype", dtype]].concat())).unwrap()
    };
    let config: Value = serde_json::from_slice(&fs::read(model.join("config.json")).unwrap()).unwrap();
    let layers = config["num_hidden_layers"].as_u64().unwrap();
    let kv_width =
        config["num_key_value_heads"].as_u64().unwrap() * config["head_dim"].as_u64().unwrap_or(16);
    let info = at("float32");
    assert_eq!(info["cache_bytes_per_token"], layers * 2 * kv_width * 4);
    assert_eq!(at("bfloat16")["cache_bytes_per_token"], layers * 2 * kv_width * 2);
    let caches = info["caches"].as_array().unwrap();
    let kinds: Vec<_> = caches.iter().map(|c| c["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, [&format!("{} positions", config["sliding_window"]), "all positions"]);
    let each = layers / 2 * 2 * kv_width * 4;
    for cache in caches {
        assert_eq!((&cache["bytes"], &cache["bytes_per_token"]), (&json!(0), &json!(each)));
    }
    let weights = info["weight_bytes"].as_u64().unwrap();
    let context = info["context"].as_u64().unwrap();
    let window = config["sliding_window"].as_u64().unwrap();
    let longest = json!({ "context": context, "bytes": weights + each * (window + context) });
    assert_eq!(info["memory"].as_array().unwrap().last(), Some(&longest));
}

#[test]
fn info_and_bench_say_what_a_bound_bounds() {
    let model = fixture("llama_swa");
    let model = ["--model", model.to_str().unwrap(), "--kv"];
    let bench = ["bench", "--prompt-tokens", "4", "--gen-tokens", "2", "--json"];
    for (kv, kinds) in
        [("float", ["4 positions", "all positions"]), ("max:8", ["4 positions", "8 positions"])]
    {
        let words = kinds.map(|kind| format!("1 layer: {kind}")).join("; ");
        let run = |command: &[&str]| stdout(&[command, &model, &[kv]].concat());
        assert!(run(&["info"]).contains(&format!("layers remember  {words}\n")), "{}", run(&["info"]));
        let info: Value = serde_json::from_str(&run(&["info", "--json"])).unwrap();
        let found: Vec<_> = info["caches"].as_array().unwrap().iter().map(|c| &c["bounded"]).collect();
        assert_eq!(found, [&json!(true), &json!(kv != "float")]);
        let figures: Value = serde_json::from_str(&run(&bench)).unwrap();
        assert_eq!(figures["layers_remember"], words);
    }
}

#[test]
fn nodes_counts_operations_by_name() {
    let model = fixture("qwen3_moe-4bit");
    let arguments = ["nodes", "--model", model.to_str().unwrap()];
    let counts = |more: &[&str]| -> Value {
        serde_json::from_str(&stdout(&[&arguments[..], more, &["--json"]].concat())).unwrap()
    };
    for more in [&[][..], &["--as-on-gpu"], &["--kv", "max:8"]] {
        let counts = counts(more);
        let operations = counts["operations"].as_object().unwrap();
        let sum: u64 = operations.values().map(|n| n.as_u64().unwrap()).sum();
        assert_eq!((&counts["nodes_per_token"], &counts["layers"]), (&json!(sum), &json!(2)));
        // The token is looked for once.
        assert_eq!(operations["ArgReduce"], 1);
    }
    // q, k, v, o; gate, up and down of the dense layer; the router of the other; the head.
    assert_eq!(counts(&["--as-on-gpu"])["operations"]["QuantizedMatmul"], 2 * 4 + 3 + 1 + 1);
    let text = stdout(&arguments);
    assert!(text.ends_with("in 2 layers and around them\n"), "{text}");
}

#[test]
fn every_command_has_help_with_examples() {
    for command in ["chat", "generate", "info", "models", "tokenize", "template", "logits", "bench", "nodes"]
    {
        let help = stdout(&[command, "--help"]);
        assert!(help.contains(&format!("llm-tool {command}")) && help.contains("Examples:"), "{help}");
    }
}
