//! JSON and TOML → the tree with places.

use jsonc_parser::ast;
use jsonc_parser::common::Ranged;
use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};

use super::problems::{Path, Problems, Shown, Step};
use super::{Document, Place};

impl Document {
    /// Parses JSON with `//` and `/* */` comments and trailing commas, and otherwise no liberties. `None` where the
    /// syntax is wrong.
    pub(crate) fn json(name: &str, text: &str, problems: &mut Problems) -> Option<Self> {
        let mut document = Document::empty(name);
        document.text = text.strip_prefix('\u{feff}').unwrap_or(text).to_owned();
        document.object = "an object";
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
}
