//! Every key that there is stands in README.md.

use std::collections::BTreeMap;

use super::Written;

const README: &str = include_str!("../../README.md");

/// The keys that may stand under a heading, as the refusal of another one names them; none where no keys may.
fn keys(heading: &str) -> Vec<String> {
    let Err(error) = toml::from_str::<Written>(&format!("{heading}\nno-such-key = 1\n")) else {
        return Vec::new();
    };
    match error.message().split_once("expected") {
        Some((start, names)) if start.starts_with("unknown field") => {
            names.split('`').skip(1).step_by(2).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

/// The words below each heading of the TOML in README.md, with comments; those before the first under nothing.
fn written() -> BTreeMap<String, Vec<&'static str>> {
    let mut words: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for block in README.split("```toml\n").skip(1) {
        let mut heading = "";
        for line in block.split("```").next().unwrap().lines() {
            let line = line.trim_start_matches("# ");
            if let Some(end) = line.rfind(']').filter(|_| line.starts_with('[')) {
                heading = line[..=end].split_whitespace().next().unwrap();
            }
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            words.entry(heading.to_owned()).or_default().extend(line.split(|c| !is_word(c)));
        }
    }
    words
}

#[test]
fn the_readme_has_every_key_under_its_heading() {
    let (written, top) = (written(), keys(""));
    let mut missing = Vec::new();
    let mut seen = 0;
    for name in &top {
        let headings = [format!("[{name}]"), format!("[[{name}]]")];
        let below =
            headings.iter().map(|heading| (heading, keys(heading))).find(|(_, keys)| !keys.is_empty());
        let (heading, keys) = match &below {
            Some((heading, keys)) => (heading.as_str(), keys.clone()),
            None => ("", vec![name.clone()]),
        };
        let words = written.get(heading).map(Vec::as_slice).unwrap_or_default();
        seen += keys.len();
        missing.extend(
            keys.iter().filter(|key| !words.contains(&key.as_str())).map(|key| format!("{heading} {key}")),
        );
    }
    assert!(seen > 50, "only {seen} keys were found");
    assert_eq!(missing, [""; 0], "README.md lacks keys");
}
