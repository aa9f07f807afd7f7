//! File names within a repository.

use std::{fs, io, path::Path};

/// Whether one of `patterns` matches `name`: `*` stands for any characters, `/` included, and `?` for one.
pub(crate) fn matches(patterns: &[&str], name: &str) -> bool {
    patterns.iter().any(|p| wildcard(p.as_bytes(), name.as_bytes()))
}

/// Linear in the name for each star: on a mismatch only the last star grows, for an earlier one could match no more.
fn wildcard(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == b'?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    n = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

/// The files under `root` that match, as sorted names with `/` between folders. Symbolic links are followed to files, not
/// to folders, so the walk ends.
pub(crate) fn list(root: &Path, patterns: &[&str]) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let name = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            if entry.file_type()?.is_dir() {
                folders.push(name);
            } else if matches(patterns, &name) && entry.path().is_file() {
                found.push(name);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a name from outside, joined to a folder, stays in that folder.
#[cfg(feature = "hub")]
pub(crate) fn is_safe(name: &str) -> bool {
    const LONGEST: usize = 1024; // Linux allows 4096 for the path in all, macOS 1024
    let part = |s: &str| {
        !matches!(s, "" | "." | "..") && s.len() <= 255 && !s.contains(|c: char| c == '\\' || c.is_control())
    };
    name.len() <= LONGEST && name.split('/').all(part)
}

/// Names as a message shows them: few, short, and with nothing in them that a terminal would obey.
pub(crate) fn shown<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const FEW: usize = 8;
    const SHORT: usize = 80;
    let mut names = names.peekable();
    let mut shown: Vec<String> = names
        .by_ref()
        .take(FEW)
        .map(|n| match n.char_indices().nth(SHORT) {
            Some((end, _)) => format!("`{}…`", n[..end].escape_debug()),
            None => format!("`{}`", n.escape_debug()),
        })
        .collect();
    if names.peek().is_some() {
        shown.push("…".into());
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_shells_do() {
        for (pattern, name, expected) in [
            ("*.json", "config.json", true),
            ("*.json", "sub/config.json", true),
            ("*.json", "config.json.bak", false),
            ("tokenizer*", "tokenizer.json", true),
            ("tokenizer*", "my-tokenizer.json", false),
            ("model-?.safetensors", "model-1.safetensors", true),
            ("model-?.safetensors", "model-12.safetensors", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("", "", true),
            ("*", "", true),
            ("", "x", false),
        ] {
            assert_eq!(matches(&[pattern], name), expected, "{pattern} on {name}");
        }
        assert!(matches(&["*.txt", "*.json"], "a.json"));
        assert!(!matches(&[], "a.json"));
    }

    #[test]
    fn many_stars_do_not_explode() {
        assert!(!matches(&[&"*a".repeat(40)], &"a".repeat(39)));
        assert!(!matches(&[&("*a".repeat(200) + "b")], &"a".repeat(1000)));
    }

    #[cfg(feature = "hub")]
    #[test]
    fn names_that_leave_the_folder_are_not_safe() {
        for name in ["config.json", "sub/model.safetensors", "a..b", "...", "naïve.txt"] {
            assert!(is_safe(name), "{name}");
        }
        let (long, deep) = ("x".repeat(256), "x/".repeat(600) + "x");
        for name in [
            "",
            "..",
            "../x",
            "a/../x",
            "a/..",
            "/etc/passwd",
            "a//b",
            "a/",
            "./a",
            "a\\b",
            "a\0b",
            "a\nb",
            &long,
            &deep,
        ] {
            assert!(!is_safe(name), "{name:?}");
        }
    }

    #[test]
    fn messages_show_few_short_harmless_names() {
        let text = shown(["a\u{1b}[31m", &"x".repeat(500)].into_iter().chain(["n"; 20]));
        assert!(!text.contains('\u{1b}') && text.len() < 300 && text.ends_with('…'), "{text}");
    }
}
