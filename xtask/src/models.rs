//! `cargo xtask models`: the table of supported models, from the registry itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    fixtures::generated,
    marked::Marked,
    process::{LlmTool, Profile, output, workspace},
};

/// The table, as other tasks name theirs.
const TABLE: Marked = Marked { file: "README.md", name: "models", task: "cargo xtask models" };

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
    let fixtures = fixtures(&[workspace().join("fixtures"), generated()?])?;
    let table = table(&types, &fixtures);
    if !arguments.check {
        return TABLE.write(&table);
    }
    TABLE.check(&table)?;
    let untested: Vec<_> = types.into_iter().filter(|t| !fixtures.contains_key(*t)).collect();
    if !untested.is_empty() {
        bail!("there is no fixture for {}: add it to xtask/oracle/archs", untested.join(", "));
    }
    Ok(())
}

/// What the fixtures of a model type say about it.
#[derive(Default)]
struct Tested {
    /// The names under which checkpoints are published.
    architectures: BTreeSet<String>,
    /// The fixtures' names, without the endings of twins.
    names: BTreeSet<String>,
}

/// All fixtures by model type.
fn fixtures(roots: &[PathBuf]) -> Result<BTreeMap<String, Tested>> {
    let mut found = BTreeMap::<_, Tested>::new();
    let mut folders = Vec::new();
    for root in roots {
        let entries = fs::read_dir(root).with_context(|| root.display().to_string())?;
        folders.extend(entries.collect::<Result<Vec<_>, _>>()?);
    }
    for folder in folders {
        let path = folder.path().join("config.json");
        let Ok(text) = fs::read_to_string(&path) else { continue };
        // Published ones hold `Infinity`, which JSON has no word for.
        let config: Value = json5::from_str(&text).with_context(|| path.display().to_string())?;
        let Some(model_type) = config["model_type"].as_str() else { continue };
        let tested = found.entry(model_type.to_string()).or_default();
        let architectures = config["architectures"].as_array().into_iter().flatten();
        tested.architectures.extend(architectures.filter_map(|a| Some(a.as_str()?.to_string())));
        let name = folder.file_name().to_string_lossy().into_owned();
        tested.names.insert(name.split('-').next().unwrap_or_default().into());
    }
    Ok(found)
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
    use super::*;

    #[test]
    fn a_model_without_fixtures_is_in_the_table() {
        let names = ["a", "a_wide"].map(String::from).into();
        let fixtures = BTreeMap::from([("a".into(), Tested { architectures: ["A".into()].into(), names })]);
        let table = table(&["a", "b"], &fixtures);
        let rows = "| `a` | `A` | `a`, `a_wide` |\n| `b` | - | - |\n";
        assert!(table.ends_with(&format!("---|\n{rows}")), "{table}");
    }
}
