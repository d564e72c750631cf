//! How a person reads a [`Status`]: lines and tables, and each problem with what to do about it.

use std::time::Duration;

use super::report::{CopyStatus, CostStatus, SlotState, SlotStatus, SourceStatus, Status, TableStatus};
use crate::app::commands::output;
use crate::fanout::fill::TableState;

impl Status {
    /// The status for a person.
    pub fn text(&self) -> String {
        let mut text = self.source.text();
        if let Some(slot) = &self.slot {
            text.push_str(&slot.text());
        }
        let header = ["SINK", "STATE", "CHECKPOINT", "BEHIND", "LAG", "TRANSACTIONS", "DEAD LETTERS"];
        let rows = self.sinks.iter().map(|sink| {
            let lag = |seconds: u64| match seconds {
                0 => "0s".to_owned(),
                _ => format!("up to {}", output::duration(Duration::from_secs(seconds))),
            };
            vec![
                sink.name.clone(),
                sink.state.as_str().to_owned(),
                output::or_dash(sink.checkpoint_lsn.as_ref()),
                output::or_dash(sink.lag_bytes.map(output::bytes)),
                output::or_dash(sink.lag_seconds.map(lag)),
                output::or_dash(sink.transactions),
                output::or_dash(sink.dead_letters),
            ]
        });
        text.push('\n');
        text.push_str(&output::table(&header, &[3, 4, 5, 6], rows));
        let is_special = |table: &&TableStatus| table.state != TableState::Live.as_str();
        let special = self.sinks.iter().flat_map(|sink| sink.tables.iter().map(move |table| (sink, table)));
        let special: Vec<_> = special.filter(|(_, table)| is_special(table)).collect();
        if !special.is_empty() {
            let header = ["TABLE", "SINK", "STATE", "ROWS", "OF ABOUT", "TIME LEFT"];
            let rows = special.iter().map(|(sink, table)| table.row(&sink.name));
            text.push('\n');
            text.push_str(&output::table(&header, &[3, 4, 5], rows));
        }
        for (sink, table) in special {
            push_problem(
                &mut text,
                &format!("table {} in {}", table.name, sink.name),
                &table.problem,
                &table.hint,
            );
        }
        for sink in &self.sinks {
            if let Some(copy) = &sink.copy {
                text.push_str(&format!("\nsink {} has slot {}: {}\n", sink.name, copy.name, copy.text()));
            }
        }
        for copy in &self.abandoned_copies {
            let problem = format!("its sink is not configured any more; {}", copy.text());
            let hint = format!("SELECT pg_drop_replication_slot('{}');", copy.name);
            push_problem(&mut text, &format!("slot {}", copy.name), &Some(problem), &Some(hint));
        }
        let costs = self.sinks.iter().filter_map(|sink| Some(sink.cost.as_ref()?.row(&sink.name)));
        let costs: Vec<_> = costs.collect();
        if !costs.is_empty() {
            let header =
                ["D1", "ROWS WRITTEN", "REQUESTS", "FOLDED", "PER MILLION CHANGES", "PER MONTH", "SIZE"];
            text.push('\n');
            text.push_str(&output::table(&header, &[1, 2, 3, 4, 5, 6], costs));
        }
        push_problem(&mut text, "source", &self.source.problem, &self.source.hint);
        if let Some(slot) = &self.slot {
            push_problem(&mut text, &format!("slot {}", slot.name), &slot.problem, &slot.hint);
        }
        for sink in &self.sinks {
            push_problem(&mut text, &format!("sink {}", sink.name), &sink.problem, &sink.hint);
        }
        text
    }
}

impl CopyStatus {
    fn text(&self) -> String {
        let use_ = match self.active_pid {
            Some(pid) => format!("in use by backend {pid}"),
            None => "not in use".to_owned(),
        };
        let confirmed = output::or_dash(self.confirmed_flush_lsn.as_ref());
        let retained = output::or_dash(self.retained_bytes.map(output::bytes));
        let status = self.wal_status.as_deref().unwrap_or("no wal_status");
        let mut text = format!("{use_}, confirmed {confirmed}, holds back {retained} of WAL ({status})");
        if let Some(safe) = self.safe_bytes {
            text.push_str(&format!(", lost after {} more", output::bytes(safe)));
        }
        text
    }
}

