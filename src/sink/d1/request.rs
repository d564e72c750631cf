//! Batches → requests: what one call to D1 takes. Whole transactions are put together until a request has as much as is
//! asked for; only one that alone has more than D1 takes at once is split.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::body::Bulk;
use super::bound;
use super::compose::{Composed, Lax, Purpose, compose};
use super::dead_letters::Letters;
use super::limits::{self, Pace, ROW_TEXT_BYTES_MAX, RequestLimits};
use super::tables::TableSql;
use crate::Lsn;
use crate::encode::fold::{ChangeRef, Fold};
use crate::encode::json_rows::JsonRows;
use crate::encode::plan::Plan;
use crate::encode::run::{ChangeKind, Run, Span};
use crate::error::{Error, Kind, Result};
use crate::fanout::sink::{Batch, OpenTransaction};
use crate::sink::replica::{OnRejected, rejected, rejected_row};

/// Consecutive changes of one transaction within one run.
#[derive(Debug, Clone)]
pub(super) struct Part<'a> {
    pub(super) run: &'a Run,
    pub(super) span: &'a Span,
    /// Indexes among all of the run's changes; the last is the span's last.
    pub(super) changes: Range<usize>,
}

impl<'a> Part<'a> {
    fn change(&self, index: usize) -> ChangeRef<'a> {
        ChangeRef { run: self.run, span: self.span, index }
    }
}

/// What a batch brings that the database does not have yet.
///
/// # Errors
/// Asks for the stream again where the batch begins behind what is missing.
pub(super) fn outstanding<'a>(
    batch: &Batch<'a>,
    after: Lsn,
    mut open: Option<OpenTransaction>,
) -> Result<Vec<Part<'a>>> {
    let mut parts: Vec<Part<'a>> = Vec::new();
    for (run, span) in batch.spans().filter(|(_, span)| span.commit_lsn >= after) {
        let there = match open {
            Some(open) if open.commit_lsn == span.commit_lsn => open.changes,
            Some(open) => {
                return Err(Error::bug(format!(
                    "the transaction at {} is half applied, and the one at {} comes next",
                    open.commit_lsn, span.commit_lsn
                )));
            }
            None => 0,
        };
        let is_next = parts.last().is_some_and(|last| last.span.commit_lsn == span.commit_lsn);
        if !span.is_start && !is_next && there < span.changes_before {
            return Err(Error::new(Kind::Replay, "the transaction's first part is no longer there"));
        }
        let skipped = usize::try_from(there.saturating_sub(span.changes_before)).unwrap_or(usize::MAX);
        let start = span.changes.start + skipped.min(span.changes.len());
        if span.end_lsn.is_some() {
            open = None;
        }
        if start < span.changes.end || span.end_lsn.is_some() {
            parts.push(Part { run, span, changes: start..span.changes.end });
        }
    }
    Ok(parts)
}

/// What one request leads to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct End {
    /// The end of its last whole transaction.
    pub(super) lsn: Option<Lsn>,
    /// When that was committed.
    pub(super) commit_time_micros: Option<i64>,
    /// Transactions that end in it.
    pub(super) transactions: u64,
    /// The transaction that it leaves half done.
    pub(super) open: Option<OpenTransaction>,
}

/// One call's worth of changes.
#[derive(Debug)]
pub(super) struct Request<'a> {
    /// What it was made of.
    pub(super) parts: Vec<Part<'a>>,
    pub(super) ready: Ready,
}

/// What one call sends, but for the checkpoint.
#[derive(Debug)]
pub(super) struct Ready {
    /// Its statements.
    pub(super) bulk: Bulk,
    /// What each is for.
    pub(super) purposes: Vec<Purpose>,
    pub(super) end: End,
    pub(super) letters: Letters,
    /// Changes before folding.
    pub(super) changes: u64,
    /// Rows after folding.
    pub(super) rows: u64,
}

/// What a row is named by: its transaction's commit LSN, and its number there.
pub(super) type Poison = HashMap<(Lsn, u64), String>;

/// What requests are composed with.
pub(super) struct Composer<'a, 's> {
    pub(super) plan: &'a Plan,
    pub(super) sql: &'s mut TableSql,
    pub(super) letters: &'s Arc<str>,
    pub(super) pace: Pace,
    pub(super) on_rejected: OnRejected,
    /// Changes that the database has refused, with its reason.
    pub(super) poison: &'s Poison,
    /// Whether the way to the database takes its statements compressed.
    pub(super) is_compressed: bool,
    /// Which tables are being filled.
    pub(super) lax: &'s Lax,
}

/// Where a request begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    part: usize,
    change: usize,
}

/// Cuts what is outstanding into requests.
pub(super) struct Cutter<'a> {
    parts: Vec<Part<'a>>,
    at: usize,
}

impl<'a> Cutter<'a> {
    pub(super) fn new(parts: Vec<Part<'a>>) -> Self {
        Cutter { parts, at: 0 }
    }

    /// Whether everything has been cut.
    pub(super) fn is_done(&self) -> bool {
        self.at == self.parts.len()
    }

