//! How the commands print: to standard output, numbers with units, columns aligned, and nothing but ASCII where no
//! person looks on.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::time::Duration;

use bytesize::ByteSize;
use comfy_table::{Cell, CellAlignment, Table, TableStyle};
use serde::Serialize;

use crate::error::{Error, Result};

/// Prints a text as it is. A reader that has gone, such as `head`, is no error; returns whether there still is one.
pub fn print(text: &str) -> Result<bool> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::halt("writing to standard output").because(error)),
    }
}

/// Prints a value as JSON on lines of its own, as [`print()`] does.
pub fn print_json(value: &impl Serialize) -> Result<bool> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::bug("a report is no JSON").because(error))?;
    print(&(text + "\n"))
}

/// Prints a value as one line of JSON, as [`print()`] does.
pub fn print_json_line(value: &impl Serialize) -> Result<bool> {
    let text =
        serde_json::to_string(value).map_err(|error| Error::bug("a report is no JSON").because(error))?;
    print(&(text + "\n"))
}

/// Whether a person reads standard output.
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// A size: `1.5 MiB`.
pub fn bytes(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// A time span, to its two largest units: `3days 4h`.
pub fn duration(duration: Duration) -> String {
    let text = humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// A number with its noun: `1 problem`, `2 problems`.
pub fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// A table without lines. Columns named in `numbers` are aligned to the right.
pub fn table(header: &[&str], numbers: &[usize], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_header(header);
    for row in rows {
        table.add_row(row.into_iter().map(Cell::new));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if numbers.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt() + "\n"
}

/// The value, or a dash.
pub fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_units_and_no_more_digits_than_a_person_reads() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1_572_864), "1.5 MiB");
        assert_eq!(duration(Duration::from_millis(700)), "0s");
        assert_eq!(duration(Duration::from_secs(3 * 86_400 + 4 * 3_600 + 59)), "3days 4h");
        assert_eq!(count(1, "problem"), "1 problem");
        assert_eq!(count(0, "problem"), "0 problems");
    }

    #[test]
    fn a_table_is_aligned_and_has_no_lines() {
        let rows = [vec!["eu".to_owned(), "5".to_owned()], vec!["asia".to_owned(), "10".to_owned()]];
        assert_eq!(table(&["SINK", "ROWS"], &[1], rows), "SINK  ROWS\neu       5\nasia    10\n");
    }
}
