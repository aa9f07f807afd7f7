//! Which safetensors files and indexes are read, and what is said about those that are not.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod mutate;

use mlx_lm_common::weights::{
    header::{DType, Header, TensorInfo},
    index::{INDEX, Shards, checkpoint_files},
};
use safetensors::{SafeTensors, tensor::TensorView};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

/// A file with this header and so many bytes of data.
fn file(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

fn parse(bytes: &[u8]) -> Result<Header, String> {
    Header::from_reader(bytes, bytes.len() as u64, Path::new("f.safetensors")).map_err(|e| e.to_string())
}

/// A file as the reference implementation writes it.
fn written(tensors: &[(&str, DType, &[usize])]) -> Vec<u8> {
    let data: Vec<Vec<u8>> =
        tensors.iter().map(|(_, t, s)| vec![7; s.iter().product::<usize>() * t.bitsize() / 8]).collect();
    let views = tensors
        .iter()
        .zip(&data)
        .map(|((name, dtype, shape), data)| (*name, TensorView::new(*dtype, shape.to_vec(), data).unwrap()));
    let notes = HashMap::from([("format".to_string(), "mlx".to_string())]);
    safetensors::serialize(views, Some(notes)).unwrap()
}

const ALL: [(&str, DType, &[usize]); 12] = [
    ("a", DType::F32, &[2, 3]),
    ("b", DType::BF16, &[5]),
    ("c", DType::F16, &[]),
    ("d", DType::U32, &[4, 0, 2]),
    ("e.weight", DType::F8_E4M3, &[3, 3]),
    ("f", DType::F8_E5M2, &[1]),
    ("g", DType::F8_E8M0, &[7]),
    ("h", DType::F4, &[4, 2]),
    ("i", DType::BOOL, &[2]),
    ("j", DType::I64, &[1]),
    ("k", DType::F6_E2M3, &[4]),
    ("schön 字", DType::U8, &[1, 1, 1, 1, 1]),
];

#[test]
fn a_good_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let bytes = written(&ALL);
    fs::write(&path, &bytes).unwrap();
    let header = Header::read(&path).unwrap();
    assert_eq!(header.metadata, BTreeMap::from([("format".into(), "mlx".into())]));
    assert_eq!(header.tensors.len(), ALL.len());
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    for (name, dtype, shape) in ALL {
        let info = &header.tensors[name];
        let shape: Vec<i32> = shape.iter().map(|n| *n as i32).collect();
        assert_eq!((info.dtype, &info.shape), (dtype, &shape), "{name}");
        let data = &bytes[info.offset as usize..(info.offset + info.len) as usize];
        let wanted = reference.tensor(name).unwrap();
        assert_eq!((data.as_ptr(), data.len()), (wanted.data().as_ptr(), wanted.data().len()), "{name}");
    }
}

