//! Compares token ids with llama.cpp's for the vocabularies of a folder: `NAME.gguf` with texts in `NAME.gguf.inp` and their ids in
//! `NAME.gguf.out`, as llama.cpp publishes them. Fails if one differs.
//!
//!     cargo run --release -p mlx-lm-tokenizers --example vocab_check -- FOLDER

#![allow(clippy::print_stdout, clippy::print_stderr)]

use mlx_lm_common::{Error, Tokenizer, gguf::Gguf};
use mlx_lm_tokenizers::AutoTokenizer;
use std::{fs, path::Path, process::ExitCode};

const BETWEEN_TEXTS: &str = "\n__ggml_vocab_test__\n";

struct Row {
    file: String,
    kind: String,
    texts: usize,
    equal: usize,
    problem: String,
}

fn main() -> ExitCode {
    let Some(folder) = std::env::args().nth(1) else {
        eprintln!("usage: vocab_check FOLDER");
        return ExitCode::FAILURE;
    };
    let rows = match files(Path::new(&folder)) {
        Ok(files) if !files.is_empty() => files.iter().map(|file| check(file)).collect::<Vec<_>>(),
        Ok(_) => {
            eprintln!("{folder}: no vocabulary with a .inp and a .out file");
            return ExitCode::FAILURE;
        }
        Err(e) => {
            eprintln!("{folder}: {e}");
            return ExitCode::FAILURE;
        }
    };
    println!("{:<34} {:<16} {:>5} {:>5}  difference", "vocabulary", "kind", "texts", "equal");
    for Row { file, kind, texts, equal, problem } in &rows {
        println!("{file:<34} {kind:<16} {texts:>5} {equal:>5}  {problem}");
    }
    let wrong = rows.iter().filter(|row| !row.problem.is_empty()).count();
    println!("{} vocabularies, {wrong} wrong", rows.len());
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn files(folder: &Path) -> std::io::Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "gguf")
            && beside(&path, "inp").is_file()
            && beside(&path, "out").is_file()
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn beside(file: &Path, extension: &str) -> std::path::PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(".");
    path.push(extension);
    path.into()
}

fn check(path: &Path) -> Row {
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut row = Row { file, kind: String::new(), texts: 0, equal: 0, problem: String::new() };
    if let Err(e) = compare(path, &mut row) {
        row.problem = e.to_string();
    }
    row
}

fn compare(path: &Path, row: &mut Row) -> Result<(), Error> {
    let metadata = Gguf::open(path)?.metadata().clone();
    let model = metadata.str("tokenizer.ggml.model")?;
    row.kind =
        if model == "gpt2" { metadata.str("tokenizer.ggml.pre").unwrap_or("default") } else { model }.into();
    let read = |extension| {
        let path = beside(path, extension);
        fs::read_to_string(&path).map_err(|e| Error::io(path, e))
    };
    let (texts, ids) = (read("inp")?, read("out")?);
    let texts: Vec<&str> = texts.strip_suffix(BETWEEN_TEXTS).unwrap_or(&texts).split(BETWEEN_TEXTS).collect();
    let ids: Vec<&str> = ids.lines().collect();
    row.texts = texts.len();
    if ids.len() != texts.len() {
        return Err(Error::file(
            beside(path, "out"),
            format!("{} lines for {} texts", ids.len(), texts.len()),
        ));
    }
    let tokenizer = AutoTokenizer::load(path)?;
    for (text, wanted) in texts.iter().zip(ids) {
        let wanted: Vec<u32> = wanted.split_whitespace().filter_map(|id| id.parse().ok()).collect();
        let found = tokenizer.encode(text, false)?;
        if found == wanted {
            row.equal += 1;
        } else if row.problem.is_empty() {
            row.problem = format!("{text:?}: found {found:?}, wanted {wanted:?}").chars().take(300).collect();
        }
    }
    Ok(())
}
