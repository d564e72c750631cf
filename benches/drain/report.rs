//! The results as a table and as a picture.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use walcast::error::{Error, Result};

use crate::Arguments;
use crate::consumer::Consumer;
use crate::d1;
use crate::latency::Latency;
use crate::machine::machine;
use crate::measure::Spread;
use crate::sqlite::Ceiling;
use crate::workload::{Workload, thousands};

/// The picture's measures, and colours that are readable on white and on black.
const WIDTH: f64 = 760.0;
const BARS_LEFT: f64 = 190.0;
const BAR_LENGTH_MAX: f64 = 490.0;
const BAR_HEIGHT: f64 = 16.0;
const STYLE: &str = ".title{font-size:14px;font-weight:600;fill:#7d8590}.label{font-size:12px;fill:#7d8590}\
                     .own{fill:#3b82f6}.other{fill:#8b949e}";

/// Everything that was measured.
pub struct Report {
    server_version: String,
    rounds: usize,
    pub workloads: Vec<Drained>,
    pub latencies: Vec<Latency>,
    pub ceilings: Vec<Ceiling>,
}

/// One workload and how each consumer drained it.
pub struct Drained {
    pub workload: Workload,
    pub changes: u64,
    pub results: Vec<(Consumer, Spread)>,
}

impl Drained {
    fn rate(&self, seconds: f64) -> f64 {
        self.changes as f64 / seconds
    }

    /// Whether it was about D1 databases.
    fn is_into_d1(&self) -> bool {
        self.results.iter().any(|(consumer, _)| Consumer::INTO_D1.contains(consumer))
    }

    /// How many times as fast as the reference.
    fn ratio(&self, consumer: Consumer, spread: &Spread) -> Option<f64> {
        let (_, reference) = self.results.iter().find(|(other, _)| *other == consumer.reference())?;
        Some(reference.median.seconds / spread.median.seconds)
    }

    /// The cells that only a drain into D1 has: how many times as fast it is as a statement for each row, and the share
    /// of the time with a request in flight.
    fn d1_cells(&self, consumer: Consumer, spread: &Spread) -> String {
        let other = self.results.iter().find(|(other, _)| *other == Consumer::RowStatements);
        let in_flight = spread.median.in_flight();
        let in_flight = in_flight.trim_end_matches(" in flight");
        match other {
            _ if !self.is_into_d1() => String::new(),
            Some((_, other)) if consumer.is_one_database() => {
                format!(" {:.1} | {} |", other.median.seconds / spread.median.seconds, in_flight)
            }
            _ => format!(" | {in_flight} |"),
        }
    }
}

impl Report {
    pub fn new(server_version: String, arguments: &Arguments) -> Report {
        let (workloads, latencies, ceilings) = Default::default();
        Report { server_version, rounds: arguments.rounds, workloads, latencies, ceilings }
    }

    /// The results as a page.
    pub fn markdown(&self) -> String {
        let mut page = String::new();
        self.write_markdown(&mut page).expect("a String takes it");
        page
    }

