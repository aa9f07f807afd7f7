//! `cargo xtask ci`: what must hold before a change is merged.

use std::process::Command;

use anyhow::Result;

use crate::{
    models,
    process::{cargo, run as attached},
    test::{self, Counts},
};

/// Formatting, lints, documentation, licences and all tests; the last line counts them.
pub(crate) fn run() -> Result<()> {
    let mut counts = Counts::default();
    counts.check("formatting", || attached(cargo().args(["fmt", "--all", "--check"])));
    counts.check("lints", || {
        attached(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    });
    counts.check("documentation", || {
        attached(cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
    });
    if has_deny() {
        counts.check("licences", || {
            attached(cargo().args(["deny", "--all-features", "check", "bans", "licenses", "sources"]))
        });
    } else {
        println!("\n== licences: not checked (cargo-deny is not installed: cargo install cargo-deny)");
    }
    counts.check("table of supported models", || models::run(&models::Arguments { check: true }));
    test::run_into(&mut counts);
    counts.summary()
}

fn has_deny() -> bool {
    let mut deny: Command = cargo();
    deny.args(["deny", "--version"]).output().is_ok_and(|ran| ran.status.success())
}
