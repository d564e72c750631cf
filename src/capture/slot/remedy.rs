//! What a verdict means for the operator: the error that stops the engine or the sink, with the next command to run.

use super::PLUGIN;
use super::judge::{SinkVerdict, SlotVerdict, SourceIdentity};
use crate::error::{Error, Kind};

/// What remains where the slot can no longer bring what the sinks lack.
pub const ANEW: &str = "fill the replicas anew: walcast nuke --all";

impl SlotVerdict {
    /// What stops the engine, with the operator's next command; `None` for `Create` and `Resume`.
    pub fn error(&self, source: &SourceIdentity) -> Option<Error> {
        let slot = &source.slot;
        match self {
            SlotVerdict::Create | SlotVerdict::Resume => None,
            SlotVerdict::Missing => Some(
                Error::new(
                    Kind::NeedsBackfill,
                    format!(
                        "slot {slot} does not exist, but the sinks have checkpoints: the changes since are gone"
                    ),
                )
                .hint(ANEW),
            ),
            SlotVerdict::Invalidated { reason } => Some(
                Error::new(
                    Kind::NeedsBackfill,
                    format!("slot {slot} was invalidated by the server ({reason}): the changes since are gone"),
                )
                .hint(ANEW),
            ),
            SlotVerdict::WrongPlugin { plugin } => Some(
                Error::halt(format!("slot {slot} has the output plugin {plugin}, not {PLUGIN}"))
                    .hint("it belongs to another tool: configure another slot name"),
            ),
            SlotVerdict::WrongDatabase { database } => Some(
                Error::halt(format!("slot {slot} decodes database {database}, not {}", source.database))
                    .hint("configure another slot name, or connect to that database"),
            ),
            SlotVerdict::NotLogical => Some(
                Error::halt(format!("slot {slot} is a physical slot"))
                    .hint("it belongs to a standby: configure another slot name"),
            ),
            SlotVerdict::NotReady { why } => Some(
                Error::halt(format!("slot {slot} cannot be used: {why}"))
                    .hint("walcast status shows the slot; configure another slot name if it stays so"),
            ),
        }
    }
}

impl SinkVerdict {
    /// What stops the sink, with the operator's next command; `None` for one that goes on.
    pub fn error(&self, sink: &str, source: &SourceIdentity) -> Option<Error> {
        let slot = &source.slot;
        let (kind, message) = match self {
            SinkVerdict::Resume | SinkVerdict::CatchUp { .. } | SinkVerdict::Fresh => return None,
            SinkVerdict::NoCheckpoint => (
                Kind::NeedsBackfill,
                format!("sink {sink} has no checkpoint, and slot {slot} has already fed others"),
            ),
            SinkVerdict::SlotMissing => (
                Kind::NeedsBackfill,
                format!(
                    "sink {sink} has a checkpoint, but slot {slot} does not exist: the changes since are gone"
                ),
            ),
            SinkVerdict::SlotAhead { checkpoint, confirmed } => (
                Kind::NeedsBackfill,
                format!(
                    "sink {sink} is at {checkpoint}, but slot {slot} was confirmed to {confirmed}: \
                     the changes between are gone"
                ),
            ),
            SinkVerdict::OtherSystem { checkpoint } => (
                Kind::Halt,
                format!(
                    "sink {sink} holds rows of system {checkpoint}, but the source is system {}",
                    source.system_identifier
                ),
            ),
            SinkVerdict::OtherTimeline { checkpoint } => (
                Kind::Halt,
                format!(
                    "sink {sink} is on timeline {checkpoint}, which is not in the history of the source's \
                     timeline {}",
                    source.timeline
                ),
            ),
            SinkVerdict::AfterSwitch { checkpoint, switch } => (
                Kind::Halt,
                format!(
                    "sink {sink} is at {checkpoint}, but the source left that timeline at {switch}: \
                     it holds transactions that the failover lost"
                ),
            ),
            SinkVerdict::BeyondWal { checkpoint, current } => (
                Kind::Halt,
                format!("sink {sink} is at {checkpoint}, but the source has written only to {current}"),
            ),
        };
        let next = match self {
            SinkVerdict::NoCheckpoint => {
                format!("accept the gap: walcast run --start-at-slot {sink}; or {ANEW}")
            }
            SinkVerdict::OtherSystem { .. }
            | SinkVerdict::OtherTimeline { .. }
            | SinkVerdict::AfterSwitch { .. }
            | SinkVerdict::BeyondWal { .. } => {
                format!("check that source and replica are the ones you mean; if so, {ANEW}")
            }
            SinkVerdict::SlotAhead { .. } => format!("fill the replica anew: walcast nuke --sink {sink}"),
            SinkVerdict::SlotMissing => ANEW.to_owned(),
            SinkVerdict::Resume | SinkVerdict::CatchUp { .. } | SinkVerdict::Fresh => return None,
        };
        Some(Error::new(kind, message).hint(next))
    }
}
