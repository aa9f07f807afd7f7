//! `llm-tool eval`: how good a model is.

use crate::{
    commands::info::bits_per_weight,
    model::{self, ModelArgs},
    progress,
    terminal::{self, Interrupt},
    units::size,
};
use clap::Args;
use mlx_llm::{
    Error, Result, Tokenizer,
    common::{
        MODEL_FILES,
        evaluate::{Comparison, EvaluateParameters, Mean, Perplexity, compare, perplexity, samples},
        model::LoadedModel,
    },
};
use serde_json::{Map, Value, json};
use std::{
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Instant,
};

/// Measure perplexity on a text, and how far a model is from another
///
/// The perplexity is that of mlx_lm.perplexity on the same tokens. With --against, KL(other model || this one) in nats and how often both
/// have the same likeliest token are told, too. Standard errors follow ±.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    /// The text, in UTF-8
    #[arg(long, value_name = "FILE", required_unless_present = "tokens", conflicts_with = "tokens")]
    text: Option<PathBuf>,
    /// Token ids instead of a text, a JSON array as `llm-tool tokenize` prints it
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Tokens of a sample; what is left at the end of the text fills none
    #[arg(long, value_name = "N", default_value_t = 512)]
    sequence_length: usize,
    /// Samples to use at most; 0 or -1 uses all
    #[arg(long, value_name = "N", default_value_t = 256, allow_negative_numbers = true)]
    num_samples: i64,
    /// Samples that go through the model together
    #[arg(long, value_name = "N", default_value = "8")]
    batch_size: NonZeroUsize,
    /// A model to compare with, of the same vocabulary: the original of a quantized one
    #[arg(long, value_name = "MODEL")]
    against: Option<String>,
    /// Draw the samples from all over the text; without it they are the first ones
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  llm-tool eval --model demo --text README.md
  llm-tool eval --model ./my-model-4bit --against ./my-model --text wiki.txt --num-samples -1 --json
  llm-tool eval --model ./my-model --tokens ids.json --sequence-length 2048 --batch-size 1";

/// What is told of a model.
struct Measured {
    name: String,
    bytes: u64,
    bits_per_weight: f64,
    perplexity: Perplexity,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, interrupt: &Interrupt) -> Result<()> {
    let path = arguments.model.find()?;
    let other = arguments.against.as_deref().map(|name| model::find(name, MODEL_FILES)).transpose()?;
    let tokens = tokens(arguments, &path)?;
    let count = usize::try_from(arguments.num_samples).ok().filter(|n| *n > 0);
    let samples = samples(&tokens, arguments.sequence_length, count, arguments.seed)?;

    let loaded = arguments.model.load_local(&path)?;
    let reference = other.as_deref().map(|path| arguments.model.load_local(path)).transpose()?;
    let parameters = EvaluateParameters { batch_size: arguments.batch_size.get(), ..Default::default() };
    let (bar, watch) = (progress::tokens("scoring"), interrupt.watch());
    bar.set_length((samples.len() * (arguments.sequence_length - 1)) as u64);
    let mut on_tokens = |done: usize| {
        bar.set_position(done as u64);
        !watch.interrupted()
    };
    let (model, start) = (loaded.model.as_ref(), Instant::now());
    let (found, comparison) = match &reference {
        None => (perplexity(model, &samples, &parameters, &mut on_tokens)?, None),
        Some(reference) => {
            let found = compare(model, reference.model.as_ref(), &samples, &parameters, &mut on_tokens)?;
            (found.model, Some(found))
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    bar.finish_and_clear();

    let measured = |name: &str, path: &Path, loaded: &LoadedModel, perplexity| -> Result<Measured> {
        let bits_per_weight = bits_per_weight(path, loaded)?;
        Ok(Measured { name: name.into(), bytes: loaded.file_bytes, bits_per_weight, perplexity })
    };
    let own = measured(&arguments.model.model, &path, &loaded, found)?;
    let against = match (&arguments.against, &other, &reference, &comparison) {
        (Some(name), Some(path), Some(reference), Some(c)) => {
            Some((measured(name, path, reference, c.reference)?, *c))
        }
        _ => None,
    };
    let figures =
        Figures { own, against, samples: samples.len(), sequence_length: arguments.sequence_length, seconds };
    terminal::print(&if arguments.json { format!("{}\n", figures.json()) } else { figures.text() })
}

/// The tokens to score.
fn tokens(arguments: &Arguments, model: &Path) -> Result<Vec<u32>> {
    let read = |path: &Path| fs::read_to_string(path).map_err(|e| Error::io(path, e));
    match (&arguments.tokens, &arguments.text) {
        (Some(path), _) => serde_json::from_str(&read(path)?)
            .map_err(|e| Error::file(path, format!("is not a JSON array of token ids: {e}"))),
        (None, Some(path)) => mlx_lm_tokenizers::AutoTokenizer::load(model)?.encode(&read(path)?, true),
        (None, None) => Ok(Vec::new()), // refused with the arguments
    }
}

/// All that is told.
struct Figures {
    own: Measured,
    against: Option<(Measured, Comparison)>,
    samples: usize,
    sequence_length: usize,
    seconds: f64,
}

impl Figures {
    fn tokens_per_second(&self) -> f64 {
        self.own.perplexity.loss.count() as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    fn json(&self) -> Value {
        let mut figures = self.own.json();
        let mut add = |name: &str, value: Value| figures.insert(name.into(), value);
        add("tokens", self.own.perplexity.loss.count().into());
        add("samples", self.samples.into());
        add("sequence_length", self.sequence_length.into());
        add("seconds", self.seconds.into());
        add("tokens_per_second", self.tokens_per_second().into());
        if let Some((reference, c)) = &self.against {
            add("against", reference.json().into());
            for (name, mean) in [("kl_divergence", c.divergence), ("top1_agreement", c.agreement)] {
                add(name, mean.value().into());
                add(&format!("{name}_standard_error"), mean.standard_error().into());
            }
        }
        figures.into()
    }

    fn text(&self) -> String {
        let mut lines = vec![format!("{:<16} {}", "model", self.own.text())];
        if let Some((reference, c)) = &self.against {
            let plus_minus = |m: Mean, unit: f64, digits: usize| {
                format!("{:.digits$} ± {:.digits$}", m.value() * unit, m.standard_error() * unit)
            };
            lines.push(format!("{:<16} {}", "against", reference.text()));
            lines.push(format!("{:<16} {}", "KL divergence", plus_minus(c.divergence, 1.0, 5)));
            lines.push(format!("{:<16} {} %", "top-1 agreement", plus_minus(c.agreement, 100.0, 2)));
        }
        lines.push(format!(
            "{:<16} {}, in {} samples of {}; {:.0} a second",
            "tokens scored",
            self.own.perplexity.loss.count(),
            self.samples,
            self.sequence_length,
            self.tokens_per_second()
        ));
        lines.join("\n") + "\n"
    }
}

impl Measured {
    fn json(&self) -> Map<String, Value> {
        let figures = json!({
            "model": self.name,
            "perplexity": self.perplexity.value(),
            "perplexity_standard_error": self.perplexity.standard_error(),
            "bits_per_weight": self.bits_per_weight,
            "bytes": self.bytes,
        });
        figures.as_object().cloned().unwrap_or_default()
    }

    fn text(&self) -> String {
        format!(
            "{}: perplexity {:.3} ± {:.3}; {:.2} bits per weight, {}",
            self.name,
            self.perplexity.value(),
            self.perplexity.standard_error(),
            self.bits_per_weight,
            size(self.bytes)
        )
    }
}
