//! What the demo ends with: the figures, and whether everything that has to be equal is.

use std::fmt;
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;

use super::compare::Comparison;
use super::latency::{Latencies, quantile};
use super::screen::{milliseconds, new_table};
use super::watch::Watched;

/// The whole result. Serialised, it is what `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Verdict {
    /// Whether nothing is wrong.
    pub is_equal: bool,
    /// What is wrong, the first of each kind.
    pub failures: Vec<String>,
    /// One for each region.
    pub regions: Vec<Region>,
    /// How long the workload ran.
    pub workload_ms: f64,
    /// Transactions that the writers and the prober committed, as they counted them.
    pub transactions: u64,
    /// Rows of the ledger in Postgres: one per transaction.
    pub ledger_rows: u64,
    /// Rows that these transactions changed.
    pub row_changes: u64,
    /// Committed transactions per second of the workload, all of them applied in every region.
    pub transactions_per_second: f64,
    /// Row changes per second of the workload.
    pub row_changes_per_second: f64,
    /// From the server's answer to a commit until the row is readable: the median over all regions, without those that
    /// met the kill.
    pub latency_p50_ms: Option<f64>,
    /// The same, 99th percentile.
    pub latency_p99_ms: Option<f64>,
    /// How many times the two are taken from.
    pub latency_samples: usize,
    /// From SIGKILL to a row that was committed after it being readable in every region.
    pub recovery_ms: Option<f64>,
    /// The most memory that an engine process held.
    pub peak_memory_bytes: Option<u64>,
    /// How often slot and checkpoints were read.
    pub position_samples: u64,
    /// How often the slot was ahead of a checkpoint.
    pub position_violations: u64,
    /// Requests beyond D1's documented limits; `None` without D1.
    pub d1_violations: Option<u64>,
}

/// The result of one region.
#[derive(Debug, Serialize)]
pub(super) struct Region {
    /// Its name.
    pub region: String,
    /// Rows of Postgres that were compared with it.
    pub rows_compared: u64,
    /// Rows that are missing, too many, or differ.
    pub differences: u64,
    /// Its checkpoint.
    pub checkpoint_lsn: String,
    /// Source transactions that it has applied.
    pub transactions: u64,
    /// Rows that it did not take.
    pub dead_letters: u64,
    /// The region's median latency.
    pub latency_p50_ms: Option<f64>,
    /// The same, 99th percentile.
    pub latency_p99_ms: Option<f64>,
}

/// What the verdict is made from.
pub(super) struct Evidence<'a> {
    /// The regions' names.
    pub regions: &'a [&'a str],
    /// By region.
    pub comparisons: Vec<Comparison>,
    /// By region.
    pub dead_letters: Vec<u64>,
    /// Positions and their samples.
    pub watched: Watched,
    /// What the prober found.
    pub latencies: Latencies,
    /// How long the workload ran.
    pub workload: Duration,
    /// Counted by writers and prober.
    pub transactions: u64,
    /// Counted by writers and prober.
    pub row_changes: u64,
    /// Read from Postgres.
    pub ledger_rows: u64,
    /// Read from the system.
    pub peak_memory_bytes: Option<u64>,
    /// Read from workerd; `None` without D1.
    pub d1_violations: Option<u64>,
}

impl Verdict {
    /// Judges.
    pub(super) fn new(evidence: Evidence<'_>) -> Self {
        let failures = failures(&evidence);
        let regions = (0..evidence.regions.len()).map(|index| region(&evidence, index)).collect();
        let all: Vec<Duration> = evidence.latencies.measured.concat();
        let seconds = evidence.workload.as_secs_f64().max(0.001);
        Verdict {
            is_equal: failures.is_empty(),
            failures,
            regions,
            workload_ms: rounded(evidence.workload),
            transactions: evidence.transactions,
            ledger_rows: evidence.ledger_rows,
            row_changes: evidence.row_changes,
            transactions_per_second: (evidence.transactions as f64 / seconds).round(),
            row_changes_per_second: (evidence.row_changes as f64 / seconds).round(),
            latency_p50_ms: part_of(&all, 0.5),
            latency_p99_ms: part_of(&all, 0.99),
            latency_samples: all.len(),
            recovery_ms: evidence.latencies.recovery.map(rounded),
            peak_memory_bytes: evidence.peak_memory_bytes,
            position_samples: evidence.watched.samples,
            position_violations: evidence.watched.violations,
            d1_violations: evidence.d1_violations,
        }
    }
}

