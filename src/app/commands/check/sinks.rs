//! What `walcast check` finds at the sinks.

use std::path::Path;

use tokio_postgres::Client;

use super::problem;
use crate::Lsn;
use crate::app::check::{Facts, Finding};
use crate::app::commands::output;
use crate::app::evolution::{self, Action, SinkChanges};
use crate::app::replicas::{self, Replica};
use crate::app::source::{Judged, Source};
use crate::capture::slot::{SinkVerdict, Slot, SlotVerdict, SourceIdentity};
use crate::config::{self, BackfillMode, Config, SinkTarget};
use crate::encode::plan::Plan;
use crate::error::{Error, Result};
use crate::fanout::sink::Checkpoint;

/// Each sink: whose it is, what it was made for, and whether it can go on from the slot.
pub(super) async fn find(
    config: &Config,
    plan: &Plan,
    source: Option<(&Source, &Client, &Facts)>,
    findings: &mut Vec<Finding>,
) {
    let identity = source.map(|(source, _, facts)| source.identity(&facts.server));
    // Before the sinks: an engine may be feeding them.
    let slots = match source {
        Some((source, client, facts)) => Some(source.slots(client, &facts.server).await),
        None => None,
    };
    let looked: Vec<Result<Replica>> = config
        .sinks
        .iter()
        .zip(replicas::read_all(config))
        .map(|(sink, replica)| look(sink, replica.map_err(|unreadable| unreadable.error)?, identity.as_ref()))
        .collect();
    let names = config.sinks.iter().map(|sink| sink.name.to_string());
    let held: Vec<(String, Option<Checkpoint>)> = names
        .zip(&looked)
        .filter_map(|(name, looked)| Some((name, looked.as_ref().ok()?.checkpoint.clone())))
        .collect();

    let mut verdicts = Vec::new();
    let mut current = None;
    if let (Some((source, client, facts)), Some(identity), Some(slots)) = (source, &identity, slots) {
        let judged = match slots {
            Ok(slots) => source.judge(client, &facts.server, slots, &held).await,
            Err(error) => Err(error),
        };
        match judged {
            Ok(Judged { copies, judgement, current_wal_lsn, .. }) => {
                findings.extend(source.abandoned(&config.sinks, &copies).into_iter().map(abandoned));
                current = Some(current_wal_lsn);
                if let (SlotVerdict::Missing, Some(error)) = (&judgement.slot, judgement.slot.error(identity))
                {
                    // Told as one that walcast creates, which only holds while no sink was fed.
                    let subject = format!("slot {}", identity.slot);
                    findings.retain(|finding| finding.subject != subject);
                    findings.push(problem(subject, &error));
                }
                verdicts = judgement.sinks;
            }
            Err(error) => findings.push(problem(format!("slot {}", identity.slot), &error)),
        }
    }
    for (sink, looked) in config.sinks.iter().zip(looked) {
        let (name, subject) = (sink.name.as_str(), format!("sink {}", sink.name));
        let (checkpoint, changes) = match looked {
            Ok(replica) => {
                let checkpoint = replica.checkpoint.clone();
                (checkpoint, evolution::changes_of(config, sink, Ok(replica), plan))
            }
            Err(error) => {
                findings.push(problem(subject, &error));
                continue;
            }
        };
        findings.extend(stale_tables(&subject, changes));
        let verdict = verdicts.iter().find(|(judged, _)| judged == name).map(|(_, verdict)| verdict);
        // What a start fills by itself is no problem.
        let is_filled = config.backfill.mode == BackfillMode::Initial;
        let wrong = verdict.filter(|verdict| !(is_filled && **verdict == SinkVerdict::NoCheckpoint));
        let error = wrong.zip(identity.as_ref()).and_then(|(verdict, source)| verdict.error(name, source));
        findings.push(match error {
            Some(error) => problem(subject, &error),
            None if matches!(verdict, Some(SinkVerdict::CatchUp { .. })) => {
                let position = position(checkpoint.as_ref(), current);
                Finding::ok(subject, format!("{position}, and catches up on a copy of the slot"))
            }
            None if matches!(verdict, Some(SinkVerdict::NoCheckpoint)) => {
                Finding::ok(subject, "nothing is there yet; walcast run creates it and fills it")
            }
            None => Finding::ok(subject, position(checkpoint.as_ref(), current)),
        });
    }
}

/// A copy of the slot whose sink is not configured any more: it keeps WAL for nobody.
fn abandoned(copy: &Slot) -> Finding {
    let retained = output::bytes(copy.retained_bytes.unwrap_or(0).max(0).unsigned_abs());
    Finding::problem(
        format!("slot {}", copy.name),
        format!("it is the copy of a sink that is not configured, and holds back {retained} of WAL"),
    )
    .remedy(format!("SELECT pg_drop_replication_slot('{}');", copy.name))
}

/// A sink's replica, if walcast may write it for this source.
fn look(sink: &config::Sink, replica: Replica, source: Option<&SourceIdentity>) -> Result<Replica> {
    if let (Some(checkpoint), Some(source)) = (&replica.checkpoint, source) {
        replicas::check_source(sink, checkpoint, source)?;
    }
    writable(sink)?;
    Ok(replica)
}

fn position(checkpoint: Option<&Checkpoint>, current: Option<Lsn>) -> String {
    match (checkpoint, current) {
        (None, _) => "nothing is there yet; walcast run creates it".to_owned(),
        (Some(checkpoint), None) => format!("it is at {}", checkpoint.lsn),
        (Some(checkpoint), Some(current)) => format!(
            "it is at {}, {} behind the server",
            checkpoint.lsn,
            output::bytes(current.0.saturating_sub(checkpoint.lsn.0))
        ),
    }
}

/// Whether the file can be written, or created where it will be.
fn writable(sink: &config::Sink) -> Result<()> {
    let SinkTarget::Sqlite { path } = &sink.target else { return Ok(()) };
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let Some(existing) = absolute.ancestors().find(|ancestor| ancestor.exists()) else { return Ok(()) };
    let needed = [existing].into_iter().chain(existing.parent().filter(|_| existing.is_file()));
    for place in needed {
        may_write(place)?;
    }
    if existing != absolute && existing.is_file() {
        return Err(Error::halt(format!(
            "{} is a file, and {} cannot be in it",
            existing.display(),
            path.display()
        ))
        .hint("give the sink another path in walcast.toml"));
    }
    Ok(())
}

fn may_write(place: &Path) -> Result<()> {
    rustix::fs::access(place, rustix::fs::Access::WRITE_OK).map_err(|error| {
        Error::halt(format!("{} cannot be written by this user", place.display())).because(error).hint(
            "let the user that runs walcast write there, SQLite's -wal and -shm files beside it included",
        )
    })
}

/// Tables that the replica holds in another form than `schema.json` asks for now.
fn stale_tables(subject: &str, changes: SinkChanges) -> impl Iterator<Item = Finding> + use<'_> {
    let changed = changes.steps.into_iter().filter(|step| step.action != Action::Create);
    changed.map(move |step| {
        let message =
            format!("its table {} was made for another schema.json: it {}", step.table, step.message);
        match step.stops {
            true => Finding::problem(subject, message).remedy("walcast schema plan"),
            false => Finding::warning(subject, message).remedy("walcast schema plan"),
        }
    })
}
