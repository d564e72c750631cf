//! Whether the sinks can go on from the slot. Pure: the source's identity, its slot and the sinks' checkpoints go in,
//! one verdict for the slot and one per sink come out. It never answers "resume from somewhere else".
//!
//! A sink can go on exactly when everything after its checkpoint will be sent again: the slot is of this server's
//! history, that history contains the checkpoint, and the slot was confirmed no further than the checkpoint. What the
//! slot sends from before the checkpoint is skipped by the sink.
//!
//! | Slot | Checkpoints | Slot's verdict | Sink's verdict |
//! |---|---|---|---|
//! | none | none | `Create` | `Fresh` |
//! | none | some | `Missing` | needs backfill: what came since is gone |
//! | unusable (invalidated, other plugin or database, physical, …) | any | as found | none: decide the slot first |
//! | usable | none at any sink | `Resume` | `Fresh`: starts at the confirmed position |
//! | usable | none at this sink | `Resume` | `NoCheckpoint`: needs backfill, or the gap accepted by name |
//! | usable | at or after confirmed, same history | `Resume` | `Resume` |
//! | usable | before confirmed, but not before its usable copy's confirmed | `Resume` | `CatchUp`: on its copy |
//! | usable | before confirmed, and no copy that helps | `Resume` | `SlotAhead`: needs backfill |
//! | any usable | of another system | `Resume` | `OtherSystem`: halt |
//! | any usable | of a newer timeline, or one that is no ancestor | `Resume` | `OtherTimeline`: halt |
//! | any usable | of an ancestor timeline, after the switch | `Resume` | `AfterSwitch`: halt |
//! | any usable | beyond the server's WAL | `Resume` | `BeyondWal`: halt |
//!
//! A copy of the slot is a sink's own; it is looked at only where the slot itself does not help.
//!
//! A checkpoint that another slot of the same server left is as good as one of this slot: positions are the server's,
//! not the slot's. After a failover the new primary has a new timeline and the same WAL up to the switch, so a
//! checkpoint at or before the switch still means what it said.

use pgwire_replication::Lsn;

use super::{PLUGIN, Slot};
use crate::capture::catalog::Server;

/// What the source says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceIdentity {
    /// The cluster's identifier.
    pub system_identifier: u64,
    /// The current timeline.
    pub timeline: u32,
    /// The configured slot's name.
    pub slot: String,
    /// The database of the session.
    pub database: String,
}

impl SourceIdentity {
    /// The identity of the server that was read, with the slot configured for it.
    pub fn new(server: &Server, slot: &str) -> Self {
        SourceIdentity {
            system_identifier: server.system_identifier,
            timeline: server.timeline,
            slot: slot.to_owned(),
            database: server.database.clone(),
        }
    }
}

/// Where a sink says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkCheckpoint {
    /// The sink's name.
    pub sink: String,
    /// The last position whose transactions it holds; `None` for a sink that was never fed.
    pub lsn: Option<Lsn>,
    /// The system that position is of.
    pub system_identifier: u64,
    /// The timeline that position is of.
    pub timeline: u32,
    /// The slot that fed it.
    pub slot: String,
    /// The sink's own copy of the slot, if there is one.
    pub copy: Option<Slot>,
}

/// The ancestors of the current timeline and where each ended, from `TIMELINE_HISTORY`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TimelineHistory {
    switches: Vec<(u32, Lsn)>,
}

impl TimelineHistory {
    /// The history in a timeline history file: lines of `timeline<TAB>switch LSN<TAB>reason`. Lines that say anything
    /// else are skipped, so that an unreadable file knows no ancestor and halts instead of resuming.
    pub fn parse(file: &str) -> Self {
        let switch = |line: &str| {
            let mut words = line.split_whitespace();
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        };
        TimelineHistory { switches: file.lines().filter_map(switch).collect() }
    }

    /// Where the given ancestor ended; `None` if it is no known ancestor.
    pub fn switch_after(&self, timeline: u32) -> Option<Lsn> {
        self.switches.iter().find(|(ancestor, _)| *ancestor == timeline).map(|(_, lsn)| *lsn)
    }
}

/// What [`judge`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Whether there is a slot to stream from.
    pub slot: SlotVerdict,
    /// One verdict per sink, in the order given; empty unless the slot's verdict is `Create`, `Resume` or `Missing`.
    pub sinks: Vec<(String, SinkVerdict)>,
}

/// Whether there is a slot to stream from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotVerdict {
    /// No slot, and no sink was ever fed: create it, then start.
    Create,
    /// Stream from it.
    Resume,
    /// It is gone, and with it the changes since the sinks' checkpoints.
    Missing,
    /// The server has given it up.
    Invalidated {
        /// Why, in the server's word.
        reason: String,
    },
    /// Another tool's slot.
    WrongPlugin {
        /// The plugin it has.
        plugin: String,
    },
    /// It decodes another database of the same server.
    WrongDatabase {
        /// The database it decodes.
        database: String,
    },
    /// A physical slot.
    NotLogical,
    /// It is not to be relied on: temporary, still being created, or a standby's copy that is not promoted yet.
    NotReady {
        /// Which of these, in words.
        why: &'static str,
    },
}

