//! What is written about the command line, against the command line.

use super::*;

const README: &str = include_str!("../../../README.md");

/// Every command below `words`, with the words that call it and its examples, which its group may have.
fn commands(words: &[&str], command: &clap::Command, examples: &[String]) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        let words = [words, &[below.get_name()]].concat();
        let help = below.get_after_help().map(ToString::to_string).unwrap_or_default();
        let own = help.lines().filter_map(|line| line.strip_prefix("  walcast ")).map(str::to_owned);
        let examples: Vec<String> = own.chain(examples.iter().cloned()).collect();
        match below.has_subcommands() {
            true => found.extend(commands(&words, below, &examples)),
            false => found.push((words.join(" "), examples)),
        }
    }
    found
}

fn all() -> Vec<(String, Vec<String>)> {
    commands(&[], &Cli::command(), &[])
}

#[test]
fn the_readme_names_every_command() {
    for (words, _) in all() {
        // Those of a group may stand behind its first.
        let is_behind = |(group, last): (&str, &str)| {
            README.contains(&format!("walcast {group} ")) && README.contains(&format!("`{last}`"))
        };
        let is_named =
            README.contains(&format!("walcast {words}")) || words.split_once(' ').is_some_and(is_behind);
        assert!(is_named, "README.md does not name walcast {words}");
    }
}

#[test]
fn every_command_has_an_example_and_every_example_can_be_called() {
    let help = Cli::command().get_after_help().unwrap().to_string();
    let first = help.lines().filter_map(|line| line.strip_prefix("  walcast ")).map(str::to_owned);
    let mut examples: Vec<String> = first.collect();
    for (words, of_it) in all() {
        assert!(of_it.iter().any(|example| example.starts_with(&words)), "walcast {words} has no example");
        examples.extend(of_it);
    }
    for example in examples {
        // Two spaces and what it is for; a pipe and a file are the shell's.
        let call = shlex::split(example.split("  ").next().unwrap()).unwrap();
        let call = call.into_iter().take_while(|word| word != "|" && word != ">");
        if let Err(error) = Cli::try_parse_from(std::iter::once("walcast".to_owned()).chain(call)) {
            panic!("walcast {example}: {error}");
        }
    }
}
