#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::{
    raw,
    weights::{container::open_file, index::Shards},
};
use mlx_rs::Dtype;

fn array(n: i32) -> Array {
    raw::init();
    Array::from_slice(&(0..n).map(|i| i as f32).collect::<Vec<_>>(), &[n])
}

/// Everything that is in a folder, hidden or not.
fn listed(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn message<T>(result: Result<T>) -> String {
    result.err().expect("an error").to_string()
}

#[test]
fn tensors_come_back_from_one_file_or_several() {
    for (shard_bytes, wanted) in [(5 << 30, 1), (100, 2), (30, 3), (1, 4)] {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a/model");
        let mut writer =
            FolderWriter::create(&target, WriteOptions { shard_bytes, ..Default::default() }).unwrap();
        let scalar = Array::from_int(7);
        let strided = array(6).reshape(&[2, 3]).unwrap().swap_axes(0, 1).unwrap();
        let half = array(5).as_dtype(Dtype::Bfloat16).unwrap();
        writer.tensor("x", &array(16)).unwrap();
        writer.tensor("scalar", &scalar).unwrap();
        writer.tensor("strided", &strided).unwrap();
        writer.tensor("half", &half).unwrap();
        writer.file("config.json", b"{}").unwrap();
        let written = writer.finish(Map::from_iter([("more".into(), json!(1))])).unwrap();
        assert_eq!(written, Written { shards: wanted, bytes: 64 + 4 + 24 + 10 });
        let index: Value = serde_json::from_slice(&fs::read(target.join(INDEX)).unwrap()).unwrap();
        assert_eq!(index["metadata"], json!({ "total_size": 102, "more": 1 }));
        let shards = Shards::find(&target).unwrap();
        assert_eq!(shards.files.len(), wanted);
        let mut found = BTreeMap::new();
        for file in &shards.files {
            let (tensors, metadata) = open_file(file).unwrap();
            assert_eq!(metadata, BTreeMap::from([("format".to_string(), "mlx".to_string())]));
            found.extend(tensors);
        }
        let arena = raw::Arena::new(0);
        for (name, array) in [("x", array(16)), ("scalar", scalar), ("strided", strided), ("half", half)] {
            let read = found[name].load(&arena, None).unwrap();
            assert_eq!((read.shape(), read.dtype()), (array.shape(), array.dtype()), "{name}");
            let equal = read.eq(&array).unwrap().all(None).unwrap();
            assert!(equal.item_exact::<bool>(), "{name}");
        }
        assert_eq!(listed(&dir.path().join("a")), ["model"]);
    }
}

#[test]
fn files_larger_than_what_is_held_have_room_for_a_header() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let mut shard = Shard::create(path.clone(), &BTreeMap::new()).unwrap();
    let large = array((40 << 20) / 4);
    for name in ["a", "b"] {
        shard.tensor(name, &large).unwrap();
    }
    shard.tensor("c", &array(3)).unwrap();
    shard.finish().unwrap();
    let (tensors, _) = open_file(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), (80 << 20) + 12 + (1 << 20));
    let read = tensors["b"].load(&raw::Arena::new(0), None).unwrap();
    assert!(read.eq(&large).unwrap().all(None).unwrap().item_exact::<bool>());
    let read = tensors["c"].load(&raw::Arena::new(0), None).unwrap();
    assert_eq!(read.as_slice::<f32>(), [0.0, 1.0, 2.0]);
}

#[test]
fn nothing_is_left_of_what_was_not_finished() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("model");
    let mut writer = FolderWriter::create(&target, WriteOptions::default()).unwrap();
    writer.tensor("x", &array(4)).unwrap();
    writer.file("config.json", b"{}").unwrap();
    // Before it is finished, nothing that is there loads.
    let partial = dir.path().join(&listed(dir.path())[0]);
    assert!(!partial.join("config.json").exists());
    assert!(Shards::find(&partial).is_err());
    drop(writer);
    assert!(listed(dir.path()).is_empty());
}

