//! GGUF headers: what is read from good files, and what is said about bad ones.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/gguf.rs"]
mod builder;
mod memory;
mod mutate;
#[path = "common/read.rs"]
mod read;

use builder::{Builder, kind, list, open, string, tokens};
use mlx_lm_common::gguf::{Field, List, Value};
use read::try_read;

fn file() -> Builder {
    Builder::new().str("a.key", "text").zeros("t", &[32, 2]).zeros("u", &[8])
}

#[test]
fn every_value_type() {
    let number = 200_u8;
    let gguf = Builder::new()
        .pair("u8", kind::U8, [number])
        .pair("i8", kind::I8, [number])
        .pair("u16", kind::U16, 50_000_u16.to_le_bytes())
        .pair("i16", kind::I16, (-5_i16).to_le_bytes())
        .pair("u32", kind::U32, u32::MAX.to_le_bytes())
        .pair("i32", kind::I32, i32::MIN.to_le_bytes())
        .pair("f32", kind::F32, 0.1_f32.to_le_bytes())
        .pair("bool", kind::BOOL, [1])
        .pair("str", kind::STR, string("schön 字"))
        .pair("u64", kind::U64, u64::MAX.to_le_bytes())
        .pair("i64", kind::I64, i64::MIN.to_le_bytes())
        .pair("f64", kind::F64, 0.25_f64.to_le_bytes())
        .strings("strings", &["", "a", "", "字", ""])
        .i32s("i32s", &[1, -2])
        .f32s("f32s", &[0.5])
        .pair("bools", kind::LIST, list(kind::BOOL, 2, &[0, 1]))
        .pair("u8s", kind::LIST, list(kind::U8, 2, &[0, 255]))
        .pair("i8s", kind::LIST, list(kind::I8, 2, &[0, 255]))
        .pair("u64s", kind::LIST, list(kind::U64, 1, &7_u64.to_le_bytes()))
        .pair("none", kind::LIST, list(kind::STR, 0, &[]))
        .open()
        .unwrap();
    let m = gguf.metadata();
    let value = |key: &str| m.get(key).unwrap().value().clone();
    assert_eq!(value("u8"), Value::Int(200));
    assert_eq!(value("i8"), Value::Int(-56));
    assert_eq!(value("i16"), Value::Int(-5));
    assert_eq!(value("i32"), Value::Int(i32::MIN.into()));
    assert_eq!(value("u64"), Value::Int(u64::MAX.into()));
    assert_eq!(value("i64"), Value::Int(i64::MIN.into()));
    assert_eq!(value("bools"), Value::List(List::Bool(vec![false, true])));
    assert_eq!(value("i8s"), Value::List(List::I8(vec![0, -1])));
    assert_eq!(value("u64s"), Value::List(List::U64(vec![7])));
    assert_eq!(m.u32("u8").unwrap(), 200);
    assert_eq!(m.u32("u16").unwrap(), 50_000);
    assert_eq!(m.u32("u32").unwrap(), u32::MAX);
    assert_eq!(m.f32("f32").unwrap(), 0.1);
    assert_eq!(m.f32("f64").unwrap(), 0.25);
    assert!(m.bool("bool").unwrap());
    assert_eq!(m.str("str").unwrap(), "schön 字");
    assert_eq!(m.i32s("i32s").unwrap(), [1, -2]);
    assert_eq!(m.f32s("f32s").unwrap(), [0.5]);
    assert_eq!(m.u8s("u8s").unwrap(), [0, 255]);
    let strings = m.strings("strings").unwrap();
    assert_eq!(strings.iter().collect::<Vec<_>>(), ["", "a", "", "字", ""]);
    assert_eq!((0..6).map(|i| strings.get(i)).collect::<Vec<_>>()[3..], [Some("字"), Some(""), None]);
    assert!(m.strings("none").unwrap().is_empty());
    assert_eq!(m.iter().count(), 20);
    assert_eq!(m.optional("absent", Field::u32).unwrap(), None);

    for (message, wanted) in [
        (m.u32("absent").unwrap_err(), "`absent`: found nothing"),
        (m.u32("i8").unwrap_err(), "`i8`: found -56, wanted an integer from 0"),
        (m.u32("u64").unwrap_err(), "found 18446744073709551615, wanted an integer from 0"),
        (m.u32("str").unwrap_err(), "found \"schön 字\", wanted an integer"),
        (m.f32("u32").unwrap_err(), "found 4294967295, wanted a float"),
        (m.bool("u8").unwrap_err(), "found 200, wanted a boolean"),
        (m.str("strings").unwrap_err(), "found an array of 5 strings, wanted a string"),
        (m.strings("i32s").unwrap_err(), "found an array of 2 int32, wanted an array of strings"),
        (m.i32s("u8s").unwrap_err(), "found an array of 2 uint8, wanted an array of int32"),
        (m.f32s("u8s").unwrap_err(), "found an array of 2 uint8, wanted an array of float32"),
        (m.u8s("str").unwrap_err(), "wanted an array of uint8"),
        (m.optional("str", Field::bool).unwrap_err(), "`str`: found \"schön 字\", wanted a boolean"),
    ] {
        assert!(message.to_string().contains(wanted), "{message}");
    }
}

