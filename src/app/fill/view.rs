//! What is known of the fills beside what the sinks keep: what operators ask for, and which tables cannot go on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use super::request::{FillRequest, RowRequest};
use crate::error::Error;
use crate::fanout::fill::{Fills, TableState};
use crate::fanout::progress::SinkProgress;
use crate::fanout::stop::Stopped;

/// What operators ask for, and what keeps tables from being filled.
#[derive(Debug, Default)]
pub struct FillView {
    failed: Mutex<BTreeMap<usize, Problem>>,
    requests: Mutex<VecDeque<FillRequest>>,
    row_requests: Mutex<VecDeque<RowRequest>>,
    /// Requests that were taken, and of which the sinks do not know yet.
    taken: Mutex<Vec<FillRequest>>,
    /// The same of requests for rows.
    taken_rows: Mutex<Vec<RowRequest>>,
    /// Requests that the sinks do not know of yet.
    pending: AtomicUsize,
    /// Another engine has taken over what was asked for.
    is_over: RwLock<bool>,
    /// By table: which rows an operator has asked for, in the source's SQL. Never kept in a sink, because whoever can
    /// write to a sink would then run statements at the source.
    filters: Mutex<BTreeMap<usize, String>>,
    /// By table: why its changes do not come any more, which the stream does not say.
    gone: Mutex<BTreeMap<usize, Gone>>,
}

/// A table that is gone at the source.
#[derive(Debug)]
struct Gone {
    stopped: Stopped,
    /// The sinks that know of it, not by their names: one that is put in anew does not know what another one was told.
    told: Vec<Weak<SinkProgress>>,
    /// It is there again; who has not been told lacks changes all the same.
    is_over: bool,
}

