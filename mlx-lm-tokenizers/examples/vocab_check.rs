//! Compares token ids with llama.cpp's for the vocabularies of a folder: `NAME.gguf` with texts in `NAME.gguf.inp` and their ids in
//! `NAME.gguf.out`, as llama.cpp publishes them; for those without, what llama.cpp made of other texts is in `tests/fixtures/llama_cpp`.
//! Fails if one differs, or has nothing to compare with.
//!
//!     cargo run --release -p mlx-lm-tokenizers --example vocab_check -- FOLDER

#![allow(clippy::print_stdout, clippy::print_stderr)]

use mlx_lm_common::{Error, Tokenizer, gguf::Gguf};
use mlx_lm_tokenizers::AutoTokenizer;
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Texts, and ids by the name of the vocabulary.
const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/llama_cpp");

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
            eprintln!("{folder}: no vocabulary");
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

fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    let mut files: Vec<_> =
        files.into_iter().filter(|path| path.extension().is_some_and(|e| e == "gguf")).collect();
    files.sort();
    Ok(files)
}

/// The texts for a vocabulary, and their ids.
fn expectations(path: &Path) -> (PathBuf, PathBuf) {
    let (texts, ids) = (beside(path, "inp"), beside(path, "out"));
    if ids.is_file() {
        return (texts, ids);
    }
    let recorded = Path::new(RECORDED);
    (recorded.join("texts.inp"), recorded.join(ids.file_name().unwrap_or_default()))
}

fn beside(file: &Path, extension: &str) -> PathBuf {
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
    let read = |path: &Path| fs::read_to_string(path).map_err(|e| Error::io(path, e));
    let (texts_at, ids_at) = expectations(path);
    let (texts, ids) = (read(&texts_at)?, read(&ids_at)?);
    let texts: Vec<&str> = texts.strip_suffix(BETWEEN_TEXTS).unwrap_or(&texts).split(BETWEEN_TEXTS).collect();
    let ids: Vec<&str> = ids.lines().collect();
    row.texts = texts.len();
    if ids.len() != texts.len() {
        return Err(Error::file(ids_at, format!("{} lines for {} texts", ids.len(), texts.len())));
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
