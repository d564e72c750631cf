//! The log itself: recording, pruning, deciding.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;

use crate::capture::snapshot::{CommitId, ReadPoint};
use crate::encode::cell::{Cell, push};
use crate::encode::json_rows;
use crate::encode::plan::Plan;
use crate::encode::run::{Change, ChangeKind, Run, Span};

/// What one touch costs beside its key and values: its places in the map and the list.
const TOUCH_BYTES: usize = 120;

/// A key as text: the JSON array of its cells.
type KeyText = Arc<[u8]>;

/// What was delivered to the watched tables and may be unseen by a chunk. Held by the river.
#[derive(Debug)]
pub struct Touched {
    tables: HashMap<u32, Keys>,
    /// In the order of delivery, one for each transaction and table.
    transactions: VecDeque<Touches>,
    bytes: usize,
    bytes_max: usize,
    /// Transactions whose keys were forgotten.
    forgotten: Vec<CommitId>,
    /// Even of the transactions there were too many.
    is_blind: bool,
}

#[derive(Debug, Default)]
struct Keys {
    /// In the order of delivery. What a read point sees of a key's touches are the first ones.
    touches: HashMap<KeyText, VecDeque<Touch>>,
    truncates: Vec<CommitId>,
}

/// What one transaction touched in one table.
#[derive(Debug)]
struct Touches {
    table: u32,
    commit: CommitId,
    keys: Vec<KeyText>,
    bytes: usize,
}

#[derive(Debug)]
struct Touch {
    commit: CommitId,
    effect: Effect,
}

#[derive(Debug)]
enum Effect {
    /// The sink has the whole row from here on, or knows that it is gone.
    Settles,
    /// These values were written; the absent ones stayed as they were.
    Writes(Written),
}

/// What an update without all values wrote: its row, with the text of its cells.
#[derive(Debug)]
pub struct Written {
    cells: Box<[Cell]>,
    arena: Box<[u8]>,
}

/// A row that must be read by itself: it moved to this key without all of its values, or a chunk had it in a form that
/// is rejected while the stream changed a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    /// Index of the table in the plan.
    pub table: usize,
    /// The key, in key order, as the source writes it. `None` where it cannot be sent back as text: then only filling
    /// the table anew makes it right.
    pub key: Option<Vec<String>>,
    /// The change that makes it so: a read that does not see it is not enough.
    pub commit: CommitId,
}

/// What is to be done with one row of a chunk.
#[derive(Debug)]
pub enum Decision<'a> {
    /// Write it.
    Keep,
    /// Do not write it: the sink is right already.
    LeaveOut,
    /// Write it with these values over it.
    Overlay {
        /// The values, in the order in which they were written.
        values: Vec<&'a Written>,
        /// The last transaction that wrote some.
        commit: CommitId,
    },
}

/// What became of a chunk's rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// Rows that are written as they were read.
    pub kept: usize,
    /// Rows that are not written.
    pub left_out: usize,
    /// Rows that are written with newer values over them.
    pub overlaid: usize,
    /// Rows that are not written and must be read by themselves.
    pub owed: Vec<Owed>,
}

impl Owed {
    /// The rows of a run that moved without all of their values, in order. What is delivered behind them is to find
    /// them owed.
    pub fn of(run: &Run) -> impl Iterator<Item = Owed> {
        run.spans().iter().flat_map(|span| {
            let commit = CommitId { xid: span.xid, commit_lsn: span.commit_lsn };
            let owed = move |(table, key): (u32, Option<&[String]>)| Owed {
                table: table as usize,
                key: key.map(<[String]>::to_vec),
                commit,
            };
            run.moved_in_part(span).map(owed)
        })
    }
}

/// The chunk must be read again: its read point does not see transactions whose keys are not known any more. Where that
/// does not end, see [`Touched::restart`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the chunk's snapshot is too old for what is remembered of the stream")]
pub struct Stale;

impl Touched {
    /// An empty log that holds about `bytes_max` at most.
    pub fn new(bytes_max: usize) -> Self {
        Touched {
            tables: HashMap::new(),
            transactions: VecDeque::new(),
            bytes: 0,
            bytes_max,
            forgotten: Vec::new(),
            is_blind: false,
        }
    }

    /// Remembers what is delivered to this table from now on.
    pub fn watch(&mut self, table: usize) {
        self.tables.entry(table as u32).or_default();
    }

    /// Forgets the table: it is filled.
    pub fn unwatch(&mut self, table: usize) {
        let table = table as u32;
        self.tables.remove(&table);
        let bytes = &mut self.bytes;
        self.transactions.retain(|touches| {
            let is_kept = touches.table != table;
            *bytes -= if is_kept { 0 } else { touches.bytes };
            is_kept
        });
    }

    /// Whether any table is watched.
    pub fn is_watching(&self) -> bool {
        !self.tables.is_empty()
    }

