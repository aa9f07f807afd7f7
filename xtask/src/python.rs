//! Python scripts of `oracle/`, with packages of their own: nothing is installed outside the cache folder.

use std::{env, ffi::OsString, path::PathBuf, process::Command};

use anyhow::Result;

use crate::{
    cache,
    process::{output, workspace},
};

/// A set of packages that some scripts need.
#[derive(Debug)]
pub(crate) struct Requirements {
    name: &'static str,
    /// Follows "packages for".
    purpose: &'static str,
    packages: &'static [&'static str],
    /// A set to which `packages` are added, or whose packages they hide.
    over: Option<&'static Requirements>,
}

/// What writes reference values. mlx-lm's quantized experts need MLX 0.32.3 or newer.
pub(crate) const ORACLE: Requirements = Requirements {
    name: "oracle",
    purpose: "mlx-lm as the reference",
    packages: &[
        "mlx[cpu]==0.32.4; sys_platform == 'linux'",
        "mlx==0.32.4; sys_platform == 'darwin'",
        "mlx-lm==0.32.2",
        "gguf==0.19.0",
    ],
    over: None,
};

/// What is measured: mlx-lm on the version of MLX that this workspace uses.
pub(crate) const MEASURED: Requirements = Requirements {
    name: "measured",
    purpose: "mlx-lm as it is measured",
    packages: &[
        "mlx==0.32.2",
        "mlx-cpu==0.32.2; sys_platform == 'linux'",
        "mlx-metal==0.32.2; sys_platform == 'darwin'",
        "mlx-lm==0.32.0",
    ],
    over: Some(&ORACLE),
};

/// What writes JANG bundles and loads them, with the version of mlx-lm that it was written for.
pub(crate) const JANG: Requirements = Requirements {
    name: "jang",
    purpose: "the package of the JANG format",
    packages: &["jang==2.5.50"],
    over: Some(&MEASURED),
};

/// What builds llama.cpp.
pub(crate) const CMAKE: Requirements = Requirements {
    name: "cmake",
    purpose: "building llama.cpp",
    packages: &["cmake==4.4.5", "ninja==1.13.2"],
    over: None,
};

/// Packages in folders of the cache.
#[derive(Debug)]
pub(crate) struct Environment {
    /// Later folders are looked at when earlier ones lack a package.
    folders: Vec<PathBuf>,
}

impl Environment {
    /// Installs the packages, unless an earlier run did. (`pip install --target` instead of a virtual environment: Debian and
    /// Ubuntu split the `venv` module off.)
    pub(crate) fn ready(wanted: &Requirements) -> Result<Environment> {
        let version = output(Command::new("python3").args(["-c", "import sys; print(sys.version)"]))?;
        let folder =
            cache::provide(&format!("python/{}", wanted.name), &format!("{wanted:#?}\n{version}"), |dir| {
                eprintln!("  installing Python packages for {} into the cache folder (once)", wanted.purpose);
                let mut pip = Command::new("python3");
                pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"])
                    .arg(dir);
                if wanted.over.is_some() {
                    pip.arg("--no-deps");
                }
                // A pip that is configured for `--user` refuses `--target`.
                output(pip.args(wanted.packages).env("PIP_USER", "0")).map(|_| ())
            })?;
        let mut folders = vec![folder];
        if let Some(below) = wanted.over {
            folders.append(&mut Environment::ready(below)?.folders);
        }
        Ok(Environment { folders })
    }

    /// A script of `oracle/`, ready to be given arguments and run.
    pub(crate) fn script(&self, name: &str) -> Command {
        let mut command = system(name);
        command.env("PYTHONPATH", self.path()).env("PYTHONNOUSERSITE", "1").env("HF_HUB_OFFLINE", "1");
        command
    }

    /// A program that a package brings, by its path in the package.
    pub(crate) fn program(&self, path: &str) -> PathBuf {
        let found = self.folders.iter().map(|f| f.join(path)).find(|p| p.exists());
        found.unwrap_or_else(|| path.into())
    }

    fn path(&self) -> OsString {
        // `join_paths` fails for a folder with a colon in its name only, and Python has no way to name such a folder either.
        env::join_paths(&self.folders).unwrap_or_default()
    }
}

/// A script of `oracle/` that needs only the standard library (and perhaps pip).
pub(crate) fn system(script: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg(workspace().join("xtask/oracle").join(script));
    command
}