/// Whether one sink can go on from the slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkVerdict {
    /// Everything after its checkpoint will be sent.
    Resume,
    /// The slot was confirmed past its checkpoint, but its own copy of the slot was not.
    CatchUp {
        /// What the copy was confirmed to.
        confirmed: Lsn,
    },
    /// It was never fed and neither was any other: it starts with the slot.
    Fresh,
    /// It was never fed, but others were: it lacks what they got before.
    NoCheckpoint,
    /// There is no slot: the changes since its checkpoint are gone.
    SlotMissing,
    /// The slot was confirmed past its checkpoint: the changes between are gone.
    SlotAhead {
        /// The sink's position.
        checkpoint: Lsn,
        /// The slot's.
        confirmed: Lsn,
    },
    /// Its rows come from another cluster.
    OtherSystem {
        /// The cluster they come from.
        checkpoint: u64,
    },
    /// Its position is of a timeline that the source's history does not contain.
    OtherTimeline {
        /// The timeline of its position.
        checkpoint: u32,
    },
    /// Its position is of an ancestor timeline, but after the point where the source left it.
    AfterSwitch {
        /// The sink's position.
        checkpoint: Lsn,
        /// Where the source left that timeline.
        switch: Lsn,
    },
    /// Its position lies in WAL that the source has not written: the source was set back.
    BeyondWal {
        /// The sink's position.
        checkpoint: Lsn,
        /// The source's.
        current: Lsn,
    },
}

/// Holds the slot against the sinks' checkpoints. See the table above. `current_wal_lsn` is the server's WAL position,
/// read *after* the checkpoints were.
pub fn judge(
    source: &SourceIdentity,
    current_wal_lsn: Lsn,
    history: &TimelineHistory,
    slot: Option<&Slot>,
    sinks: &[SinkCheckpoint],
) -> Judgement {
    let is_any_fed = sinks.iter().any(|sink| sink.lsn.is_some());
    let confirmed = match (slot, is_any_fed) {
        (None, false) => return Judgement::alike(SlotVerdict::Create, sinks, &SinkVerdict::Fresh),
        (None, true) => None,
        (Some(slot), _) => match usable(source, slot) {
            Ok(confirmed) => Some(confirmed),
            Err(verdict) => return Judgement { slot: verdict, sinks: Vec::new() },
        },
    };
    let verdict = |sink: &SinkCheckpoint| match sink.lsn {
        None if is_any_fed => SinkVerdict::NoCheckpoint,
        None => SinkVerdict::Fresh,
        Some(lsn) => fit(source, current_wal_lsn, history, confirmed, sink, lsn),
    };
    Judgement {
        slot: if confirmed.is_some() { SlotVerdict::Resume } else { SlotVerdict::Missing },
        sinks: sinks.iter().map(|sink| (sink.sink.clone(), verdict(sink))).collect(),
    }
}

/// The slot's confirmed position, if it is a slot that walcast can stream from.
fn usable(source: &SourceIdentity, slot: &Slot) -> Result<Lsn, SlotVerdict> {
    match (&slot.plugin, &slot.database) {
        (None, _) => return Err(SlotVerdict::NotLogical),
        (Some(plugin), _) if plugin != PLUGIN => {
            return Err(SlotVerdict::WrongPlugin { plugin: plugin.clone() });
        }
        (Some(_), Some(database)) if *database != source.database => {
            return Err(SlotVerdict::WrongDatabase { database: database.clone() });
        }
        (Some(_), _) => {}
    }
    if let Some(reason) = slot.invalidation() {
        return Err(SlotVerdict::Invalidated { reason: reason.to_owned() });
    }
    if slot.is_temporary {
        return Err(SlotVerdict::NotReady { why: "it is temporary" });
    }
    if slot.is_synced {
        return Err(SlotVerdict::NotReady { why: "it is a standby's copy, usable only after a promotion" });
    }
    slot.confirmed_flush_lsn.ok_or(SlotVerdict::NotReady { why: "it is still being created" })
}

/// Whether a sink at `lsn` can go on. History comes first: positions of another history are not comparable.
fn fit(
    source: &SourceIdentity,
    current_wal_lsn: Lsn,
    history: &TimelineHistory,
    confirmed: Option<Lsn>,
    sink: &SinkCheckpoint,
    lsn: Lsn,
) -> SinkVerdict {
    if sink.system_identifier != source.system_identifier {
        return SinkVerdict::OtherSystem { checkpoint: sink.system_identifier };
    }
    if sink.timeline != source.timeline {
        match history.switch_after(sink.timeline) {
            Some(switch) if sink.timeline < source.timeline => {
                if lsn > switch {
                    return SinkVerdict::AfterSwitch { checkpoint: lsn, switch };
                }
            }
            Some(_) | None => return SinkVerdict::OtherTimeline { checkpoint: sink.timeline },
        }
    }
    if lsn > current_wal_lsn {
        return SinkVerdict::BeyondWal { checkpoint: lsn, current: current_wal_lsn };
    }
    match confirmed {
        None => SinkVerdict::SlotMissing,
        Some(confirmed) if confirmed > lsn => {
            match sink.copy.as_ref().and_then(|copy| usable(source, copy).ok()) {
                Some(confirmed) if confirmed <= lsn => SinkVerdict::CatchUp { confirmed },
                Some(_) | None => SinkVerdict::SlotAhead { checkpoint: lsn, confirmed },
            }
        }
        Some(_) => SinkVerdict::Resume,
    }
}

impl Judgement {
    /// One verdict for every sink.
    fn alike(slot: SlotVerdict, sinks: &[SinkCheckpoint], verdict: &SinkVerdict) -> Self {
        Judgement { slot, sinks: sinks.iter().map(|sink| (sink.sink.clone(), verdict.clone())).collect() }
    }
}

#[cfg(test)]
mod tests;
