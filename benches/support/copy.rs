//! What a script would do instead of walcast: a COPY of a table by `psql`, read line by line, into a SQLite file.

use std::io::BufRead;
use std::process::{Command, Stdio};

use rusqlite::{Connection, params_from_iter};

/// A `psql` that runs one command.
pub fn psql(url: &str, command: &str) -> Command {
    let mut psql = Command::new("psql");
    psql.args(["--no-psqlrc", "--quiet", "-c", command, url]).stdin(Stdio::null());
    psql
}

/// Copies a table of so many columns into one of the same name, ordered by the first two, in one transaction.
pub fn copy_into(file: &mut Connection, url: &str, table: &str, columns: usize) {
    let copy = format!("COPY (SELECT * FROM {table} ORDER BY 1, 2) TO STDOUT");
    let mut copy = psql(url, &copy).stdout(Stdio::piped()).spawn().expect("psql runs");
    let transaction = file.transaction().expect("a transaction");
    {
        let places = vec!["?"; columns].join(", ");
        let mut insert =
            transaction.prepare(&format!("INSERT INTO {table} VALUES ({places})")).expect("a statement");
        let output = std::io::BufReader::with_capacity(1 << 20, copy.stdout.take().expect("its output"));
        for line in output.lines() {
            insert.execute(params_from_iter(line.expect("text").split('\t'))).expect("a row");
        }
    }
    transaction.commit().expect("the commit");
    assert!(copy.wait().expect("psql ends").success());
}
