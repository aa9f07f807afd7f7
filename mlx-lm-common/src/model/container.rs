//! A loaded model that any thread can ask: blocking, or async.

use super::{LanguageModel, LoadOptions, LoadedModel, ModelThread, Registry, load_model};
use crate::{
    Config, Error, Result, Tokenizer,
    cache::CachePolicy,
    generate::{Event, GenerateParameters, PromptCache, generate},
};
use futures_core::Stream;
use std::{
    collections::HashMap,
    ops::ControlFlow,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};
use tokio::sync::{mpsc, oneshot};

/// Events that wait for a slow reader before the model pauses.
const WAITING_EVENTS: usize = 64;

/// What is known of a model besides its weights.
#[derive(Clone, Debug)]
pub struct ModelConfiguration {
    /// Where it was loaded from.
    pub path: PathBuf,
    /// Its normalized configuration.
    pub config: Config,
    /// How many positions it has, if the configuration says so.
    pub context_length: Option<usize>,
    /// Bytes of its tensors in the checkpoint.
    pub file_bytes: u64,
}

/// A model and what belongs to it, on the thread where it lives.
pub struct ModelContext {
    /// The model.
    pub model: Box<dyn LanguageModel>,
    /// What is known of it.
    pub configuration: ModelConfiguration,
    /// Its tokenizer.
    pub tokenizer: Arc<dyn Tokenizer>,
    caches: HashMap<u64, PromptCache>,
}

impl ModelContext {
    /// Loads the model at `path` on this thread.
    ///
    /// # Errors
    /// Those of [`load_model`].
    pub fn load(
        path: &Path,
        registry: &Registry,
        tokenizer: Arc<dyn Tokenizer>,
        options: &LoadOptions,
    ) -> Result<ModelContext> {
        let LoadedModel { model, config, file_bytes, .. } = load_model(path, registry, options)?;
        let context_length = context_length(&config)?;
        let configuration = ModelConfiguration { path: path.into(), config, context_length, file_bytes };
        Ok(ModelContext { model, configuration, tokenizer, caches: HashMap::new() })
    }

    /// An empty cache for this model.
    pub fn new_cache(&self, parameters: &GenerateParameters) -> Result<PromptCache> {
        let policy = CachePolicy { max_size: parameters.max_kv_size, ..Default::default() };
        PromptCache::new(self.model.cache_specs(), policy)
    }
}

/// Positions of the model: those it was trained for, times what stretches them.
fn context_length(config: &Config) -> Result<Option<usize>> {
    let Some(positions) = config.get::<f64>("max_position_embeddings")? else { return Ok(None) };
    let rope = config.value.get("rope_parameters");
    let number = |key: &str| rope.and_then(|r| r.get(key)).and_then(serde_json::Value::as_f64);
    let stretched = match (number("factor"), number("original_max_position_embeddings")) {
        (Some(factor), Some(original)) => positions.max(original * factor),
        (Some(factor), None) => positions * factor.max(1.0),
        _ => positions,
    };
    Ok(Some(stretched.clamp(1.0, f64::from(i32::MAX)) as usize))
}

/// A loaded model. Clones are handles to the same one; it is dropped with the last.
#[derive(Clone)]
pub struct ModelContainer {
    thread: Arc<ModelThread<ModelContext>>,
    tokenizer: Arc<dyn Tokenizer>,
    configuration: ModelConfiguration,
}

/// A cache that lives with its model; dropped with the handle.
pub struct CacheHandle {
    id: u64,
    thread: Arc<ModelThread<ModelContext>>,
}

impl ModelContainer {
    /// Loads the model at `path`, a folder or a GGUF file, on a thread of its own, and waits for it.
    ///
    /// # Errors
    /// Those of [`load_model`].
    pub fn load_blocking(
        path: &Path,
        registry: Registry,
        tokenizer: Arc<dyn Tokenizer>,
        options: LoadOptions,
    ) -> Result<ModelContainer> {
        let (at, own) = (path.to_path_buf(), tokenizer.clone());
        let thread = ModelThread::start(move || ModelContext::load(&at, &registry, own, &options))?;
        let configuration = thread.run(|context| Ok(context.configuration.clone()))?;
        Ok(ModelContainer { thread: Arc::new(thread), tokenizer, configuration })
    }

