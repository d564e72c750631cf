//! How far the tables of a D1 database are filled: `_walcast_fills`, and the requests that bring rows from before the
//! stream.

use super::compose::Lax;
use super::open::ask;
use super::request::{Cutter, Part, Poison};
use super::send::{Extra, Session};
use super::state::Row;
use super::tables::TableSql;
use super::transport::{Answer, Statement, Transport};
use crate::encode::plan::{Plan, PlannedTable};
use crate::encode::run::{Run, Span};
use crate::error::{Error, Result};
use crate::fanout::fill::{FillWrite, Fills, TableFill};
use crate::fanout::sink::Applied;
use crate::sink::alter::{FORGET_LETTERS, build_beside, fill_text, put_fill, written};
use crate::sink::replica::{StoredTable, unix_micros};

const READ: &str = "SELECT target, fill FROM _walcast_fills";
/// Without WHERE, SQLite takes ON for the condition of a join.
const PUT_ALL: &str = "INSERT INTO _walcast_fills (target, fill) \
    SELECT value ->> 0, value ->> 1 FROM json_each(?1) WHERE true \
    ON CONFLICT (target) DO UPDATE SET fill = excluded.fill";

pub(super) fn read() -> Statement {
    Statement::plain(READ)
}

/// Lets every table of the plan be filled anew; `written` is the plan with the names of the tables that rows are written to.
pub(super) fn put_all_anew(plan: &Plan, written: &Plan) -> Result<Statement> {
    let anew = |(table, written): (&PlannedTable, &PlannedTable)| {
        let is_beside = written.target != table.target;
        let fill = TableFill { clears: true, is_beside, ..TableFill::of(table) };
        Ok((table.target.clone(), fill_text(&fill)?))
    };
    let fills: Vec<(String, String)> =
        plan.tables.iter().zip(&written.tables).map(anew).collect::<Result<_>>()?;
    let fills = serde_json::to_string(&fills).map_err(|error| Error::bug("writing fills").because(error))?;
    Ok(Statement::new(PUT_ALL, &[&fills]))
}

/// The tables of an answer to [`read`].
pub(super) fn parse(answer: &Answer) -> Result<Vec<(String, TableFill)>> {
    let rows = answer.rows.iter().map(|row| {
        let row = Row(row);
        let (target, text): (String, String) = (row.required("target")?, row.required("fill")?);
        let fill = StoredTable::parse_fill(&target, &text)?;
        Ok((target, fill))
    });
    rows.collect()
}

impl Session {
    /// How far every table of the plan is: from memory, unless a step's fate is not known.
    pub(super) fn fills(&mut self, transport: &mut dyn Transport) -> Result<Fills> {
        if let Some(fills) = &self.fills {
            return Ok(fills.clone());
        }
        let mut fills = Fills::default();
        let answers = ask(transport, &[read()])?;
        for (target, fill) in answers.first().map(parse).transpose()?.unwrap_or_default() {
            if let Some(table) = self.plan.tables.iter().position(|table| table.target == target) {
                fills.set(table, fill);
            }
        }
        self.write_to(&fills);
        self.fills = Some(fills.clone());
        Ok(fills)
    }

    /// From now on rows are written to the tables that these fills say.
    fn write_to(&mut self, fills: &Fills) {
        let written = written(&self.plan, fills);
        let are_other = |(one, other): (&PlannedTable, &PlannedTable)| one.target != other.target;
        if written.tables.iter().zip(&self.sql.written().tables).any(are_other) {
            self.sql = TableSql::new(&self.plan, written, self.options);
            self.forget_ahead();
        }
    }

    /// Writes a step of a fill. One that is too large for a request comes in several, of which the last keeps how far the
    /// table is: rows that are written once more are the same.
    pub(super) fn fill(&mut self, transport: &mut dyn Transport, write: &FillWrite<'_>) -> Result<Applied> {
        if self.is_pending() {
            self.settle(transport)?;
            self.fills = None;
        }
        let known = self.fills(transport)?;
        if write.swaps && known.get(write.table).is_some_and(|fill| !fill.is_beside) {
            return Err(Error::transient("the table has taken its place already"));
        }
        let plan = self.plan.clone();
        let target = &plan.tables[write.table].target;
        let mut first = match write.swaps {
            true => self.swap(transport, &plan.tables[write.table])?,
            false => Vec::new(),
        };
        let is_beside = self.sql.written().tables[write.table].target != *target;
        if write.clears && write.fill.is_beside && !is_beside {
            first.extend(build_beside(&plan.tables[write.table]));
        } else if write.clears {
            first.extend(self.sql.of(write.table).truncate.iter().map(|sql| Statement::plain(sql.clone())));
            first.push(Statement::new(FORGET_LETTERS, &[target]));
        }
        let last = vec![put_fill(target, write.fill)?];
        let nothing = Run::default();
        let run = write.run.unwrap_or(&nothing);
        let span = Span {
            commit_lsn: write.fill.seen_lsn,
            // When a row that is gone was deleted, nobody knows any more.
            commit_time_micros: unix_micros(),
            is_start: true,
            end_lsn: Some(write.fill.seen_lsn),
            changes: 0..run.all_changes().len(),
            ..Span::default()
        };
        // Its rows are named by themselves: the stream's names mean other rows.
        let poison = self.swap_poison(Poison::new());
        // What the stream may leave out or not find says nothing of them.
        let lax = self.swap_lax(Lax::default());
        let sent = self.send_extra(
            transport,
            Part { run, span: &span, changes: span.changes.clone() },
            Extra { first, last, is_once: write.swaps },
            &plan,
        );
        self.swap_poison(poison);
        self.swap_lax(lax);
        // Unless it is known, it is read again.
        self.fills = None;
        let applied = sent?;
        if write.swaps {
            tracing::info!(table = target, "the table that was built beside takes its place");
        }
        let mut fills = known;
        fills.set(write.table, write.fill.clone());
        self.write_to(&fills);
        self.fills = Some(fills);
        // They are nobody's changes at the source.
        Ok(Applied {
            changes: (run.all_changes().len() as u64).saturating_sub(applied.dead_letters),
            ..applied
        })
    }

    /// Sends rows that no transaction brings.
    fn send_extra<'a>(
        &mut self,
        transport: &mut dyn Transport,
        part: Part<'a>,
        mut extra: Extra,
        plan: &'a Plan,
    ) -> Result<Applied> {
        self.is_compressed = transport.is_compressed();
        // Its writes are not in what was composed ahead.
        self.forget_ahead();
        let mut part = part;
        loop {
            if self.is_pending() {
                self.settle(transport)?;
            }
            let parts = if part.changes.is_empty() { Vec::new() } else { vec![part.clone()] };
            let mut cutter = Cutter::new(parts);
            let is_done = loop {
                let request = cutter.next(&mut self.composer(plan))?;
                let request = request.unwrap_or_else(|| self.nothing());
                let statements = extra.with(cutter.is_done());
                let after = request.parts.last().map_or(part.changes.end, |part| part.changes.end);
                match self.send_beside(transport, request, statements, plan)? {
                    false if extra.is_once => {
                        return Err(Error::transient("something else was applied meanwhile"));
                    }
                    // What stood in the way is known now.
                    false => break false,
                    true if cutter.is_done() => break true,
                    true => (part.changes.start, extra.first) = (after, Vec::new()),
                }
            };
            if is_done {
                return Ok(self.take_unreported());
            }
        }
    }
}