    /// The next request, as large as the pace allows.
    ///
    /// # Errors
    /// Halts at a row that has no valid form, if the sink is to.
    pub(super) fn next(&mut self, composer: &mut Composer<'a, '_>) -> Result<Option<Request<'a>>> {
        if self.is_done() {
            return Ok(None);
        }
        let mut stop = self.parts.len();
        let (draft, next) = loop {
            match self.fill(stop, composer)? {
                Filled::Draft(draft, next) => break (draft, next),
                // It has too many kinds of writes to join the ones before it.
                Filled::TooMuch(transaction) => stop = transaction,
            }
        };
        let mut parts = self.parts[self.at..next.part].to_vec();
        if let Some(rest) = self.parts.get_mut(next.part)
            && next.change > rest.changes.start
        {
            parts.push(Part { changes: rest.changes.start..next.change, ..rest.clone() });
            rest.changes.start = next.change;
        }
        self.at = next.part;
        Ok(Some(Request { parts, ready: draft.finish(composer)? }))
    }

    /// Everything up to `end`, which was composed before; `None` where that is not among what is outstanding.
    pub(super) fn take(&mut self, end: &End) -> Option<Vec<Part<'a>>> {
        let (last, left) = match end.open {
            None => (self.parts.iter().position(|part| part.span.end_lsn == end.lsn)?, None),
            Some(open) => {
                let reach = |part: &Part<'_>| {
                    let before = usize::try_from(open.changes.checked_sub(part.span.changes_before)?).ok()?;
                    let reach = part.span.changes.start + before;
                    let is_in = part.span.commit_lsn == open.commit_lsn
                        && (part.changes.start + 1..=part.changes.end).contains(&reach);
                    is_in.then_some(reach)
                };
                let mut parts = self.parts.iter().enumerate();
                let (last, reach) = parts.find_map(|(index, part)| Some((index, reach(part)?)))?;
                (last, Some(reach).filter(|&reach| reach < self.parts[last].changes.end))
            }
        };
        let mut taken = self.parts.get(self.at..=last)?.to_vec();
        self.at = match left {
            None => last + 1,
            Some(reach) => {
                self.parts[last].changes.start = reach;
                taken.last_mut()?.changes.end = reach;
                last
            }
        };
        Some(taken)
    }

    /// Whether what is left has half of what a request may have, or more: a smaller one waits for what is still to
    /// queue.
    pub(super) fn is_worth_composing(&self, composer: &Composer<'a, '_>) -> bool {
        let RequestLimits { rows_max, bytes_max } = composer.pace.grouped;
        let (mut rows, mut bytes) = (0, 0);
        self.parts[self.at..].iter().any(|part| {
            rows += part.changes.len();
            bytes += JsonRows::of(part.run, composer.plan).bytes(part.changes.clone());
            2 * rows >= rows_max || 2 * bytes >= bytes_max
        })
    }

    fn fill(&self, stop: usize, composer: &Composer<'a, '_>) -> Result<Filled<'a>> {
        let mut draft = Draft::new(composer);
        let mut at = self.at;
        while at < stop {
            let commit_lsn = self.parts[at].span.commit_lsn;
            let others = self.parts[at..].iter().position(|part| part.span.commit_lsn != commit_lsn);
            let end = others.map_or(self.parts.len(), |others| at + others);
            let transaction = &self.parts[at..end];
            if !draft.is_empty() && !draft.has_room_for(transaction, composer) {
                break;
            }
            for (index, part) in transaction.iter().enumerate() {
                for change in part.changes.clone() {
                    if draft.is_full(composer) {
                        if at > self.at {
                            return Ok(Filled::TooMuch(at));
                        }
                        let changes = part.change(change).number();
                        draft.end.open = Some(OpenTransaction { commit_lsn, changes });
                        return Ok(Filled::Draft(Box::new(draft), Place { part: at + index, change }));
                    }
                    draft.add(part.change(change), composer)?;
                }
            }
            let last = &transaction[transaction.len() - 1];
            draft.ended(last.span);
            at = end;
            if draft.has_enough(composer.pace.grouped) {
                break;
            }
        }
        let change = self.parts.get(at).map_or(0, |part| part.changes.start);
        Ok(Filled::Draft(Box::new(draft), Place { part: at, change }))
    }
}

enum Filled<'a> {
    Draft(Box<Draft<'a>>, Place),
    /// The transaction that begins with this part does not fit behind the ones before it.
    TooMuch(usize),
}

impl Ready {
    /// A request that only moves the checkpoint.
    pub(super) fn nothing(end: End, letters: &Arc<str>) -> Self {
        Ready {
            bulk: Bulk::default(),
            purposes: Vec::new(),
            end,
            letters: Letters::new(letters),
            changes: 0,
            rows: 0,
        }
    }
}

impl<'a> Request<'a> {
    /// Everything that it was made of, in order.
    pub(super) fn changes(&self) -> impl Iterator<Item = ChangeRef<'a>> + '_ {
        self.parts.iter().flat_map(|part| part.changes.clone().map(|index| part.change(index)))
    }
}

