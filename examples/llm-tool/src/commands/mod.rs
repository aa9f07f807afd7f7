//! One file for each command.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod convert;
pub(crate) mod eval;
pub(crate) mod generate;
pub(crate) mod info;
pub(crate) mod logits;
pub(crate) mod models;
pub(crate) mod nodes;
pub(crate) mod template;
pub(crate) mod tokenize;
