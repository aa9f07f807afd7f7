//! Models in several GGUF files: any part opens all, and what does not belong together is refused.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/gguf.rs"]
mod builder;

use builder::{Builder, kind};
use mlx_lm_common::gguf::Gguf;
use std::{fs, path::PathBuf};
use tempfile::TempDir;

/// Part `number` of `count`, counted from zero: the first has the metadata of a model and most tensors, the others one tensor each.
fn part(number: u16, count: u16) -> Builder {
    let builder = match number {
        0 => Builder::model("qwen2"),
        _ => Builder::new().zeros(&format!("part.{number}"), &[32]),
    };
    builder
        .pair("split.no", kind::U16, number.to_le_bytes())
        .pair("split.count", kind::U16, count.to_le_bytes())
        .pair("split.tensors.count", kind::I32, (20 + i32::from(count) - 1).to_le_bytes())
}

/// A folder with these files, and where they are.
fn folder(files: &[(&str, Builder)]) -> (TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let write = |(name, builder): &(&str, Builder)| {
        let path = folder.path().join(name);
        fs::write(&path, builder.bytes()).unwrap();
        path
    };
    let paths = files.iter().map(write).collect();
    (folder, paths)
}

fn three() -> [(&'static str, Builder); 3] {
    [
        ("m-00001-of-00003.gguf", part(0, 3)),
        ("m-00002-of-00003.gguf", part(1, 3)),
        ("m-00003-of-00003.gguf", part(2, 3)),
    ]
}

#[test]
fn any_part_opens_all() {
    let (_folder, paths) = folder(&three());
    for path in &paths {
        let gguf = Gguf::open(path).unwrap();
        assert_eq!(gguf.path(), paths[0]);
        assert_eq!(gguf.metadata().str("general.architecture").unwrap(), "qwen2");
        let names: Vec<String> = gguf.tensors().unwrap().iter().map(|t| t.name().to_string()).collect();
        assert_eq!(names.len(), 22);
        assert_eq!(names[20..], ["part.1", "part.2"]);
    }
}

#[test]
fn one_part_of_one_is_a_whole_model_under_any_name() {
    let (_folder, paths) = folder(&[("model.gguf", part(0, 1))]);
    assert_eq!(Gguf::open(&paths[0]).unwrap().tensors().unwrap().len(), 20);
}

/// Which of three files are written, and as what; which one is opened; which one the error is about; what it says.
type Bad = (&'static str, Vec<(&'static str, Builder)>, usize, &'static str, &'static str);

fn bad() -> Vec<Bad> {
    let [first, second, third] = three();
    let with = |name: &'static str, builder: Builder| (name, builder);
    let number = |n: u32, count: u32| part(1, 3).u32("split.no", n).u32("split.count", count);
    vec![
        (
            "the last is missing",
            vec![first.clone(), second.clone()],
            0,
            "m-00003-of-00003.gguf",
            "is missing: part 3 of 3",
        ),
        (
            "the first is missing",
            vec![second.clone(), third.clone()],
            0,
            "m-00001-of-00003.gguf",
            "is missing: part 1 of 3",
        ),
        (
            "of another model",
            vec![
                first.clone(),
                with(second.0, part(1, 3).str("general.architecture", "llama")),
                third.clone(),
            ],
            0,
            second.0,
            "belongs to another model than ",
        ),
        (
            "of a model with more tensors",
            vec![first.clone(), with(second.0, part(1, 3).u32("split.tensors.count", 99)), third.clone()],
            0,
            second.0,
            "`split.tensors.count` differs",
        ),
        (
            "fewer tensors than there should be",
            vec![with("m-00001-of-00001.gguf", part(0, 1)), with(first.0, part(0, 2).u32("split.count", 2))],
            1,
            first.0,
            "its name must end in -00001-of-00002.gguf",
        ),
        (
            "the same tensor twice",
            vec![
                first.clone(),
                second.clone(),
                with(third.0, part(2, 3).edit(|b| b.tensors[0].name = "part.1".into())),
            ],
            0,
            third.0,
            "holds tensor `part.1`, as does ",
        ),
        (
            "a tensor less",
            vec![first.clone(), second.clone(), with(third.0, part(2, 3).edit(|b| b.tensors.clear()))],
            0,
            first.0,
            "the 3 parts hold 21 tensors, but `split.tensors.count` is 22",
        ),
        (
            "in another order",
            vec![first.clone(), with(second.0, part(2, 3)), with(third.0, part(1, 3))],
            0,
            second.0,
            "is not part 2 of 3",
        ),
        (
            "of another count",
            vec![first.clone(), with(second.0, number(1, 4)), third.clone()],
            0,
            second.0,
            "`split.count` differs",
        ),
        (
            "a whole model in place of a part",
            vec![first.clone(), with(second.0, Builder::new().zeros("x", &[32])), third.clone()],
            0,
            second.0,
            "is not part 2 of 3",
        ),
        (
            "a number beyond the count",
            vec![with(second.0, number(3, 3))],
            0,
            second.0,
            "`split.no`: found 3, wanted a number below split.count, which is 3",
        ),
        (
            "no number",
            vec![with(second.0, part(1, 3).without("split.no"))],
            0,
            second.0,
            "`split.no`: found nothing",
        ),
        (
            "a count of four billion",
            vec![with("m.gguf", number(0, u32::MAX))],
            0,
            "m.gguf",
            "its name must end in -00001-of-4294967295.gguf",
        ),
        (
            "a name that tells nothing",
            vec![with("m.gguf", part(1, 3))],
            0,
            "m.gguf",
            "is part 2 of 3; its name must end in -00002-of-00003.gguf for the others to be found",
        ),
    ]
}

#[test]
fn what_does_not_belong_together() {
    for (what, files, opened, about, wanted) in bad() {
        let (folder, paths) = folder(&files);
        let error = Gguf::open(&paths[opened]).err().unwrap_or_else(|| panic!("{what}: opened"));
        let message = error.to_string();
        let about = folder.path().join(about);
        assert!(message.starts_with(&format!("{}: ", about.display())), "{what}: {message}");
        assert!(message.contains(wanted), "{what}: {message}");
        assert!(matches!(error, mlx_lm_common::Error::File { .. }), "{what}: {error:?}");
    }
}