/// The statements of some changes.
///
/// # Errors
/// See [`Cutter::next`].
pub(super) fn compose_some<'a>(
    changes: &[ChangeRef<'a>],
    composer: &mut Composer<'a, '_>,
) -> Result<Composed> {
    let mut draft = Draft::new(composer);
    for &change in changes {
        draft.add(change, composer)?;
    }
    Ok(compose(&draft.fold, &draft.letters, composer.plan, composer.sql, &composer.pace, composer.lax))
}

/// A request in the making.
struct Draft<'a> {
    fold: Fold<'a>,
    letters: Letters,
    changes: u64,
    end: End,
    is_empty: bool,
}

impl<'a> Draft<'a> {
    fn new(composer: &Composer<'a, '_>) -> Self {
        Draft {
            fold: Fold::new(composer.plan),
            letters: Letters::new(composer.letters),
            changes: 0,
            end: End::default(),
            is_empty: true,
        }
    }

    fn is_empty(&self) -> bool {
        self.is_empty
    }

    fn add(&mut self, from: ChangeRef<'a>, composer: &Composer<'a, '_>) -> Result<()> {
        self.is_empty = false;
        let change = from.change();
        if composer.lax.leaves_out(change.table as usize, from.span) {
            return Ok(());
        }
        let reason = match change.kind {
            ChangeKind::Reject => None,
            _ => match composer.poison.get(&(from.span.commit_lsn, from.number())) {
                Some(reason) => Some(reason.clone()),
                None => match from.text(composer.plan).len() {
                    bytes if bytes > ROW_TEXT_BYTES_MAX => bound::unfit(from, composer.plan, bytes),
                    _ => None,
                },
            },
        };
        let row = match reason {
            None if change.kind == ChangeKind::Reject => from.run.rejection(change).clone(),
            None => {
                self.changes += 1;
                self.fold.add(from);
                return Ok(());
            }
            Some(reason) => rejected_row(from.run, change, composer.plan, reason),
        };
        let target = &composer.plan.tables[change.table as usize].target;
        if composer.on_rejected == OnRejected::Halt {
            return Err(rejected(target, from.span.commit_lsn, &row.reason));
        }
        self.letters.push(target, row, from.span);
        Ok(())
    }

    /// The transaction's last part was added.
    fn ended(&mut self, span: &Span) {
        self.is_empty = false;
        match span.end_lsn {
            Some(end_lsn) => {
                self.end.lsn = Some(end_lsn);
                self.end.commit_time_micros = Some(span.commit_time_micros);
                self.end.transactions += 1;
                self.end.open = None;
            }
            None => {
                let changes = span.changes_before + span.changes.len() as u64;
                self.end.open = Some(OpenTransaction { commit_lsn: span.commit_lsn, changes });
            }
        }
    }

    fn rows(&self) -> usize {
        self.fold.size().rows + self.letters.len()
    }

    fn statements(&self, param: RequestLimits) -> usize {
        let size = self.fold.size();
        let by_bytes = 2 * size.bytes / param.bytes_max.max(1);
        let by_rows = self.rows() / param.rows_max.max(1);
        size.statements + by_bytes + by_rows + usize::from(self.letters.len() > 0)
    }

    fn has_enough(&self, grouped: RequestLimits) -> bool {
        self.rows() >= grouped.rows_max || self.fold.size().bytes >= grouped.bytes_max
    }

    /// Whether no further change may be added.
    fn is_full(&self, composer: &Composer<'a, '_>) -> bool {
        let Pace { split, param, .. } = composer.pace;
        self.changes + self.letters.len() as u64 > 0
            && (self.has_enough(split) || limits::is_full(self.statements(param), composer.plan))
    }

    /// Whether a transaction can be added although none of its changes may fold into what is here.
    fn has_room_for(&self, transaction: &[Part<'_>], composer: &Composer<'a, '_>) -> bool {
        let rows: usize = transaction.iter().map(|part| part.changes.len()).sum();
        let bytes = |part: &Part<'_>| JsonRows::of(part.run, composer.plan).bytes(part.changes.clone());
        let bytes: usize = transaction.iter().map(bytes).sum();
        let split = composer.pace.split;
        self.rows() + rows <= split.rows_max && self.fold.size().bytes + bytes <= split.bytes_max
    }

    /// # Errors
    /// A bug: the statements are beyond a limit.
    fn finish(self, composer: &mut Composer<'a, '_>) -> Result<Ready> {
        let composed =
            compose(&self.fold, &self.letters, composer.plan, composer.sql, &composer.pace, composer.lax);
        let Composed { statements, purposes } = composed;
        limits::check(&statements)?;
        let bulk = Bulk::new(&statements);
        Ok(Ready {
            bulk: if composer.is_compressed { bulk.compressed() } else { bulk },
            purposes,
            end: self.end,
            changes: self.changes,
            rows: self.fold.size().rows as u64,
            letters: self.letters,
        })
    }
}
