//! A writer whose transactions are hard to get right: rows that come, change, move and go, now and then so many that they
//! travel in parts. Its table is `t (writer, id, n, pad)`.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use crate::pipeline::Session;

/// Commits until it is told to stop, and counts; `further` ends each transaction.
pub fn keep_writing(
    url: &str,
    writer: usize,
    further: &str,
    pause: Duration,
    (stop, committed): (&AtomicBool, &AtomicI64),
) {
    let session = Session::connect(url).unwrap();
    for id in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let copies = if id % 40 == 0 { 500 } else { 1 };
        let mine = format!("writer = {writer}");
        let sql = format!(
            "BEGIN; INSERT INTO t SELECT {writer}, {id} * 1000 + i, 0, 'pad' FROM generate_series(1, {copies}) i;
             UPDATE t SET n = n + 1 WHERE {mine} AND id = ({id} - 1) * 1000 + 1;
             UPDATE t SET id = id + 500 WHERE {mine} AND id = ({id} - 2) * 1000 + 1;
             DELETE FROM t WHERE {mine} AND id BETWEEN ({id} - 5) * 1000 + 2 AND ({id} - 5) * 1000 + 400;
             {further}; COMMIT"
        );
        session.exec(&sql).unwrap();
        committed.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(pause);
    }
}
