//! What was measured, as a table.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::machine::machine;
use crate::percentiles::percentiles;
use crate::source::Source;

/// One phase.
pub struct Phase {
    name: String,
    took: Duration,
    /// Rows that a region was filled with.
    filled: Option<u64>,
    looks: usize,
    /// The median, the 99th of a hundred, and the most of the other regions' ages, in milliseconds.
    ages: [f64; 3],
}

impl Phase {
    pub fn new(name: &str, took: Duration, filled: Option<u64>, mut ages: Vec<Duration>) -> Self {
        let looks = ages.len();
        Phase { name: name.to_owned(), took, filled, looks, ages: percentiles(&mut ages, [0.5, 0.99, 1.0]) }
    }
}

/// The whole run.
pub struct Report {
    machine: String,
    kind: &'static str,
    rows: u64,
    writes: u64,
    phases: Vec<Phase>,
    /// How often `/livez` was asked.
    pub livez: u64,
    pub peak_mib: u64,
}

impl Report {
    pub fn new(source: &Source, kind: &'static str, rows: u64, writes: u64) -> Self {
        let version = source.texts("SHOW server_version").concat();
        Report { machine: machine(&version), kind, rows, writes, phases: Vec::new(), livez: 0, peak_mib: 0 }
    }

    /// Adds a phase, and says what it came to.
    pub fn add(&mut self, phase: Phase) {
        let [p50, p99, max] = phase.ages;
        eprintln!(
            "{:<32} {:>5.1} s  p50 {p50:>6.1} ms  p99 {p99:>7.1} ms  max {max:>7.1} ms",
            phase.name,
            phase.took.as_secs_f64()
        );
        self.phases.push(phase);
    }

    /// The results as a page.
    pub fn markdown(&self) -> String {
        let mut page = format!(
            "# What regions that come, go or are down do to the others\n\n\
             Written by `cargo bench --bench regions`; do not edit.\n\n{}\n\n\
             Six regions with {} rows each, {}; {} rows a second written in commits of five. Ages are those of the \
             newest change in the regions that nothing happens to, looked at all the time; `×` is the ratio to \
             the first phase. *Somebody else copies the table*: `COPY` into another SQLite file by another process, which is \
             what a fill costs the machine anyway.\n\n",
            self.machine, self.rows, self.kind, self.writes
        );
        page += "| Phase | Seconds | Rows/s filled | Looks | p50 ms | p99 ms | Max ms | p50 × | p99 × |\n\
                 |---|--:|--:|--:|--:|--:|--:|--:|--:|\n";
        let base = self.phases.first().map_or([f64::NAN; 3], |phase| phase.ages);
        for Phase { name, took, filled, looks, ages } in &self.phases {
            let seconds = took.as_secs_f64();
            let rate = filled.map_or(String::new(), |rows| format!("{:.0}", rows as f64 / seconds));
            let [p50, p99, max] = ages;
            let (p50_ratio, p99_ratio) = (p50 / base[0], p99 / base[1]);
            let _ = writeln!(
                page,
                "| {name} | {seconds:.1} | {rate} | {looks} | {p50:.1} | {p99:.1} | {max:.1} | {p50_ratio:.2} | {p99_ratio:.2} |"
            );
        }
        let _ = write!(
            page,
            "\nOnly the region that came, and the one that was deleted, were filled. `/livez` was 200 all {} times; \
             while the region was down, `/readyz`, `/status`, `/metrics` and the page's `/events` named it and no other each \
             time. All replicas equal the source. Memory at most {} MiB.\n",
            self.livez, self.peak_mib
        );
        page
    }

    /// Writes `results.md`.
    pub fn write(&self, directory: &Path) {
        std::fs::create_dir_all(directory).expect("a directory");
        let path = directory.join("results.md");
        std::fs::write(&path, self.markdown()).expect("the results");
        println!("written: {}", path.display());
    }
}
