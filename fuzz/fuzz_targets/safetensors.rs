//! Any bytes as a safetensors file: no panic, and nothing accepted that the reference implementation refuses.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mlx_lm_common::weights::header::Header;
use safetensors::SafeTensors;
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = Header::from_reader(bytes, bytes.len() as u64, Path::new("fuzz")) else { return };
    let (_, reference) = SafeTensors::read_metadata(bytes).expect("the reference accepts it too");
    assert_eq!(header.tensors.len(), reference.tensors().len());
    for (name, info) in &header.tensors {
        let theirs = reference.info(name).expect("the reference has it too");
        assert_eq!(info.dtype, theirs.dtype);
        assert!(info.shape.iter().map(|n| *n as usize).eq(theirs.shape.iter().copied()));
        assert_eq!(info.len as usize, theirs.data_offsets.1 - theirs.data_offsets.0);
        assert!(info.offset + info.len <= bytes.len() as u64);
    }
});
