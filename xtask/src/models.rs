//! `cargo xtask models`: the table of supported models, from the registry itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::{LlmTool, Profile, output, workspace};

const FILE: &str = "README.md";
const START: &str = "<!-- models: written by `cargo xtask models` -->";
const END: &str = "<!-- end of models -->";

/// Options of `cargo xtask models`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Change nothing; fail if the table is out of date or a model has no fixture
    #[arg(long)]
    pub(crate) check: bool,
}

/// Writes or checks the table.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let text = output(LlmTool::built(Profile::Dev)?.command("models").arg("--json"))?;
    let models: Vec<Value> =
        serde_json::from_str(&text).context("`llm-tool models --json` did not print a list of objects")?;
    let types: Vec<&str> = models.iter().filter_map(|m| m.get("model_type")?.as_str()).collect();
    let fixtures = fixtures(&workspace().join("fixtures"))?;
    let path = workspace().join(FILE);
    let file = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let wanted = with_table(&file, &table(&types, &fixtures))?;
    if !arguments.check {
        return fs::write(&path, wanted).with_context(|| path.display().to_string());
    }
    if file != wanted {
        bail!("the table of models in {FILE} is out of date: run `cargo xtask models`");
    }
    let untested: Vec<_> = types.into_iter().filter(|t| !fixtures.contains_key(*t)).collect();
    if !untested.is_empty() {
        bail!("there is no fixture for {}: add it to xtask/oracle/tiny_archs.py", untested.join(", "));
    }
    Ok(())
}

/// What the fixtures of a model type say about it.
#[derive(Default)]
struct Tested {
    /// The names under which checkpoints are published.
    architectures: BTreeSet<String>,
    /// The fixtures' folders.
    names: BTreeSet<String>,
}

/// All fixtures by model type.
fn fixtures(folder: &Path) -> Result<BTreeMap<String, Tested>> {
    let mut found = BTreeMap::<_, Tested>::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let path = entry.path().join("config.json");
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let config: Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        let Some(model_type) = config["model_type"].as_str() else { continue };
        let tested = found.entry(model_type.to_string()).or_default();
        let architectures = config["architectures"].as_array().into_iter().flatten();
        tested.architectures.extend(architectures.filter_map(|a| Some(a.as_str()?.to_string())));
        tested.names.insert(entry.file_name().to_string_lossy().into_owned());
    }
    Ok(found)
}

/// The text with what is between the markers replaced.
fn with_table(file: &str, table: &str) -> Result<String> {
    let (before, rest) = file.split_once(START).with_context(|| format!("{FILE} has no line `{START}`"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{FILE} has no line `{END}`"))?;
    Ok(format!("{before}{START}\n{table}{END}{after}"))
}

/// A Markdown table with a row for each model type.
fn table(types: &[&str], fixtures: &BTreeMap<String, Tested>) -> String {
    let list =
        |names: &BTreeSet<String>| names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    let mut text =
        "| `model_type` | `architectures` | compared with mlx-lm as |\n|---|---|---|\n".to_string();
    for model_type in types {
        let cells = fixtures.get(*model_type).map(|t| (list(&t.architectures), list(&t.names)));
        let (architectures, names) = cells.unwrap_or_else(|| ("-".into(), "-".into()));
        text += &format!("| `{model_type}` | {architectures} | {names} |\n");
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_table_between_the_markers_changes() {
        let names = ["a", "a-4bit"].map(String::from).into();
        let fixtures = BTreeMap::from([("a".into(), Tested { architectures: ["A".into()].into(), names })]);
        let table = table(&["a", "b"], &fixtures);
        let rows = "| `a` | `A` | `a`, `a-4bit` |\n| `b` | - | - |\n";
        assert!(table.ends_with(&format!("---|\n{rows}")), "{table}");
        let file = format!("before\n{START}\nold\n{END}\nafter\n");
        assert_eq!(with_table(&file, &table).unwrap(), format!("before\n{START}\n{table}{END}\nafter\n"));
        assert!(with_table("no markers", "").is_err());
    }
}
