//! What design keeps apart stays apart: the import order of the folders, the purity of decoding and encoding, and a
//! few rules of the house that no lint knows. It reads the sources as text, so it sees every platform's code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The stages in the order in which data flows; each may import those before it.
const STAGES: [&str; 6] = ["capture", "decode", "encode", "fanout", "sink", "app"];
/// The modules that every stage may use. They import each other, never a stage.
const ROOT: [&str; 6] = ["error", "document", "https", "config", "telemetry", "postgres"];
/// Of the root, what code without a socket, a clock or a file may use.
const PURE_ROOT: [&str; 2] = ["error", "document"];
/// What of `capture` describes instead of doing: all that `decode` and `encode` may import of it.
const PURE_CAPTURE: [&str; 4] =
    ["capture::copy_text", "capture::frame", "capture::snapshot", "capture::table"];
/// What code that must be pure never mentions.
const IMPURE: [&str; 9] = [
    "tokio::",
    "std::net",
    "std::fs",
    "std::env",
    "std::thread",
    "std::process",
    "Instant",
    "SystemTime",
    "rusqlite",
];
const LINES_MAX: usize = 700;
/// Statements that people run, not the crate.
const SQL_FOR_PEOPLE: [&str; 2] = ["role_create.sql", "webhook_trigger.sql"];

struct SourceFile {
    /// Below `src`, with slashes.
    path: String,
    text: String,
    /// The text without comments.
    code: String,
}

impl SourceFile {
    /// The folder or root module that the file belongs to: `encode`, `error`, `lib`.
    fn top(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// The module's path from the crate: `encode::schema_file::check`.
    fn module(&self) -> String {
        let path = self.path.strip_suffix(".rs").unwrap_or(&self.path);
        path.strip_suffix("/mod").unwrap_or(path).replace('/', "::")
    }

    /// Every module of this crate that the file names, as far as it names it: `capture::table::Oid`. The paths that
    /// leave the file's own folder through `super` are among them.
    fn imports(&self) -> Vec<String> {
        let mut imports = Vec::new();
        for (at, _) in self.code.match_indices("crate::") {
            // Not `$crate`, nor the end of a longer name.
            if !self.code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
                expand(&self.code[at + "crate::".len()..], "", &mut imports);
            }
        }
        let depth = self.module().split("::").count();
        for (at, _) in self.code.match_indices("super::") {
            if self.code[..at].ends_with("super::") {
                continue;
            }
            let path = &self.code[at..];
            let rest = path.trim_start_matches("super::");
            let ups = (path.len() - rest.len()) / "super::".len();
            if ups >= depth {
                let mut found = Vec::new();
                expand(rest, "", &mut found);
                // An inline module is one step deeper than its file; then the path only reaches the folder itself.
                found.retain(|path| STAGES.contains(&head(path)) || ROOT.contains(&head(path)));
                imports.extend(found);
            }
        }
        imports
    }
}

/// Adds the paths that begin at `text`, groups in braces taken apart. Returns how much of the text they are.
fn expand(text: &str, prefix: &str, paths: &mut Vec<String>) -> usize {
    let name_end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let path = match prefix {
        "" => text[..name_end].to_owned(),
        prefix => format!("{prefix}::{}", &text[..name_end]),
    };
    if name_end > 0 {
        match text[name_end..].strip_prefix("::") {
            Some(rest) => return name_end + 2 + expand(rest, &path, paths),
            None => paths.push(path),
        }
        return name_end;
    }
    if !text.starts_with('{') {
        paths.push(prefix.to_owned()); // a glob, or a turbofish
        return 0;
    }
    let mut at = 1;
    loop {
        at += text[at..].len() - text[at..].trim_start_matches([' ', '\n', ',']).len();
        if text[at..].starts_with('}') || at >= text.len() {
            return at + 1;
        }
        at += expand(&text[at..], prefix, paths).max(1);
        // `name as other`
        at += text[at..].find([',', '}']).unwrap_or(0);
    }
}

fn head(path: &str) -> &str {
    path.split("::").next().unwrap_or_default()
}

fn sources() -> Vec<SourceFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    for path in files_below(&root, "rs") {
        let text = fs::read_to_string(&path).unwrap();
        let code = text.lines().map(without_comment).collect::<Vec<_>>().join("\n");
        let path = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
        files.push(SourceFile { path, text, code });
    }
    assert!(files.len() > 50, "the sources are in src");
    files
}

fn without_comment(line: &str) -> &str {
    match line.find("//") {
        // A URL in a string is no comment.
        Some(at) if !line[..at].ends_with(':') => &line[..at],
        _ => line,
    }
}

fn files_below(directory: &Path, extension: &str) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path, extension));
        } else if path.extension().is_some_and(|it| it == extension) {
            found.insert(path);
        }
    }
    found
}

/// Fails with every violation at once.
fn none(rule: &str, violations: Vec<String>) {
    assert!(violations.is_empty(), "{rule}:\n  {}", violations.join("\n  "));
}

