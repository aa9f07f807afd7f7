//! safetensors files that are sound, but hold something else.

use serde_json::{Map, Value, json};

use super::{json, random::Random};

struct Tensor {
    name: String,
    dtype: String,
    shape: Vec<u64>,
    bytes: Vec<u8>,
}

/// Types of equal size.
const TYPES: [&[&str]; 4] = [
    &["U8", "I8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"],
    &["F16", "BF16", "U16", "I16"],
    &["F32", "U32", "I32"],
    &["F64", "U64", "I64"],
];

/// Changes one tensor or two, or one place of the header, and says how.
pub(super) fn mutate(bytes: &[u8], random: &mut Random) -> Option<(Vec<u8>, String)> {
    let (header, data) = cut(bytes)?;
    if random.once_in(3) {
        let (header, how) = json::mutate(header, random)?;
        return Some((join(&header, data), how));
    }
    let (metadata, mut tensors) = read(header, data)?;
    let how = change(&mut tensors, random)?;
    Some((write(metadata, &tensors), how))
}

fn cut(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<8>()?;
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)
}

fn join(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

fn read(header: &[u8], data: &[u8]) -> Option<(Option<Value>, Vec<Tensor>)> {
    let mut header: Map<String, Value> = serde_json::from_slice(header).ok()?;
    let metadata = header.remove("__metadata__");
    let mut tensors = Vec::new();
    for (name, info) in header {
        let numbers =
            |key: &str| -> Option<Vec<u64>> { info[key].as_array()?.iter().map(Value::as_u64).collect() };
        let [start, end] = numbers("data_offsets")?[..] else { return None };
        let bytes = data.get(start as usize..end as usize)?.to_vec();
        tensors.push(Tensor { name, dtype: info["dtype"].as_str()?.into(), shape: numbers("shape")?, bytes });
    }
    Some((metadata, tensors))
}

fn write(metadata: Option<Value>, tensors: &[Tensor]) -> Vec<u8> {
    let mut header = Map::new();
    header.extend(metadata.map(|m| ("__metadata__".into(), m)));
    let mut data = Vec::new();
    for t in tensors {
        let start = data.len();
        data.extend(&t.bytes);
        let info = json!({"dtype": t.dtype, "shape": t.shape, "data_offsets": [start, data.len()]});
        header.insert(t.name.clone(), info);
    }
    join(Value::Object(header).to_string().as_bytes(), &data)
}

fn change(tensors: &mut Vec<Tensor>, random: &mut Random) -> Option<String> {
    let (at, other) = random.two(tensors.len());
    let name = tensors.get(at)?.name.clone();
    let how = match random.below(9) {
        0 => {
            tensors.remove(at);
            "removed".into()
        }
        1 => {
            let taken = std::mem::take(&mut tensors[other].name);
            tensors[at].name = taken.clone();
            tensors[other].name = name.clone();
            format!("swapped with {taken}")
        }
        2 => {
            let t = &mut tensors[at];
            let kin = TYPES.iter().find(|kin| kin.contains(&t.dtype.as_str()))?;
            t.dtype = random.pick(kin).to_string();
            format!("as {}", t.dtype)
        }
        3 => reshape(&mut tensors[at], random),
        4 => resize(&mut tensors[at], random)?,
        5 => {
            let t = &tensors[at];
            let new = rename(&t.name, random);
            let copy = Tensor {
                name: new.clone(),
                dtype: t.dtype.clone(),
                shape: t.shape.clone(),
                bytes: t.bytes.clone(),
            };
            if random.once_in(2) {
                tensors.remove(at);
            }
            tensors.retain(|t| t.name != new);
            tensors.push(copy);
            format!("also or only as {new}")
        }
        _ => super::bytes::fill(&mut tensors[at].bytes, random),
    };
    Some(format!("{name} {how}"))
}

fn reshape(t: &mut Tensor, random: &mut Random) -> String {
    match (random.below(5), &mut t.shape[..]) {
        (0, [.., a, b]) => std::mem::swap(a, b),
        (1, [.., a, b]) if *a % 2 == 0 => (*a, *b) = (*a / 2, *b * 2),
        (2, [.., a, b]) if *b % 2 == 0 => (*a, *b) = (*a * 2, *b / 2),
        (3, _) => t.shape = vec![t.shape.iter().product()],
        _ => t.shape.insert(0, 1),
    }
    format!("of shape {:?}", t.shape)
}

/// Fewer or more rows.
fn resize(t: &mut Tensor, random: &mut Random) -> Option<String> {
    let rows = *t.shape.first()? as usize;
    let row = t.bytes.len().checked_div(rows)?;
    let wanted = *random.pick(&[0, 1, rows / 2, rows.saturating_sub(1), rows + 1, rows * 2]);
    t.bytes = t.bytes.iter().copied().cycle().take(wanted * row).collect();
    t.shape[0] = wanted as u64;
    Some(format!("of shape {:?}", t.shape))
}

/// The name of a tensor beside it: of another layer, part or kind.
fn rename(name: &str, random: &mut Random) -> String {
    let pairs = [
        (".0.", ".1."),
        (".0.", ".7."),
        (".0.", ".4294967296."),
        (".weight", ".bias"),
        (".weight", ".scales"),
        (".scales", ".biases"),
        (".weight", ".weight_scale_inv"),
        (".weight", ".qweight"),
        (".weight", ""),
        ("model.", ""),
        ("", "language_model."),
    ];
    let (from, to) = random.pick(&pairs);
    name.replacen(from, to, 1)
}