fn region(evidence: &Evidence<'_>, index: usize) -> Region {
    let (comparison, position) = (&evidence.comparisons[index], evidence.watched.positions[index]);
    let latencies = &evidence.latencies.measured[index];
    Region {
        region: evidence.regions[index].to_owned(),
        rows_compared: comparison.rows,
        differences: comparison.differences,
        checkpoint_lsn: position.lsn.to_string(),
        transactions: position.transactions,
        dead_letters: evidence.dead_letters[index],
        latency_p50_ms: part_of(latencies, 0.5),
        latency_p99_ms: part_of(latencies, 0.99),
    }
}

/// Everything that is not as it must be.
fn failures(evidence: &Evidence<'_>) -> Vec<String> {
    let mut failures = Vec::new();
    let committed = evidence.transactions;
    if evidence.ledger_rows != committed {
        failures.push(format!(
            "the writers committed {committed} transactions, but Postgres has {} ledger rows",
            evidence.ledger_rows
        ));
    }
    for (index, region) in evidence.regions.iter().enumerate() {
        let (comparison, position) = (&evidence.comparisons[index], evidence.watched.positions[index]);
        failures
            .extend(comparison.described.iter().map(|difference| format!("region {region}: {difference}")));
        if comparison.differences > comparison.described.len() as u64 {
            let more = comparison.differences - comparison.described.len() as u64;
            failures.push(format!("region {region}: {more} more rows differ"));
        }
        if position.transactions != committed {
            let applied = position.transactions;
            failures.push(format!("region {region}: applied {applied} transactions of {committed}"));
        }
        if evidence.dead_letters[index] > 0 {
            failures.push(format!("region {region}: {} dead letters", evidence.dead_letters[index]));
        }
    }
    if let Some(violation) = &evidence.watched.violation {
        let (violations, samples) = (evidence.watched.violations, evidence.watched.samples);
        failures.push(format!("{violation} (in {violations} of {samples} samples)"));
    }
    if let Some(violations @ 1..) = evidence.d1_violations {
        failures.push(format!("{violations} requests were beyond D1's documented limits"));
    }
    if evidence.latencies.recovery.is_none() {
        failures.push("the engine was not seen to recover from SIGKILL".to_owned());
    }
    failures
}

fn part_of(times: &[Duration], part: f64) -> Option<f64> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    quantile(&sorted, part).map(rounded)
}

