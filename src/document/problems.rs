//! What is wrong with a text, and where: paths, and the list of problems that becomes one error.

use std::fmt::{self, Display};

use super::{Document, Place};
use crate::error::{Error, Result};

/// One step down the tree.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Step {
    Index(usize),
    Key(String),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Step::Key(key.to_owned())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Step::Index(index)
    }
}

/// The way from the root to a value.
pub(crate) type Path = Vec<Step>;

/// Builds a [`Path`] from keys and indexes.
macro_rules! steps {
    ($($step:expr),* $(,)?) => { vec![$($crate::document::problems::Step::from($step)),*] };
}
pub(crate) use steps;

/// In which order problems are told: as the text has them, then the environment's, then what is missing.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Text(usize),
    Variable,
    Nowhere,
}

/// Everything found wrong so far.
#[derive(Default)]
pub(crate) struct Problems {
    found: Vec<(Order, String)>,
    /// What was taken out of the tree because it could not be read.
    removed: Vec<Path>,
}

impl Problems {
    /// Notes a problem with the value at the path; a missing value is placed at the nearest thing around it. It is
    /// dropped where the value, or something in it, could not be read: it would be a consequence of that.
    pub(crate) fn add(&mut self, document: &Document, path: &[Step], message: impl Display) {
        self.add_at(document, path, false, message);
    }

    /// As [`Problems::add`], at the key instead of its value.
    pub(crate) fn add_key(&mut self, document: &Document, path: &[Step], message: impl Display) {
        self.add_at(document, path, true, message);
    }

    fn add_at(&mut self, document: &Document, path: &[Step], at_key: bool, message: impl Display) {
        if !path.is_empty() && self.has_removed(path) {
            return;
        }
        let place = (1..=path.len()).rev().find_map(|length| document.places.get(&path[..length]));
        let shown = Shown(path);
        let separator = if path.is_empty() { "" } else { ": " };
        let (order, text) = match place {
            Some(Place::Text { key, value }) => {
                let offset = if at_key { *key } else { *value };
                let (line, column) = document.line_and_column(offset);
                let place = format!("{}:{line}:{column}", document.name);
                (Order::Text(offset), format!("{place}: {shown}{separator}{message}"))
            }
            Some(Place::Variable(variable)) => (Order::Variable, format!("{variable}: {message}")),
            None => (Order::Nowhere, format!("{}: {shown}{separator}{message}", document.name)),
        };
        self.found.push((order, text));
    }

    /// Notes that a variable does not fit into the tree.
    pub(super) fn push_variable(&mut self, text: String) {
        self.found.push((Order::Variable, text));
    }

    /// Notes that the value at the path was taken out, so that later problems with it are dropped.
    pub(super) fn note_removed(&mut self, path: Path) {
        self.removed.push(path);
    }

    /// Notes a mistake in the syntax at an offset of the text.
    pub(super) fn syntax(&mut self, document: &Document, offset: usize, message: &str) {
        let (line, column) = document.line_and_column(offset);
        let mut message = message.to_owned();
        if let Some(first) = message.get_mut(..1) {
            first.make_ascii_lowercase();
        }
        let text = format!("{}:{line}:{column}: {message}", document.name);
        self.found.push((Order::Text(offset), text));
    }

    /// Whether nothing is wrong.
    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Whether the value at the path, or something in it, could not be read.
    pub(crate) fn has_removed(&self, path: &[Step]) -> bool {
        self.removed.iter().any(|removed| removed.starts_with(path))
    }

    /// Ends the reading: all problems as one error, a line each.
    pub(crate) fn finish(mut self) -> Result<()> {
        if self.found.is_empty() {
            return Ok(());
        }
        self.found.sort();
        let lines: Vec<String> = self.found.into_iter().map(|(_, text)| text).collect();
        Err(Error::config(lines.join("\n")))
    }
}

/// A path as people write it: `stripe_info.indexes[2][0]`.
pub(super) struct Shown<'a>(pub(super) &'a [Step]);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    f.write_str(if depth == 0 { "" } else { "." })?;
                    match key.is_empty() || key.contains(char::is_control) {
                        true => write!(f, "{key:?}")?,
                        false => f.write_str(key)?,
                    }
                }
            }
        }
        Ok(())
    }
}
