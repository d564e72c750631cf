//! What a request that did not succeed teaches: the row or the size that stands in its way, a pause, or that somebody has
//! to look; and where the database is, when that is not known.

use super::{Pending, Sent, Session};
use crate::error::{Error, Result};
use crate::sink::d1::failures::{error_of, lost};
use crate::sink::d1::isolate::{self, Found};
use crate::sink::d1::limits;
use crate::sink::d1::open;
use crate::sink::d1::request::Request;
use crate::sink::d1::state::{self, State};
use crate::sink::d1::transport::{Failure, Transport};
use crate::sink::d1::verdict::Verdict;
use crate::sink::replica::taken_over;

impl Session {
    /// Learns from a failure. `Ok` where composing anew is all there is to do.
    pub(super) fn learn(
        &mut self,
        transport: &mut dyn Transport,
        request: &Request<'_>,
        failure: Failure,
        pending: Pending,
    ) -> Result<Sent> {
        match failure.verdict {
            Verdict::Unknown => {
                self.pending = Some(pending);
                Err(self.failed(&failure))
            }
            Verdict::TooMuch => {
                self.pending = Some(pending);
                match self.pace.split_more() {
                    true => Err(self.failed(&failure)),
                    false => Err(Error::halt(format!(
                        "D1 gives up even on {} rows: {}",
                        limits::ROWS_FLOOR,
                        failure.message
                    ))
                    .hint("look for triggers or very large rows in the database, then start walcast again")),
                }
            }
            Verdict::Overloaded => {
                self.pace.group_less();
                Err(self.failed(&failure))
            }
            Verdict::Fenced => {
                let sequence = self.state()?.sequence;
                self.pending = Some(pending);
                self.settle(transport)?;
                match self.state()?.sequence == sequence {
                    true => {
                        Err(Error::transient(format!("the checkpoint did not move: {}", failure.message)))
                    }
                    false => Ok(Sent::Again),
                }
            }
            Verdict::TooLarge | Verdict::Rejected => {
                let plan = self.plan.clone();
                match isolate::isolate(self, transport, &plan, request, &failure)? {
                    Found::Row { name, reason } => drop(self.poison.insert(name, reason)),
                    Found::Size if self.pace.bind_less() => {}
                    Found::Size => {
                        return Err(Error::halt(format!("D1 takes no smaller request: {}", failure.message)));
                    }
                }
                Ok(Sent::Again)
            }
            Verdict::SchemaMissing => Err(open::what_is_missing(transport, self.sql.written(), &failure)?),
            Verdict::Throttled { .. }
            | Verdict::Busy
            | Verdict::Full
            | Verdict::DailyLimit
            | Verdict::Gone
            | Verdict::Refused => Err(self.failed(&failure)),
        }
    }

    /// What a failure means to the worker.
    pub(in crate::sink::d1) fn failed(&mut self, failure: &Failure) -> Error {
        self.complaints += 1;
        error_of(failure, self.complaints)
    }

    /// Reads where the database is, after a request whose fate is not known.
    pub(in crate::sink::d1) fn settle(&mut self, transport: &mut dyn Transport) -> Result<()> {
        let answers = transport.execute(&[state::read()]).map_err(|failure| match failure.verdict {
            Verdict::SchemaMissing => lost("its checkpoint is gone"),
            _ => self.failed(&failure),
        })?;
        let found = answers.first().map(state::parse).transpose()?.flatten();
        let found = found.ok_or_else(|| lost("its checkpoint is gone"))?;
        let known = self.state()?;
        if found.writer != self.writer {
            return Err(match found.checkpoint.epoch > known.checkpoint.epoch {
                true => taken_over(),
                false => lost("its checkpoint is an older engine's"),
            });
        }
        // Only what begins anew moves it anywhere.
        let is_meant =
            self.pending.as_ref().is_some_and(|pending| pending.end.lsn == Some(found.checkpoint.lsn));
        if found.sequence < known.sequence || found.checkpoint.lsn < known.checkpoint.lsn && !is_meant {
            return Err(lost(&format!(
                "its checkpoint went back from {} (request {}) to {} (request {})",
                known.checkpoint.lsn, known.sequence, found.checkpoint.lsn, found.sequence
            )));
        }
        let is_applied = found.sequence == known.sequence + 1;
        let mut usage = known.usage.clone();
        if let Some(pending) = self.pending.take()
            && is_applied
        {
            usage = found.usage.clone();
            // At least as much as was sent; the answer that says so is lost.
            usage.rows_written += pending.rows;
            // It may also be an earlier form of the same that was still on its way.
            if found.checkpoint.open == pending.end.open
                && pending.end.lsn.is_none_or(|lsn| lsn == found.checkpoint.lsn)
            {
                self.unreported.add(pending.applied);
            }
        }
        self.state = Some(State { usage, ..found });
        Ok(())
    }
}