/// Why a table's fill does not go on.
#[derive(Debug, Clone)]
pub struct Problem {
    /// The error with its causes.
    pub problem: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl FillView {
    /// What keeps the table from being filled.
    pub fn failure(&self, table: usize) -> Option<Problem> {
        lock(&self.failed).get(&table).cloned()
    }

    /// Says what keeps the table from being filled.
    pub fn set_failure(&self, table: usize, error: Option<&Error>) {
        let mut failed = lock(&self.failed);
        match error {
            Some(error) => {
                let hint = error.hint_text().map(str::to_owned);
                failed.insert(table, Problem { problem: error.chain(), hint });
            }
            None => {
                failed.remove(&table);
            }
        }
    }

    /// Asks for tables to be filled once more, or emptied. False, and nothing is asked, where another engine has taken
    /// over: that one is to be asked.
    #[must_use]
    pub fn request(&self, request: FillRequest) -> bool {
        let is_over = self.is_over.read().unwrap_or_else(PoisonError::into_inner);
        if *is_over {
            return false;
        }
        let mut filters = lock(&self.filters);
        for &table in &request.tables {
            // What kept it before says nothing about this time.
            lock(&self.failed).remove(&table);
            match &request.filter {
                Some(filter) => filters.insert(table, filter.clone()),
                None => filters.remove(&table),
            };
        }
        self.pending.fetch_add(1, Ordering::AcqRel);
        lock(&self.requests).push_back(request);
        true
    }

    /// Asks for rows to be read by themselves. False, and nothing is asked, where another engine has taken over.
    #[must_use]
    pub fn request_rows(&self, request: RowRequest) -> bool {
        let is_over = self.is_over.read().unwrap_or_else(PoisonError::into_inner);
        if *is_over {
            return false;
        }
        self.pending.fetch_add(1, Ordering::AcqRel);
        lock(&self.row_requests).push_back(request);
        true
    }

    /// The next request for rows that nobody has begun.
    pub(super) fn take_row_request(&self) -> Option<RowRequest> {
        let mut requests = lock(&self.row_requests);
        let next = requests.pop_front();
        lock(&self.taken_rows).extend(next.clone());
        next
    }

    /// The next request that nobody has begun.
    pub(super) fn take_request(&self) -> Option<FillRequest> {
        let mut requests = lock(&self.requests);
        let next = requests.pop_front();
        lock(&self.taken).extend(next.clone());
        next
    }

    /// The sinks know of a request that was taken: what it asks for is what they lack.
    pub(super) fn request_begun(&self, request: &FillRequest) {
        let mut taken = lock(&self.taken);
        if let Some(at) = taken.iter().position(|other| other == request) {
            taken.swap_remove(at);
        }
        self.pending.fetch_sub(1, Ordering::AcqRel);
    }

    /// The same of a request for rows.
    pub(super) fn row_request_begun(&self, request: &RowRequest) {
        let mut taken = lock(&self.taken_rows);
        if let Some(at) = taken.iter().position(|other| other == request) {
            taken.swap_remove(at);
        }
        self.pending.fetch_sub(1, Ordering::AcqRel);
    }

    /// Asks `next`, which nobody else knows yet, for what the sinks do not know of yet; `place` says where a table is
    /// there. From here on nothing can be asked for here.
    pub fn hand_over(&self, next: &FillView, place: impl Fn(usize) -> Option<usize>) {
        *self.is_over.write().unwrap_or_else(PoisonError::into_inner) = true;
        let taken = std::mem::take(&mut *lock(&self.taken));
        let waiting = std::mem::take(&mut *lock(&self.requests));
        for request in taken.into_iter().chain(waiting) {
            let tables: Vec<usize> = request.tables.iter().filter_map(|&table| place(table)).collect();
            if !tables.is_empty() {
                let _ = next.request(FillRequest { tables, ..request });
            }
        }
        let gone = std::mem::take(&mut *lock(&self.gone)).into_iter();
        lock(&next.gone).extend(gone.filter_map(|(table, gone)| Some((place(table)?, gone))));
        let taken = std::mem::take(&mut *lock(&self.taken_rows));
        let waiting = std::mem::take(&mut *lock(&self.row_requests));
        for request in taken.into_iter().chain(waiting) {
            if let Some(table) = place(request.table) {
                let _ = next.request_rows(RowRequest { table, ..request });
            }
        }
    }

    /// Whether the sinks do not know of every request yet.
    pub fn has_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire) > 0
    }

    /// Which rows of the table are asked for.
    pub(super) fn filter(&self, table: usize) -> Option<String> {
        lock(&self.filters).get(&table).cloned()
    }

    /// Forgets the conditions of tables that nobody fills any more.
    pub(super) fn keep_filters(&self, needed: impl Fn(usize) -> bool) {
        if !self.has_pending() {
            lock(&self.filters).retain(|&table, _| needed(table));
        }
    }

    /// Says that changes of the table do not come any more, and why.
    pub fn set_gone(&self, table: usize, stopped: Stopped) {
        let mut gone = lock(&self.gone);
        if gone.get(&table).is_none_or(|gone| gone.is_over) {
            gone.insert(table, Gone { stopped, told: Vec::new(), is_over: false });
        }
    }

    /// Says that changes of the table come.
    pub fn set_there(&self, table: usize) {
        if let Some(gone) = lock(&self.gone).get_mut(&table) {
            gone.is_over = true;
        }
    }

    /// The tables that are, or were, gone.
    pub(super) fn gone(&self) -> Vec<(usize, Stopped)> {
        lock(&self.gone).iter().map(|(&table, gone)| (table, gone.stopped.clone())).collect()
    }

    /// Whether the sink knows that the table was gone.
    pub(super) fn is_told(&self, table: usize, sink: &Arc<SinkProgress>) -> bool {
        let is_it = |told: &Weak<SinkProgress>| std::ptr::eq(told.as_ptr(), Arc::as_ptr(sink));
        lock(&self.gone).get(&table).is_none_or(|gone| gone.told.iter().any(is_it))
    }

    /// The sinks are told.
    pub fn told(&self, table: usize, sinks: &[Arc<SinkProgress>]) {
        if let Some(gone) = lock(&self.gone).get_mut(&table) {
            gone.told.retain(|told| told.strong_count() > 0);
            gone.told.extend(sinks.iter().map(Arc::downgrade));
        }
    }

    /// Whether everything that can be brought to the sink is there. `goes_on` says which stopped tables go on by
    /// themselves; one that could not has a failure.
    pub fn has_all(&self, sink: &SinkProgress, goes_on: impl Fn(usize, &Stopped) -> bool) -> bool {
        let position = sink.durable_lsn();
        let is_there = |fills: &Fills, table| {
            matches!(fills.state(table, position), TableState::Live | TableState::Incomplete)
                || self.failure(table).is_some()
                || fills
                    .get(table)
                    .and_then(|fill| fill.stopped.as_ref())
                    .is_some_and(|why| !goes_on(table, why))
        };
        !self.has_pending()
            && sink.look_at_fills(|fills| (0..fills.0.len()).all(|table| is_there(fills, table)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(table: usize) -> FillRequest {
        let sinks = vec!["eu".to_owned()];
        FillRequest { sinks, tables: vec![table], clears: false, is_left_empty: false, filter: None }
    }

    #[test]
    fn what_the_sinks_do_not_know_of_is_asked_of_the_next_engine_by_its_tables() {
        let (before, next) = (FillView::default(), FillView::default());
        assert!((0..4).all(|table| before.request(request(table))));
        let begun = before.take_request().unwrap();
        before.request_begun(&begun);
        assert_eq!(before.take_request(), Some(request(1)), "one was taken, and no sink knows of it");
        before.hand_over(&next, |table| (table != 3).then_some(table + 10));
        assert_eq!([next.take_request(), next.take_request()], [Some(request(11)), Some(request(12))]);
        assert!(next.take_request().is_none() && next.has_pending());
        assert!(before.take_request().is_none());
    }

    #[test]
    fn rows_that_the_sinks_do_not_know_of_are_asked_of_the_next_engine_by_their_tables() {
        let rows = |table| RowRequest { sinks: vec!["eu".to_owned()], table, rows: Vec::new() };
        let (before, next) = (FillView::default(), FillView::default());
        assert!((0..4).all(|table| before.request_rows(rows(table))));
        let begun = before.take_row_request().unwrap();
        before.row_request_begun(&begun);
        assert_eq!(before.take_row_request(), Some(rows(1)), "one was taken, and no sink knows of it");
        before.hand_over(&next, |table| (table != 3).then_some(table + 10));
        assert_eq!([next.take_row_request(), next.take_row_request()], [Some(rows(11)), Some(rows(12))]);
        assert!(next.take_row_request().is_none() && next.has_pending());
    }

    #[test]
    fn who_asks_an_engine_that_another_one_has_followed_is_told_so() {
        let (before, next) = (FillView::default(), FillView::default());
        before.hand_over(&next, Some);
        assert!(!before.request(request(0)));
        assert!(!before.request_rows(RowRequest { sinks: Vec::new(), table: 0, rows: Vec::new() }));
        assert!(!before.has_pending() && !next.has_pending());
        assert!(next.request(request(0)) && next.has_pending());
    }
}
