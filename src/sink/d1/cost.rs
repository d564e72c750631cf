//! What a replica costs: D1 bills rows written. The totals are kept in the checkpoint's row, so that they cost nothing
//! and are there without an engine.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Dollars for a million rows written (<https://developers.cloudflare.com/d1/platform/pricing/>); 50 million a month
/// are included in the plan, for all databases of the account.
pub const DOLLARS_PER_MILLION_ROWS: f64 = 1.00;
/// What a forecast takes for a month.
const MONTH_SECONDS: f64 = 30.0 * 86_400.0;
/// Less time than this says nothing about a month.
const FORECAST_SECONDS_MIN: u64 = 600;

/// What has been written and paid for since the database was first fed. What the last request came to is only known from
/// its answer, and kept with the next one or when the engine ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// When counting began, in seconds since 1970-01-01 UTC.
    pub since: u64,
    /// When it was last counted.
    pub until: u64,
    /// Requests.
    pub requests: u64,
    /// Row changes at the source.
    pub changes: u64,
    /// Rows that were sent after folding.
    pub rows: u64,
    /// Rows that D1 counted as written: with index entries and our own.
    pub rows_written: u64,
    /// The same by replicated table.
    pub tables: BTreeMap<String, u64>,
}

impl Usage {
    /// Nothing, from now on.
    pub(super) fn starting(now: u64) -> Self {
        Usage { since: now, until: now, ..Usage::default() }
    }

    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and names serialise")
    }

    /// Reads back what [`to_json`](Self::to_json) wrote; counting starts anew where it is something else.
    pub(super) fn from_json(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }

    /// Dollars for the rows written.
    pub fn dollars(&self) -> f64 {
        self.rows_written as f64 / 1e6 * DOLLARS_PER_MILLION_ROWS
    }

    /// Dollars that a million changes at the source cost; `None` before the first change.
    pub fn dollars_per_million_changes(&self) -> Option<f64> {
        (self.changes > 0).then(|| self.dollars() / self.changes as f64 * 1e6)
    }

    /// Dollars for a month at the mean rate until `now`; `None` while too little time has passed.
    pub fn dollars_per_month(&self, now: u64) -> Option<f64> {
        let seconds = now.saturating_sub(self.since);
        (seconds >= FORECAST_SECONDS_MIN).then(|| self.dollars() / seconds as f64 * MONTH_SECONDS)
    }

    /// The share of row writes that folding saved, from 0 to 1; `None` before the first change.
    pub fn folded(&self) -> Option<f64> {
        (self.changes > 0).then(|| 1.0 - (self.rows.min(self.changes) as f64 / self.changes as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_is_forecast_from_what_was_written_so_far() {
        let usage = Usage {
            since: 1_000,
            until: 1_000 + 86_400,
            changes: 4_000_000,
            rows: 1_000_000,
            rows_written: 2_000_000,
            ..Usage::default()
        };
        assert_eq!(usage.dollars(), 2.0);
        assert_eq!(usage.dollars_per_million_changes(), Some(0.5));
        assert_eq!(usage.dollars_per_month(usage.until), Some(60.0));
        assert_eq!(usage.folded(), Some(0.75));
        assert_eq!(usage.dollars_per_month(1_010), None);
        assert_eq!(Usage::default().dollars_per_million_changes(), None);
    }

    #[test]
    fn totals_read_back_as_they_were_and_anything_else_starts_anew() {
        let mut usage = Usage::starting(7);
        usage.tables.insert("orders \"2\"".to_owned(), u64::MAX);
        assert_eq!(Usage::from_json(&usage.to_json()), usage);
        assert_eq!(Usage::from_json("nothing"), Usage::default());
    }
}
