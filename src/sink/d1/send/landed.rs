//! What a request that succeeded teaches: where the database is, what that cost, which rows updates did not find, and
//! how large it has become. Nothing is sent here.

use super::{Pending, Session};
use crate::encode::fold::ChangeRef;
use crate::encode::json_rows;
use crate::encode::plan::Plan;
use crate::encode::run::ChangeKind;
use crate::fanout::fill::OwedKey;
use crate::sink::d1::compose::Purpose;
use crate::sink::d1::limits;
use crate::sink::d1::request::Request;
use crate::sink::d1::transport::Answer;
use crate::sink::replica::{NOT_IN_REPLICA, missing_row};

/// A database of this size is warned of: a tenth less than what fits.
const SIZE_WARNING_BYTES: u64 = limits::DATABASE_BYTES_MAX / 10 * 8;

impl Session {
    /// The request was applied, and here is what it came to.
    pub(super) fn landed(
        &mut self,
        answers: &[Answer],
        fence: usize,
        pending: Pending,
        request: &Request<'_>,
    ) {
        let ready = &request.ready;
        let Pending { end, mut usage, mut applied, .. } = pending;
        usage.rows_written += answers.iter().map(|answer| answer.rows_written).sum::<u64>();
        for (answer, purpose) in answers.iter().skip(fence).zip(&ready.purposes) {
            match purpose {
                Purpose::Table(table) => {
                    let target = &self.plan.tables[*table].target;
                    match usage.tables.get_mut(target) {
                        Some(rows) => *rows += answer.rows_written,
                        None => drop(usage.tables.insert(target.clone(), answer.rows_written)),
                    }
                }
                Purpose::SetAside(table) => {
                    self.missing.extend(missing(&self.plan, request, *table, answer));
                    applied.dead_letters += answer.rows_written;
                    if answer.rows_written > 0 {
                        tracing::warn!(rows = answer.rows_written, "dead letters: {}", NOT_IN_REPLICA);
                    }
                }
                Purpose::Letters => {}
            }
        }
        ready.letters.log();
        if let Some(bytes) = answers.iter().filter_map(|answer| answer.size_after).max()
            && (bytes >= SIZE_WARNING_BYTES) != self.is_size_warned
        {
            self.is_size_warned = !self.is_size_warned;
            if self.is_size_warned {
                tracing::warn!(bytes, "the database is nearly full: D1 takes 10 GB");
            }
        }
        if let Some(state) = &mut self.state {
            state.sequence += 1;
            state.usage = usage;
            let checkpoint = &mut state.checkpoint;
            checkpoint.lsn = end.lsn.unwrap_or(checkpoint.lsn);
            checkpoint.commit_time_micros = end.commit_time_micros.or(checkpoint.commit_time_micros);
            checkpoint.transactions += end.transactions;
            checkpoint.open = end.open;
            checkpoint.source.timeline = self.source.timeline;
            let lsn = checkpoint.lsn;
            self.poison.retain(|(commit_lsn, _), _| *commit_lsn >= lsn);
        }
        self.is_uncounted = !ready.purposes.is_empty();
        self.unreported.add(applied);
        self.pace.succeeded();
        self.complaints = 0;
    }
}

/// The rows of a table for whose updates dead letters were written: what has to be read.
fn missing<'a>(
    plan: &'a Plan,
    request: &'a Request<'_>,
    table: usize,
    answer: &'a Answer,
) -> impl Iterator<Item = (usize, OwedKey)> + 'a {
    let keys: Vec<&str> = answer.rows.iter().filter_map(|row| row.get("key")?.as_str()).collect();
    let of_table = move |from: &ChangeRef<'_>| from.change().table as usize == table;
    let found = move |from: ChangeRef<'_>| {
        let change = from.change();
        let key = match change.kind {
            ChangeKind::Update => {
                let row = from.run.row(change, plan);
                plan.tables[table].key.iter().map(|&index| row[index]).collect()
            }
            ChangeKind::Move => from.run.key(change, plan).to_vec(),
            ChangeKind::Upsert | ChangeKind::Delete | ChangeKind::Truncate | ChangeKind::Reject => {
                return None;
            }
        };
        let mut text = Vec::new();
        json_rows::array(key, from.run.arena(), &mut text);
        let is_missing = keys.iter().any(|key| key.as_bytes() == text);
        is_missing.then(|| missing_row(from.run, from.span, change, plan)).flatten()
    };
    let changes = (!answer.rows.is_empty()).then(|| request.changes());
    changes.into_iter().flatten().filter(of_table).filter_map(found)
}
