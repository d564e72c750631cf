//! What a read of the source saw. Pure.
//!
//! A chunk of a backfill reads `pg_current_snapshot()` in its transaction, and the stream's Begin names the xid of each
//! transaction: [`ReadPoint::sees`] says whether the one saw the other. LSNs cannot say it on a primary. There a commit
//! record is in the WAL, decoded and delivered *before* the transaction leaves the list of running ones, and if it
//! waits for a synchronous standby, long before.
//!
//! On a standby it is the other way round. `pg_current_snapshot()` does not list what runs there (its xip is empty in
//! recovery, although `xmin` may be below `xmax`), so a transaction between `xmin` and `xmax` would pass for visible.
//! But a standby makes commits visible by replaying them in WAL order, and nothing else: what ends at or before a replay
//! position that was read *before* the snapshot was taken, the snapshot sees.
//!
//! Subtransactions play no part: Begin carries the top-level xid, `pg_current_snapshot()` lists top-level xids only, and
//! a subtransaction becomes visible with its parent. A prepared transaction stays in the list until COMMIT PREPARED is
//! through, and it is delivered then.

use std::str::FromStr;

use crate::Lsn;

/// Xids below this are reserved; what they wrote is visible to everybody.
const FIRST_NORMAL_XID: u32 = 3;

/// A snapshot of a primary: which transactions had ended when it was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Every xid below it has ended.
    xmin: u64,
    /// No xid from it on has ended.
    xmax: u64,
    /// Between the two: what had not ended, in ascending order.
    in_progress: Vec<u64>,
}

/// Not the text of a `pg_snapshot`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a snapshot of the form xmin:xmax:xip,…")]
pub struct NotASnapshot;

/// A committed transaction as the stream names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitId {
    /// The top-level xid, without its epoch.
    pub xid: u32,
    /// The position of the commit record.
    pub commit_lsn: Lsn,
}

/// What a read saw, and so what it did not see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadPoint {
    /// It was made on a primary, with this snapshot.
    Primary(Snapshot),
    /// It was made on a standby that had replayed this far before the snapshot was taken.
    Standby {
        /// `pg_last_wal_replay_lsn()`: the end of a record.
        replayed: Lsn,
    },
}

impl Snapshot {
    /// Whether the transaction had ended, so that what it committed is seen: `pg_visible_in_snapshot`.
    pub fn is_visible(&self, xid: u32) -> bool {
        if xid < FIRST_NORMAL_XID {
            return true;
        }
        let xid = self.extend(xid);
        xid < self.xmin || (xid < self.xmax && self.in_progress.binary_search(&xid).is_err())
    }

    /// The xid with its epoch. The server keeps all xids that mean anything within 2^31 of each other, so it is the one
    /// next to `xmax`; where there was no epoch before, it lies in the future.
    fn extend(&self, xid: u32) -> u64 {
        let ahead = xid.wrapping_sub(self.xmax as u32).cast_signed();
        self.xmax.checked_add_signed(ahead.into()).unwrap_or(xid.into())
    }

    /// Whether everything that `earlier` saw is seen here too.
    fn sees_all_of(&self, earlier: &Snapshot) -> bool {
        let hidden = |xid: &u64| earlier.in_progress.binary_search(xid).is_ok();
        // What lies at or above our xmax must not have ended there either: all of that range, one by one.
        let beyond = earlier.xmax.saturating_sub(self.xmax.max(earlier.xmin));
        let hidden_beyond = earlier.in_progress.iter().filter(|&&xid| xid >= self.xmax).count() as u64;
        earlier.xmin <= self.xmax
            && beyond == hidden_beyond
            && self.in_progress.iter().all(|xid| *xid >= earlier.xmax || hidden(xid))
    }
}

impl FromStr for Snapshot {
    type Err = NotASnapshot;

    fn from_str(text: &str) -> Result<Self, NotASnapshot> {
        let number = |text: &str| text.parse::<u64>().map_err(|_| NotASnapshot);
        let mut parts = text.split(':');
        let (Some(xmin), Some(xmax), Some(xip), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NotASnapshot);
        };
        let (xmin, xmax) = (number(xmin)?, number(xmax)?);
        let mut in_progress = match xip {
            "" => Vec::new(),
            list => list.split(',').map(number).collect::<Result<_, _>>()?,
        };
        in_progress.sort_unstable();
        let is_within = in_progress.iter().all(|xid| (xmin..xmax).contains(xid));
        if xmin > xmax || !is_within { Err(NotASnapshot) } else { Ok(Snapshot { xmin, xmax, in_progress }) }
    }
}

impl ReadPoint {
    /// Whether the read saw what this transaction committed.
    pub fn sees(&self, commit: CommitId) -> bool {
        match self {
            ReadPoint::Primary(snapshot) => snapshot.is_visible(commit.xid),
            // A replayed position is the end of a record, so a commit record that starts before it ends before it.
            ReadPoint::Standby { replayed } => commit.commit_lsn < *replayed,
        }
    }

