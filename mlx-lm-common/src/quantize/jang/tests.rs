//! What the package `jang` makes of the same tensors; `xtask/oracle/jang_allocations.py` has asked it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::{
    super::{
        allocate::{Item, Traits, allocate},
        fold::{Fold, Folds},
        profile::PROFILES,
    },
    *,
};
use crate::Config;
use serde_json::json;

fn cases() -> Vec<(String, Value)> {
    let all: Value = serde_json::from_str(include_str!("allocations.json")).unwrap();
    all.as_object().unwrap().iter().map(|(name, case)| (name.clone(), case.clone())).collect()
}

fn sources(case: &Value) -> Vec<Source> {
    serde_json::from_value::<Vec<(String, Vec<i32>)>>(case["tensors"].clone())
        .unwrap()
        .into_iter()
        .map(|(name, shape)| Source { name, shape })
        .collect()
}

fn digits(text: &Value) -> Vec<u8> {
    text.as_str().unwrap().bytes().map(|digit| digit - b'0').collect()
}

fn plan(profile: &str, config: Value, tensors: &[(&str, &[i32])]) -> Result<Plan> {
    let sources: Vec<Source> = tensors
        .iter()
        .map(|(name, shape)| Source { name: name.to_string(), shape: shape.to_vec() })
        .collect();
    Plan::new(profile.parse().unwrap(), &config, &sources)
}

#[test]
fn widths_are_those_of_the_package() {
    for (name, case) in cases() {
        let sources = sources(&case);
        let (model, group) =
            (experts(&case["config"]), general_group(&case["config"], experts(&case["config"])));
        assert_eq!(model, case["experts"].as_u64().unwrap(), "{name}");
        let items: Vec<Item> =
            sources.iter().map(|s| Item { name: &s.name, blocks: s.size().div_ceil(group as u64) }).collect();
        let traits = Traits { experts: model, is_gateless: case["gateless"].as_bool().unwrap() };
        for profile in PROFILES {
            let wanted = digits(&case["widths"][profile.to_string()]);
            assert_eq!(allocate(profile, traits, &items), wanted, "{name} in {profile}");
        }
    }
}

#[test]
fn groups_and_names_are_those_of_the_package() {
    for (case_name, case) in cases() {
        let sources = sources(&case);
        let groups = case["groups"].as_str().unwrap().chars();
        let written = case["written"].as_array().unwrap();
        let plan = Plan::new("4M".parse().unwrap(), &case["config"], &sources).unwrap();
        for ((source, group), written) in sources.iter().zip(groups).zip(written) {
            let piece = plan.pieces.iter().find(|piece| piece.sources.contains(&source.name)).unwrap();
            let what = format!("{} of {case_name}", source.name);
            let wanted = written.as_str().unwrap_or(&source.name);
            match piece.form {
                Form::Quantized { group: found, .. } => {
                    let wanted_group = match group {
                        'A' => 32,
                        'B' => 64,
                        'C' => 128,
                        other => panic!("{other} for {what}"),
                    };
                    assert_eq!(found, wanted_group, "{what}");
                    let base = wanted.strip_suffix(".weight").unwrap_or(wanted);
                    let wanted = match base.strip_suffix(".experts.gate_up_proj") {
                        Some(head) => {
                            vec![format!("{head}.switch_mlp.gate_proj"), format!("{head}.switch_mlp.up_proj")]
                        }
                        None => vec![base.replace(".experts.down_proj", ".switch_mlp.down_proj")],
                    };
                    assert_eq!(piece.to, wanted);
                }
                Form::Plain(_) => {
                    let stays = is_state(&source.name) || is_router(&source.name);
                    assert!(group == '-' || stays, "{what} is not quantized");
                    assert_eq!(piece.to, [wanted]);
                }
            }
        }
    }
}

