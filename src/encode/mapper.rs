//! Events → runs: each row is mapped once, for all sinks.
//!
//! Enters: the decoder's events of one session, in order. Leaves: [`Run`]s. One mapper per session, like the decoder.
//! A row without a valid form becomes a [`ChangeKind::Reject`] with its reason; changes of a table that no longer fits the
//! plan are left out, and the run says so ([`Misfit`]).

mod tuples;

use std::mem;
use std::sync::Arc;

use self::tuples::{TableMap, TupleWriter};
use super::cell::Cell;
use super::current::CurrentPlan;
use super::misfit::Why;
use super::plan::Plan;
use super::row_writer::RowWriter;
use super::run::{Change, ChangeKind, Misfit, Run, Span};
use crate::Lsn;
use crate::capture::table::OidMap;
use crate::decode::Event;
use crate::decode::message::{Begin, Relation};

/// Maps the events of one session.
pub struct Mapper {
    current: Arc<CurrentPlan>,
    /// As it was when this was last looked at.
    plan: Arc<Plan>,
    generation: u64,
    relations: OidMap<Described>,
    run: Run,
    /// A run at least this large is handed on, also inside a transaction.
    part_bytes_max: usize,
    /// A transaction that was committed before this is in every sink already and is left out.
    needed_from: Lsn,
    older: OlderForms,
    /// The commit record of the transaction that comes.
    commit_lsn: Lsn,
    is_open: bool,
    /// The open transaction is left out.
    is_skipping: bool,
}

/// Tables whose rows every sink reads again, and what was sent of them before the plan was made: there it may lack columns
/// that were not there, or not published. Such a row is taken as a part of one.
#[derive(Debug, Clone, Default)]
pub struct OlderForms {
    /// Indexes in the plan.
    pub tables: Vec<usize>,
    /// Of transactions that were committed before this.
    pub until: Lsn,
}

/// A relation as the stream last described it, and what becomes of its changes.
struct Described {
    relation: Arc<Relation>,
    mapping: Mapping,
}

enum Mapping {
    /// They fill a table.
    Table(TableMap),
    /// `schema.json` does not have it.
    Ignored,
    /// It does not fit the plan. Only a change that a sink needs is worth telling: after an alteration, what was sent
    /// again from before it still has the old form.
    Unfit(Unfit),
}

struct Unfit {
    table: usize,
    why: Why,
    /// The plan's generation when this was told last.
    told: Option<u64>,
}

impl Mapper {
    /// A mapper for a new session. Runs are cut at `part_bytes_max`, preferably where a transaction ends; transactions
    /// that were committed before `needed_from` are left out.
    pub fn new(plan: Arc<Plan>, part_bytes_max: usize, needed_from: Lsn) -> Self {
        Mapper::of(Arc::new(CurrentPlan::new(plan)), part_bytes_max, needed_from)
    }

    /// The same where the plan may be renewed.
    pub fn of(current: Arc<CurrentPlan>, part_bytes_max: usize, needed_from: Lsn) -> Self {
        Mapper {
            generation: current.generation(),
            plan: current.plan(),
            current,
            relations: OidMap::default(),
            run: Run::default(),
            part_bytes_max,
            needed_from,
            older: OlderForms::default(),
            commit_lsn: Lsn::ZERO,
            is_open: false,
            is_skipping: false,
        }
    }

    /// The same where older forms of tables may come.
    pub fn with_older_forms(self, older: OlderForms) -> Self {
        Mapper { older, ..self }
    }

    /// Maps one event.
    pub fn map(&mut self, event: Event<'_>) {
        match event {
            Event::Relation(relation) => self.describe(relation),
            Event::Begin(begin) => {
                self.commit_lsn = begin.commit_lsn;
                if self.current.generation() != self.generation {
                    self.look_again();
                }
                self.is_skipping = begin.commit_lsn < self.needed_from;
                if !self.is_skipping {
                    self.is_open = true;
                    self.open_span(begin, true, 0);
                }
            }
            Event::Commit { .. } if self.is_skipping => self.is_skipping = false,
            _ if self.is_skipping => {}
            Event::Change { relation, change } => match self.relations.get_mut(&relation) {
                Some(Described { mapping: Mapping::Table(map), .. }) => {
                    let table = &self.plan.tables[map.table as usize];
                    let writer = RowWriter { table, index: map.table, run: &mut self.run };
                    TupleWriter { map, writer }.change(change);
                }
                Some(Described { mapping: Mapping::Unfit(unfit), .. }) => {
                    unfit.leave_out(&self.current, self.commit_lsn, &mut self.run);
                }
                Some(Described { mapping: Mapping::Ignored, .. }) | None => {}
            },
            Event::Truncate(relations) => {
                for relation in relations {
                    match self.relations.get_mut(&relation) {
                        Some(Described { mapping: Mapping::Table(map), .. }) => {
                            let change =
                                Change { kind: ChangeKind::Truncate, table: map.table, first_cell: 0 };
                            self.run.changes.push(change);
                        }
                        Some(Described { mapping: Mapping::Unfit(unfit), .. }) => {
                            unfit.leave_out(&self.current, self.commit_lsn, &mut self.run);
                        }
                        Some(Described { mapping: Mapping::Ignored, .. }) | None => {}
                    }
                }
            }
            Event::Commit { end_lsn } => {
                self.is_open = false;
                let changes_end = self.run.changes.len();
                let span = self.run.spans.last_mut().expect("a transaction is open");
                span.changes.end = changes_end;
                span.end_lsn = Some(end_lsn);
            }
            Event::Idle { .. } => {}
        }
    }