    /// About how much memory the log holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Remembers what a run brings to the watched tables, less what `floor` sees. Call it for every run, before or after
    /// it is sent, but with no chunk decided in between.
    pub fn record(&mut self, run: &Run, plan: &Plan, floor: &ReadPoint) {
        if self.tables.is_empty() {
            return;
        }
        for span in run.spans() {
            let commit = CommitId { xid: span.xid, commit_lsn: span.commit_lsn };
            if !floor.sees(commit) {
                self.record_span(run, plan, span, commit);
            }
        }
        if self.bytes > self.bytes_max {
            self.forget();
        }
    }

    fn record_span(&mut self, run: &Run, plan: &Plan, span: &Span, commit: CommitId) {
        for &change in run.changes(span) {
            let Some(keys) = self.tables.get_mut(&change.table) else { continue };
            // One transaction's changes of one table come together more often than not.
            let touches = match self.transactions.back_mut() {
                Some(last) if last.commit == commit && last.table == change.table => last,
                _ => {
                    let touches =
                        Touches { table: change.table, commit, keys: Vec::new(), bytes: TOUCH_BYTES };
                    self.bytes += touches.bytes;
                    self.transactions.push_back(touches);
                    self.transactions.back_mut().expect("it was just put there")
                }
            };
            let mut touch = |key: &[Cell], effect: Effect| {
                let mut text = Vec::new();
                json_rows::array(key.iter().copied(), run.arena(), &mut text);
                let key: KeyText = text.into();
                let bytes = TOUCH_BYTES + key.len() + effect.bytes();
                let list = keys.touches.entry(key.clone()).or_default();
                // A stream that starts again brings what is here already, behind what came after it.
                if list.back().is_some_and(|last| last.commit.commit_lsn > commit.commit_lsn) {
                    return;
                }
                touches.bytes += bytes;
                self.bytes += bytes;
                touches.keys.push(key);
                if matches!(effect, Effect::Settles) {
                    // Whoever does not see this one has his answer, and whoever does sees those before it.
                    list.clear();
                }
                list.push_back(Touch { commit, effect });
            };
            let planned = &plan.tables[change.table as usize];
            let row_key = |row: &[Cell]| planned.key.iter().map(|&index| row[index]).collect::<Vec<_>>();
            match change.kind {
                ChangeKind::Upsert => touch(&row_key(run.row(change, plan)), Effect::Settles),
                ChangeKind::Update => {
                    let row = run.row(change, plan);
                    touch(&row_key(row), Effect::Writes(Written::new(row, run.arena())));
                }
                ChangeKind::Delete => touch(run.key(change, plan), Effect::Settles),
                ChangeKind::Move => {
                    touch(run.key(change, plan), Effect::Settles);
                    touch(&row_key(run.row(change, plan)), Effect::Settles);
                }
                ChangeKind::Truncate => keys.truncates.push(commit),
                ChangeKind::Reject => {}
            }
        }
    }

    /// Forgets what every open and future chunk sees.
    pub fn prune(&mut self, floor: &ReadPoint) {
        let (tables, bytes) = (&mut self.tables, &mut self.bytes);
        self.transactions.retain(|touches| {
            if !floor.sees(touches.commit) {
                return true;
            }
            *bytes -= touches.bytes;
            let Some(keys) = tables.get_mut(&touches.table) else { return false };
            keys.truncates.retain(|commit| *commit != touches.commit);
            for key in &touches.keys {
                if let Some(list) = keys.touches.get_mut(key) {
                    while list.front().is_some_and(|touch| floor.sees(touch.commit)) {
                        list.pop_front();
                    }
                    if list.is_empty() {
                        keys.touches.remove(key);
                    }
                }
            }
            false
        });
        self.forgotten.retain(|commit| !floor.sees(*commit));
    }

    /// A fill of the table begins, and sinks may drop what they have of it. What was delivered before is then no reason to
    /// leave a row out: chunks from now on must see all of it, or are [`Stale`].
    pub fn begin(&mut self, table: usize) {
        let table = table as u32;
        let Some(keys) = self.tables.get_mut(&table) else { return };
        *keys = Keys::default();
        let (bytes, forgotten) = (&mut self.bytes, &mut self.forgotten);
        self.transactions.retain(|touches| {
            let is_kept = touches.table != table;
            if !is_kept {
                *bytes -= touches.bytes;
                forgotten.push(touches.commit);
            }
            is_kept
        });
        self.limit_forgotten();
    }

    /// Keeps only which transactions there were.
    fn forget(&mut self) {
        tracing::debug!(
            bytes = self.bytes,
            "too much changes in the tables being filled: chunks are read again"
        );
        self.forgotten.extend(self.transactions.drain(..).map(|touches| touches.commit));
        self.tables.values_mut().for_each(|keys| *keys = Keys::default());
        self.bytes = 0;
        self.limit_forgotten();
    }

    fn limit_forgotten(&mut self) {
        self.forgotten.dedup();
        if self.forgotten.len() * size_of::<CommitId>() > self.bytes_max {
            self.forgotten = Vec::new();
            self.is_blind = true;
        }
    }

    /// Whether chunks stay [`Stale`] until [`restart`](Self::restart).
    pub fn is_blind(&self) -> bool {
        self.is_blind
    }

