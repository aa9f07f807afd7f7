//! What the targets share: folders to write into, and safetensors files of zeros.

use std::{fs, path::Path};

/// A tensor of a file: its name, type and shape.
pub type Tensor = (String, &'static str, Vec<usize>);

/// Element types by their names in headers, with the bytes of an element.
pub const TYPES: [(&str, usize); 14] = [
    ("F32", 4),
    ("BF16", 2),
    ("F16", 2),
    ("F64", 8),
    ("U8", 1),
    ("I8", 1),
    ("U16", 2),
    ("I16", 2),
    ("U32", 4),
    ("I32", 4),
    ("I64", 8),
    ("U64", 8),
    ("F8_E4M3", 1),
    ("F8_E8M0", 1),
];

/// Writes `tensors` into `model.safetensors` of a folder; every byte is 1, so that scales are no zeros and indices are small.
pub fn write(folder: &Path, tensors: &[Tensor]) {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, dtype, shape) in tensors {
        let element = TYPES.iter().find(|(name, _)| name == dtype).map_or(1, |(_, size)| *size);
        let start = end;
        end += shape.iter().product::<usize>() * element;
        let info = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), info);
    }
    let header = serde_json::Value::Object(header).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![1; end]].concat();
    fs::write(folder.join("model.safetensors"), bytes).unwrap();
}
