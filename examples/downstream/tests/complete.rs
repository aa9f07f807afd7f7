//! The model runs, and the same prompt gives the same text.

use downstream::complete;
use std::path::Path;

#[test]
fn a_model_runs_with_a_tokenizer_of_ones_own() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/llama3");
    let text = complete(&folder, "to be", 8).unwrap();
    assert_eq!(text.chars().count(), 8, "{text:?}");
    assert_eq!(complete(&folder, "to be", 8).unwrap(), text);
}