/// Why a module of this folder may not import that path.
fn objection(top: &str, import: &str) -> Option<String> {
    let imported = head(import);
    let Some(stage) = STAGES.iter().position(|stage| *stage == top) else {
        let is_root = ROOT.contains(&top);
        return (is_root && STAGES.contains(&imported)).then(|| "the root imports no stage".to_owned());
    };
    if STAGES[stage + 1..].contains(&imported) {
        return Some(format!("{imported} comes after {top}"));
    }
    if matches!(top, "decode" | "encode") {
        if ROOT.contains(&imported) && !PURE_ROOT.contains(&imported) {
            return Some(format!("{top} is pure, {imported} is not"));
        }
        let is_pure = PURE_CAPTURE.iter().any(|pure| format!("{import}::").starts_with(&format!("{pure}::")));
        if imported == "capture" && !is_pure {
            return Some(format!("{top} may know of capture only {}", PURE_CAPTURE.join(" and ")));
        }
    }
    None
}

#[test]
fn every_folder_imports_only_what_the_data_has_passed() {
    let mut violations = Vec::new();
    let mut seen = 0;
    for file in sources() {
        for import in file.imports() {
            seen += 1;
            if let Some(why) = objection(file.top(), &import) {
                violations.push(format!("src/{} names crate::{import}: {why}", file.path));
            }
        }
    }
    assert!(seen > 200, "only {seen} imports were found: the reader of imports is broken");
    none("the import order is capture, decode, encode, fanout, sink, app", violations);
}

#[test]
fn the_reader_of_imports_sees_groups_globs_and_supers() {
    let file = SourceFile {
        path: "encode/mapper.rs".to_owned(),
        text: String::new(),
        code: "use crate::{a::{b, c as d}, e::*};\nuse super::super::sink::null;\nlet x = crate::f::g(1);"
            .to_owned(),
    };
    assert_eq!(file.imports(), ["a::b", "a::c", "e", "f::g", "sink::null"]);
    assert!(objection("encode", "sink::null").is_some());
    assert!(objection("encode", "capture::slot::read").is_some());
    assert!(objection("encode", "telemetry").is_some());
    assert!(objection("telemetry", "fanout::sink::Applied").is_some());
    assert!(objection("decode", "capture::table::Oid").is_none());
    assert!(objection("sink", "capture::slot::SourceIdentity").is_none());
}

#[test]
fn every_module_is_a_stage_or_in_the_root() {
    let unknown = sources()
        .iter()
        .map(|file| file.top().to_owned())
        .filter(|top| !STAGES.contains(&&**top) && !ROOT.contains(&&**top) && top != "lib" && top != "main")
        .collect::<BTreeSet<_>>();
    none("a new folder needs its place in the import order", unknown.into_iter().collect());
}

#[test]
fn decoding_and_encoding_touch_no_socket_clock_or_file() {
    let mut violations = Vec::new();
    for file in sources() {
        let is_pure = matches!(file.top(), "decode" | "encode") || PURE_CAPTURE.contains(&&*file.module());
        // Tests may read their golden files.
        if !is_pure || file.path.ends_with("tests.rs") {
            continue;
        }
        let code = file.code.replace("tokio_postgres::types", "");
        let words = IMPURE.iter().chain(["tokio_postgres::"].iter());
        for word in words.filter(|word| code.contains(**word)) {
            violations.push(format!("src/{} mentions {word}", file.path));
        }
    }
    none("decode, encode and what they use of capture are pure", violations);
}

#[test]
fn every_source_file_says_what_it_is() {
    let silent = sources().into_iter().filter(|file| !file.text.starts_with("//!"));
    none("a file starts with //!", silent.map(|file| format!("src/{}", file.path)).collect());
}

#[test]
fn no_source_file_eats_the_rest() {
    let long = sources().into_iter().filter_map(|file| {
        let lines = file.text.lines().count();
        (lines > LINES_MAX).then(|| format!("src/{} has {lines} lines", file.path))
    });
    none("a file has at most 700 lines", long.collect());
}

#[test]
fn no_module_is_a_bucket() {
    let buckets = ["common", "util", "utils", "types", "helper", "helpers", "misc"];
    let found = sources().into_iter().filter(|file| {
        let module = file.module();
        module.split("::").any(|name| buckets.contains(&name))
    });
    none("a module is named for what it is", found.map(|file| format!("src/{}", file.path)).collect());
}

#[test]
fn every_statement_in_sql_is_used() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut included = BTreeSet::new();
    for file in sources() {
        let folder = root.join("src").join(&file.path).parent().unwrap().to_owned();
        for (at, _) in file.text.match_indices("include_str!(\"") {
            let path = file.text[at..].split('"').nth(1).unwrap();
            included.insert(folder.join(path).canonicalize().unwrap());
        }
    }
    let sql = files_below(&root.join("sql"), "sql");
    let unused = sql.into_iter().filter(|path| {
        let is_for_people = SQL_FOR_PEOPLE.iter().any(|name| path.ends_with(name));
        !is_for_people && !included.contains(&path.canonicalize().unwrap())
    });
    none("sql/ holds what the crate includes", unused.map(|path| path.display().to_string()).collect());
}
