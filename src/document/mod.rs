//! A configuration text as a tree whose every value knows where it stands. JSON with comments, TOML and environment
//! variables go in; typed values and problems with line, column and path come out. Reading goes on after a problem,
//! so that one run names them all. Values never enter a problem's text, because any of them may be a secret.
//!
//! `walcast.toml` and `schema.json` are both read through it; it knows the keys of neither.

mod parse;
pub(crate) mod problems;

use std::collections::HashMap;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use problems::{Path, Problems, Step};

/// Where a value was written.
enum Place {
    /// In the text, as byte offsets: the key and the value.
    Text { key: usize, value: usize },
    /// In the environment.
    Variable(String),
}

/// A parsed text. It has no `Debug`, because it holds secrets.
pub(crate) struct Document {
    name: String,
    text: String,
    /// What its format calls a value with keys.
    object: &'static str,
    root: Value,
    places: HashMap<Path, Place>,
}

impl Document {
    /// A document without a text, to be filled from the environment.
    pub(crate) fn empty(name: &str) -> Self {
        let root = Value::Object(Map::new());
        Document {
            name: name.to_owned(),
            text: String::new(),
            object: "a table",
            root,
            places: HashMap::new(),
        }
    }

    /// The keys at the top, in the order of the text.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.root.as_object().into_iter().flat_map(|object| object.keys().map(String::as_str))
    }

    fn get(&self, path: &[Step]) -> Option<&Value> {
        path.iter().try_fold(&self.root, |node, step| match step {
            Step::Key(key) => node.get(key),
            Step::Index(index) => node.get(index),
        })
    }

    /// Puts the text of an environment variable at the path, in place of what the file says there. What the file has
    /// on the way stays, so that a wrong type there is still reported.
    pub(crate) fn set(&mut self, path: &[Step], text: &str, variable: &str, problems: &mut Problems) {
        let mut node = &mut self.root;
        for step in path {
            let next = match step {
                Step::Key(key) => {
                    if node.is_null() {
                        *node = Value::Object(Map::new());
                    }
                    node.as_object_mut().map(|object| object.entry(key).or_insert(Value::Null))
                }
                Step::Index(index) => {
                    if node.is_null() {
                        *node = Value::Array(Vec::new());
                    }
                    node.as_array_mut().and_then(|array| {
                        if array.len() == *index {
                            array.push(Value::Null);
                        }
                        array.get_mut(*index)
                    })
                }
            };
            let Some(next) = next else {
                let message = format!("{variable}: there is nothing to put this into");
                problems.push_variable(message);
                return;
            };
            node = next;
        }
        *node = Value::String(text.to_owned());
        self.places.insert(path.to_vec(), Place::Variable(variable.to_owned()));
    }

    /// Takes a value out, and says whether it was there. Of an array's elements none is taken out but the whole array,
    /// since the others' places count from its start.
    pub(crate) fn remove(&mut self, path: &[Step]) -> bool {
        let Some(end) = path.iter().rposition(|step| matches!(step, Step::Key(_))) else { return false };
        let parent = path[..end].iter().try_fold(&mut self.root, |node, step| match step {
            Step::Key(key) => node.get_mut(key),
            Step::Index(index) => node.get_mut(index),
        });
        match (parent, &path[end]) {
            (Some(Value::Object(object)), Step::Key(key)) => object.shift_remove(key).is_some(),
            _ => false,
        }
    }

    /// Replaces every string of the text by what `replace` makes of it; what came from the environment stays.
    pub(crate) fn replace_strings(
        &mut self,
        problems: &mut Problems,
        replace: &dyn Fn(&str) -> Result<String, String>,
    ) {
        let mut root = std::mem::take(&mut self.root);
        self.replace_below(&mut root, &mut Vec::new(), problems, replace);
        self.root = root;
    }

    fn replace_below(
        &self,
        node: &mut Value,
        path: &mut Path,
        problems: &mut Problems,
        replace: &dyn Fn(&str) -> Result<String, String>,
    ) {
        match node {
            Value::String(_) if matches!(self.places.get(path), Some(Place::Variable(_))) => {}
            Value::String(text) => match replace(text) {
                Ok(replaced) => *text = replaced,
                Err(message) => {
                    problems.add(self, path, message);
                    problems.note_removed(path.clone());
                    *node = Value::Null;
                }
            },
            Value::Array(values) => {
                for (index, value) in values.iter_mut().enumerate() {
                    path.push(Step::Index(index));
                    self.replace_below(value, path, problems, replace);
                    path.pop();
                }
            }
            Value::Object(values) => {
                for (key, value) in values.iter_mut() {
                    path.push(Step::Key(key.clone()));
                    self.replace_below(value, path, problems, replace);
                    path.pop();
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Reads the whole tree into a value. What is wrong is noted and taken out of the tree, and reading starts again:
    /// so every wrong place is found, and the value is `None` only where the root itself is wrong.
    pub(crate) fn read<T: DeserializeOwned>(&mut self, problems: &mut Problems) -> Option<T> {
        loop {
            let error = match serde_path_to_error::deserialize(&self.root) {
                Ok(value) => return Some(value),
                Err(error) => error,
            };
            let path = path_of(error.path());
            let message = self.explain(&error.inner().to_string(), &path);
            if message.starts_with("unknown key") {
                problems.add_key(self, &path, message);
            } else {
                problems.add(self, &path, message);
            }
            problems.note_removed(path.clone());
            if !self.remove(&path) {
                return None;
            }
        }
    }

    /// Says in our words what serde says in its own, without the value that serde quotes.
    fn explain(&self, message: &str, path: &[Step]) -> String {
        let found = self.get(path);
        let last = match path.last() {
            Some(Step::Key(key)) => key.as_str(),
            _ => "",
        };
        if let Some(expected) = message.strip_prefix("unknown field ") {
            let known = expected.strip_prefix(&format!("`{last}`, ")).unwrap_or(expected);
            return unknown("key", last, known);
        }
        if let (Some(expected), Some(Value::String(text))) = (message.strip_prefix("unknown variant "), found)
        {
            let known = expected.strip_prefix(&format!("`{text}`, ")).unwrap_or(expected);
            return unknown("value", text, known);
        }
        if message.starts_with("invalid type") || message.starts_with("invalid value") {
            let expected = match message.rsplit_once(", expected ") {
                Some((_, "a sequence")) if self.object == "a table" => {
                    format!("an array, written [[{last}]]")
                }
                Some((_, "a sequence")) => "an array".to_owned(),
                Some((_, expected)) if expected.starts_with("struct ") || expected == "a map" => {
                    format!("{} with keys", self.object)
                }
                Some((_, expected)) => expected.to_owned(),
                None => "something else".to_owned(),
            };
            let found = match found {
                None | Some(Value::Null) => "nothing".to_owned(),
                Some(Value::Bool(_)) => "a boolean".to_owned(),
                Some(Value::Number(_)) => "a number".to_owned(),
                Some(Value::String(_)) => "a string".to_owned(),
                Some(Value::Array(_)) => "an array".to_owned(),
                Some(Value::Object(_)) => self.object.to_owned(),
            };
            return format!("expected {expected}, found {found}");
        }
        match message.strip_prefix("missing field ") {
            Some(field) => format!("{} is missing", field.replace('`', "")),
            None => message.to_owned(),
        }
    }

    /// The line and column of an offset, both from 1, the column in characters.
    fn line_and_column(&self, offset: usize) -> (usize, usize) {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        (line, String::from_utf8_lossy(&before[line_start..]).chars().count() + 1)
    }
}

fn path_of(path: &serde_path_to_error::Path) -> Path {
    path.iter()
        .map_while(|segment| match segment {
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Map { key } => Some(Step::Key(key.clone())),
            Segment::Enum { variant } => Some(Step::Key(variant.clone())),
            Segment::Unknown => None,
        })
        .collect()
}

/// `unknown key, did you mean "columns"?`, or all that is known where nothing is near. `known` is serde's list, each
/// name between backticks.
fn unknown(noun: &str, written: &str, known: &str) -> String {
    let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
    match nearest(written, &known) {
        Some(near) => format!("unknown {noun}, did you mean \"{near}\"?"),
        None => format!("unknown {noun}, expected one of {}", known.join(", ")),
    }
}

/// The name that was probably meant.
fn nearest<'a>(written: &str, known: &[&'a str]) -> Option<&'a str> {
    let written = written.to_lowercase();
    let similarity = |name: &str| strsim::jaro_winkler(&written, &name.to_lowercase());
    let near = known.iter().copied().max_by(|a, b| similarity(a).total_cmp(&similarity(b)))?;
    (similarity(near) > 0.85).then_some(near)
}
