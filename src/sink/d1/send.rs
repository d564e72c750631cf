//! Sends requests and takes in what comes back: what is there, whether somebody else writes, how much may be asked for.
//!
//! Nothing waits here. What has to wait is an error whose kind says for how long, and the worker comes again.

mod landed;
mod learn;

use std::sync::Arc;

use super::Options;
use super::compose::Lax;
use super::cost::Usage;
use super::dead_letters::Letters;
use super::failures::unix_seconds;
use super::fills;
use super::limits::{self, Pace};
use super::request::{Composer, Cutter, End, Poison, Ready, Request, outstanding};
use super::state::{self, State, StateSql};
use super::tables::TableSql;
use super::transport::{Statement, Transport};
use crate::Lsn;
use crate::capture::slot::SourceIdentity;
use crate::encode::plan::Plan;
use crate::error::{Error, Result};
use crate::fanout::fill::{Fills, OwedKey};
use crate::fanout::sink::{Applied, Batch, Checkpoint, OpenTransaction, Reached};
use crate::sink::replica::taken_over;

/// An opened database, and what is known of it.
pub(super) struct Session {
    pub(super) plan: Arc<Plan>,
    pub(super) source: SourceIdentity,
    /// This engine's token.
    pub(super) writer: String,
    /// The checkpoint's row as it was when it was last read or moved; `None` before the first checkpoint.
    pub(super) state: Option<State>,
    pub(super) options: Options,
    pub(super) sql: TableSql,
    pub(super) state_sql: StateSql,
    letters: Arc<str>,
    pace: Pace,
    poison: Poison,
    /// How far the tables are filled, as far as that is known.
    pub(super) fills: Option<Fills>,
    /// Which tables are being filled.
    lax: Lax,
    /// What updates did not find.
    missing: Vec<(usize, OwedKey)>,
    /// Whether the way to the database takes its statements compressed.
    pub(super) is_compressed: bool,
    /// The next request, composed while the one before it was in flight.
    ahead: Option<Ahead>,
    /// A request whose fate is not known.
    pending: Option<Pending>,
    /// What was applied and not reported yet, because an error came after it.
    unreported: Applied,
    /// The checkpoint does not know yet what the last request came to.
    is_uncounted: bool,
    /// Complaints of the database since the last success.
    complaints: u32,
    is_size_warned: bool,
}

/// A request that waits for its turn.
#[derive(Debug)]
struct Ahead {
    /// The checkpoint's position, and what is there of the transaction behind it, when that comes.
    after: (Lsn, Option<OpenTransaction>),
    ready: Ready,
}

/// What a request in flight comes to if it is applied.
#[derive(Debug, Clone)]
struct Pending {
    end: End,
    usage: Usage,
    applied: Applied,
    rows: u64,
}

/// Waits for a call in a thread of its own, and does something else in this one.
fn in_flight<T: Send, U>(call: impl FnOnce() -> T + Send, meanwhile: impl FnOnce() -> U) -> Result<(T, U)> {
    std::thread::scope(|scope| {
        let flight = std::thread::Builder::new().name("d1-request".to_owned()).spawn_scoped(scope, call);
        let flight = flight.map_err(|error| Error::transient("starting a thread").because(error))?;
        let done = meanwhile();
        let outcome = flight.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((outcome, done))
    })
}

/// Statements that go with the rows of a fill.
#[derive(Debug, Clone, Default)]
pub(super) struct Extra {
    /// In front of the first rows.
    pub(super) first: Vec<Statement>,
    /// With the last ones.
    pub(super) last: Vec<Statement>,
    /// They cannot be done twice: where it is not known whether they were, that is found out first.
    pub(super) is_once: bool,
}

impl Extra {
    /// What goes with the next request.
    pub(super) fn with(&self, is_last: bool) -> Vec<Statement> {
        let last = if is_last { &self.last[..] } else { &[] };
        [&self.first[..], last].concat()
    }
}

/// What became of a request.
enum Sent {
    Applied,
    /// Not, but what stood in its way is known now: what is outstanding is to be composed anew.
    Again,
}

impl Session {
    pub(super) fn new(
        plan: &Arc<Plan>,
        source: &SourceIdentity,
        writer: String,
        state: Option<State>,
        options: Options,
    ) -> Self {
        Session {
            plan: plan.clone(),
            source: source.clone(),
            writer,
            state,
            options,
            sql: TableSql::new(plan, (**plan).clone(), options),
            state_sql: StateSql::new(),
            letters: Letters::text(),
            pace: Pace::new(options.request),
            poison: Poison::new(),
            fills: None,
            lax: Lax::default(),
            missing: Vec::new(),
            is_compressed: false,
            ahead: None,
            pending: None,
            unreported: Applied::default(),
            is_uncounted: false,
            complaints: 0,
            is_size_warned: false,
        }
    }

    pub(super) fn known_checkpoint(&self) -> Option<Checkpoint> {
        self.state.as_ref().map(|state| state.checkpoint.clone())
    }

