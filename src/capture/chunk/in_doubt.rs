//! What must become visible before a fill begins.
//!
//! While a table is filled, the keys of what is delivered are remembered with their xids, and each chunk is held
//! against them. What was delivered *before* that, also by a process that is gone, is not remembered: a chunk may only be
//! read when it surely sees all of it. A delivered transaction either was visible already at this moment, or it holds
//! the lock on its xid still: those are awaited, one by one. What runs for long for another reason, because its
//! statement does or because it is prepared, cannot be told apart and delays the start of a fill; what waits for its
//! client does not.

use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

use crate::Lsn;
use crate::capture::query::{field, rows};
use crate::capture::snapshot::{CommitId, ReadPoint};
use crate::error::{Error, Result};

/// Transactions that may have been delivered without being visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InDoubt {
    xids: Vec<u32>,
    wal_lsn: Lsn,
}

impl InDoubt {
    /// These transactions are in doubt; whatever else was delivered ends at or before `wal_lsn` and is visible.
    pub fn new(xids: Vec<u32>, wal_lsn: Lsn) -> Self {
        InDoubt { xids, wal_lsn }
    }

    /// What is in doubt at this moment. Ask the primary, once everything that is delivered from now on is remembered
    /// and nobody else delivers to the same sinks any more.
    ///
    /// # Errors
    ///
    /// Transient when the connection fails; halt on a standby.
    pub async fn read(client: &Client) -> Result<InDoubt> {
        let sql = include_str!("../../../sql/transactions_in_doubt.sql");
        let found = rows(client, sql, &[], "looking for transactions that are not visible yet").await?;
        let row = found.first().ok_or_else(|| Error::bug("sql/transactions_in_doubt.sql returned no row"))?;
        let xids: Vec<i64> = field(row, "xids")?;
        let wal_lsn: PgLsn = field(row, "wal_lsn")?;
        // A transaction id has 32 bits, which `bigint` holds without a sign.
        let xids = xids.into_iter().map(|xid| xid as u32).collect();
        Ok(InDoubt { xids, wal_lsn: Lsn(wal_lsn.into()) })
    }

    /// Whether a read sees everything that was delivered before this was asked for: then chunks from then on may be
    /// used. Reads before that must be thrown away.
    pub fn is_settled(&self, read_point: &ReadPoint) -> bool {
        match read_point {
            ReadPoint::Primary(_) => {
                self.xids.iter().all(|&xid| read_point.sees(CommitId { xid, commit_lsn: Lsn::ZERO }))
            }
            // There everything becomes visible in the order of the WAL.
            ReadPoint::Standby { replayed } => *replayed >= self.wal_lsn,
        }
    }

    /// The transactions that are awaited, for messages.
    pub fn xids(&self) -> &[u32] {
        &self.xids
    }
}