    /// Begins again with an empty log and a new [`Horizon`](super::Horizon): every chunk that is read from now on sees all that was delivered until now, as a
    /// new [`InDoubt`](crate::capture::chunk::InDoubt) tells. What was read before is given up. The way out where chunks stay [`Stale`], be it
    /// because the log is blind or because the reads go to another server now.
    pub fn restart(&mut self) {
        self.transactions.clear();
        self.tables.values_mut().for_each(|keys| *keys = Keys::default());
        (self.bytes, self.forgotten, self.is_blind) = (0, Vec::new(), false);
    }

    /// What is to be done with the row of this key, as JSON text, in a chunk that was read at `read_point`.
    pub fn decide(&self, table: usize, key: &[u8], read_point: &ReadPoint) -> Decision<'_> {
        let Some(keys) = self.tables.get(&(table as u32)) else { return Decision::Keep };
        if keys.truncates.iter().any(|&commit| !read_point.sees(commit)) {
            return Decision::LeaveOut;
        }
        let (mut values, mut last) = (Vec::new(), None);
        for touch in keys.touches.get(key).into_iter().flatten() {
            if read_point.sees(touch.commit) {
                continue;
            }
            match &touch.effect {
                Effect::Settles => return Decision::LeaveOut,
                Effect::Writes(written) => values.push(written),
            }
            last = Some(touch.commit);
        }
        match last {
            Some(commit) => Decision::Overlay { values, commit },
            None => Decision::Keep,
        }
    }

    /// Decides every row of a chunk of one table, which is to be queued right now. The table must have been watched
    /// since before the chunk was read.
    ///
    /// # Errors
    ///
    /// [`Stale`]: nothing of the chunk may be used.
    pub fn settle(
        &mut self,
        table: usize,
        run: &mut Run,
        plan: &Plan,
        read_point: &ReadPoint,
    ) -> Result<Settled, Stale> {
        if self.is_blind || self.forgotten.iter().any(|&commit| !read_point.sees(commit)) {
            return Err(Stale);
        }
        let is_untouched = |keys: &Keys| keys.touches.is_empty() && keys.truncates.is_empty();
        if self.tables.get(&(table as u32)).is_none_or(is_untouched) {
            return Ok(Settled { kept: run.changes.len(), ..Settled::default() });
        }
        let planned = &plan.tables[table];
        let mut settled = Settled::default();
        let mut key = Vec::new();
        for (index, change) in mem::take(&mut run.changes).into_iter().enumerate() {
            key.clear();
            match change.kind {
                ChangeKind::Reject => key.extend_from_slice(run.rejection(change).key.as_bytes()),
                ChangeKind::Delete => {
                    json_rows::array(run.key(change, plan).iter().copied(), &run.arena, &mut key);
                }
                _ => {
                    let row = run.row(change, plan);
                    json_rows::array(planned.key.iter().map(|&index| row[index]), &run.arena, &mut key);
                }
            }
            match self.decide(table, &key, read_point) {
                Decision::Keep => settled.kept += 1,
                Decision::LeaveOut => {
                    settled.left_out += 1;
                    continue;
                }
                // A row that was gone and changes all the same has come back.
                Decision::Overlay { .. } if change.kind == ChangeKind::Delete => {
                    settled.left_out += 1;
                    continue;
                }
                // What has no form may have been written over, or be among what was not sent: only a new read tells.
                Decision::Overlay { commit, .. } if change.kind == ChangeKind::Reject => {
                    settled.left_out += 1;
                    let found = run.source_keys.binary_search_by_key(&index, |(change, _)| *change);
                    let key = found.ok().and_then(|found| run.source_keys[found].1.clone());
                    settled.owed.push(Owed { table, key, commit });
                    continue;
                }
                Decision::Overlay { values, .. } => {
                    settled.overlaid += 1;
                    values.iter().for_each(|written| written.overlay(run, change));
                }
            }
            run.changes.push(change);
        }
        run.source_keys = Vec::new();
        run.rendered = Default::default();
        Ok(settled)
    }
}

impl Effect {
    fn bytes(&self) -> usize {
        match self {
            Effect::Settles => 0,
            Effect::Writes(written) => size_of_val(&*written.cells) + written.arena.len(),
        }
    }
}

impl Written {
    fn new(row: &[Cell], arena: &[u8]) -> Self {
        let mut own = Vec::new();
        let cells = row.iter().map(|&cell| carry(cell, arena, &mut own)).collect();
        Written { cells, arena: own.into() }
    }

    /// Writes the present values over the row's.
    fn overlay(&self, run: &mut Run, change: Change) {
        for (index, &cell) in self.cells.iter().enumerate().filter(|(_, cell)| **cell != Cell::Absent) {
            run.cells[change.first_cell as usize + index] = carry(cell, &self.arena, &mut run.arena);
        }
    }
}

/// The cell for another arena, which gets its bytes.
fn carry(cell: Cell, from: &[u8], to: &mut Vec<u8>) -> Cell {
    match cell {
        Cell::Text(slice) => Cell::Text(push(to, slice.of(from))),
        Cell::Blob(slice) => Cell::Blob(push(to, slice.of(from))),
        cell => cell,
    }
}