    pub(super) fn usage(&self) -> Option<&Usage> {
        self.state.as_ref().map(|state| &state.usage)
    }

    fn state(&self) -> Result<&State> {
        self.state.as_ref().ok_or_else(|| Error::bug("D1 sink used before its first checkpoint"))
    }

    pub(super) fn start_at(&mut self, transport: &mut dyn Transport, lsn: Lsn) -> Result<()> {
        let usage = Usage::starting(unix_seconds());
        let statements = [state::insert(lsn, &self.source, &self.writer, &usage), state::read()];
        let answers = transport.execute(&statements).map_err(|failure| self.failed(&failure))?;
        let state = answers.get(1).map(state::parse).transpose()?.flatten();
        let state = state.ok_or_else(|| Error::transient("the first checkpoint cannot be read back"))?;
        if state.writer != self.writer {
            return Err(taken_over());
        }
        self.state = Some(state);
        Ok(())
    }

    /// The checkpoint: read anew if a request may have been applied without our knowing.
    pub(super) fn checkpoint(&mut self, transport: &mut dyn Transport) -> Result<Checkpoint> {
        if self.pending.is_some() {
            self.settle(transport)?;
        }
        Ok(self.state()?.checkpoint.clone())
    }

    /// Applies what one request takes of the batch, and says how far that reaches.
    pub(super) fn apply(
        &mut self,
        transport: &mut dyn Transport,
        batch: &Batch<'_>,
    ) -> Result<(Applied, Reached)> {
        let plan = self.plan.clone();
        let lax = Lax::of(batch, &plan);
        if lax != self.lax {
            self.ahead = None;
            self.lax = lax;
        }
        self.is_compressed = transport.is_compressed();
        loop {
            if self.pending.is_some() {
                self.settle(transport)?;
            }
            if let Some(reached) = self.apply_outstanding(transport, batch, &plan)? {
                return Ok((std::mem::take(&mut self.unreported), reached));
            }
        }
    }