    /// As [`ModelContainer::load_blocking`], without blocking. Dropping the future gives the model up.
    pub async fn load(
        path: &Path,
        registry: Registry,
        tokenizer: Arc<dyn Tokenizer>,
        options: LoadOptions,
    ) -> Result<ModelContainer> {
        let (done, loaded) = oneshot::channel();
        let path = path.to_path_buf();
        std::thread::Builder::new()
            .name("mlx-load".into())
            .spawn(move || {
                let _ = done.send(ModelContainer::load_blocking(&path, registry, tokenizer, options));
            })
            .map_err(|e| Error::Unsupported(format!("cannot start a thread to load the model: {e}")))?;
        loaded.await.map_err(|_| Error::Cancelled)?
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Arc<dyn Tokenizer> {
        &self.tokenizer
    }

    /// What is known of the model.
    pub fn configuration(&self) -> &ModelConfiguration {
        &self.configuration
    }

    /// Runs `job` on the model's thread, after the jobs before it, and waits for its result.
    pub fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut ModelContext) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        self.thread.run(job)
    }

    /// As [`ModelContainer::run`], without blocking.
    pub async fn perform<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut ModelContext) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let (done, result) = oneshot::channel();
        self.thread.submit(move |context| {
            let _ = done.send(job(context));
        })?;
        result.await.map_err(|_| Error::Cancelled)?
    }

    /// An empty cache, to keep from one generation to the next: what a prompt has in common with it is not computed again.
    pub fn new_cache(&self, parameters: &GenerateParameters) -> Result<CacheHandle> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Relaxed);
        let parameters = parameters.clone();
        self.thread.run(move |context| {
            let cache = context.new_cache(&parameters)?;
            context.caches.insert(id, cache);
            Ok(())
        })?;
        Ok(CacheHandle { id, thread: self.thread.clone() })
    }

    /// Generates from `prompt`. Dropping the stream ends the generation within one token or chunk.
    ///
    /// Errors before the first event come through the stream as well.
    pub fn generate(
        &self,
        prompt: Vec<u32>,
        parameters: GenerateParameters,
        cache: Option<&CacheHandle>,
    ) -> Result<GenerationStream> {
        let (events, stream) = mpsc::channel(WAITING_EVENTS);
        let kept = cache.map(|c| c.id);
        self.thread.submit(move |context| {
            let own = kept
                .and_then(|id| context.caches.remove(&id))
                .map_or_else(|| context.new_cache(&parameters), Ok);
            let result = own.and_then(|mut cache| {
                let emit = &mut |event| match events.blocking_send(Ok(event)) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                };
                let result = generate(context, &prompt, &mut cache, &parameters, emit);
                if let Some(id) = kept {
                    context.caches.insert(id, cache);
                }
                result
            });
            if let Err(e) = result {
                let _ = events.blocking_send(Err(e));
            }
        })?;
        Ok(GenerationStream(stream))
    }
}

impl CacheHandle {
    /// Runs `job` on the cache, on the model's thread, and waits for its result.
    pub fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut PromptCache) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let id = self.id;
        self.thread.run(move |context| {
            let cache =
                context.caches.get_mut(&id).ok_or_else(|| Error::Cache("the cache is gone".into()))?;
            job(cache)
        })
    }
}

impl Drop for CacheHandle {
    fn drop(&mut self) {
        let id = self.id;
        let _ = self.thread.submit(move |context| {
            context.caches.remove(&id);
        });
    }
}

/// The events of a generation, for async and for blocking code.
pub struct GenerationStream(mpsc::Receiver<Result<Event>>);

impl GenerationStream {
    /// The next event.
    pub async fn recv(&mut self) -> Option<Result<Event>> {
        self.0.recv().await
    }

    /// Waits for the next event. Not for use inside an async runtime.
    pub fn blocking_recv(&mut self) -> Option<Result<Event>> {
        self.0.blocking_recv()
    }
}

impl Stream for GenerationStream {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<Option<Result<Event>>> {
        self.0.poll_recv(cx)
    }
}