/// Damaged headers: what is wrong, the file, what the error says.
fn bad_headers() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    const HUGE: u64 = 1 << 60;
    let pair = |kind, value: Vec<u8>| file().pair("k", kind, value).bytes();
    let dims = |dims: &[u64]| file().entry("x", dims, 0, 0).bytes();
    let alignment = |kind, value: &[u8]| file().pair("general.alignment", kind, value).bytes();
    let mut nested = list(kind::U8, 0, &[]);
    for _ in 0..100_000 {
        nested = list(kind::LIST, 1, &nested[..nested.len().min(1 << 12)]);
    }
    vec![
        ("nothing", vec![], "magic"),
        (
            "not GGUF",
            b"\x80\x02}q\x00.pickle........".to_vec(),
            "no GGUF file: it begins with \"\\x80\\x02}q\"",
        ),
        ("version 1", file().edit(|b| b.version = 1).bytes(), "version 1;"),
        ("version 4", file().edit(|b| b.version = 4).bytes(), "version 4;"),
        ("big-endian", file().edit(|b| b.version = 3_u32.swap_bytes()).bytes(), "big-endian"),
        ("tensors beyond the file", file().edit(|b| b.tensor_count = Some(u64::MAX)).bytes(), "tensors: "),
        (
            "pairs beyond the file",
            file().edit(|b| b.pair_count = Some(u64::MAX - 1)).bytes(),
            "metadata pairs: ",
        ),
        ("a tensor too many", file().edit(|b| b.tensor_count = Some(3)).bytes(), "a tensor's name"),
        (
            "key of 2^60 bytes",
            [&file().edit(|b| b.pair_count = Some(2)).bytes()[..24], &HUGE.to_le_bytes(), &[0; 64]].concat(),
            "a metadata key: 1152921504606846976 bytes",
        ),
        ("empty key", file().pair("", kind::U8, [1]).bytes(), "a metadata key is empty"),
        ("key of 70000 bytes", file().pair("k".repeat(70_000), kind::U8, [1]).bytes(), "has 70000 bytes"),
        ("key twice", file().pair("a.key", kind::U8, [1]).bytes(), "the key `a.key` occurs twice"),
        (
            "key not UTF-8",
            file().pair(b"\xff\xfe", kind::U8, [1]).bytes(),
            "a metadata key: a string that is not UTF-8",
        ),
        ("string of 2^60 bytes", pair(kind::STR, HUGE.to_le_bytes().into()), "k: 1152921504606846976 bytes"),
        (
            "string of 2^64-1 bytes",
            pair(kind::STR, u64::MAX.to_le_bytes().into()),
            "k: 18446744073709551615 bytes",
        ),
        ("string not UTF-8", pair(kind::STR, string(b"a\xc3")), "k: a string that is not UTF-8"),
        (
            "item not UTF-8",
            pair(kind::LIST, list(kind::STR, 1, &string(b"\xff"))),
            "k: a string that is not UTF-8",
        ),
        ("2^60 strings", pair(kind::LIST, list(kind::STR, HUGE, &[])), "k: 9223372036854775808 bytes"),
        ("2^62 doubles", pair(kind::LIST, list(kind::F64, 1 << 62, &[])), "k: 18446744073709551615 bytes"),
        ("2^60 bytes", pair(kind::LIST, list(kind::U8, HUGE, &[])), "k: 1152921504606846976 bytes"),
        ("2^60 arrays", pair(kind::LIST, list(kind::LIST, HUGE, &[])), "`k` is an array of arrays"),
        ("arrays in arrays", pair(kind::LIST, nested), "`k` is an array of arrays"),
        ("unknown value type", pair(13, vec![0; 8]), "`k` has the unknown value type 13"),
        (
            "unknown item type",
            pair(kind::LIST, list(99, 1, &[0; 8])),
            "`k` is an array of the unknown value type 99",
        ),
        ("boolean 2", pair(kind::BOOL, vec![2]), "`k` holds the boolean 2"),
        ("boolean 9 in a list", pair(kind::LIST, list(kind::BOOL, 2, &[1, 9])), "`k` holds the boolean 9"),
        (
            "alignment 0",
            alignment(kind::U32, &0_u32.to_le_bytes()),
            "`general.alignment`: found 0, wanted a power of two",
        ),
        ("alignment 24", alignment(kind::U32, &24_u32.to_le_bytes()), "found 24, wanted a power of two"),
        (
            "alignment 2^32",
            alignment(kind::U64, &(1_u64 << 32).to_le_bytes()),
            "found 4294967296, wanted an integer from 0",
        ),
        (
            "alignment -32",
            alignment(kind::I32, &(-32_i32).to_le_bytes()),
            "found -32, wanted an integer from 0",
        ),
        ("alignment \"32\"", alignment(kind::STR, &string("32")), "found \"32\", wanted an integer"),
        ("alignment 32.0", alignment(kind::F32, &32_f32.to_le_bytes()), "found 32.0, wanted an integer"),
        (
            "alignment 2^31",
            alignment(kind::U32, &(1_u32 << 31).to_le_bytes()),
            "tensor `u`: its offset 256 is not a multiple",
        ),
        (
            "no data after the padding",
            file().edit(|b| b.tensors.truncate(1)).u32("general.alignment", 1 << 31).bytes(),
            "tensor `t`: 256 bytes at offset 0",
        ),
        (
            "offsets of another alignment",
            alignment(kind::U32, &512_u32.to_le_bytes()),
            "tensor `u`: its offset 256 is not a multiple",
        ),
        ("no dimensions", dims(&[]), "tensor `x`: 0 dimensions"),
        ("five dimensions", dims(&[1; 5]), "tensor `x`: 5 dimensions"),
        ("a million dimensions", dims(&vec![1; 1_000_000]), "tensor `x`: 1000000 dimensions"),
        ("dimension 0", dims(&[32, 0]), "tensor `x`: a dimension of 0"),
        ("dimension 2^42+1", dims(&[(1 << 42) + 1, 1 << 22]), "tensor `x`: a dimension of 4398046511105"),
        ("dimension -1", dims(&[u64::MAX]), "tensor `x`: a dimension of 18446744073709551615"),
        ("product wraps to 0", dims(&[1 << 30, 1 << 30, 1 << 4]), "tensor `x`: too many values"),
        ("product wraps to 4", dims(&[(1 << 30) + 1, 1 << 30, 1 << 30, 4]), "tensor `x`: too many values"),
        ("bytes wrap", dims(&[1 << 30, 1 << 30, 8]), "tensor `x`: too many values"),
        ("values beyond the file", dims(&[1 << 30]), "tensor `x`: 4294967296 bytes at offset 0"),
        (
            "unknown element type",
            file().entry("x", &[32], 4, 0).bytes(),
            "tensor `x`: the unknown element type 4",
        ),
        (
            "element type -1",
            file().entry("x", &[32], u32::MAX, 0).bytes(),
            "the unknown element type 4294967295",
        ),
        (
            "a row of 48",
            file().entry("x", &[48, 2], 2, 0).bytes(),
            "tensor `x`: rows of 48 values, which Q4_0 cannot divide into blocks of 32",
        ),
        (
            "a row of 128",
            file().entry("x", &[128, 2], 12, 0).bytes(),
            "which Q4_K cannot divide into blocks of 256",
        ),
        (
            "misaligned",
            file().entry("x", &[1], 0, 33).bytes(),
            "tensor `x`: its offset 33 is not a multiple of the alignment 32",
        ),
        (
            "past the end",
            file().entry("x", &[8], 0, 1 << 20).bytes(),
            "tensor `x`: 32 bytes at offset 1048576",
        ),
        (
            "offset wraps",
            file().entry("x", &[8], 0, u64::MAX - 31).bytes(),
            "tensor `x`: 32 bytes at offset 18446744073709551584",
        ),
        ("the same bytes", file().entry("x", &[8], 0, 256).bytes(), "overlaps `"),
        ("inside another", file().entry("x", &[8], 0, 64).bytes(), "tensor `x`: overlaps `t`"),
        ("tensor twice", file().entry("u", &[8], 0, 0).bytes(), "tensor `u`: the name occurs twice"),
        ("tensor without name", file().entry("", &[8], 0, 0).bytes(), "a tensor's name is empty"),
        ("tensor name of 256 bytes", file().entry(&"n".repeat(256), &[8], 0, 0).bytes(), "has 256 bytes"),
    ]
}

