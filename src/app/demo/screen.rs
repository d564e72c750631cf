//! What is seen while the demo runs, on standard error: on a terminal a table that renews itself in place, elsewhere a
//! line per second.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use comfy_table::{Cell, CellAlignment, Color, Table, presets};
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};

use super::latency::Latencies;
use super::watch::Watched;

/// The table is renewed this often.
const FRAME: Duration = Duration::from_millis(250);
/// Without a terminal, a line this often.
const LINE: Duration = Duration::from_secs(1);
/// Rates are means over this time.
const RATE_WINDOW: Duration = Duration::from_secs(2);
/// A region that is further behind is marked.
const LAG_NOTABLE: Duration = Duration::from_millis(250);

/// Everything that one frame shows.
pub(super) struct Frame<'a> {
    /// The regions' names.
    pub regions: &'a [&'a str],
    /// Since the workload began.
    pub elapsed: Duration,
    /// How long the workload takes in all.
    pub length: Duration,
    /// The engine's process.
    pub pid: u32,
    /// The engine's peak memory so far.
    pub peak_memory_bytes: u64,
    /// Transactions committed at the source.
    pub committed: u64,
    /// Positions of slot and files.
    pub watched: Watched,
    /// The regions' lag.
    pub latencies: Latencies,
}

/// The screen, or what stands in for it.
pub(super) struct Screen {
    /// Only on a terminal.
    bar: Option<ProgressBar>,
    drawn: Option<Instant>,
    /// What the rates are taken from, oldest first: by region, transactions and row changes.
    history: VecDeque<(Instant, Vec<(u64, u64)>)>,
}

impl Screen {
    /// A screen on standard error.
    pub(super) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{msg}").expect("the template names nothing unknown");
            ProgressBar::new_spinner().with_style(style)
        });
        Screen { bar, drawn: None, history: VecDeque::new() }
    }

    /// Says what happens now; it stays above the table.
    pub(super) fn say(&self, text: impl AsRef<str>) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{}", text.as_ref()),
        }
    }

    /// Whether it is time for another frame.
    pub(super) fn is_due(&self) -> bool {
        let interval = if self.bar.is_some() { FRAME } else { LINE };
        self.drawn.is_none_or(|drawn| drawn.elapsed() >= interval)
    }

    /// Shows a frame.
    pub(super) fn draw(&mut self, frame: &Frame<'_>) {
        let now = Instant::now();
        self.drawn = Some(now);
        let rates = self.rates(now, &frame.watched);
        match &self.bar {
            Some(bar) => {
                bar.set_message(format!("{}\n{}", heading(frame), table(frame, &rates)));
                bar.tick();
            }
            None => eprintln!("{}", line(frame, &rates)),
        }
    }

    /// Takes the table away.
    pub(super) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// By region, transactions and row changes per second.
    fn rates(&mut self, now: Instant, watched: &Watched) -> Vec<(u64, u64)> {
        let transactions = watched.positions.iter().map(|position| position.transactions);
        let current: Vec<(u64, u64)> = transactions.zip(watched.changes.iter().copied()).collect();
        while self.history.len() > 1 && now - self.history[0].0 > RATE_WINDOW {
            self.history.pop_front();
        }
        let oldest = self.history.front().cloned().unwrap_or_else(|| (now, current.clone()));
        self.history.push_back((now, current.clone()));
        let seconds = (now - oldest.0).as_secs_f64().max(0.001);
        let per_second = |new: u64, old: u64| (new.saturating_sub(old) as f64 / seconds) as u64;
        let pairs = current.iter().zip(&oldest.1);
        pairs.map(|(new, old)| (per_second(new.0, old.0), per_second(new.1, old.1))).collect()
    }
}

fn heading(frame: &Frame<'_>) -> String {
    format!(
        "\n {:>4.1} of {} s   {} transactions committed   engine: process {}, at most {}",
        frame.elapsed.as_secs_f64(),
        frame.length.as_secs(),
        HumanCount(frame.committed),
        frame.pid,
        HumanBytes(frame.peak_memory_bytes),
    )
}

fn table(frame: &Frame<'_>, rates: &[(u64, u64)]) -> Table {
    let mut table = new_table(&["region", "lag", "behind", "transactions", "transactions/s", "rows/s"]);
    // The table itself looks at standard output, where it is not shown. See https://no-color.org.
    match std::env::var_os("NO_COLOR") {
        Some(value) if !value.is_empty() => table.force_no_tty(),
        _ => table.enforce_styling(),
    };
    for (index, region) in frame.regions.iter().enumerate() {
        let lag = frame.latencies.lag(index);
        let position = frame.watched.positions[index];
        let color = if lag > LAG_NOTABLE { Color::Yellow } else { Color::Green };
        table.add_row(vec![
            Cell::new(region),
            Cell::new(milliseconds(lag)).fg(color),
            Cell::new(HumanBytes(behind(frame, index))),
            Cell::new(HumanCount(position.transactions)),
            Cell::new(HumanCount(rates[index].0)),
            Cell::new(HumanCount(rates[index].1)),
        ]);
    }
    table
}

fn line(frame: &Frame<'_>, rates: &[(u64, u64)]) -> String {
    let lags = (0..frame.regions.len()).map(|index| (frame.latencies.lag(index), index));
    let (lag, slowest) = lags.max().unwrap_or_default();
    format!(
        "{:>3.0} s  {:>7} transactions  {:>6}/s  {:>7} rows/s in each region; furthest behind: {} by {}, {}",
        frame.elapsed.as_secs_f64(),
        HumanCount(frame.committed).to_string(),
        HumanCount(rates.get(slowest).map_or(0, |rate| rate.0)).to_string(),
        HumanCount(rates.get(slowest).map_or(0, |rate| rate.1)).to_string(),
        frame.regions.get(slowest).unwrap_or(&""),
        milliseconds(lag),
        HumanBytes(behind(frame, slowest)),
    )
}

/// Bytes of WAL between a region's checkpoint and the server's position.
fn behind(frame: &Frame<'_>, region: usize) -> u64 {
    frame.watched.wal_lsn.as_u64().saturating_sub(frame.watched.positions[region].lsn.as_u64())
}

/// A table with its headings, numbers to the right.
pub(super) fn new_table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(headings.to_vec());
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A time in milliseconds, with one digit where it is short.
pub(super) fn milliseconds(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1000.0;
    if milliseconds < 100.0 { format!("{milliseconds:.1} ms") } else { format!("{milliseconds:.0} ms") }
}
