//! What the river has delivered to tables that are being filled, and what that means for a chunk's rows. Pure.
//!
//! Enters: every run, as it is delivered, and every chunk as a run of upserts. Leaves: the chunk's run without the rows
//! that would take a sink back, in the place of the queue where it is decided. One log for each stream of deliveries:
//! a sink that reads a slot of its own has its own.
//!
//! # What is decided
//!
//! A chunk's row `r` of key `k` is the state of `k` in a snapshot `S`. The sink holds the state of `k` at its place in
//! the stream, if it holds `k` at all. Let `N` be the delivered transactions that touched `k` and that `S` does not see.
//! (Which they are, only visibility tells; see [`snapshot`](crate::capture::snapshot).)
//!
//! 1. **`N` is empty: keep.** `r` has everything that was delivered to `k`, and perhaps more. What more there is, the
//!    stream still brings: it replays those transactions over `r`. While it does, columns may be of different age, and
//!    a deletion or a TRUNCATE that `r` came after takes the row away until it is inserted again; at the last of them
//!    every column has been written last by whoever wrote it last at the source, and the row is what it should be.
//! 2. **`N` holds a whole row or the key's end** (insert, update of all values, delete, the old key of a move, TRUNCATE):
//!    **leave out.** From that touch on the sink has the row, or knows that it is gone, without our help, and `r` is
//!    older.
//! 3. **`N` holds only updates without all values** (unchanged TOAST): **overlay.** `r` has the values that they did not
//!    send, and they have the others, so `r` with their values over it is the row as of the last of them. That needs
//!    their values, so the log keeps them. Reading the row again instead would never end for a row that is updated more
//!    often than a read takes.
//!
//! Transactions that touch the same row come after each other (they wait for its lock until the one before is
//! visible), so if `S` sees a touch of `k`, it sees every earlier one. `N` is therefore a tail of what happened to `k`,
//! and its order is the order of delivery.
//!
//! A row that was read by its key and is not there has the same decision: `r` is then its absence, which is kept as a
//! removal. It is needed where the sink holds a row that the source deleted before the sink's place in the stream, as
//! one that it was wrongly left with.
//!
//! What looks like a special case and is none:
//!
//! * *A transaction between the snapshot and the queueing* is in the log when the chunk is decided, and `S` does not see
//!   it. *One that comes after* the queueing is applied after the row.
//! * *A transaction that is visible and not delivered yet* is case 1.
//! * *Insert again after delete*: if `S` sees neither, there is no row, and the stream brings it. If it sees only the
//!   deletion, there is no row in the chunk. If it does not see the deletion, case 2.
//! * *Subtransactions* are their parent's xid, *prepared transactions* are delivered at COMMIT PREPARED under their own,
//!   and both stay in the snapshots' lists exactly until they are visible.
//! * *A part of a transaction*: parts are recorded as they are delivered. The chunk must not be queued inside one, since
//!   a sink has it open then.
//! * *A row that the stream rejected* is no touch: the sink kept what it had, and a chunk may bring that.
//! * *TRUNCATE* locks out everything else, so all rows of an `S` that does not see it are older. (The chunk's transaction
//!   holds its lock before its snapshot, so a table that is emptied meanwhile does not read as empty.)
//!
//! **A fill that begins** may begin with an empty table, so case 2 no longer holds for what was delivered before: the log
//! forgets it ([`Touched::begin`]), and the fill's chunks are read by who sees all of it. Then nothing that moved before
//! has to be owed either.
//!
//! **A move without all values** (key `a` becomes `b`, unchanged TOAST) is the one touch that a chunk cannot set right.
//! The sink needs its row `a` for it. If `a` was not filled yet, it misses; later chunks do not have `a` any more, and
//! `b`'s range may have been read before there was a `b`. So every such move is reported ([`Owed::of`]), and
//! `b` is read by itself, from a snapshot that sees the move, and goes through the same decision. What is owed must be
//! kept in the sink before the move is applied, or a crash loses it.
//!
//! # What is kept
//!
//! Only touches of watched tables by transactions that some open or future chunk may not see: visibility never ends, so
//! what the oldest read point sees that an open chunk started from, all of them see. [`Horizon`] knows it. A backlog of
//! old WAL is therefore never recorded. If the log outgrows its limit, it forgets the keys and keeps the xids' place:
//! chunks that do not see all of what was forgotten are read again ([`Stale`]), which a next snapshot cures.

mod horizon;
mod log;

#[cfg(test)]
pub(super) mod tests;

pub use horizon::{Horizon, Ticket};
pub use log::{Decision, Owed, Settled, Stale, Touched, Written};