#[test]
fn bad_headers_are_errors_and_take_no_memory() {
    for (what, bytes, wanted) in bad_headers() {
        let (result, largest) = memory::largest(|| open(&bytes));
        let message = result.err().unwrap_or_else(|| panic!("{what}: opened")).to_string();
        assert!(message.contains(wanted), "{what}: {message}");
        assert!(message.len() < 1000, "{what}: {message}");
        // A long key is read before it is refused; nothing else is longer than the reader's buffer.
        assert!(largest <= 1 << 17, "{what}: {largest} bytes at once");
    }
}

#[test]
fn every_truncation_is_an_error() {
    let mut bytes = Builder::model("llama").strings("tokenizer.ggml.tokens", &["a", "b"]).bytes();
    // The padding after the last tensor may be missing; it has none here.
    while let Some(_last) = bytes.pop() {
        if bytes.len() < 4096 || bytes.len().is_multiple_of(1009) {
            assert!(open(&bytes).is_err(), "{} bytes", bytes.len());
        }
    }
}

#[test]
fn other_alignments_versions_and_gaps() {
    for alignment in [1, 8, 64, 4096] {
        let b = Builder { alignment, version: 2, ..file() }.u32("general.alignment", alignment as u32);
        assert_eq!(b.open().unwrap().metadata().u32("general.alignment").unwrap(), alignment as u32);
    }
    let spread = file().edit(|b| {
        b.tensors[0].offset = Some(64);
        b.tensors[1].offset = Some(0);
        b.tensors[1].data.resize(96, 0);
    });
    spread.open().unwrap();
}

