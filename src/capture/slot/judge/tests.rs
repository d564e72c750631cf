//! Every combination of slot and checkpoints.

use super::*;

const SYSTEM: u64 = 7_000;

fn source() -> SourceIdentity {
    SourceIdentity { system_identifier: SYSTEM, timeline: 3, slot: "walcast".into(), database: "app".into() }
}

/// Timeline 1 ended at 100, timeline 2 at 500.
fn history() -> TimelineHistory {
    TimelineHistory::parse("1\t0/64\tno recovery target specified\n\n2\t0/1F4\tat failover\n")
}

fn slot(confirmed: u64) -> Slot {
    Slot {
        name: "walcast".into(),
        plugin: Some("pgoutput".into()),
        database: Some("app".into()),
        restart_lsn: Some(Lsn(1)),
        confirmed_flush_lsn: Some(Lsn(confirmed)),
        wal_status: Some("reserved".into()),
        ..Slot::default()
    }
}

fn at(lsn: u64, timeline: u32) -> SinkCheckpoint {
    SinkCheckpoint {
        sink: "eu".into(),
        lsn: Some(Lsn(lsn)),
        system_identifier: SYSTEM,
        timeline,
        slot: "walcast".into(),
        copy: None,
    }
}

/// With a copy of the slot that was confirmed to `confirmed`.
fn with_copy(sink: SinkCheckpoint, confirmed: u64) -> SinkCheckpoint {
    SinkCheckpoint { copy: Some(Slot { name: "walcast__eu".into(), ..slot(confirmed) }), ..sink }
}

fn never_fed() -> SinkCheckpoint {
    SinkCheckpoint {
        sink: "na".into(),
        lsn: None,
        system_identifier: 0,
        timeline: 0,
        slot: String::new(),
        copy: None,
    }
}

fn verdicts(slot: Option<&Slot>, sinks: &[SinkCheckpoint]) -> (SlotVerdict, Vec<SinkVerdict>) {
    let judgement = judge(&source(), Lsn(1_000), &history(), slot, sinks);
    (judgement.slot, judgement.sinks.into_iter().map(|(_, verdict)| verdict).collect())
}

#[test]
fn without_a_slot_only_sinks_that_were_never_fed_may_start() {
    let cases = [
        (vec![], SlotVerdict::Create, vec![]),
        (vec![never_fed()], SlotVerdict::Create, vec![SinkVerdict::Fresh]),
        (vec![at(900, 3)], SlotVerdict::Missing, vec![SinkVerdict::SlotMissing]),
        (
            vec![at(900, 3), never_fed()],
            SlotVerdict::Missing,
            vec![SinkVerdict::SlotMissing, SinkVerdict::NoCheckpoint],
        ),
    ];
    for (sinks, slot, expected) in cases {
        assert_eq!(verdicts(None, &sinks), (slot, expected), "{sinks:?}");
    }
}

#[test]
fn a_slot_that_cannot_be_streamed_from_decides_before_any_sink() {
    let cases = [
        (Slot { plugin: None, database: None, ..slot(600) }, SlotVerdict::NotLogical),
        (
            Slot { plugin: Some("wal2json".into()), ..slot(600) },
            SlotVerdict::WrongPlugin { plugin: "wal2json".into() },
        ),
        (
            Slot { database: Some("other".into()), ..slot(600) },
            SlotVerdict::WrongDatabase { database: "other".into() },
        ),
        (
            Slot { wal_status: Some("lost".into()), ..slot(600) },
            SlotVerdict::Invalidated { reason: "wal_removed".into() },
        ),
        (
            Slot { invalidation_reason: Some("idle_timeout".into()), ..slot(600) },
            SlotVerdict::Invalidated { reason: "idle_timeout".into() },
        ),
        (Slot { is_temporary: true, ..slot(600) }, SlotVerdict::NotReady { why: "it is temporary" }),
        (
            Slot { confirmed_flush_lsn: None, ..slot(600) },
            SlotVerdict::NotReady { why: "it is still being created" },
        ),
        (
            Slot { is_synced: true, ..slot(600) },
            SlotVerdict::NotReady { why: "it is a standby's copy, usable only after a promotion" },
        ),
    ];
    for (slot, expected) in cases {
        for sinks in [vec![], vec![never_fed()], vec![at(900, 3)]] {
            assert_eq!(verdicts(Some(&slot), &sinks), (expected.clone(), vec![]));
            assert!(expected.error(&source()).expect("it stops").hint_text().is_some());
        }
    }
}

