//! The loop, the container and the stream: stopping, cancelling, caches that are kept, and four models at once.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::fixture;
use mlx_llm::{
    Event, FinishReason, GenerateParameters, LoadOptions, ModelContainer, Result, Summary, Tokenizer,
    common::raw::Device,
};
use std::{fs, path::Path, sync::Arc};

/// Two letters for each id, so that stop texts fall across token borders.
struct Letters(Vec<u32>);

impl Tokenizer for Letters {
    fn encode(&self, text: &str, _: bool) -> Result<Vec<u32>> {
        Ok(text.split_whitespace().filter_map(|t| t.parse().ok()).collect())
    }

    fn decode(&self, ids: &[u32], _: bool) -> Result<String> {
        Ok(ids
            .iter()
            .flat_map(|id| [(id % 16) as u8 + b'a', (id / 16) as u8 + b'A'])
            .map(char::from)
            .collect())
    }

    fn eos(&self) -> &[u32] {
        &self.0
    }
}

/// A copy of a fixture with room for so many positions.
fn roomy(folder: &Path, name: &str, positions: usize) {
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let from = entry.unwrap().path();
        fs::copy(&from, folder.join(from.file_name().unwrap())).unwrap();
    }
    let path = folder.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["max_position_embeddings"] = positions.into();
    config["eos_token_id"] = serde_json::Value::Null;
    fs::write(path, config.to_string()).unwrap();
}

fn container(name: &str, eos: &[u32]) -> ModelContainer {
    let folder = tempfile::tempdir().unwrap();
    roomy(folder.path(), name, 4096);
    let options = LoadOptions { device: Some(Device::Cpu), ..Default::default() };
    ModelContainer::load_blocking(
        folder.path(),
        mlx_llm::registry(),
        Arc::new(Letters(eos.to_vec())),
        options,
    )
    .unwrap()
}

struct Outcome {
    ids: Vec<u32>,
    text: String,
    summary: Summary,
}

fn run(model: &ModelContainer, prompt: &[u32], parameters: GenerateParameters) -> Result<Outcome> {
    collect(model.generate(prompt.to_vec(), parameters, None)?)
}

fn collect(mut stream: mlx_llm::common::model::GenerationStream) -> Result<Outcome> {
    let (mut ids, mut text) = (Vec::new(), String::new());
    while let Some(event) = stream.blocking_recv() {
        match event? {
            Event::Token { id, .. } => ids.push(id),
            Event::Text(more) => text += &more,
            Event::Done(summary) => return Ok(Outcome { ids, text, summary }),
            _ => {}
        }
    }
    panic!("a stream without an end");
}

fn tokens(n: usize) -> GenerateParameters {
    GenerateParameters { max_tokens: Some(n), ..Default::default() }
}

#[test]
fn greedy_generation_equals_the_reference() {
    for name in ["llama3", "qwen3", "qwen3_moe-4bit", "smollm3"] {
        let reference = common::Reference::of(name);
        let wanted = reference.tokens("greedy");
        let model = container(name, &[]);
        for step in [512, 3, 1] {
            let parameters = GenerateParameters { prefill_step_size: step, ..tokens(wanted.len()) };
            let got = run(&model, &reference.tokens("prompt"), parameters).unwrap();
            assert_eq!(got.ids, wanted, "{name} in steps of {step}");
            assert_eq!(got.summary.finish, FinishReason::Length);
            assert_eq!(got.text, Letters(vec![]).decode(&wanted, true).unwrap());
        }
    }
}

#[test]
fn generation_ends_where_it_should() {
    let model = container("qwen3", &[]);
    let prompt = [3, 17, 92];
    let all = run(&model, &prompt, tokens(24)).unwrap();
    let (end, first) = (all.ids[9], all.ids.iter().position(|id| *id == all.ids[9]).unwrap());

    let ending = container("qwen3", &[end]);
    let got = run(&ending, &prompt, tokens(24)).unwrap();
    assert_eq!((got.ids.as_slice(), got.summary.finish), (&all.ids[..first], FinishReason::Stop));
    assert_eq!(got.summary.generated_tokens, first + 1);
    let going_on = run(&ending, &prompt, GenerateParameters { ignore_eos: true, ..tokens(24) }).unwrap();
    assert_eq!(going_on.ids, all.ids);

    // From the second letter of one token to the first of the next.
    let stop = all.text[11..13].to_string();
    let at = all.text.find(&stop).unwrap();
    let got = run(&model, &prompt, GenerateParameters { stop: vec![stop], ..tokens(24) }).unwrap();
    assert_eq!((got.text.as_str(), got.summary.finish), (&all.text[..at], FinishReason::Stop));

    let full =
        run(&model, &(0..120).collect::<Vec<_>>(), GenerateParameters { max_tokens: None, ..tokens(1) });
    assert_eq!(full.unwrap().summary.generated_tokens, 4096 + 1 - 120);
}

#[test]
fn the_same_seed_gives_the_same_text_on_any_thread() {
    let model = container("qwen3", &[]);
    let parameters = GenerateParameters { temperature: 1.0, top_p: 0.9, seed: Some(7), ..tokens(40) };
    let wanted = run(&model, &[1, 2, 3], parameters.clone()).unwrap();
    let others: Vec<_> = (0..3)
        .map(|_| {
            let parameters = parameters.clone();
            std::thread::spawn(move || run(&container("qwen3", &[]), &[1, 2, 3], parameters).unwrap().ids)
        })
        .collect();
    for other in others {
        assert_eq!(other.join().unwrap(), wanted.ids);
    }
    let another = run(&model, &[1, 2, 3], GenerateParameters { seed: Some(8), ..parameters }).unwrap();
    assert_ne!(another.ids, wanted.ids);
}