#[test]
fn paths_that_are_no_files() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().to_path_buf(), folder.path().join("absent.gguf")] {
        let message = mlx_lm_common::gguf::Gguf::open(&path).unwrap_err().to_string();
        assert!(message.contains(path.to_str().unwrap()), "{message}");
    }
}

/// Does everything that can be done with a file, and says whether it opened.
fn use_all(bytes: &[u8]) -> bool {
    let (opened, largest) = memory::largest(|| {
        let Ok(gguf) = open(bytes) else { return false };
        let _ = gguf.config();
        gguf.tensors().unwrap_or_default().iter().for_each(|t| drop(try_read(t)));
        true
    });
    assert!(largest <= 1 << 20, "{largest} bytes at once");
    opened
}

/// A good model of each architecture.
fn models() -> Vec<Vec<u8>> {
    [("llama", 2, 18), ("qwen2", 8, 34), ("qwen3", 7, 24)]
        .into_iter()
        .map(|(architecture, kind, block)| {
            let data: Vec<u8> = (0..64 * 2 * block).map(|i| (i * 7 % 61) as u8).collect();
            let factors: Vec<u8> = (0..8).flat_map(|_| 1_f32.to_le_bytes()).collect();
            tokens(Builder::model(architecture))
                .f32s("tokenizer.ggml.scores", &[0.5; 40])
                .i32s("tokenizer.ggml.token_type", &[1; 40])
                .u32("general.alignment", 32)
                .tensor("blk.0.attn_q.weight", &[64, 64], kind, data)
                .tensor("rope_freqs.weight", &[8], 0, factors)
                .bytes()
        })
        .collect()
}

/// The header of [`models`], and some of the data.
const HEADER: usize = 3000;

#[test]
fn any_number_anywhere_is_survived() {
    let good = models().remove(0);
    assert!(use_all(&good));
    let numbers: [&[u8]; 4] = [&[0], &[0xff; 4], &[0xff; 8], &((1_u64 << 42) + 1).to_le_bytes()];
    let mut opened = 0;
    for at in 0..HEADER {
        for number in numbers {
            let mut bytes = good.clone();
            bytes[at..at + number.len()].copy_from_slice(number);
            opened += usize::from(use_all(&bytes));
        }
    }
    assert!(opened > HEADER, "damage that is always noticed at once tests little: {opened}");
}

#[test]
fn damaged_headers_are_survived() {
    let models = models();
    let (headers, rest): (Vec<&[u8]>, Vec<&[u8]>) = models.iter().map(|m| m.split_at(HEADER)).unzip();
    let tokens: [&[u8]; 4] = [&[0; 8], &[0xff; 8], b"blk.0.attn_q.weight", b"GGUF"];
    let mut round = 0;
    mutate::mutations(&headers, &tokens, 6000, |header| {
        use_all(&[header, rest[round % rest.len()]].concat());
        round += 1;
    });
}
