//! The ceiling of an SQLite region: the same narrow rows written by a bare loop of prepared upserts with a region's
//! settings, into one file and into several at once.

use std::path::Path;
use std::time::Instant;

use rusqlite::{Connection, params};
use walcast::error::{Error, Result};

/// Rows a second into each of `files` files.
pub struct Ceiling {
    pub files: usize,
    pub rows_per_second: f64,
}

/// Writes `rows` rows into each file, all files at once.
pub fn measure(files: usize, rows: u64) -> Result<Ceiling> {
    let failed = |error| Error::halt("making a directory for SQLite files").because(error);
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(failed)?;
    let started = Instant::now();
    let results: Vec<rusqlite::Result<()>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..files)
            .map(|file| {
                let path = directory.path().join(format!("{file}.db"));
                scope.spawn(move || write(&path, rows))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("the loop does not panic")).collect()
    });
    let seconds = started.elapsed().as_secs_f64();
    let written: rusqlite::Result<()> = results.into_iter().collect();
    written.map_err(|error| Error::halt("writing SQLite files").because(error))?;
    let ceiling = Ceiling { files, rows_per_second: rows as f64 / seconds };
    eprintln!("bare SQLite loop, {files} files: {:.0} rows/s into each", ceiling.rows_per_second);
    Ok(ceiling)
}

fn write(path: &Path, rows: u64) -> rusqlite::Result<()> {
    let file = Connection::open(path)?;
    file.pragma_update(None, "journal_mode", "WAL")?;
    file.pragma_update(None, "synchronous", "FULL")?;
    file.pragma_update(None, "wal_autocheckpoint", 8000)?;
    file.pragma_update(None, "cache_size", -4096)?;
    file.execute_batch(
        "CREATE TABLE narrow (id INTEGER, account INTEGER, amount INTEGER, label TEXT, PRIMARY KEY (id)) STRICT",
    )?;
    let mut upsert = file.prepare(
        "INSERT INTO narrow (id, account, amount, label) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (id) DO UPDATE SET account = excluded.account, amount = excluded.amount, label = excluded.label",
    )?;
    for first in (1..=rows as i64).step_by(1000) {
        file.execute_batch("BEGIN IMMEDIATE")?;
        for id in first..first + 1000 {
            upsert.execute(params![id, id % 100_000, id * 17, format!("row number {id} of many")])?;
        }
        file.execute_batch("COMMIT")?;
    }
    Ok(())
}
