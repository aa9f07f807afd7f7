//! Medians and ratios.

use std::{fs, process::Command};

use serde_json::{Value, json};

use super::{
    Measured, Peer,
    engines::{Engine, Figures},
};
use crate::process::output;

/// The middle value of a figure over the runs that have it.
fn median(runs: &[Figures], key: &str) -> Option<f64> {
    let mut values: Vec<f64> = runs.iter().filter_map(|r| r.get(key)?.as_f64()).collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
    Some((low + high) / 2.0)
}

/// How many times faster `one` is than `other`.
fn ratio(one: &[Figures], other: &[Figures], key: &str) -> Option<f64> {
    Some(median(one, key)? / median(other, key)?)
}

/// (ours, the other, prefill ratio, decode ratio) for engines that are fairly compared: as many threads as the other can use.
fn ratios(measured: &Measured) -> Vec<(Engine, Engine, Option<f64>, Option<f64>)> {
    let mut found = Vec::new();
    for (ours, our_runs) in measured.engines.iter().filter(|(e, _)| e.has_kernels) {
        for (other, runs) in measured.engines.iter().filter(|(e, _)| !e.has_kernels) {
            if other.peer == Peer::MlxLm || other.threads == ours.threads {
                let both = |key| ratio(our_runs, runs, key);
                found.push((*ours, *other, both("prefill_tok_s"), both("decode_tok_s")));
            }
        }
    }
    found
}

/// Tables for people.
pub(super) fn print(measured: &Measured) {
    let Measured { model, engines } = measured;
    println!("\n{}", model.title);
    let (prompt, generated, rounds) = (model.prompt_tokens, model.generated_tokens, model.rounds);
    println!("prompt of {prompt} tokens, then {generated} more; medians of {rounds} runs in turn\n");
    let row = |name: &str, c: [&str; 7]| {
        let [prefill, decode, first, load, peak, nodes, host] = c;
        println!("{name:<40} {prefill:>9} {decode:>9} {first:>9} {load:>8} {peak:>8} {nodes:>8} {host:>8}");
    };
    row("", ["prefill", "decode", "first", "load", "peak", "nodes a", "host µs"]);
    row("", ["tok/s", "tok/s", "token, s", "s", "MB", "token", "a token"]);
    for (engine, runs) in engines {
        let cell = |key, scale: f64, decimals: usize| match median(runs, key) {
            Some(value) => format!("{:.decimals$}", value * scale),
            None => "-".into(),
        };
        let cells = [
            cell("prefill_tok_s", 1.0, 1),
            cell("decode_tok_s", 1.0, 1),
            cell("ttft_s", 1.0, 3),
            cell("load_s", 1.0, 2),
            cell("peak_bytes", 1e-6, 0),
            cell("nodes_per_token", 1.0, 0),
            cell("host_us_per_token", 1.0, 0),
        ];
        row(&engine.to_string(), cells.each_ref().map(String::as_str));
    }
    println!();
    for (ours, other, prefill, decode) in ratios(measured) {
        let times = |r: Option<f64>| r.map_or("-".into(), |r| format!("{r:.2}x"));
        println!(
            "{:<70} prefill {:>7}  decode {:>7}",
            format!("{ours} / {other}"),
            times(prefill),
            times(decode)
        );
    }
}

/// Everything for programs.
pub(super) fn json(measured: &Measured) -> Value {
    let Measured { model, engines } = measured;
    let engines: Vec<Value> = engines
        .iter()
        .map(|(engine, runs)| {
            let keys = ["prefill_tok_s", "decode_tok_s", "peak_bytes", "ttft_s", "load_s", "nodes_per_token", "host_us_per_token"];
            let medians: serde_json::Map<_, _> = keys.iter().map(|k| (k.to_string(), json!(median(runs, k)))).collect();
            json!({ "engine": engine.to_string(), "threads": engine.threads, "median": medians, "runs": runs })
        })
        .collect();
    let ratios: Vec<Value> = ratios(measured)
        .into_iter()
        .map(|(ours, other, prefill, decode)| {
            json!({ "ours": ours.to_string(), "other": other.to_string(), "prefill": prefill, "decode": decode })
        })
        .collect();
    json!({
        "model": model.title, "prompt_tokens": model.prompt_tokens, "generated_tokens": model.generated_tokens,
        "rounds": model.rounds, "engines": engines, "ratios": ratios,
    })
}

/// Processes that wanted a core in the last minute, where the system tells.
pub(super) fn load_average() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// The processor's name.
pub(super) fn processor() -> String {
    let linux = || {
        let text = fs::read_to_string("/proc/cpuinfo").ok()?;
        let line = text.lines().find(|l| l.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_string())
    };
    let macos = || {
        Some(output(Command::new("sysctl").args(["-n", "machdep.cpu.brand_string"])).ok()?.trim().to_string())
    };
    linux().or_else(macos).unwrap_or_else(|| "unknown processor".into())
}
