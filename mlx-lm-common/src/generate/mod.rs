//! From logits to text: parameters, samplers, logits processors, stop rules and the incremental detokenizer.

mod cache;
mod detokenizer;
mod filters;
mod iterator;
mod logprobs;
mod params;
mod processors;
mod run;
mod sampler;
mod stop;

pub use cache::PromptCache;
pub use detokenizer::Detokenizer;
pub use iterator::{Prompt, Token, TokenIterator, prefill};
pub use logprobs::TokenLogprobs;
pub use params::{ExtraEos, GenerateParameters};
pub use processors::Processors;
pub use run::{Event, FinishReason, Summary, generate};
pub use sampler::Sampler;
pub(crate) use sampler::splitmix64;
pub use stop::StopMatcher;