impl TableStatus {
    fn row(&self, sink: &str) -> Vec<String> {
        let left = |seconds| output::duration(Duration::from_secs(seconds));
        vec![
            self.name.clone(),
            sink.to_owned(),
            self.state.to_owned(),
            self.rows.to_string(),
            output::or_dash(Some(self.rows_estimated).filter(|&rows| rows > 0)),
            output::or_dash(self.seconds_left.map(left)),
        ]
    }
}

impl CostStatus {
    fn row(&self, sink: &str) -> Vec<String> {
        let dollars = |dollars: f64| format!("${dollars:.2}");
        let size =
            |bytes: u64| format!("{} of {}", output::bytes(bytes), output::bytes(self.database_bytes_max));
        vec![
            sink.to_owned(),
            self.rows_written.to_string(),
            self.requests.to_string(),
            output::or_dash(self.folded.map(|share| format!("{:.0}%", share * 100.0))),
            output::or_dash(self.dollars_per_million_changes.map(dollars)),
            output::or_dash(self.dollars_per_month.map(dollars)),
            output::or_dash(self.database_bytes.map(size)),
        ]
    }
}

impl SourceStatus {
    fn text(&self) -> String {
        let mut text = format!("source  {}", self.address);
        match (&self.version, self.timeline) {
            (Some(version), Some(timeline)) => {
                text.push_str(&format!(", Postgres {version}, timeline {timeline}"));
            }
            _ => text.push_str(", cannot be reached"),
        }
        text.push('\n');
        if let (Some(lsn), Some(rate)) = (&self.current_wal_lsn, self.wal_bytes_per_second) {
            text.push_str(&format!("        at {lsn}, writing {}/s\n", output::bytes(rate)));
        }
        text
    }
}

impl SlotStatus {
    fn text(&self) -> String {
        let use_ = match (self.state, self.active_pid) {
            (SlotState::NotCreated, _) => "not created yet; walcast run creates it".to_owned(),
            (_, Some(pid)) => format!("in use by backend {pid}"),
            (SlotState::Ready, None) => "not in use: no walcast is running".to_owned(),
            (SlotState::Lost, None) => "lost".to_owned(),
        };
        let mut text = format!("slot    {}, {use_}\n", self.name);
        if let Some(confirmed) = &self.confirmed_flush_lsn {
            text.push_str(&format!(
                "        confirmed {confirmed}, {} behind; holds back {} of WAL ({})\n",
                output::or_dash(self.lag_bytes.map(output::bytes)),
                output::or_dash(self.retained_bytes.map(output::bytes)),
                self.wal_status.as_deref().unwrap_or("no wal_status"),
            ));
        }
        if self.state == SlotState::Ready {
            text.push_str(&format!("        {}\n", self.limit()));
        }
        text
    }

    /// How long the server keeps what the sinks lack.
    fn limit(&self) -> String {
        let (Some(limit), Some(safe)) = (self.limit_bytes, self.safe_bytes) else {
            return "no limit set (max_slot_wal_keep_size = -1): the disk is the limit".to_owned();
        };
        let when = match self.seconds_until_lost {
            Some(seconds) => format!("in {} at this rate", output::duration(Duration::from_secs(seconds))),
            None => "while no WAL is written, never".to_owned(),
        };
        format!("lost after {} more of WAL (limit {}): {when}", output::bytes(safe), output::bytes(limit))
    }
}

fn push_problem(text: &mut String, subject: &str, problem: &Option<String>, hint: &Option<String>) {
    if let Some(problem) = problem {
        // Most problems name what they are about.
        let subject = if problem.starts_with(subject) { String::new() } else { format!("{subject}: ") };
        text.push_str(&format!("\n{subject}{problem}\n"));
        if let Some(hint) = hint {
            text.push_str(&format!(" hint: {hint}\n"));
        }
    }
}
