//! Parts of documents that tasks write.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::process::workspace;

/// What is between two comments of a document.
pub(crate) struct Marked {
    /// The document, in the workspace.
    pub(crate) file: &'static str,
    /// The part's name.
    pub(crate) name: &'static str,
    /// The command that writes it.
    pub(crate) task: &'static str,
}

impl Marked {
    /// Puts the text there.
    pub(crate) fn write(&self, text: &str) -> Result<()> {
        let path = workspace().join(self.file);
        fs::write(&path, self.within(&self.document()?, text)?).with_context(|| path.display().to_string())
    }

    /// An error unless the text is there.
    pub(crate) fn check(&self, text: &str) -> Result<()> {
        let document = self.document()?;
        if document != self.within(&document, text)? {
            bail!("the table of {} in {} is out of date: run `{}`", self.name, self.file, self.task);
        }
        Ok(())
    }

    fn document(&self) -> Result<String> {
        fs::read_to_string(workspace().join(self.file)).context(self.file)
    }

    /// The document with this text between the comments.
    fn within(&self, document: &str, text: &str) -> Result<String> {
        let start = format!("<!-- {}: written by `{}` -->", self.name, self.task);
        let end = format!("<!-- end of {} -->", self.name);
        let lacks = |line: &str| format!("{} has no line `{line}`", self.file);
        let (before, rest) = document.split_once(&start).with_context(|| lacks(&start))?;
        let (_, after) = rest.split_once(&end).with_context(|| lacks(&end))?;
        Ok(format!("{before}{start}\n{text}{end}{after}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::Marked;

    #[test]
    fn only_what_is_between_the_comments_changes() {
        let part = Marked { file: "README.md", name: "figures", task: "cargo xtask x" };
        let start = "<!-- figures: written by `cargo xtask x` -->";
        let document = |text: &str| format!("before\n{start}\n{text}<!-- end of figures -->\nafter\n");
        assert_eq!(part.within(&document("old\n"), "new\n").unwrap(), document("new\n"));
        assert!(part.within("no comments", "").is_err());
        assert!(part.within(start, "").is_err());
    }
}