    /// Whether everything that `earlier` saw is seen here too. False between a primary and a standby, which cannot be
    /// compared, and where the server is another one that lags behind.
    pub fn sees_all_of(&self, earlier: &ReadPoint) -> bool {
        match (self, earlier) {
            (ReadPoint::Primary(later), ReadPoint::Primary(earlier)) => later.sees_all_of(earlier),
            (ReadPoint::Standby { replayed: later }, ReadPoint::Standby { replayed: earlier }) => {
                later >= earlier
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn snapshot(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    #[test]
    fn a_snapshot_sees_what_ended_before_it() {
        let snapshot = snapshot("10:20:12,10,17");
        let seen: Vec<u32> = (3..30).filter(|&xid| snapshot.is_visible(xid)).collect();
        assert_eq!(seen, [3, 4, 5, 6, 7, 8, 9, 11, 13, 14, 15, 16, 18, 19]);
        assert!(snapshot.is_visible(2), "frozen rows are visible to everybody");
    }

    #[test]
    fn xids_are_read_relative_to_the_snapshot_when_they_wrap_around() {
        let epoch = 1u64 << 32;
        let snapshot = snapshot(&format!("{}:{}:{}", epoch - 10, epoch + 20, epoch + 5));
        assert!(snapshot.is_visible(u32::MAX - 10));
        assert!(snapshot.is_visible(u32::MAX), "it is below this snapshot's, one epoch earlier");
        assert!(snapshot.is_visible(4));
        assert!(!snapshot.is_visible(5));
        assert!(snapshot.is_visible(19));
        assert!(!snapshot.is_visible(20));
        assert!(!snapshot.is_visible(1 << 30), "it is yet to come");
        assert!(snapshot.is_visible((1 << 31) + 100), "it is two thousand million ago");
    }

    #[test]
    fn before_the_first_wrap_around_a_large_xid_lies_in_the_future() {
        assert!(!snapshot("700:800:").is_visible(3_000_000_000));
    }

    #[test]
    fn what_is_no_snapshot_is_refused() {
        for text in ["", "1", "1:2", "1:2:3:4", "2:1:", "1:5:9", "5:9:3", "a:2:", "1:2:,", "-1:2:"] {
            assert_eq!(text.parse::<Snapshot>(), Err(NotASnapshot), "{text}");
        }
    }

    #[test]
    fn a_standby_sees_what_it_had_replayed() {
        let commit = |lsn| CommitId { xid: 5, commit_lsn: Lsn(lsn) };
        let point = ReadPoint::Standby { replayed: Lsn(100) };
        assert!(point.sees(commit(99)));
        assert!(!point.sees(commit(100)));
        assert!(!point.sees_all_of(&ReadPoint::Primary(snapshot("1:1:"))));
        assert!(point.sees_all_of(&ReadPoint::Standby { replayed: Lsn(100) }));
        assert!(!point.sees_all_of(&ReadPoint::Standby { replayed: Lsn(101) }));
    }

    prop_compose! {
        fn any_snapshot(base: u64)(ended in prop::collection::vec(any::<bool>(), 0..12), offset in 0..6u64) -> (Snapshot, Vec<u64>) {
            let first = base + offset;
            let open: Vec<u64> = ended.iter().enumerate().filter(|(_, ended)| !**ended).map(|(at, _)| first + at as u64).collect();
            let xmax = first + ended.len() as u64;
            let xmin = open.first().copied().unwrap_or(xmax);
            let xip = open.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
            let visible = (base..base + 30).filter(|xid| *xid < xmax && !open.contains(xid)).collect();
            (snapshot(&format!("{xmin}:{xmax}:{xip}")), visible)
        }
    }

    proptest! {
        #[test]
        fn visibility_and_inclusion_are_those_of_the_sets(
            base in prop_oneof![Just(3u64), Just((1 << 32) - 8), Just((7 << 32) + 100), Just((1 << 31) - 5)],
            pair in (any_snapshot(0), any_snapshot(0)),
        ) {
            let shift = |snapshot: &Snapshot| Snapshot {
                xmin: snapshot.xmin + base,
                xmax: snapshot.xmax + base,
                in_progress: snapshot.in_progress.iter().map(|xid| xid + base).collect(),
            };
            let ((a, seen_by_a), (b, seen_by_b)) = pair;
            for (snapshot, seen) in [(shift(&a), &seen_by_a), (shift(&b), &seen_by_b)] {
                for xid in 0..30u64 {
                    let short = (base + xid) as u32;
                    if short >= FIRST_NORMAL_XID {
                        prop_assert_eq!(snapshot.is_visible(short), seen.contains(&xid), "{} in {:?}", base + xid, snapshot);
                    }
                }
            }
            let is_subset = seen_by_b.iter().all(|xid| seen_by_a.contains(xid));
            prop_assert_eq!(shift(&a).sees_all_of(&shift(&b)), is_subset, "{:?} {:?}", a, b);
        }

        #[test]
        fn any_text_gives_a_snapshot_or_an_error(text in "[0-9:,]{0,30}") {
            if let Ok(snapshot) = text.parse::<Snapshot>() {
                prop_assert!(snapshot.xmin <= snapshot.xmax);
            }
        }
    }
}