    /// Sends one request; `None` where what is outstanding has to be composed anew.
    fn apply_outstanding<'a>(
        &mut self,
        transport: &mut dyn Transport,
        batch: &Batch<'a>,
        plan: &'a Plan,
    ) -> Result<Option<Reached>> {
        let Checkpoint { lsn, open, .. } = self.state()?.checkpoint;
        let mut cutter = Cutter::new(outstanding(batch, lsn, open)?);
        let request = match self.next_request(&mut cutter, plan)? {
            Some(mut request) => {
                if cutter.is_done() && request.ready.end.open.is_none() {
                    request.ready.end.lsn = request.ready.end.lsn.max(batch.idle());
                }
                request
            }
            None => match batch.idle().filter(|&idle| idle > lsn) {
                None => return Ok(Some(Reached::All)),
                // A transaction that is half there still comes.
                Some(idle) => {
                    let end = End { lsn: Some(idle), open, ..End::default() };
                    Request { parts: Vec::new(), ready: Ready::nothing(end, &self.letters) }
                }
            },
        };
        let is_last = cutter.is_done();
        if let Sent::Again = self.send(transport, &request, Vec::new(), &mut cutter, plan)? {
            return Ok(None);
        }
        let Checkpoint { lsn, open, .. } = self.state()?.checkpoint;
        let is_all = is_last && batch.idle().is_none_or(|idle| idle <= lsn);
        Ok(Some(if is_all { Reached::All } else { Reached::Part { lsn, open } }))
    }

    /// The request that was composed ahead, if it is what comes next, or else one made now.
    fn next_request<'a>(&mut self, cutter: &mut Cutter<'a>, plan: &'a Plan) -> Result<Option<Request<'a>>> {
        let Checkpoint { lsn, open, .. } = self.state()?.checkpoint;
        if let Some(Ahead { after, ready }) = self.ahead.take()
            && after == (lsn, open)
            && let Some(parts) = cutter.take(&ready.end)
        {
            return Ok(Some(Request { parts, ready }));
        }
        cutter.next(&mut self.composer(plan))
    }

    pub(super) fn composer<'a>(&mut self, plan: &'a Plan) -> Composer<'a, '_> {
        Composer {
            plan,
            sql: &mut self.sql,
            letters: &self.letters,
            pace: self.pace,
            on_rejected: self.options.on_rejected,
            poison: &self.poison,
            is_compressed: self.is_compressed,
            lax: &self.lax,
        }
    }

    /// Sends a request and meanwhile composes the next one, if there is enough for it.
    fn send<'a>(
        &mut self,
        transport: &mut dyn Transport,
        request: &Request<'a>,
        extra: Vec<Statement>,
        rest: &mut Cutter<'a>,
        plan: &'a Plan,
    ) -> Result<Sent> {
        let Ready { bulk, end, letters, changes, rows, .. } = &request.ready;
        let state = self.state()?;
        let mut usage = state.usage.clone();
        usage.until = unix_seconds();
        usage.requests += 1;
        usage.changes += changes;
        usage.rows += rows;
        let mut fence = vec![self.state_sql.advance(state, &self.source, end, &usage)];
        fence.extend(extra);
        limits::check(&fence)?;
        limits::check_count(fence.len() + bulk.statements())?;
        let applied =
            Applied { changes: *changes, transactions: end.transactions, dead_letters: letters.len() as u64 };
        let pending = Pending { end: *end, usage, applied, rows: rows + 1 };
        let after = (end.lsn.unwrap_or(state.checkpoint.lsn), end.open);
        let outcome = if rest.is_done() {
            transport.call(&fence, bulk)
        } else {
            let compose = || match rest.is_worth_composing(&self.composer(plan)) {
                true => rest.next(&mut self.composer(plan)),
                false => Ok(None),
            };
            let (outcome, next) = in_flight(|| transport.call(&fence, bulk), compose)?;
            // A row at which the sink is to halt will be met again, when it is its turn.
            self.ahead = next.ok().flatten().map(|Request { ready, .. }| Ahead { after, ready });
            outcome
        };
        match outcome {
            Ok(answers) if answers.len() == fence.len() + bulk.statements() => {
                self.landed(&answers, fence.len(), pending, request);
                Ok(Sent::Applied)
            }
            // What was composed ahead does not know what is learned now.
            Ok(_) => {
                self.ahead = None;
                self.pending = Some(pending);
                Err(Error::transient("D1 answered fewer statements than it was sent"))
            }
            Err(failure) => {
                self.ahead = None;
                self.learn(transport, request, failure, pending)
            }
        }
    }

    /// Writes down what the last request came to, which only its answer said.
    pub(super) fn end(&mut self, transport: &mut dyn Transport) {
        let Some(state) = self.state.as_ref().filter(|_| self.is_uncounted && self.pending.is_none()) else {
            return;
        };
        let mut usage = state.usage.clone();
        usage.until = unix_seconds();
        usage.requests += 1;
        // Its own: the checkpoint's row.
        usage.rows_written += 1;
        let end = End { open: state.checkpoint.open, ..End::default() };
        let fence = [self.state_sql.advance(state, &self.source, &end, &usage)];
        if let Err(failure) = transport.execute(&fence) {
            tracing::debug!("the rows written last are not counted: {}", failure.message);
        }
        // Whatever has become of it: nothing more is sent without reading the checkpoint first.
        self.is_uncounted = false;
        self.pending = Some(Pending { end, usage, applied: Applied::default(), rows: 0 });
    }

    /// A request that moves nothing but the sequence.
    pub(super) fn nothing<'a>(&self) -> Request<'a> {
        let open = self.state.as_ref().and_then(|state| state.checkpoint.open);
        Request { parts: Vec::new(), ready: Ready::nothing(End { open, ..End::default() }, &self.letters) }
    }

    /// Sends rows that belong to no transaction; false where they have to be composed anew.
    pub(super) fn send_beside<'a>(
        &mut self,
        transport: &mut dyn Transport,
        mut request: Request<'a>,
        extra: Vec<Statement>,
        plan: &'a Plan,
    ) -> Result<bool> {
        let Ready { end, changes, rows, .. } = &mut request.ready;
        (*end, *changes, *rows) = (self.nothing().ready.end, 0, 0);
        let sent = self.send(transport, &request, extra, &mut Cutter::new(Vec::new()), plan)?;
        Ok(matches!(sent, Sent::Applied))
    }

    /// Puts other refused rows in the place of those that are known, which it returns.
    pub(super) fn swap_poison(&mut self, poison: Poison) -> Poison {
        std::mem::replace(&mut self.poison, poison)
    }

    /// The same with what tables being filled allow.
    pub(super) fn swap_lax(&mut self, lax: Lax) -> Lax {
        std::mem::replace(&mut self.lax, lax)
    }

    pub(super) fn forget_ahead(&mut self) {
        self.ahead = None;
    }

    pub(super) fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    pub(super) fn take_unreported(&mut self) -> Applied {
        std::mem::take(&mut self.unreported)
    }

    /// The rows that updates did not find since this was last asked.
    pub(super) fn take_missing(&mut self) -> Vec<(usize, OwedKey)> {
        std::mem::take(&mut self.missing)
    }

    /// Moves the checkpoint anywhere, and lets every table be filled anew.
    pub(super) fn begin_anew(&mut self, transport: &mut dyn Transport, lsn: Lsn) -> Result<()> {
        let plan = self.plan.clone();
        let fills = fills::put_all_anew(&plan, self.sql.written())?;
        (self.fills, self.ahead) = (None, None);
        loop {
            if self.pending.is_some() {
                self.settle(transport)?;
            }
            let end = End { lsn: Some(lsn), ..End::default() };
            let request = Request { parts: Vec::new(), ready: Ready::nothing(end, &self.letters) };
            // Done twice it is the same.
            if let Sent::Applied =
                self.send(transport, &request, vec![fills.clone()], &mut Cutter::new(Vec::new()), &plan)?
            {
                self.unreported = Applied::default();
                return Ok(());
            }
        }
    }
}