#[test]
fn a_kept_cache_answers_what_it_knows() {
    let model = container("qwen3", &[]);
    let cache = model.new_cache(&GenerateParameters::default()).unwrap();
    let ask =
        |prompt: &[u32]| collect(model.generate(prompt.to_vec(), tokens(6), Some(&cache)).unwrap()).unwrap();
    let prompt = [3, 17, 92, 41, 8];
    let first = ask(&prompt);
    assert_eq!(first.summary.cached_tokens, 0);

    let longer = [&prompt[..], &first.ids, &[9, 9]].concat();
    let second = ask(&longer);
    assert_eq!(second.summary.cached_tokens, prompt.len() + 5);
    assert_eq!(second.ids, run(&model, &longer, tokens(6)).unwrap().ids);

    // A prompt that parts early, and the very same prompt again.
    let parted = [3, 17, 5];
    assert_eq!(ask(&parted).summary.cached_tokens, 2);
    let again = ask(&parted);
    assert_eq!(again.summary.cached_tokens, 2);
    assert_eq!(again.ids, run(&model, &parted, tokens(6)).unwrap().ids);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kept.safetensors");
    let at = path.clone();
    cache.run(move |c| c.save(&at, &[("title".into(), "a talk".into())])).unwrap();
    let other = model.new_cache(&GenerateParameters::default()).unwrap();
    let metadata = other.run(move |c| c.restore(&path)).unwrap();
    assert!(metadata.contains(&("title".into(), "a talk".into())));
    let restored = collect(model.generate(parted.to_vec(), tokens(6), Some(&other)).unwrap()).unwrap();
    assert_eq!((restored.summary.cached_tokens, restored.ids), (2, again.ids));
}

#[test]
fn dropping_the_stream_cancels_in_prefill_and_in_decode() {
    let model = container("llama3", &[]);
    let cache = model.new_cache(&GenerateParameters::default()).unwrap();
    let held = || cache.run(|c| Ok(c.tokens().len())).unwrap();
    let long: Vec<u32> = (0..3000).map(|i| i % 128).collect();
    let slowly = GenerateParameters { prefill_step_size: 1, ..tokens(1) };
    let mut stream = model.generate(long.clone(), slowly, Some(&cache)).unwrap();
    assert!(matches!(stream.blocking_recv(), Some(Ok(Event::Prefill { done: 0, .. }))));
    drop(stream);
    // The job that asks runs after the cancelled one. Events wait in a channel, so some chunks may be ahead of their reader.
    assert!(held() < 200, "{} tokens went through the model", held());

    let mut stream = model.generate(vec![1, 2, 3], tokens(3000), Some(&cache)).unwrap();
    while !matches!(stream.blocking_recv(), Some(Ok(Event::Text(_)))) {}
    drop(stream);
    assert!(held() < 200, "{} tokens went through the model", held());

    let after = collect(model.generate(vec![1, 2, 3], tokens(5), Some(&cache)).unwrap()).unwrap();
    assert_eq!(after.ids, run(&model, &[1, 2, 3], tokens(5)).unwrap().ids);
}

#[test]
fn four_models_in_parallel_agree_with_themselves_alone() {
    let names = ["llama3", "qwen3-4bit", "qwen3_moe", "llama_swa"];
    let ask = |name: &str| run(&container(name, &[]), &[5, 6, 7, 8], tokens(60)).unwrap().ids;
    let alone: Vec<_> = names.iter().map(|n| ask(n)).collect();
    for _ in 0..3 {
        let together: Vec<_> = std::thread::scope(|s| {
            let all: Vec<_> = names.iter().map(|n| s.spawn(move || ask(n))).collect();
            all.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(together, alone);
    }
}

#[test]
fn errors_come_through_the_stream_and_the_model_goes_on() {
    let model = container("llama3", &[]);
    let fails = |prompt: &[u32], parameters| {
        run(&model, prompt, parameters).err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert!(fails(&[], tokens(1)).contains("prompt is empty"));
    assert!(fails(&[500], tokens(1)).contains("token id 500"));
    assert!(fails(&[1; 5000], tokens(1)).contains("5000 tokens"));
    assert!(fails(&[1], GenerateParameters { top_p: 3.0, ..tokens(1) }).contains("top_p"));
    assert!(fails(&[1], GenerateParameters { max_kv_size: Some(2), ..tokens(1) }).contains("max_kv_size"));
    assert_eq!(run(&model, &[1], tokens(2)).unwrap().ids.len(), 2);
}

#[test]
fn log_probabilities_are_those_of_the_chosen_tokens() {
    let model = container("qwen3", &[]);
    let parameters = GenerateParameters { logprobs: Some(3), ..tokens(4) };
    let mut stream = model.generate(vec![3, 17, 92], parameters, None).unwrap();
    let mut seen = 0;
    while let Some(event) = stream.blocking_recv() {
        if let Event::Token { id, logprobs } = event.unwrap() {
            let logprobs = logprobs.unwrap();
            assert_eq!((logprobs.token, logprobs.top.len(), logprobs.top[0].0), (id, 3, id));
            assert!(logprobs.logprob < 0.0 && logprobs.top.windows(2).all(|w| w[0].1 >= w[1].1));
            seen += 1;
        }
    }
    assert_eq!(seen, 4);
}