    /// The run, if it should be handed on now: it is large, or at least half as large and ends with its transaction.
    pub fn take_full(&mut self) -> Option<Run> {
        let bytes = self.run.bytes();
        if bytes >= self.part_bytes_max || (!self.is_open && bytes * 2 >= self.part_bytes_max) {
            self.take()
        } else {
            None
        }
    }

    /// The run, if it holds whole transactions only: what is handed on when a read brought no more.
    pub fn take_whole(&mut self) -> Option<Run> {
        if self.is_open { None } else { self.take() }
    }

    /// The whole transactions that have not been handed on; the open one is given up. For the end of a session that
    /// cannot go on.
    pub fn take_ended(&mut self) -> Option<Run> {
        if self.is_open
            && let Some(open) = self.run.spans.pop()
        {
            self.run.changes.truncate(open.changes.start);
            self.run.source_keys.retain(|(change, _)| *change < open.changes.start);
            self.run.misfits.retain(|misfit| misfit.commit_lsn < open.commit_lsn);
        }
        self.is_open = false;
        self.take()
    }

    fn take(&mut self) -> Option<Run> {
        if self.run.is_empty() {
            return None;
        }
        // The next run is likely as large as this one; never reserve for a rare giant.
        let capacity = |length: usize| length.min(self.part_bytes_max);
        let next = Run {
            arena: Vec::with_capacity(capacity(self.run.arena.len())),
            cells: Vec::with_capacity(capacity(self.run.cells.len() * size_of::<Cell>()) / size_of::<Cell>()),
            changes: Vec::with_capacity(self.run.changes.len().min(self.part_bytes_max / 16)),
            ..Run::default()
        };
        let mut run = mem::replace(&mut self.run, next);
        if self.is_open {
            let open = run.spans.last_mut().expect("a transaction is open");
            open.changes.end = run.changes.len();
            let begin = Begin {
                commit_lsn: open.commit_lsn,
                commit_time_micros: open.commit_time_micros,
                xid: open.xid,
            };
            let changes_before = open.changes_before + open.changes.len() as u64;
            self.open_span(begin, false, changes_before);
        }
        Some(run)
    }

    fn open_span(&mut self, begin: Begin, is_start: bool, changes_before: u64) {
        let at = self.run.changes.len();
        self.run.spans.push(Span {
            commit_lsn: begin.commit_lsn,
            xid: begin.xid,
            commit_time_micros: begin.commit_time_micros,
            is_start,
            changes_before,
            end_lsn: None,
            changes: at..at,
        });
    }

    /// Decides what becomes of a relation's changes.
    fn describe(&mut self, relation: Arc<Relation>) {
        let oid = relation.oid;
        let mapping = self.mapping_of(&relation);
        self.relations.insert(oid, Described { relation, mapping });
    }

    /// The plan was renewed, or its misfits are to be told again.
    fn look_again(&mut self) {
        (self.generation, self.plan) = (self.current.generation(), self.current.plan());
        let described: Vec<Arc<Relation>> =
            self.relations.values().map(|described| described.relation.clone()).collect();
        for relation in described {
            let mapping = self.mapping_of(&relation);
            self.relations.insert(relation.oid, Described { relation, mapping });
        }
    }

    fn mapping_of(&self, relation: &Relation) -> Mapping {
        let unfit = |table, why| Mapping::Unfit(Unfit { table, why, told: None });
        let Some(index) = self.plan.find(&relation.name) else {
            let was = self.plan.tables.iter().position(|table| table.oid == relation.oid);
            return match was {
                Some(index) => unfit(index, Why::renamed(&self.plan.tables[index], &relation.name)),
                None => {
                    tracing::debug!(table = %relation.name, "published but not in schema.json: ignored");
                    Mapping::Ignored
                }
            };
        };
        let may_be_partial = self.older.tables.contains(&index) && self.commit_lsn < self.older.until;
        match TableMap::new(index, &self.plan.tables[index], relation, may_be_partial) {
            Ok(map) => Mapping::Table(map),
            Err(why) => unfit(index, why),
        }
    }
}

impl Unfit {
    /// A change is left out; the run says so once, and again when it has to.
    fn leave_out(&mut self, current: &CurrentPlan, commit_lsn: Lsn, run: &mut Run) {
        current.leave_out(self.table, commit_lsn);
        let generation = current.generation();
        if self.told.replace(generation) != Some(generation) {
            let Why { reason, hint, returns } = self.why.clone();
            run.misfits.push(Misfit { table: self.table, commit_lsn, reason, hint, returns });
        }
    }
}