#[test]
fn experts_of_a_stack_share_the_greatest_width() {
    let case = cases().into_iter().find(|(name, _)| name == "qwen3_moe").unwrap().1;
    let sources = sources(&case);
    let mut mixed = 0;
    for profile in ["3K", "4K", "5K", "6K"] {
        let plan = Plan::new(profile.parse().unwrap(), &case["config"], &sources).unwrap();
        let widths = digits(&case["widths"][format!("JANG_{profile}")]);
        for piece in plan.pieces.iter().filter(|piece| piece.sources.len() > 1) {
            let own: Vec<u8> = (sources.iter().zip(&widths))
                .filter(|(source, _)| piece.sources.contains(&source.name))
                .map(|(_, bits)| *bits)
                .collect();
            mixed += usize::from(own.iter().any(|bits| *bits != own[0]));
            assert_eq!(piece.form, Form::Quantized { bits: *own.iter().max().unwrap(), group: 64 });
        }
    }
    assert!(mixed > 0, "no budget ends within a stack: choose other sizes");
}

#[test]
fn what_is_left_out_and_what_stays_float() {
    let config = json!({ "model_type": "qwen3_5_moe", "tie_word_embeddings": true, "num_experts": 4, "hidden_size": 64 });
    let plan = plan(
        "4M",
        config,
        &[
            ("lm_head.weight", &[128, 64]),
            ("model.language_model.embed_tokens.weight", &[128, 64]),
            ("model.language_model.layers.0.input_layernorm.weight", &[64]),
            ("model.language_model.layers.0.linear_attn.conv1d.weight", &[30_000, 1, 4]),
            ("model.language_model.layers.0.linear_attn.A_log", &[8]),
            ("model.language_model.layers.0.mlp.gate.weight", &[4, 64]),
            ("model.language_model.layers.0.mlp.experts.down_proj", &[4, 64, 64]),
            ("model.language_model.layers.0.self_attn.q_proj.weight", &[64, 48]),
            ("model.language_model.layers.0.self_attn.q_proj.weight_scale_inv", &[1, 1]),
            ("model.visual.patch_embed.proj.weight", &[64, 3, 2, 4, 4]),
            ("model.visual.blocks.0.mlp.linear_fc1.weight", &[64, 64]),
        ],
    )
    .unwrap();
    let plain: Vec<(&str, Option<&[i32]>)> = (plan.pieces.iter())
        .filter_map(|piece| match piece.form {
            Form::Plain(axes) => Some((piece.to[0].as_str(), axes)),
            Form::Quantized { .. } => None,
        })
        .collect();
    assert_eq!(
        plain,
        [
            ("language_model.model.layers.0.input_layernorm.weight", None),
            ("language_model.model.layers.0.linear_attn.conv1d.weight", Some(&[0, 2, 1][..])),
            ("language_model.model.layers.0.linear_attn.A_log", None),
            ("language_model.model.layers.0.mlp.gate.weight", None),
            // A stack so small is not quantized, nor renamed.
            ("language_model.model.layers.0.mlp.experts.down_proj", None),
            ("language_model.model.layers.0.self_attn.q_proj.weight", None),
            ("vision_tower.patch_embed.proj.weight", Some(&[0, 2, 3, 4, 1][..])),
            ("vision_tower.blocks.0.mlp.linear_fc1.weight", None),
        ]
    );
    assert_eq!(plan.pieces.len(), plain.len() + 1, "the embedding alone is quantized");
}

#[test]
fn experts_without_a_layout_are_refused() {
    let config = json!({ "model_type": "x", "num_experts": 2, "hidden_size": 512 });
    let fused =
        |shape: &[i32]| plan("4M", config.clone(), &[("model.layers.0.mlp.experts.gate_up_proj", shape)]);
    assert!(fused(&[2, 256, 512]).is_ok());
    for shape in [[2, 512, 256], [2, 255, 512]] {
        let error = fused(&shape).unwrap_err().to_string();
        assert!(error.contains("gate_up_proj") && error.contains("is no stack"), "{error}");
    }
    let expert = |n: u32| format!("model.layers.0.mlp.experts.{n}.w1.weight");
    let gap = plan("4M", config.clone(), &[(&expert(0), &[64, 64]), (&expert(2), &[64, 64])]);
    assert_eq!(gap.unwrap_err().to_string(), format!("tensor `{}` is not in the checkpoint", expert(1)));
    let uneven = plan("4M", config, &[(&expert(0), &[64, 64]), (&expert(1), &[64, 32])]);
    assert!(uneven.unwrap_err().to_string().contains("found shape [64, 32], wanted [64, 64]"));
}

