//! Who looks at the catalog, tells the sinks of a table that is gone, and lets a stopped one go on: step by step, as
//! `app::engine::tables`, `app::fill::stops` and `app::fill::resume` have it, without a server.

use std::collections::BTreeSet;
use std::sync::Arc;

use walcast::Lsn;
use walcast::app::fill::gate::{Gate, Resumed};
use walcast::app::fill::resume::goes_on_by_itself;
use walcast::app::fill::stops::{stopped, untold};
use walcast::app::fill::view::FillView;
use walcast::encode::current::CurrentPlan;
use walcast::encode::plan::{Plan, PlannedTable};
use walcast::fanout::fill::{Action, FillStep, TableFill};
use walcast::fanout::progress::Progress;
use walcast::fanout::stop::Stopped;

use super::Seen;
use super::ddl::{found, is_fit};
use super::readers::{Readers, TABLE};
use super::snapshots::{FITS, Form, Source};

/// Those that let a table go on at the same time: by itself, and because an operator asks.
const AT_ONCE_MAX: usize = 2;

pub struct Keeper {
    pub view: FillView,
    gate: Arc<Gate>,
    current: Arc<CurrentPlan>,
    progress: Progress,
    plan: Arc<Plan>,
    is_text: bool,
    planned_at: Lsn,
    /// The catalog was read, under this generation of the plan.
    look: Option<(u64, Form)>,
    was_published: bool,
    resuming: Vec<(Vec<String>, At)>,
}

/// What is done next to let the table go on.
enum At {
    Found(PlannedTable),
    Published(PlannedTable, BTreeSet<u64>),
    Renewed(u32),
    From(u32, Lsn),
}

impl Keeper {
    pub fn new(
        (gate, current): (&Arc<Gate>, &Arc<CurrentPlan>),
        progress: &Progress,
        source: &Source,
        is_text: bool,
    ) -> Keeper {
        Keeper {
            view: FillView::default(),
            gate: gate.clone(),
            current: current.clone(),
            progress: progress.clone(),
            plan: current.plan(),
            is_text,
            planned_at: Lsn(source.lsn),
            look: None,
            was_published: is_fit(source.visible_form),
            resuming: Vec::new(),
        }
    }

    /// The next step of something.
    pub fn step(
        &mut self,
        source: &mut Source,
        readers: &mut Readers,
        rng: &mut fastrand::Rng,
        seen: &mut Seen,
    ) {
        match rng.u32(..8) {
            0..3 => self.look(source),
            3 => self.tell(seen),
            4 => self.begin(source),
            _ if self.resuming.is_empty() => {}
            _ => {
                let index = rng.usize(..self.resuming.len());
                let (sinks, at) = self.resuming.swap_remove(index);
                if let Some(next) = self.resume(&sinks, at, source, readers, seen) {
                    self.resuming.push((sinks, next));
                }
            }
        }
    }

    /// Whether somebody lets the table go on.
    pub fn is_resuming(&self) -> bool {
        !self.resuming.is_empty()
    }

    /// An operator asks for the table in these sinks, or for it to go on by itself. False where it is not stopped there.
    pub fn ask(&mut self, source: &Source, among: Option<&[String]>) -> bool {
        let Some((why, sinks)) = stopped(&self.progress).remove(&TABLE) else { return false };
        let is_meant = |sink: &String| among.is_none_or(|among| among.contains(sink));
        let sinks: Vec<String> = sinks.into_iter().filter(is_meant).collect();
        let goes_on = among.is_some() || goes_on_by_itself(&self.plan, self.planned_at, TABLE, &why);
        if sinks.is_empty() || !goes_on || self.resuming.len() == AT_ONCE_MAX {
            return false;
        }
        let found = found(self.is_text, source.visible_form);
        self.resuming.extend(found.map(|table| (sinks, At::Found(table))));
        true
    }

    fn begin(&mut self, source: &Source) {
        if self.resuming.is_empty() {
            self.ask(source, None);
        }
    }

    /// Asks the catalog whether the table is there; where the server is, it asks afterwards.
    fn look(&mut self, source: &Source) {
        let Some((generation, form)) = self.look.take() else {
            self.look = Some((self.current.generation(), source.visible_form));
            return;
        };
        let plan = self.current.plan();
        if self.current.generation() != generation || plan.tables[TABLE].problem.is_some() {
            return;
        }
        let is_there = form.is_there && form.oid == plan.tables[TABLE].oid.0;
        if is_there && form.name == FITS.name && form.is_published {
            self.was_published = true;
            self.view.set_there(TABLE);
        } else if self.was_published {
            let (reason, hint) = ("it is gone".to_owned(), "bring it back".to_owned());
            self.view.set_gone(TABLE, Stopped { reason, hint, since: Lsn(source.lsn), returns: true });
        }
    }

    fn tell(&self, seen: &mut Seen) {
        for (table, stopped, sinks) in untold(&self.view, &self.progress) {
            let action =
                Action::Stop { stopped, sinks: Some(sinks.iter().map(|sink| sink.name.clone()).collect()) };
            let mut step = Some(FillStep { table, action, sent_at: Lsn::ZERO, receipt: None });
            if self.gate.send_step(|| step.take().unwrap()) {
                seen.told += 1;
                self.view.told(table, &sinks);
            }
        }
    }

    fn resume(
        &self,
        sinks: &[String],
        at: At,
        source: &mut Source,
        readers: &mut Readers,
        seen: &mut Seen,
    ) -> Option<At> {
        Some(match at {
            At::Found(table) if source.visible_form.is_published => {
                At::Published(table, source.early.clone())
            }
            At::Found(table) => {
                if source.visible_form.oid != table.oid.0 || !source.visible_form.is_there {
                    return None;
                }
                match source.publish() {
                    true => At::Published(table, source.early.clone()),
                    false => At::Found(table),
                }
            }
            At::Published(table, early) => {
                if early.is_disjoint(&source.running) {
                    let oid = table.oid.0;
                    self.current.renew(TABLE, table);
                    At::Renewed(oid)
                } else {
                    At::Published(table, early)
                }
            }
            At::Renewed(oid) => At::From(oid, Lsn(source.lsn)),
            At::From(oid, from) => {
                let fill = TableFill {
                    clears: true,
                    is_beside: true,
                    from,
                    relation: Some(oid),
                    ..TableFill::waiting(0)
                };
                let action = Action::Resume { fill, sinks: sinks.to_vec() };
                let step = FillStep { table: TABLE, action, sent_at: Lsn::ZERO, receipt: None };
                match self.gate.resume(step, from) {
                    Resumed::NotNow => At::From(oid, from),
                    Resumed::Unsound => {
                        seen.unsound += 1;
                        return None;
                    }
                    Resumed::Sent => {
                        seen.resumed += 1;
                        readers.forget_all();
                        return None;
                    }
                }
            }
        })
    }
}