#[test]
fn what_a_killed_program_left_goes_and_what_another_writes_stays() {
    let dir = tempfile::tempdir().unwrap();
    let killed = dir.path().join(".model.partial-1-0");
    fs::create_dir(&killed).unwrap();
    fs::write(killed.join(LOCK), b"").unwrap();
    let other = dir.path().join(".model.partial-notes");
    fs::create_dir(&other).unwrap();
    let target = dir.path().join("model");
    let first = FolderWriter::create(&target, WriteOptions::default()).unwrap();
    assert!(!killed.exists() && other.exists());
    let second = FolderWriter::create(&target, WriteOptions::default()).unwrap();
    assert!(first.partial.exists() && first.partial != second.partial);
}

#[test]
fn what_exists_is_never_touched() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("model");
    let mut writer = FolderWriter::create(&target, WriteOptions::default()).unwrap();
    writer.tensor("x", &array(4)).unwrap();
    writer.file("config.json", b"{}").unwrap();
    fs::write(&target, "mine").unwrap();
    assert!(message(writer.finish(Map::new())).contains("exists already"));
    assert!(message(FolderWriter::create(&target, WriteOptions::default())).contains("exists already"));
    assert_eq!(fs::read_to_string(&target).unwrap(), "mine");
    assert_eq!(listed(dir.path()), ["model"]);
}

#[test]
fn an_empty_folder_gives_way() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("model");
    fs::create_dir(&target).unwrap();
    let mut writer = FolderWriter::create(&target, WriteOptions::default()).unwrap();
    writer.tensor("x", &array(4)).unwrap();
    writer.file("config.json", b"{}").unwrap();
    writer.finish(Map::new()).unwrap();
    assert!(target.join("config.json").is_file());
}

#[test]
fn names_stay_in_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = FolderWriter::create(&dir.path().join("model"), WriteOptions::default()).unwrap();
    for name in ["../x", "/x", "", "a/../../x", "..\\x", "c:x", "model.safetensors", INDEX, "a\nb"] {
        assert!(message(writer.file(name, b"")).contains("is no name for a file"), "{name}");
    }
    writer.file("templates/x.jinja", b"").unwrap();
    for name in ["", "__metadata__", "a\nb"] {
        assert!(message(writer.tensor(name, &array(1))).contains("is no name for a tensor"), "{name}");
    }
    writer.tensor("../x", &array(1)).unwrap();
    assert!(message(writer.tensor("../x", &array(1))).contains("would be written twice"));
    assert!(
        message(FolderWriter::create(&dir.path().join(".."), WriteOptions::default())).contains("exists")
    );
    assert!(message(writer.finish(Map::new())).contains("no config.json"));
    assert!(listed(dir.path()).is_empty());
}

#[test]
fn floats_that_are_not_finite_are_written_as_mlx_lm_writes_them() {
    let text = r#"{"a": [0.0, Infinity, -Infinity], "b": {"c": NaN}, "d": "Infinity"}"#;
    let value = crate::config::json::parse(text.as_bytes()).unwrap();
    let written = indented(&value).unwrap();
    let tag = |word: &str| json!({ "__float__": word });
    let tagged =
        json!({ "a": [0.0, tag("Infinity"), tag("-Infinity")], "b": { "c": tag("NaN") }, "d": "Infinity" });
    assert_eq!(serde_json::from_slice::<Value>(&written).unwrap(), tagged);
    assert_eq!(crate::config::json::parse(&written).unwrap(), value);
}

#[test]
fn a_single_file_may_be_numbered() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("model");
    let options = WriteOptions { is_numbered: true, ..Default::default() };
    let mut writer = FolderWriter::create(&target, options).unwrap();
    writer.tensor("x", &array(4)).unwrap();
    writer.file("config.json", b"{}").unwrap();
    writer.finish(Map::new()).unwrap();
    assert!(target.join("model-00001-of-00001.safetensors").exists());
}