#[test]
fn a_sink_resumes_only_where_everything_after_its_checkpoint_is_sent_again() {
    let elsewhere = SinkCheckpoint { system_identifier: 1, ..at(900, 3) };
    let renamed = SinkCheckpoint { slot: "walcast_copy".into(), ..at(900, 3) };
    let cases = [
        // (confirmed, checkpoint, expected)
        (600, at(900, 3), SinkVerdict::Resume),
        (600, at(600, 3), SinkVerdict::Resume),
        (600, at(1_000, 3), SinkVerdict::Resume),
        (600, renamed, SinkVerdict::Resume),
        (600, at(599, 3), SinkVerdict::SlotAhead { checkpoint: Lsn(599), confirmed: Lsn(600) }),
        (600, at(1_001, 3), SinkVerdict::BeyondWal { checkpoint: Lsn(1_001), current: Lsn(1_000) }),
        (600, elsewhere, SinkVerdict::OtherSystem { checkpoint: 1 }),
        // After a failover: at the switch is still common history, one byte later is not.
        (400, at(500, 2), SinkVerdict::Resume),
        (400, at(501, 2), SinkVerdict::AfterSwitch { checkpoint: Lsn(501), switch: Lsn(500) }),
        (400, at(399, 2), SinkVerdict::SlotAhead { checkpoint: Lsn(399), confirmed: Lsn(400) }),
        (50, at(100, 1), SinkVerdict::Resume),
        (50, at(101, 1), SinkVerdict::AfterSwitch { checkpoint: Lsn(101), switch: Lsn(100) }),
        // The source is the old primary, come back.
        (600, at(900, 4), SinkVerdict::OtherTimeline { checkpoint: 4 }),
        (600, at(900, 0), SinkVerdict::OtherTimeline { checkpoint: 0 }),
    ];
    for (confirmed, sink, expected) in cases {
        let (slot, sinks) = verdicts(Some(&slot(confirmed)), std::slice::from_ref(&sink));
        assert_eq!((slot, sinks), (SlotVerdict::Resume, vec![expected.clone()]), "{confirmed} {sink:?}");
        assert_eq!(expected.error("eu", &source()).is_none(), expected == SinkVerdict::Resume);
    }
}

#[test]
fn a_sink_that_the_slot_has_left_behind_catches_up_on_its_copy_if_that_still_has_everything() {
    let ahead = SinkVerdict::SlotAhead { checkpoint: Lsn(500), confirmed: Lsn(600) };
    let spoilt = |change: fn(&mut Slot)| {
        let mut sink = with_copy(at(500, 3), 450);
        change(sink.copy.as_mut().expect("it has one"));
        sink
    };
    let cases = [
        (with_copy(at(500, 3), 450), SinkVerdict::CatchUp { confirmed: Lsn(450) }),
        (with_copy(at(500, 3), 500), SinkVerdict::CatchUp { confirmed: Lsn(500) }),
        (with_copy(at(500, 3), 501), ahead.clone()),
        (spoilt(|copy| copy.wal_status = Some("lost".into())), ahead.clone()),
        (spoilt(|copy| copy.plugin = Some("wal2json".into())), ahead.clone()),
        (spoilt(|copy| copy.database = Some("other".into())), ahead.clone()),
        (spoilt(|copy| copy.confirmed_flush_lsn = None), ahead),
        // Where the slot itself has everything, the copy does not matter.
        (with_copy(at(600, 3), 450), SinkVerdict::Resume),
        (with_copy(at(900, 3), 950), SinkVerdict::Resume),
        // And it helps nobody whose position means nothing here.
        (
            with_copy(at(1_001, 3), 450),
            SinkVerdict::BeyondWal { checkpoint: Lsn(1_001), current: Lsn(1_000) },
        ),
        (with_copy(at(500, 4), 450), SinkVerdict::OtherTimeline { checkpoint: 4 }),
        (with_copy(never_fed(), 450), SinkVerdict::Fresh),
    ];
    for (sink, expected) in cases {
        let (slot, sinks) = verdicts(Some(&slot(600)), std::slice::from_ref(&sink));
        assert_eq!((slot, sinks), (SlotVerdict::Resume, vec![expected]), "{sink:?}");
    }
    let alone = verdicts(None, &[with_copy(at(500, 3), 450)]);
    assert_eq!(alone, (SlotVerdict::Missing, vec![SinkVerdict::SlotMissing]));
    assert_eq!(SinkVerdict::CatchUp { confirmed: Lsn(450) }.error("eu", &source()).is_none(), true);
}

#[test]
fn an_unknown_history_halts_instead_of_resuming() {
    let unknown = TimelineHistory::parse("garbage\n\n2 not-an-lsn\n");
    let judgement = judge(&source(), Lsn(1_000), &unknown, Some(&slot(400)), &[at(450, 2)]);
    assert_eq!(judgement.sinks, [("eu".into(), SinkVerdict::OtherTimeline { checkpoint: 2 })]);
}

#[test]
fn sinks_that_were_never_fed_start_with_a_slot_that_fed_nobody_and_not_with_one_that_did() {
    let fresh = vec![SinkVerdict::Fresh, SinkVerdict::Fresh];
    assert_eq!(verdicts(Some(&slot(600)), &[never_fed(), never_fed()]), (SlotVerdict::Resume, fresh));
    let late = vec![SinkVerdict::Resume, SinkVerdict::NoCheckpoint];
    assert_eq!(verdicts(Some(&slot(600)), &[at(900, 3), never_fed()]), (SlotVerdict::Resume, late));
    let error = SinkVerdict::NoCheckpoint.error("na", &source()).expect("it stops");
    assert_eq!(error.kind(), crate::error::Kind::NeedsBackfill);
    assert!(error.hint_text().expect("a command").contains("walcast run --start-at-slot na"));
}
