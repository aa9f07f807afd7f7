//! `llm-tool convert`: a model in another form.

use crate::{
    model::{self, Float},
    progress,
    terminal::{self, Interrupt},
    units::size,
};
use clap::{Args, ValueEnum};
use mlx_llm::{
    Error, Result,
    common::{
        MODEL_FILES, Progress,
        gguf::FileType,
        quantize::{self, Converted, Format, OnProgress, Plan, Recipe, Source, Target, jang},
        raw::Mode,
    },
    registry,
};
use std::path::{Path, PathBuf};

/// Convert a model to a folder that MLX's tools load, quantized or not, or to a GGUF file
///
/// The tensors of a folder are those that mlx_lm.convert writes; those of a GGUF file are those of llama.cpp's converter. Anything that
/// loads can be converted: folders of Hugging Face and of MLX, GGUF files, JANG bundles, and what other toolkits have quantized. What is
/// quantized stays as it is unless told otherwise.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// A folder, a .gguf file, owner/name[@revision], or `demo`
    #[arg(long, alias = "hf-path", value_name = "MODEL")]
    model: String,
    /// The folder to write, which must not exist or be empty; or a file that ends in .gguf, which must not exist
    #[arg(long, alias = "mlx-path", value_name = "DIR|FILE.gguf")]
    out: PathBuf,
    /// Quantize; any of the options that begin with --q does so, too
    #[arg(short, long)]
    quantize: bool,
    /// Bits of a quantized value: 2, 3, 4, 5, 6 or 8 [default: 4, or what the mode has]
    #[arg(long, value_name = "N")]
    q_bits: Option<i32>,
    /// Values that share a scale: 32, 64 or 128 [default: 64, or what the mode has]
    #[arg(long, value_name = "N")]
    q_group_size: Option<i32>,
    /// What quantized values are
    #[arg(long, value_name = "MODE")]
    q_mode: Option<ModeArg>,
    /// A recipe of two widths: values, down-projections and the head get more bits than the rest
    #[arg(long, value_name = "RECIPE", value_parser = ["mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"])]
    quant_predicate: Option<String>,
    /// Make floats of what is quantized
    #[arg(short, long, conflicts_with_all = QUANTIZING)]
    dequantize: bool,
    /// Write a JANG bundle in this profile, from a folder of floats as it was published: 1L, 2S, 2M, 2L, 3S, 3M, 3L, 4S, 4M, 4L, 6M,
    /// 2K, 3K, 4K, 5K or 6K
    #[arg(long, value_name = "PROFILE", conflicts_with_all = QUANTIZING, conflicts_with = "dequantize")]
    jang: Option<jang::Profile>,
    /// The type of what is not quantized [default: what config.json says, else as it is stored]
    #[arg(long, value_name = "TYPE", conflicts_with = "jang")]
    dtype: Option<Float>,
    /// Write a GGUF file with matrices of this type: f32, f16, bf16, q8_0 or q4_0 [default: f16]
    #[arg(
        long,
        value_name = "TYPE",
        value_parser = gguf_type,
        conflicts_with_all = QUANTIZING,
        conflicts_with_all = ["dequantize", "dtype", "jang"]
    )]
    gguf_type: Option<FileType>,
}

/// Options that quantize.
const QUANTIZING: [&str; 5] = ["quantize", "q_bits", "q_group_size", "q_mode", "quant_predicate"];

const EXAMPLES: &str = "\
Examples:
  llm-tool convert --model Qwen/Qwen3-0.6B --out qwen3-4bit -q
  llm-tool convert --model ./my-model --out my-model-mixed --quant-predicate mixed_3_6 --q-group-size 64
  llm-tool convert --model ./my-model --out my-model-mxfp4 --q-mode mxfp4 --dtype bfloat16
  llm-tool convert --model model.Q8_0.gguf --out my-model-mlx
  llm-tool convert --model ./my-model-4bit --out my-model-float --dequantize
  llm-tool convert --model ./my-model --out my-model.Q8_0.gguf --gguf-type q8_0
  llm-tool convert --model ./my-model --out my-model-JANG_4M --jang 4M

After Ctrl-C, or if it is killed, nothing is left that loads.";

#[derive(Clone, Copy, ValueEnum)]
enum ModeArg {
    Affine,
    Mxfp4,
    Mxfp8,
    Nvfp4,
}

fn gguf_type(name: &str) -> Result<FileType, String> {
    let known = FileType::ALL.map(FileType::name).join(", ");
    FileType::named(&name.to_lowercase()).ok_or_else(|| format!("found {name:?}, wanted one of {known}"))
}

impl Arguments {
    /// The type of the GGUF file to write, if one is to be written.
    fn gguf(&self) -> Option<FileType> {
        let is_file = self.out.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
        self.gguf_type.or(is_file.then_some(FileType::F16))
    }

    fn plan(&self) -> Result<Plan> {
        let Arguments { q_bits, q_group_size, q_mode, quant_predicate, .. } = self;
        let quantize = self.quantize || q_bits.is_some() || q_group_size.is_some() || q_mode.is_some();
        if self.dequantize {
            return Ok(Plan::Dequantize);
        }
        if !quantize && quant_predicate.is_none() {
            return Ok(Plan::Keep);
        }
        let mode = match q_mode.unwrap_or(ModeArg::Affine) {
            ModeArg::Affine => Mode::Affine,
            ModeArg::Mxfp4 => Mode::Mxfp4,
            ModeArg::Mxfp8 => Mode::Mxfp8,
            ModeArg::Nvfp4 => Mode::Nvfp4,
        };
        let format = Format::new(mode, *q_bits, *q_group_size)?;
        Plan::quantize(format, quant_predicate.as_deref().map(Recipe::named).transpose()?)
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, interrupt: &Interrupt) -> Result<()> {
    let plan = arguments.plan()?;
    let path = model::find(&arguments.model, MODEL_FILES)?;
    let (bar, watch) = (progress::bytes("converting"), interrupt.watch());
    let written = write(arguments, plan, &path, &mut |p: &Progress| {
        progress::show(&bar, p);
        !watch.interrupted()
    });
    bar.finish_and_clear();
    if let Err(Error::Cancelled) = written {
        eprintln!("stopped; nothing was written");
    }
    let written = written?;
    let bits = written.bits_per_weight();
    terminal::print(&format!(
        "{}: {}, {bits:.3} bits per weight\n",
        arguments.out.display(),
        size(written.bytes)
    ))
}

/// Writes the model at `path` in the form that was asked for.
fn write(arguments: &Arguments, plan: Plan, path: &Path, on_progress: OnProgress<'_>) -> Result<Converted> {
    if let Some(profile) = arguments.jang {
        return jang::convert(path, &arguments.out, profile, on_progress);
    }
    let dtype = arguments.dtype.map(Float::dtype);
    let source = Source::open(path, &registry())?;
    let mut files = Vec::new();
    let mut metadata;
    let target = match arguments.gguf() {
        Some(kind) => {
            metadata = mlx_lm_tokenizers::gguf_metadata(path, &source.config)?;
            if let Some(name) = path.file_stem().and_then(|name| name.to_str()) {
                metadata.insert("general.name", name);
            }
            Target::Gguf { kind, metadata: &metadata }
        }
        None => {
            if source.is_gguf() {
                files = mlx_lm_tokenizers::files_of_gguf(path)?;
            }
            Target::Mlx(plan)
        }
    };
    quantize::convert(&source, target, dtype, &arguments.out, &files, on_progress)
}