/// Milliseconds with two digits: the clock's own error is larger than a third.
fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 100_000.0).round() / 100.0
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headings =
            ["region", "rows", "differences", "checkpoint", "transactions", "dead letters", "p50", "p99"];
        let mut table = new_table(&headings);
        let time = |time: Option<f64>| time.map_or_else(|| "–".to_owned(), text);
        for region in &self.regions {
            table.add_row([
                region.region.clone(),
                HumanCount(region.rows_compared).to_string(),
                HumanCount(region.differences).to_string(),
                region.checkpoint_lsn.clone(),
                HumanCount(region.transactions).to_string(),
                HumanCount(region.dead_letters).to_string(),
                time(region.latency_p50_ms),
                time(region.latency_p99_ms),
            ]);
        }
        writeln!(f, "{table}\n")?;
        writeln!(
            f,
            "throughput   {} transactions/s, {} row changes/s, in each of {} regions",
            HumanCount(self.transactions_per_second as u64),
            HumanCount(self.row_changes_per_second as u64),
            self.regions.len()
        )?;
        writeln!(
            f,
            "latency      p50 {}, p99 {} from commit to readable in a region, also behind 20,000 rows \
             ({} times, without the kill)",
            time(self.latency_p50_ms),
            time(self.latency_p99_ms),
            HumanCount(self.latency_samples as u64)
        )?;
        writeln!(f, "recovery     {} from SIGKILL to caught up in every region", time(self.recovery_ms))?;
        if let Some(bytes) = self.peak_memory_bytes {
            writeln!(f, "memory       {} at most in the engine", HumanBytes(bytes))?;
        }
        writeln!(f)?;
        if self.is_equal {
            let rows: u64 = self.regions.iter().map(|region| region.rows_compared).sum();
            writeln!(f, "✔ every row is equal: {} rows in all, every column", HumanCount(rows))?;
            writeln!(
                f,
                "✔ every transaction was applied exactly once: {} committed, as many in every region",
                HumanCount(self.transactions)
            )?;
            write!(f, "✔ the slot was never ahead of a replica: {} samples", self.position_samples)?;
            match self.d1_violations {
                Some(_) => write!(f, "\n✔ no request was beyond D1's documented limits"),
                None => Ok(()),
            }
        } else {
            write!(f, "✘ {}", self.failures.join("\n✘ "))
        }
    }
}

fn text(time_ms: f64) -> String {
    milliseconds(Duration::from_secs_f64(time_ms / 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lsn;
    use crate::app::demo::replica::Position;

    type Spoil = fn(&mut Evidence<'static>);

    /// Two regions that are as they must be.
    fn clean() -> Evidence<'static> {
        let position = Position { lsn: Lsn::from(7), transactions: 3 };
        let mut latencies = Latencies::default();
        latencies.measured = vec![vec![Duration::from_millis(2)], vec![Duration::from_millis(4)]];
        latencies.recovery = Some(Duration::from_millis(300));
        Evidence {
            regions: &["na", "eu"],
            comparisons: vec![Comparison { rows: 5, ..Comparison::default() }; 2],
            dead_letters: vec![0; 2],
            watched: Watched { samples: 9, positions: vec![position; 2], ..Watched::default() },
            latencies,
            workload: Duration::from_secs(1),
            transactions: 3,
            row_changes: 6,
            ledger_rows: 3,
            peak_memory_bytes: None,
            d1_violations: None,
        }
    }

    #[test]
    fn whatever_is_wrong_makes_the_verdict_unequal() {
        let verdict = Verdict::new(clean());
        assert!(verdict.is_equal, "{:?}", verdict.failures);
        assert_eq!(verdict.latency_p50_ms, Some(4.0));
        let wrong: [(Spoil, &str); 7] = [
            (|evidence| evidence.ledger_rows = 2, "3 transactions, but Postgres has 2 ledger rows"),
            (
                |evidence| evidence.watched.positions[1].transactions = 4,
                "region eu: applied 4 transactions of 3",
            ),
            (
                |evidence| evidence.watched.positions[0].transactions = 2,
                "region na: applied 2 transactions of 3",
            ),
            (|evidence| evidence.dead_letters[1] = 1, "region eu: 1 dead letters"),
            (|evidence| evidence.comparisons[0].differences = 8, "region na: 8 more rows differ"),
            (|evidence| evidence.watched.violation = Some("ahead".to_owned()), "ahead (in 0 of 9 samples)"),
            (|evidence| evidence.latencies.recovery = None, "not seen to recover"),
        ];
        for (spoil, expected) in wrong {
            let mut evidence = clean();
            spoil(&mut evidence);
            let verdict = Verdict::new(evidence);
            assert!(!verdict.is_equal && verdict.failures.len() == 1, "{:?}", verdict.failures);
            assert!(verdict.failures[0].contains(expected), "{:?}", verdict.failures);
        }
    }
}
