//! Tables that are built anew for a changed `schema.json`, beside those that readers see, as jobs: nobody asked for them
//! over HTTP, but whoever waits for one finds it in `GET /jobs`. Enters: what the sinks keep of their fills, once a
//! second. Leaves: a job for each table, from when it is first seen until no region is behind with it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Shared;
use crate::app::jobs::{JobKind, JobProgress, JobTarget, Jobs, Running};
use crate::app::view::Prepared;
use crate::error::Error;

/// The pause between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Looks until it is dropped.
pub(super) async fn run(shared: &Shared) {
    let mut running = BTreeMap::new();
    loop {
        if let Some(prepared) = shared.view.prepared() {
            look(&shared.jobs, &prepared, &mut running);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Begins, moves and ends the jobs, by their tables' names.
fn look(jobs: &Jobs, prepared: &Prepared, running: &mut BTreeMap<String, Running>) {
    let mut rebuilt = BTreeMap::new();
    for (index, table) in prepared.plan.tables.iter().enumerate() {
        let (mut rows, mut estimated, mut waits) = (0, 0, Vec::new());
        for sink in prepared.progress.sinks() {
            let fills = sink.fills();
            let Some(fill) = fills.get(index).filter(|fill| fill.is_beside) else { continue };
            rows += fill.rows;
            estimated += fill.rows_estimated.max(fill.rows);
            waits.push(format!("sink {} ({})", sink.name, fill.state(sink.durable_lsn()).as_str()));
        }
        if !waits.is_empty() {
            waits.extend(prepared.fills.failure(index).map(|failure| failure.problem));
            let progress = JobProgress { done: rows, total: Some(estimated), unit: "rows" };
            rebuilt.insert(table.source.plain(), (progress, waits));
        }
    }
    for (name, (progress, waits)) in &rebuilt {
        if !running.contains_key(name) {
            let target = JobTarget { sink: None, table: Some(name.clone()) };
            // One job for a table: only here they begin.
            let Ok(job) = jobs.begin(JobKind::Rebuild, target) else { continue };
            running.insert(name.clone(), job);
        }
        if let Some(job) = running.get(name) {
            job.set_progress(*progress);
            job.set_waits_for(waits.clone());
        }
    }
    let is_planned = |name: &String| prepared.plan.tables.iter().any(|table| table.source.plain() == *name);
    let (going_on, ended): (BTreeMap<_, _>, BTreeMap<_, _>) =
        std::mem::take(running).into_iter().partition(|(name, _)| rebuilt.contains_key(name));
    *running = going_on;
    for (name, job) in ended {
        match is_planned(&name) {
            true => job.done("it has taken its place in every region"),
            false => job.failed(&Error::config("schema.json does not name the table any more")),
        }
    }
}
