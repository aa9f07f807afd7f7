//! `cargo xtask models`: the table of supported models, from the registry itself.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use crate::process::{LlmTool, output, workspace};

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
    let text = output(LlmTool::built()?.command("models").arg("--json"))?;
    let models: Vec<Map<String, Value>> =
        serde_json::from_str(&text).context("`llm-tool models --json` did not print a list of objects")?;
    let path = workspace().join(FILE);
    let file = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let wanted = with_table(&file, &table(&models))?;
    if !arguments.check {
        return fs::write(&path, wanted).with_context(|| path.display().to_string());
    }
    if file != wanted {
        bail!("the table of models in {FILE} is out of date: run `cargo xtask models`");
    }
    let tested = model_types(&workspace().join("fixtures"))?;
    let untested: Vec<_> = models
        .iter()
        .filter_map(|m| m.get("model_type")?.as_str())
        .filter(|m| !tested.contains(*m))
        .collect();
    if !untested.is_empty() {
        bail!("there is no fixture for {}: add it to xtask/oracle/tiny_archs.py", untested.join(", "));
    }
    Ok(())
}

/// The text with what is between the markers replaced.
fn with_table(file: &str, table: &str) -> Result<String> {
    let (before, rest) = file.split_once(START).with_context(|| format!("{FILE} has no line `{START}`"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{FILE} has no line `{END}`"))?;
    Ok(format!("{before}{START}\n{table}{END}{after}"))
}

/// A Markdown table with the keys of the first object as headings.
fn table(models: &[Map<String, Value>]) -> String {
    let Some(first) = models.first() else { return String::new() };
    let row = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = row(first.keys().map(|k| k.replace('_', " ")).collect());
    text += &format!("|{}\n", "---|".repeat(first.len()));
    for model in models {
        text += &row(first.keys().map(|k| cell(model.get(k))).collect());
    }
    text
}

fn cell(value: Option<&Value>) -> String {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_string);
    let cell = match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::Array(list)) => list.iter().map(text).collect::<Vec<_>>().join(", "),
        Some(other) => text(other),
    };
    cell.replace('|', "\\|")
}

/// The model types of all fixtures.
fn model_types(fixtures: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(fixtures).with_context(|| fixtures.display().to_string())? {
        let config = entry?.path().join("config.json");
        let Ok(text) = fs::read_to_string(&config) else { continue };
        let config: Value = serde_json::from_str(&text).with_context(|| config.display().to_string())?;
        found.extend(config.get("model_type").and_then(Value::as_str).map(str::to_string));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_table_between_the_markers_changes() {
        let models =
            serde_json::from_str::<Vec<_>>(r#"[{"model_type": "a", "names": ["x|y", "z"]}]"#).unwrap();
        let file = format!("before\n{START}\nold\n{END}\nafter\n");
        let wanted =
            format!("before\n{START}\n| model type | names |\n|---|---|\n| a | x\\|y, z |\n{END}\nafter\n");
        assert_eq!(with_table(&file, &table(&models)).unwrap(), wanted);
        assert!(with_table("no markers", "").is_err());
    }
}