#[test]
fn an_empty_file_of_tensors() {
    assert_eq!(parse(&file("{}", 0)).unwrap(), Header::default());
    let padded =
        parse(&file(r#"{"__metadata__":null,"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}   "#, 1))
            .unwrap();
    assert_eq!(padded.tensors["a"], TensorInfo { dtype: DType::U8, shape: vec![1], offset: 84, len: 1 });
}

/// A header of one tensor `a`.
fn one(dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
}

#[test]
fn bad_headers() {
    let two = |b: &str| format!(r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}},{b}}}"#);
    let long = format!(r#"{{"{}":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}}}"#, "n".repeat(2000));
    let deep = format!(r#"{{"a":{}"#, "[".repeat(100_000));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "has 0 bytes, too few"),
        ("short", vec![1; 7], "has 7 bytes, too few"),
        ("length alone", 2u64.to_le_bytes().to_vec(), "ends within its header of 2 bytes: the file has 8"),
        (
            "huge length",
            u64::MAX.to_le_bytes().to_vec(),
            "no safetensors file: its header would have 18446744073709551615",
        ),
        ("over the limit", 100_000_001u64.to_le_bytes().to_vec(), "of at most 100000000"),
        ("text", b"<!DOCTYPE html>".to_vec(), "no safetensors file"),
        ("pointer", b"version https://example.org/spec/v1\noid sha256:0".to_vec(), "Git LFS pointer"),
        ("not UTF-8", [&2u64.to_le_bytes()[..], b"\xff\xfe"].concat(), "line 1 column 1"),
        ("not JSON", file("{]", 0), "key must be a string at line 1 column 2"),
        ("no object", file("[]", 0), "expected an object of tensors"),
        ("two values", file("{}{}", 0), "trailing characters"),
        ("deep", file(&deep, 0), "tensor `a`: expected value"),
        ("no tensor", file(r#"{"a":1}"#, 0), "tensor `a`: invalid type: integer `1`"),
        (
            "no dtype",
            file(r#"{"a":{"shape":[],"data_offsets":[0,1]}}"#, 1),
            "tensor `a`: missing field `dtype`",
        ),
        (
            "no offsets",
            file(r#"{"a":{"dtype":"U8","shape":[]}}"#, 1),
            "tensor `a`: missing field `data_offsets`",
        ),
        (
            "more keys",
            file(r#"{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1],"x":1}}"#, 1),
            "unknown field `x`",
        ),
        (
            "unknown dtype",
            file(&one("F128", "[1]", "[0,16]"), 16),
            "tensor `a`: unknown variant `F128`, expected one of `BOOL`",
        ),
        ("negative axis", file(&one("U8", "[-1]", "[0,1]"), 1), "tensor `a`: invalid value: integer `-1`"),
        ("fraction", file(&one("U8", "[1.5]", "[0,1]"), 1), "tensor `a`: invalid type: floating point `1.5`"),
        (
            "large axis",
            file(&one("U8", "[2147483648,0]", "[0,0]"), 0),
            "axis of 2147483648 is larger than MLX's",
        ),
        ("many axes", file(&one("U8", &format!("{:?}", [1; 33]), "[0,1]"), 1), "has 33 axes, of at most 32"),
        (
            "product overflows",
            file(&one("F64", "[2147483647,2147483647,2147483647]", "[0,8]"), 8),
            "tensor `a`: shape [2147483647, 2147483647, 2147483647] has too many elements",
        ),
        ("half a byte", file(&one("F4", "[3]", "[0,1]"), 1), "shape [3] of F4 is no whole number of bytes"),
        (
            "too few bytes",
            file(&one("F32", "[2]", "[0,4]"), 4),
            "shape [2] of F32 has 8 bytes, but its data has 4",
        ),
        ("backwards", file(&one("U8", "[4]", "[4,0]"), 4), "ends at 0, before it begins at 4"),
        ("negative offset", file(&one("U8", "[4]", "[-4,0]"), 4), "tensor `a`: invalid value: integer `-4`"),
        (
            "far away",
            file(&one("U8", "[1]", "[18446744073709551614,18446744073709551615]"), 1),
            "its data would begin at 18446744073709551614",
        ),
        ("three offsets", file(&one("U8", "[1]", "[0,1,2]"), 1), "tensor `a`: "),
        (
            "truncated data",
            file(&one("U8", "[4]", "[0,4]"), 3),
            "tensor `a` ends at byte 65, but the file has 64. Download",
        ),
        ("data left over", file(&one("U8", "[4]", "[0,4]"), 6), "2 bytes after `a` belong to no tensor"),
        ("data without tensors", file("{}", 3), "3 bytes after `the header` belong to no tensor"),
        (
            "hole at the start",
            file(&one("U8", "[4]", "[2,6]"), 6),
            "bytes 61 to 63 between `the header` and `a`",
        ),
        (
            "hole",
            file(&two(r#""b":{"dtype":"U8","shape":[1],"data_offsets":[5,6]}"#), 6),
            "bytes 117 to 118 between `a` and `b` belong to no tensor",
        ),
        (
            "overlap",
            file(&two(r#""b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}"#), 6),
            "tensor `b` overlaps `a`: it begins at byte 115, before byte 117",
        ),
        (
            "twice the same range",
            file(&two(r#""b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#), 4),
            "tensor `b` overlaps `a`",
        ),
        (
            "twice",
            file(&two(r#""a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}"#), 8),
            "tensor `a` is there twice",
        ),
        (
            "no name",
            file(&two(r#""":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}"#), 8),
            r#""" cannot be the name"#,
        ),
        (
            "NUL",
            file(&two(r#""b\u0000":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}"#), 8),
            r#""b\0" cannot be the name"#,
        ),
        (
            "escape",
            file(&two(r#""\u001b[2J":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}"#), 8),
            r#""\u{1b}[2J" cannot"#,
        ),
        ("long name", file(&long, 4), "nnnn\" cannot be the name of a tensor"),
        (
            "metadata of numbers",
            file(r#"{"__metadata__":{"a":1}}"#, 0),
            "invalid type: integer `1`, expected a string",
        ),
        ("metadata as a list", file(r#"{"__metadata__":[]}"#, 0), "invalid type: sequence"),
        (
            "metadata twice",
            file(r#"{"__metadata__":{},"__metadata__":{}}"#, 0),
            "`__metadata__` is there twice",
        ),
    ];
    for (name, bytes, wanted) in cases {
        let error = parse(&bytes).expect_err(name);
        assert!(error.starts_with("f.safetensors: ") && error.contains(wanted), "{name}: {error}");
        assert!(error.len() < 1000 && !error.contains('\0'), "{name}: {error}");
    }
}

#[test]
fn what_is_no_file() {
    let folder = tempfile::tempdir().unwrap();
    assert!(Header::read(folder.path()).unwrap_err().to_string().ends_with("is not a file"));
    let missing = Header::read(&folder.path().join("model.safetensors")).unwrap_err().to_string();
    assert!(missing.contains("model.safetensors: ") && missing.contains("No such file"), "{missing}");
}

/// Whatever is accepted here must mean the same to the reference implementation, and the other way round except for what this
/// reader refuses on purpose.
#[test]
fn damaged_headers_never_panic_and_agree_with_the_reference() {
    let good = [written(&ALL), written(&ALL[..2]), file(&one("U8", "[4]", "[0,4]"), 4)];
    let seeds: Vec<&[u8]> = good.iter().map(Vec::as_slice).collect();
    let tokens: [&[u8]; 12] = [
        b"\"",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b"-1",
        b"18446744073709551615",
        b"__metadata__",
        b"F32",
        b"null",
        b"\\u0000",
    ];
    let (mut accepted, mut refused) = (0, 0);
    mutate::mutations(&seeds, &tokens, 8_000, |bytes| {
        match (parse(bytes), SafeTensors::read_metadata(bytes)) {
            (Ok(ours), Ok((_, theirs))) => {
                accepted += 1;
                assert_eq!(ours.tensors.len(), theirs.tensors().len());
                for (name, info) in theirs.tensors() {
                    let start = bytes.len() - theirs.data_len() + info.data_offsets.0;
                    assert_eq!(ours.tensors[&name].offset as usize, start);
                    assert_eq!(ours.tensors[&name].dtype, info.dtype);
                }
            }
            (Ok(_), Err(e)) => panic!("the reference refuses what we accept: {e}"),
            (Err(_), _) => refused += 1,
        }
    });
    assert!(accepted > 100 && refused > 100, "{accepted} accepted, {refused} refused");
}

/// Names and contents.
type Files<'a> = &'a [(&'a str, &'a str)];

/// A folder with these files; those whose name ends in `.safetensors` hold one tensor each, named in the text.
fn folder(files: Files) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let tensors: Vec<(&str, DType, &[usize])> =
            text.split(' ').map(|t| (t, DType::U8, &[2][..])).collect();
        let bytes = if name.ends_with(".safetensors") { written(&tensors) } else { text.as_bytes().to_vec() };
        fs::write(path, bytes).unwrap();
    }
    dir
}

fn names(files: &[PathBuf]) -> Vec<&str> {
    files.iter().map(|f| f.file_name().unwrap().to_str().unwrap()).collect()
}

fn map(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(tensor, file)| format!("{tensor:?}: {file:?}")).collect();
    format!(r#"{{"metadata": {{"total_size": 4}}, "weight_map": {{{}}}}}"#, pairs.join(", "))
}

#[test]
fn which_files_are_read() {
    let index = map(&[("y", "b.safetensors"), ("x", "a.safetensors"), ("z", "b.safetensors")]);
    let cases: &[(&str, Files, &[&str])] = &[
        (
            "the index alone counts",
            &[
                ("a.safetensors", "x"),
                ("b.safetensors", "y z"),
                ("model.safetensors", "x"),
                ("adapters.safetensors", "l"),
                (INDEX, &index),
            ],
            &["a.safetensors", "b.safetensors"],
        ),
        (
            "one file",
            &[("model.safetensors", "x"), ("model-extra.safetensors", "y"), ("z.safetensors", "z")],
            &["model.safetensors"],
        ),
        (
            "shards without an index",
            &[
                ("model-00002-of-00002.safetensors", "x"),
                ("model-00001-of-00002.safetensors", "y"),
                ("tokenizer.safetensors", "z"),
            ],
            &["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (
            "other names",
            &[
                ("weights.01.safetensors", "y"),
                ("weights.00.safetensors", "x"),
                ("adapters.safetensors", "l"),
                ("adapter_model.safetensors", "l"),
                ("consolidated.safetensors", "x"),
                ("._weights.safetensors", "x"),
                ("pytorch_model.bin", "x"),
            ],
            &["weights.00.safetensors", "weights.01.safetensors"],
        ),
    ];
    for (what, files, wanted) in cases {
        let dir = folder(files);
        assert_eq!(names(&checkpoint_files(dir.path()).expect(what)), *wanted, "{what}");
        assert_eq!(Shards::find(dir.path()).unwrap().headers().expect(what).len(), wanted.len(), "{what}");
    }
    let sub = folder(&[("unet/model.safetensors", "x"), (INDEX, &map(&[("x", "unet/model.safetensors")]))]);
    assert_eq!(checkpoint_files(sub.path()).unwrap(), [sub.path().join("unet/model.safetensors")]);
}

#[test]
fn bad_indexes() {
    let dir = folder(&[("a.safetensors", "x"), ("b.safetensors", "y")]);
    fs::create_dir(dir.path().join("d.safetensors")).unwrap();
    let cases: &[(&str, &str, &str)] = &[
        ("empty", "", "is no index of tensors: EOF"),
        ("no object", "[1]", "is no index of tensors"),
        ("no map", "{}", "missing field `weight_map`"),
        ("no names", r#"{"weight_map": {"x": 1}}"#, "invalid type: integer `1`, expected a string"),
        ("no tensors", r#"{"weight_map": {}}"#, "names no tensor"),
        (
            "itself",
            &map(&[("x", INDEX)]),
            "maps tensor `x` to \"model.safetensors.index.json\", which is no safetensors file",
        ),
        ("a pickle", &map(&[("x", "pytorch_model.bin")]), "which is no safetensors file"),
        ("nothing", &map(&[("x", "")]), "which is no safetensors file"),
        (
            "absolute",
            &map(&[("x", "/etc/a.safetensors")]),
            "maps tensor `x` to \"/etc/a.safetensors\", which leads out",
        ),
        ("parent", &map(&[("x", "../a.safetensors")]), "which leads out of the folder"),
        ("parent within", &map(&[("x", "b/../../a.safetensors")]), "which leads out of the folder"),
        ("dot", &map(&[("x", "./a.safetensors")]), "which leads out of the folder"),
        ("backslash", &map(&[("x", "..\\a.safetensors")]), "which is no portable file name"),
        ("NUL", r#"{"weight_map": {"x": "a\u0000.safetensors"}}"#, "which is no portable file name"),
        (
            "missing",
            &map(&[
                ("x", "a.safetensors"),
                ("y", "m2.safetensors"),
                ("z", "m1.safetensors"),
                ("w", "m2.safetensors"),
            ]),
            "names 3 files, of which 2 are missing: m1.safetensors, m2.safetensors. Download them",
        ),
        ("a folder", &map(&[("x", "d.safetensors")]), "of which 1 are missing: d.safetensors"),
        ("missing folder", &map(&[("x", "no/a.safetensors")]), "of which 1 are missing: no/a.safetensors"),
    ];
    for (what, index, wanted) in cases {
        fs::write(dir.path().join(INDEX), index).unwrap();
        let error = checkpoint_files(dir.path()).expect_err(what).to_string();
        assert!(error.contains(INDEX) && error.contains(wanted), "{what}: {error}");
    }
    fs::write(dir.path().join(INDEX), map(&[("x", "a.safetensors"), ("z", "b.safetensors")])).unwrap();
    let error = Shards::find(dir.path()).unwrap().headers().unwrap_err().to_string();
    assert!(
        error.contains("maps tensor `z` to ") && error.ends_with("b.safetensors, which does not have it"),
        "{error}"
    );
}

#[test]
fn folders_without_a_checkpoint() {
    let dir = folder(&[("adapters.safetensors", "l"), ("pytorch_model.bin", "")]);
    assert!(
        checkpoint_files(dir.path())
            .unwrap_err()
            .to_string()
            .ends_with("holds no safetensors file, but a checkpoint must have one")
    );
    assert!(checkpoint_files(&dir.path().join("nowhere")).unwrap_err().to_string().contains("No such file"));
}

#[test]
fn a_tensor_in_two_files() {
    let files = [("a.safetensors", "x y"), ("b.safetensors", "y z")];
    let dir = folder(&files);
    let error = Shards::find(dir.path()).unwrap().headers().unwrap_err().to_string();
    assert!(error.contains("b.safetensors: holds tensor `y`, which is also in "), "{error}");

    let index = map(&[("x", "a.safetensors"), ("y", "b.safetensors"), ("z", "b.safetensors")]);
    fs::write(dir.path().join(INDEX), index).unwrap();
    let headers = Shards::find(dir.path()).unwrap().headers().unwrap();
    let found: Vec<Vec<&str>> =
        headers.iter().map(|(_, h)| h.tensors.keys().map(String::as_str).collect()).collect();
    assert_eq!(found, [vec!["x"], vec!["y", "z"]]);
}

#[cfg(unix)]
#[test]
fn links() {
    use std::os::unix::fs::symlink;
    let blobs = folder(&[("1.safetensors", "x"), ("2.safetensors", "y"), ("i", "")]);
    fs::write(blobs.path().join("i"), map(&[("x", "a.safetensors"), ("y", "b.safetensors")])).unwrap();
    let snapshot = tempfile::tempdir().unwrap();
    for (blob, name) in [("1.safetensors", "a.safetensors"), ("2.safetensors", "b.safetensors"), ("i", INDEX)]
    {
        symlink(blobs.path().join(blob), snapshot.path().join(name)).unwrap();
    }
    assert_eq!(names(&checkpoint_files(snapshot.path()).unwrap()), ["a.safetensors", "b.safetensors"]);
    assert_eq!(Shards::find(snapshot.path()).unwrap().headers().unwrap().len(), 2);

    let trick = folder(&[(INDEX, &map(&[("x", "out/1.safetensors")]))]);
    symlink(blobs.path(), trick.path().join("out")).unwrap();
    assert!(
        checkpoint_files(trick.path()).unwrap_err().to_string().contains("which leads out of the folder")
    );

    let dangling = folder(&[]);
    symlink("nowhere", dangling.path().join(INDEX)).unwrap();
    assert!(checkpoint_files(dangling.path()).unwrap_err().to_string().contains("No such file"));
}

#[test]
fn damaged_indexes_never_panic() {
    let dir = folder(&[("a.safetensors", "x"), ("sub/b.safetensors", "y")]);
    let good = map(&[("x", "a.safetensors"), ("y", "sub/b.safetensors")]);
    let tokens: [&[u8]; 8] = [b"../", b"/", b"\"", b"{", b"}", b"\\u0000", b"a.safetensors", b"null"];
    let (mut accepted, mut refused) = (0, 0);
    mutate::mutations(&[good.as_bytes()], &tokens, 1_500, |bytes| {
        fs::write(dir.path().join(INDEX), bytes).unwrap();
        match checkpoint_files(dir.path()) {
            Ok(files) => {
                accepted += 1;
                assert!(files.iter().all(|f| f.starts_with(dir.path()) && f.is_file()));
            }
            Err(_) => refused += 1,
        }
    });
    assert!(accepted > 20 && refused > 20, "{accepted} accepted, {refused} refused");
}
