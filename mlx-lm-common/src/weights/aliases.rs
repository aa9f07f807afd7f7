//! What files call that which verbs have renamed: errors speak of the files.

/// Names that verbs have given, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Aliases(Vec<Alias>);

#[derive(Clone, Debug)]
struct Alias {
    given: String,
    published: String,
    /// Whether names begin so; else modules end so.
    is_prefix: bool,
}

impl Aliases {
    /// Names that began with `published` begin with `given`.
    pub(super) fn prefix(&mut self, published: &str, given: &str) {
        self.0.push(Alias { given: given.into(), published: published.into(), is_prefix: true });
    }

    /// Modules that ended in `published` end in `given`, or are a part of what did.
    pub(super) fn module(&mut self, published: &str, given: &str) {
        self.0.push(Alias { given: given.into(), published: published.into(), is_prefix: false });
    }

    /// The name of a tensor, with what files call it, or what it is a part of, if that is another.
    pub(super) fn explain(&self, name: &str) -> String {
        let published = self.0.iter().rev().fold(name.to_string(), |name, alias| alias.before(name));
        if published == name { published } else { format!("{name} (in files: {published})") }
    }
}

impl Alias {
    /// The name before it was given.
    fn before(&self, name: String) -> String {
        let Alias { given, published, is_prefix } = self;
        if *is_prefix {
            return name
                .strip_prefix(given.as_str())
                .map(|rest| format!("{published}{rest}"))
                .unwrap_or(name);
        }
        let Some((module, part)) = name.rsplit_once('.') else { return name };
        match module.strip_suffix(given.as_str()) {
            Some(head) if head.is_empty() || head.ends_with('.') => format!("{head}{published}.{part}"),
            _ => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Aliases;

    #[test]
    fn names_are_traced_back() {
        let mut aliases = Aliases::default();
        aliases.module("mlp.c_proj", "mlp.down_proj");
        aliases.module("qkv_proj", "q_proj");
        aliases.prefix("transformer.h.", "model.layers.");
        for (name, wanted) in [
            ("model.layers.1.mlp.down_proj.weight", "transformer.h.1.mlp.c_proj.weight"),
            ("model.layers.0.self_attn.q_proj.bias", "transformer.h.0.self_attn.qkv_proj.bias"),
        ] {
            assert_eq!(aliases.explain(name), format!("{name} (in files: {wanted})"));
        }
        assert_eq!(aliases.explain("lm_head.weight"), "lm_head.weight");
    }
}
