//! llama.cpp, built once into the cache folder.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    cache,
    fetch::{self, Files, LLAMA_CPP},
    process::{output, workspace},
    python::{CMAKE, Environment},
};

/// The programs of `oracle/llama_cpp`, each a source file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Program {
    /// Measures speed.
    Bench,
    /// Writes the logits after each of some tokens.
    Logits,
    /// Prints the tokens of texts.
    Tokens,
}

const PROGRAMS: [Program; 3] = [Program::Bench, Program::Logits, Program::Tokens];

impl Program {
    fn name(self) -> &'static str {
        match self {
            Program::Bench => "bench",
            Program::Logits => "logits",
            Program::Tokens => "tokens",
        }
    }
}

/// The program, optimized for this machine.
pub(crate) fn program(which: Program) -> Result<PathBuf> {
    let options = options();
    let sources = concat!(
        include_str!("../oracle/llama_cpp/CMakeLists.txt"),
        include_str!("../oracle/llama_cpp/bench.cpp"),
        include_str!("../oracle/llama_cpp/logits.cpp"),
        include_str!("../oracle/llama_cpp/tokens.cpp")
    );
    let made_from = format!("{LLAMA_CPP:?}\n{CMAKE:?}\n{options:?}\n{sources}");
    Ok(cache::provide("bench/llama.cpp", &made_from, |out| build(&options, out))?.join(which.name()))
}

fn build(options: &[String], out: &Path) -> Result<()> {
    let tools = Environment::ready(&CMAKE)?;
    let sources = fetch::fetch(&Files {
        package: &LLAMA_CPP,
        root: "llama_cpp_python-0.3.36/vendor/llama.cpp/",
        wanted: &[
            "CMakeLists.txt",
            "LICENSE",
            "cmake/*",
            "src/*",
            "include/*",
            "ggml/*",
            "vendor/*",
            "licenses/*",
        ],
        folder: "bench/llama.cpp-sources",
    })?;
    eprintln!("  building llama.cpp (once; several minutes on a small machine)");
    let (cmake, folder) = (tools.program("cmake/data/bin/cmake"), out.join("build"));
    let mut configure = Command::new(&cmake);
    configure
        .args(["-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-S"])
        .arg(workspace().join("xtask/oracle/llama_cpp"));
    configure.arg("-B").arg(&folder).args(options);
    configure.arg(format!("-DSOURCE={}", sources.display()));
    configure.arg(format!("-DCMAKE_MAKE_PROGRAM={}", tools.program("bin/ninja").display()));
    output(&mut configure)?;
    let names = PROGRAMS.map(Program::name);
    output(Command::new(&cmake).arg("--build").arg(&folder).arg("--target").args(names))?;
    for name in names {
        fs::rename(folder.join(name), out.join(name)).context("llama.cpp's build left no program")?;
    }
    cache::remove(&folder)?;
    cache::remove(&sources)
}

/// Instruction sets by name. (`-march=native` also picks those that a virtual machine lists and then refuses to run.)
#[cfg(target_arch = "x86_64")]
fn options() -> Vec<String> {
    use std::arch::is_x86_feature_detected as has;
    let avx512 =
        has!("avx512f") && has!("avx512cd") && has!("avx512vl") && has!("avx512dq") && has!("avx512bw");
    let sets = [
        ("NATIVE", false),
        ("SSE42", has!("sse4.2")),
        ("AVX", has!("avx")),
        ("AVX2", has!("avx2")),
        ("FMA", has!("fma")),
        ("F16C", has!("f16c")),
        ("BMI2", has!("bmi2")),
        ("AVX512", avx512),
        ("AVX512_VBMI", avx512 && has!("avx512vbmi")),
        ("AVX512_VNNI", avx512 && has!("avx512vnni")),
        ("AVX512_BF16", avx512 && has!("avx512bf16")),
    ];
    sets.map(|(name, on)| format!("-DGGML_{name}={}", if on { "ON" } else { "OFF" })).to_vec()
}

#[cfg(not(target_arch = "x86_64"))]
fn options() -> Vec<String> {
    vec!["-DGGML_NATIVE=ON".into(), "-DGGML_METAL=OFF".into()]
}