#[test]
fn experts_of_a_layer_itself_get_their_own_module() {
    let config = json!({ "model_type": "gemma4", "num_experts": 2 });
    let plan = plan("4M", config, &[("model.language_model.layers.7.experts.gate_up_proj", &[2, 256, 512])])
        .unwrap();
    let wanted = ["gate_proj", "up_proj"]
        .map(|half| format!("language_model.model.layers.7.experts.switch_glu.{half}"));
    assert_eq!(plan.pieces[0].to, wanted);
}

#[test]
fn profiles_are_read_in_every_form() {
    for text in ["4M", "4m", "JANG_4M", "jang_4m"] {
        assert_eq!(text.parse::<Profile>().unwrap().to_string(), "JANG_4M");
    }
    for wrong in ["", "4", "JANG", "JANG_9Z", "8M"] {
        let error = wrong.parse::<Profile>().unwrap_err().to_string();
        assert!(error.contains("1L, 2S") && error.contains("6K"), "{error}");
    }
}

#[test]
fn factors_are_folded_once() {
    let config = json!({
        "model_type": "falcon_h1", "hidden_size": 4, "mamba_d_ssm": 2, "mamba_n_groups": 1, "mamba_d_state": 1, "mamba_n_heads": 1,
        "ssm_multipliers": [2.0, 3.0, 5.0, 7.0, 11.0], "ssm_in_multiplier": 0.5, "key_multiplier": 4.0,
        "attention_in_multiplier": 3.0,
    });
    let folds = Folds::new(&Config::from_json(config).unwrap(), true, false).unwrap();
    let folded = |name: &str, shape: &[i32]| {
        let mut values = vec![1.0; shape.iter().product::<i32>() as usize];
        if let Some(fold) = folds.of(name, shape).unwrap() {
            fold.apply(&mut values, *shape.last().unwrap() as usize, 0);
        }
        values
    };
    let rows = [1.0, 1.0, 1.5, 1.5, 2.5, 3.5, 5.5];
    let in_proj: Vec<f32> = rows.iter().flat_map(|row| [*row; 2]).collect();
    assert_eq!(folded("model.layers.0.mamba.in_proj.weight", &[7, 2]), in_proj);
    assert_eq!(folded("model.layers.0.self_attn.k_proj.weight", &[1, 2]), [12.0; 2]);
    assert_eq!(folded("model.layers.0.self_attn.k_proj.bias", &[2]), [4.0; 2]);
    assert_eq!(folded("model.layers.0.self_attn.q_proj.bias", &[2]), [1.0; 2]);
    assert_eq!(folded("model.layers.0.mamba.norm.weight", &[2]), [1.0; 2]);
    let wrong = folds.of("model.layers.0.mamba.in_proj.weight", &[6, 2]).err().expect("an error").to_string();
    assert!(wrong.contains("found shape [6, 2], wanted [7, 2]"), "{wrong}");
    // Rows in the middle have their own factors.
    let mut values = vec![1.0; 2];
    Fold::TimesRows(&[2.0, 3.0, 5.0], 1.0).apply(&mut values, 1, 1);
    assert_eq!(values, [3.0, 5.0]);
}

#[test]
fn one_is_added_to_raw_norms_of_text_models_alone() {
    let config = Config::from_json(json!({ "model_type": "qwen3_next" })).unwrap();
    let adds = |is_raw, is_wrapped, name: &str| {
        let folds = Folds::new(&config, is_raw, is_wrapped).unwrap();
        folds.of(name, &[4]).unwrap().is_some()
    };
    assert!(adds(true, false, "model.layers.0.input_layernorm.weight"));
    assert!(adds(true, false, "model.norm.weight"));
    assert!(!adds(true, false, "model.layers.0.linear_attn.norm.weight"));
    assert!(!adds(false, false, "model.norm.weight"));
    assert!(!adds(true, true, "model.norm.weight"));
}
