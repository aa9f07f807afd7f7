//! JSON that says something else.

use serde_json::{Value, json};

use super::random::Random;

/// What no JSON value holds: numbers out of every range, words of other languages, and a depth that a recursive reader must not follow.
const RAW: [&str; 7] =
    ["NaN", "Infinity", "-Infinity", "1e999", "123456789012345678901234567890", "-0.0", "DEEP"];
const DEPTH: usize = 20_000;

/// Changes one place, and says how.
pub(super) fn mutate(text: &[u8], random: &mut Random) -> Option<(Vec<u8>, String)> {
    let text = std::str::from_utf8(text).ok()?;
    // What was made deep already would be too deep for this reader, too.
    if text.contains(&"[".repeat(100)) {
        return None;
    }
    let mut value = json5::from_str::<Value>(text).ok()?;
    let mut places = Vec::new();
    collect(&value, String::new(), &mut places);
    if places.is_empty() {
        return None;
    }
    let place = random.pick(&places).clone();
    let how = change(&mut value, &place, &places, random)?;
    let mut text = value.to_string();
    for (i, raw) in RAW.iter().enumerate() {
        let raw = if *raw == "DEEP" { "[".repeat(DEPTH) + &"]".repeat(DEPTH) } else { raw.to_string() };
        text = text.replace(&format!("\"{}\"", mark(i)), &raw);
    }
    Some((text.into_bytes(), format!("{place} {how}")))
}

fn mark(raw: usize) -> String {
    format!("@@{raw}@@")
}

/// Every place below the top, as JSON pointers.
fn collect(value: &Value, at: String, into: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(k, v)| (k.replace('~', "~0").replace('/', "~1"), v)).collect(),
        // The first few of a list stand for all.
        Value::Array(list) => list.iter().take(3).enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
        _ => return,
    };
    for (key, child) in children {
        let at = format!("{at}/{key}");
        into.push(at.clone());
        collect(child, at, into);
    }
}

fn change(value: &mut Value, place: &str, places: &[String], random: &mut Random) -> Option<String> {
    match random.below(10) {
        0 => {
            remove(value, place)?;
            Some("removed".into())
        }
        1 => {
            let taken = remove(value, place)?;
            let (parent, key) = place.rsplit_once('/')?;
            let key = format!("{key}{}", random.pick(&["x", "s", ".weight", ""]));
            let moved = format!("to {key}");
            value.pointer_mut(parent)?.as_object_mut()?.insert(key, taken);
            Some(moved)
        }
        2 => {
            let other = random.pick(places).clone();
            let (a, b) = (value.pointer(place)?.clone(), value.pointer(&other)?.clone());
            *value.pointer_mut(place)? = b;
            // The other may be inside the first, and gone.
            if let Some(at) = value.pointer_mut(&other) {
                *at = a;
            }
            Some(format!("swapped with {other}"))
        }
        3..=5 => {
            let at = value.pointer_mut(place)?;
            *at = near(at, random)?;
            Some(format!("= {at}").chars().take(200).collect())
        }
        _ => {
            let at = value.pointer_mut(place)?;
            *at = any(random);
            Some(format!("= {at}"))
        }
    }
}

fn remove(value: &mut Value, place: &str) -> Option<Value> {
    let (parent, key) = place.rsplit_once('/')?;
    match value.pointer_mut(parent)? {
        Value::Object(map) => map.remove(&key.replace("~1", "/").replace("~0", "~")),
        Value::Array(list) => {
            let at = key.parse().ok()?;
            (at < list.len()).then(|| list.remove(at))
        }
        _ => None,
    }
}

/// A value of the same type.
fn near(value: &Value, random: &mut Random) -> Option<Value> {
    Some(match value {
        Value::Number(n) => match n.as_i64() {
            Some(n) => json!(*random.pick(&[
                n.saturating_add(1),
                n.saturating_sub(1),
                n.saturating_mul(2),
                n / 2,
                n.saturating_neg(),
                n.saturating_mul(1 << 20),
                0
            ])),
            None => json!(n.as_f64()? * random.pick(&[-1.0, 0.0, 0.5, 2.0, 1e30, 1e-30, 1e300])),
        },
        Value::Bool(b) => json!(!b),
        Value::String(text) => match random.below(4) {
            0 => json!(text.to_uppercase()),
            1 => json!(text.chars().skip(1).collect::<String>()),
            2 => json!(text.repeat(1 + random.below(3000))),
            _ => json!(*random.pick(&WORDS)),
        },
        Value::Array(list) => {
            let mut list = list.clone();
            match random.below(4) {
                0 => drop(list.pop()),
                1 => list.reverse(),
                2 => list.extend(list.first().cloned()),
                _ => list = list.iter().cycle().take(list.len() * 200).cloned().collect(),
            }
            Value::Array(list)
        }
        _ => return None,
    })
}

/// Words that mean something at one place or another.
const WORDS: [&str; 24] = [
    "llama",
    "gemma3_text",
    "qwen3_next",
    "deepseek_v3",
    "yarn",
    "llama3",
    "linear",
    "dynamic",
    "longrope",
    "gelu",
    "silu",
    "sliding_attention",
    "linear_attention",
    "mxfp4",
    "nvfp4",
    "fp8",
    "awq",
    "gptq",
    "compressed-tensors",
    "bitnet",
    "../../etc/passwd",
    "/dev/zero",
    "F32",
    "U32",
];

fn any(random: &mut Random) -> Value {
    let values = [
        json!(0),
        json!(-1),
        json!(1),
        json!(3),
        json!(255),
        json!(65_537),
        json!(i32::MAX),
        json!(1u64 << 31),
        json!(1u64 << 40),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(0.3),
        json!(-0.5),
        json!(1e300),
        json!(1e-320),
        json!(null),
        json!(true),
        json!("x"),
        json!(""),
        json!([]),
        json!([1]),
        json!([[[]]]),
        json!({}),
        json!({"x": {"y": [0]}}),
    ];
    let at = random.below(values.len() + RAW.len());
    values.get(at).cloned().unwrap_or_else(|| json!(mark(at - values.len())))
}
