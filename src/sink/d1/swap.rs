//! A table takes the place of another one: dropped, renamed, indexed and noted in one request, behind the fence, so that
//! readers see the one or the other, whole. Whether it came about where the answer is lost, the row of its fill tells.
//!
//! SQLite does not rename a table while a view or a trigger names one that is not there, and D1 has no
//! `legacy_alter_table` to rely on. So what others have made goes first and comes back in the same request, and what
//! would not fit the new table is found out before, in requests that have no effect.
//!
//! Rows that are marked as deleted go over here, and the indexes are made here, of a table that is full: two tables cannot
//! have indexes of one name. D1 gives a request 30 seconds.
//!
//! No Time Travel bookmark is taken: what takes the place has every row of the source, and a bookmark of the moment can
//! be had from its time at any time later.

use super::contents;
use super::open::{ask, statement};
use super::send::Session;
use super::state::{Row, is_aborted};
use super::transport::{Statement, Transport};
use super::verdict::Verdict;
use crate::encode::plan::PlannedTable;
use crate::error::{Error, Result};
use crate::postgres::quote_identifier as quote;
use crate::sink::alter::{self, Other};
use crate::sink::marked::Marked;

const OTHERS: &str = "SELECT type, name, sql FROM sqlite_schema \
    WHERE sql IS NOT NULL AND (type IN ('view', 'trigger') \
      OR type = 'index' AND tbl_name = ?1 COLLATE NOCASE AND substr(name, 1, length(?2)) <> ?2) \
    ORDER BY type = 'trigger', type = 'view', rowid";
/// How many things of others a request has room for, besides the swap itself.
const OTHERS_MAX: usize = 14;

impl Session {
    /// What puts the table that was built beside the one that readers see in its place, with the rows of that one which
    /// are marked as deleted, and leaves alone what others have made.
    ///
    /// # Errors
    /// Halts where there is too much of it for a request.
    pub(super) fn swap(
        &mut self,
        transport: &mut dyn Transport,
        table: &PlannedTable,
    ) -> Result<Vec<Statement>> {
        let replaced = self.replace(transport, table)?;
        let answers = ask(transport, &contents::ask_for(&table.target))?;
        let marked = match &answers[..] {
            [source, columns] => contents::found(source, columns)?
                .map_or(Marked::None, |(source, there)| Marked::of(table, &source, &there)),
            _ => return Err(Error::transient("D1 answered fewer statements than it was sent")),
        };
        Ok(marked.take_over(table).into_iter().chain(replaced).collect())
    }

    fn replace(&mut self, transport: &mut dyn Transport, table: &PlannedTable) -> Result<Vec<Statement>> {
        let ours = format!("idx_{}_", table.target);
        let answers = ask(transport, &[statement(OTHERS, vec![table.target.clone(), ours])])?;
        let mut others = Vec::new();
        for row in answers.first().map_or(&[][..], |answer| &answer.rows) {
            let row = Row(row);
            others.push(Other {
                kind: row.required("type")?,
                name: row.required("name")?,
                sql: row.required("sql")?,
            });
        }
        if others.len() > OTHERS_MAX {
            return Err(Error::halt(format!(
                "table {} cannot take its place: D1 takes no request that restores {} views, triggers and indexes",
                table.target,
                others.len()
            ))
            .hint("drop those that walcast did not make, and make them again afterwards"));
        }
        let all: Vec<&Other> = others.iter().collect();
        if !others.is_empty() && !self.fits(transport, table, &all, &all)? {
            let mut fitting = Vec::new();
            for other in &others {
                let with_it = [&fitting[..], &[other]].concat();
                if self.fits(transport, table, &all, &with_it)? {
                    fitting = with_it;
                } else {
                    let Other { kind, name, .. } = other;
                    tracing::warn!(
                        table = table.target,
                        kind,
                        name,
                        "does not fit the new table, and is gone"
                    );
                }
            }
            return Ok(replaced(table, &all, &fitting));
        }
        Ok(replaced(table, &all, &all))
    }

    /// Whether the table can take its place with these things restored. Has no effect.
    fn fits(
        &mut self,
        transport: &mut dyn Transport,
        table: &PlannedTable,
        others: &[&Other],
        restored: &[&Other],
    ) -> Result<bool> {
        let mut statements = replaced(table, others, restored);
        // The indexes of a large table take long, and fit.
        statements.retain(|statement| !alter::swap(table)[2..].contains(statement));
        statements.push(self.state_sql.abort());
        match transport.execute(&statements) {
            Ok(_) => Err(Error::bug("a statement that always fails succeeded")),
            Err(failure) if is_aborted(&failure.message) => Ok(true),
            Err(failure) => match failure.verdict {
                Verdict::Rejected | Verdict::SchemaMissing => Ok(false),
                _ => Err(self.failed(&failure)),
            },
        }
    }
}

/// The swap, with what is in its way dropped before and `restored` made again behind it.
fn replaced(table: &PlannedTable, others: &[&Other], restored: &[&Other]) -> Vec<Statement> {
    // An index goes with its table, and the triggers on a view with that.
    let is_in_the_way = |other: &&&Other| other.kind != "index";
    let dropped = others.iter().rev().filter(is_in_the_way).map(|other| {
        let sql = format!("DROP {} IF EXISTS {}", other.kind, quote(&other.name));
        Statement::plain(sql)
    });
    let restored = restored.iter().map(|other| Statement::plain(&*other.sql));
    dropped.chain(alter::swap(table)).chain(restored).collect()
}
