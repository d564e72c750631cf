//! A configuration text as a tree whose every value knows where it stands. JSON with comments, TOML and environment
//! variables go in; typed values and problems with line, column and path come out. Reading goes on after a problem,
//! so that one run names them all. Values never enter a problem's text, because any of them may be a secret.

use std::collections::HashMap;
use std::fmt::{self, Display};

use jsonc_parser::ast;
use jsonc_parser::common::Ranged;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::Segment;
use toml::de::{DeTable, DeValue};

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
    ($($step:expr),* $(,)?) => { vec![$($crate::config::document::Step::from($step)),*] };
}
pub(crate) use steps;

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
        Document { name: name.to_owned(), text: String::new(), object: "table", root, places: HashMap::new() }
    }

    /// Parses JSON with `//` and `/* */` comments and trailing commas, and otherwise no liberties. `None` where the
    /// syntax is wrong.
    pub(crate) fn json(name: &str, text: &str, problems: &mut Problems) -> Option<Self> {
        let mut document = Document::empty(name);
        document.text = text.strip_prefix('\u{feff}').unwrap_or(text).to_owned();
        document.object = "object";
        let options = jsonc_parser::ParseOptions {
            allow_comments: true,
            allow_trailing_commas: true,
            allow_loose_object_property_names: false,
            allow_missing_commas: false,
            allow_single_quoted_strings: false,
            allow_hexadecimal_numbers: false,
            allow_unary_plus_numbers: false,
            allow_bare_decimal_point_numbers: false,
            allow_non_finite_numbers: false,
            allow_extended_string_escapes: false,
        };
        let text = document.text.clone();
        match jsonc_parser::parse_to_ast(&text, &Default::default(), &options) {
            Ok(parsed) => {
                let Some(value) = parsed.value else {
                    problems.add(&document, &[], "the file is empty");
                    return None;
                };
                document.root = document.json_value(value, 0, &mut Vec::new(), problems);
                Some(document)
            }
            Err(error) => {
                problems.syntax(&document, error.range().start, &error.kind().to_string());
                None
            }
        }
    }

    /// Parses TOML. `None` where the syntax is wrong.
    pub(crate) fn toml(name: &str, text: &str, problems: &mut Problems) -> Option<Self> {
        let mut document = Document::empty(name);
        document.text = text.strip_prefix('\u{feff}').unwrap_or(text).to_owned();
        let text = document.text.clone();
        let (table, errors) = DeTable::parse_recoverable(&text);
        for error in &errors {
            problems.syntax(&document, error.span().unwrap_or_default().start, error.message());
        }
        if !errors.is_empty() {
            return None;
        }
        document.root = document.toml_table(table.into_inner(), &mut Vec::new(), problems);
        Some(document)
    }

    fn json_value(
        &mut self,
        value: ast::Value<'_>,
        key: usize,
        path: &mut Path,
        problems: &mut Problems,
    ) -> Value {
        self.places.insert(path.clone(), Place::Text { key, value: value.start() });
        match value {
            ast::Value::NullKeyword(_) => Value::Null,
            ast::Value::BooleanLit(literal) => Value::Bool(literal.value),
            ast::Value::StringLit(literal) => Value::String(literal.value.into_owned()),
            ast::Value::NumberLit(literal) => literal.value.parse().map_or(Value::Null, Value::Number),
            ast::Value::Array(array) => {
                let mut values = Vec::with_capacity(array.elements.len());
                for (index, element) in array.elements.into_iter().enumerate() {
                    path.push(Step::Index(index));
                    let start = element.start();
                    values.push(self.json_value(element, start, path, problems));
                    path.pop();
                }
                Value::Array(values)
            }
            ast::Value::Object(object) => {
                let mut values = Map::new();
                for property in object.properties {
                    let start = property.name.start();
                    let name = property.name.into_string();
                    path.push(Step::Key(name.clone()));
                    if values.contains_key(&name) {
                        let message = format!("{}: this key is here twice", Shown(path));
                        problems.syntax(self, start, &message);
                    } else {
                        let value = self.json_value(property.value, start, path, problems);
                        values.insert(name, value);
                    }
                    path.pop();
                }
                Value::Object(values)
            }
        }
    }

    fn toml_table(&mut self, table: DeTable<'_>, path: &mut Path, problems: &mut Problems) -> Value {
        let mut values = Map::new();
        for (key, value) in table {
            let start = key.span().start;
            let key = key.into_inner().into_owned();
            path.push(Step::Key(key.clone()));
            self.places.insert(path.clone(), Place::Text { key: start, value: value.span().start });
            let value = self.toml_value(value.into_inner(), path, problems);
            values.insert(key, value);
            path.pop();
        }
        Value::Object(values)
    }

    fn toml_value(&mut self, value: DeValue<'_>, path: &mut Path, problems: &mut Problems) -> Value {
        match value {
            DeValue::String(text) => Value::String(text.into_owned()),
            DeValue::Boolean(value) => Value::Bool(value),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::from(number),
                Err(_) => {
                    problems.add(self, path, "this integer does not fit into 64 bits");
                    Value::Null
                }
            },
            DeValue::Float(number) => {
                number.as_str().parse().map_or(Value::Null, |number: f64| number.into())
            }
            DeValue::Datetime(time) => Value::String(time.to_string()),
            DeValue::Array(array) => {
                let mut values = Vec::with_capacity(array.len());
                for (index, element) in array.into_iter().enumerate() {
                    path.push(Step::Index(index));
                    let start = element.span().start;
                    self.places.insert(path.clone(), Place::Text { key: start, value: start });
                    values.push(self.toml_value(element.into_inner(), path, problems));
                    path.pop();
                }
                Value::Array(values)
            }
            DeValue::Table(table) => self.toml_table(table, path, problems),
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
                let message = format!("{variable}: {}: there is nothing to put this into", Shown(path));
                problems.found.push((Order::Variable, message));
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
                    problems.removed.push(path.clone());
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
            problems.add_at(self, &path, message.starts_with("unknown key"), message);
            problems.removed.push(path.clone());
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
                Some((_, "a sequence")) if self.object == "table" => format!("an array, written [[{last}]]"),
                Some((_, "a sequence")) => "an array".to_owned(),
                Some((_, expected)) if expected.starts_with("struct ") || expected == "a map" => {
                    format!("{} with keys", with_article(self.object))
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
                Some(Value::Object(_)) => with_article(self.object),
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

fn with_article(object: &str) -> String {
    format!("{} {object}", if object.starts_with('o') { "an" } else { "a" })
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
pub(crate) fn nearest<'a>(written: &str, known: &[&'a str]) -> Option<&'a str> {
    let written = written.to_lowercase();
    let similarity = |name: &str| strsim::jaro_winkler(&written, &name.to_lowercase());
    let near = known.iter().copied().max_by(|a, b| similarity(a).total_cmp(&similarity(b)))?;
    (similarity(near) > 0.85).then_some(near)
}

/// A path as people write it: `stripe_info.indexes[2][0]`.
struct Shown<'a>(&'a [Step]);

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

    fn syntax(&mut self, document: &Document, offset: usize, message: &str) {
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
