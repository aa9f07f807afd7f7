//! Python scripts of `oracle/`, with packages of their own: nothing is installed outside the cache folder.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    cache,
    process::{output, workspace},
};

/// A set of packages that some scripts need.
#[derive(Debug)]
pub(crate) struct Requirements {
    name: &'static str,
    packages: &'static [&'static str],
}

/// What writes reference values. mlx-lm's quantized experts need MLX 0.32.3 or newer.
pub(crate) const ORACLE: Requirements = Requirements {
    name: "oracle",
    packages: &[
        "mlx[cpu]==0.32.4; sys_platform == 'linux'",
        "mlx==0.32.4; sys_platform == 'darwin'",
        "mlx-lm==0.32.2",
        "gguf==0.19.0",
    ],
};

/// Packages in a folder of the cache.
#[derive(Debug)]
pub(crate) struct Environment {
    packages: PathBuf,
}

impl Environment {
    /// Installs the packages, unless an earlier run did. (`pip install --target` instead of a virtual environment: Debian and
    /// Ubuntu split the `venv` module off.)
    pub(crate) fn ready(wanted: &Requirements) -> Result<Environment> {
        let version = output(Command::new("python3").args(["-c", "import sys; print(sys.version)"]))?;
        let packages =
            cache::provide(&format!("python/{}", wanted.name), &format!("{wanted:#?}\n{version}"), |dir| {
                eprintln!("  installing {} into the cache folder (once)", wanted.packages.join(", "));
                let mut pip = Command::new("python3");
                pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"])
                    .arg(dir);
                // A pip that is configured for `--user` refuses `--target`.
                output(pip.args(wanted.packages).env("PIP_USER", "0")).map(|_| ())
            })?;
        Ok(Environment { packages })
    }

    /// A script of `oracle/`, ready to be given arguments and run.
    pub(crate) fn script(&self, name: &str) -> Command {
        let mut command = system(name);
        command.env("PYTHONPATH", &self.packages).env("PYTHONNOUSERSITE", "1").env("HF_HUB_OFFLINE", "1");
        command
    }

    /// The folder with the packages.
    pub(crate) fn packages(&self) -> &Path {
        &self.packages
    }
}

/// A script of `oracle/` that needs only the standard library (and perhaps pip).
pub(crate) fn system(script: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg(workspace().join("xtask/oracle").join(script));
    command
}