    fn write_markdown(&self, page: &mut String) -> std::fmt::Result {
        writeln!(page, "# Benchmark results\n\nWritten by `make bench`; do not edit.\n")?;
        writeln!(page, "{}\n", machine(&self.server_version))?;
        writeln!(
            page,
            "Each consumer drains its own copy of the same slot, all in turn, {} round(s). Seconds run from the start \
             of its process to its exit. Rates are medians with the slowest and fastest round; the ratio is that of \
             the medians to `pg_recvlogical` over the same transport, which receives and discards. CPU seconds are \
             medians, memory is the highest peak. The source runs with fsync off; SQLite regions are durable \
             (WAL, `synchronous = FULL`).\n\n\
             Into D1: databases on one local workerd, which has a single thread, through the REST API or the companion \
             Worker, each with one request in flight. There the ratio is to a client that posts the same rows the same \
             way in bodies it has ready. Another client sends one statement for each row, {} a request; the last column \
             says how many times as fast as that a consumer of one database is. `sinks alone` have the stream decoded in \
             memory before the clock starts, so that they have the processors to themselves and the databases.",
            self.rounds,
            d1::ROW_STATEMENTS
        )?;
        for drained in &self.workloads {
            let into_d1 = if drained.is_into_d1() { ", into D1" } else { "" };
            writeln!(page, "\n## {}{into_d1}\n", drained.workload.title(drained.changes))?;
            let [title, line] =
                if drained.is_into_d1() { [" × one a row | In flight |", "--:|--:|"] } else { ["", ""] };
            writeln!(
                page,
                "| Consumer | Changes/s | Range | Ratio | CPU s | Walsender CPU s | Peak MiB |{title}"
            )?;
            writeln!(page, "|---|--:|--:|--:|--:|--:|--:|{line}")?;
            for (consumer, spread) in &drained.results {
                let rate = |seconds| thousands(drained.rate(seconds).round() as u64);
                let ratio =
                    drained.ratio(*consumer, spread).map_or("".to_owned(), |ratio| format!("{ratio:.2}"));
                writeln!(
                    page,
                    "| {} | {} | {}–{} | {ratio} | {:.2} | {:.2} | {:.0} |{}",
                    consumer.name(),
                    rate(spread.median.seconds),
                    rate(spread.slowest_seconds),
                    rate(spread.fastest_seconds),
                    spread.median.cpu_seconds,
                    spread.median.walsender_cpu_seconds,
                    spread.median.peak_mib,
                    drained.d1_cells(*consumer, spread)
                )?;
            }
        }
        if !self.ceilings.is_empty() {
            writeln!(
                page,
                "\n## A bare SQLite loop\n\nThe narrow rows in prepared upserts, no Postgres, no walcast.\n"
            )?;
            writeln!(page, "| Files written at once | Rows/s into each |\n|--:|--:|")?;
        }
        for ceiling in &self.ceilings {
            writeln!(page, "| {} | {} |", ceiling.files, thousands(ceiling.rows_per_second.round() as u64))?;
        }
        if !self.latencies.is_empty() {
            writeln!(
                page,
                "\n## From commit to replica\n\n50 commits/s; until the row is readable in every region.\n"
            )?;
            writeln!(page, "| Regions | p50 ms | p99 ms | Max ms |\n|--:|--:|--:|--:|")?;
        }
        for Latency { regions, p50, p99, max } in &self.latencies {
            writeln!(page, "| {regions} | {p50:.2} | {p99:.2} | {max:.2} |")?;
        }
        Ok(())
    }

    /// Writes `results.md` and `results.svg`.
    ///
    /// # Errors
    /// Where the directory cannot be written to.
    pub fn write(&self, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory)
            .and_then(|()| fs::write(directory.join("results.md"), self.markdown()))
            .and_then(|()| fs::write(directory.join("results.svg"), self.picture()))
            .map_err(|error| Error::halt(format!("writing to {}", directory.display())).because(error))
    }

    /// Horizontal bars: for each workload the rates of all consumers over TCP, on one scale. Its greys are readable
    /// on white and on black.
    fn picture(&self) -> String {
        let rates = |drained: &Drained| -> Vec<(Consumer, f64)> {
            let results = drained.results.iter().filter(|(consumer, _)| consumer.is_over_tcp());
            results.map(|(consumer, spread)| (*consumer, drained.rate(spread.median.seconds))).collect()
        };
        let most = self.workloads.iter().flat_map(rates).map(|(_, rate)| rate).fold(1.0, f64::max);
        let (mut body, mut y) = (String::new(), 24.0);
        let text = |x: f64, y: f64, anchor: &str, class: &str, text: &str| {
            format!(
                "<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"{anchor}\" class=\"{class}\">{text}</text>\n"
            )
        };
        for drained in &self.workloads {
            let into_d1 = if drained.is_into_d1() { ", into D1" } else { "" };
            let title = format!("{}{into_d1}", drained.workload.title(drained.changes));
            body += &text(0.0, y, "start", "title", &title);
            y += 10.0;
            for (consumer, rate) in rates(drained) {
                let length = rate / most * BAR_LENGTH_MAX;
                let (class, name) = match consumer {
                    Consumer::Recvlogical(_) | Consumer::RowSets(..) | Consumer::RowStatements => {
                        ("other", consumer.name())
                    }
                    Consumer::Null(_) | Consumer::Sqlite(_) | Consumer::Stage(..) | Consumer::D1(..) => {
                        ("own", consumer.name())
                    }
                };
                let name = name.trim_end_matches(", TCP");
                body += &text(BARS_LEFT - 8.0, y + 12.0, "end", "label", name);
                body += &format!(
                    "<rect x=\"{BARS_LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR_HEIGHT}\" rx=\"2\" \
                     class=\"{class}\"/>\n"
                );
                let rate = thousands((rate / 1000.0).round() as u64 * 1000);
                body += &text(BARS_LEFT + length + 6.0, y + 12.0, "start", "label", &rate);
                y += BAR_HEIGHT + 4.0;
            }
            y += 26.0;
        }
        let note = "Row changes drained per second, from process start to exit, over TCP; medians.";
        body += &text(0.0, y - 6.0, "start", "label", note);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" width=\"{WIDTH}\" \
             font-family=\"system-ui, sans-serif\" role=\"img\" aria-label=\"{note}\">\n<style>{STYLE}</style>\n\
             {body}</svg>\n"
        )
    }
}
