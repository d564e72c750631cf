//! From a configuration to an engine that can stream: the source checked, what is missing there created, every sink
//! opened and held against the slot.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_postgres::Client;

use super::tables::known_columns;
use super::{Blueprint, Engine, RunOptions, Setup, no_sink_left, plan};
use crate::Lsn;
use crate::app::fill::request::Refill;
use crate::app::fill::settled::settled;
use crate::app::fill::view::FillView;
use crate::app::sinks::{OpenSinks, Opener};
use crate::app::source::{Judged, Source, Survey};
use crate::app::view::Prepared;
use crate::capture::catalog::{self, ServerVersion};
use crate::capture::publication::{self, Publication, PublicationChange};
use crate::capture::slot::{self, Judgement, SinkVerdict, Slot, SlotVerdict, SourceIdentity};
use crate::capture::table::TableName;
use crate::config::{BackfillMode, Config};
use crate::encode::current::CurrentPlan;
use crate::encode::plan::{Plan, PlannedTable};
use crate::encode::schema_file::SchemaFile;
use crate::error::{Error, Kind, Result};

/// How long the start waits for a sink that cannot be reached. Then the others start without it.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);
/// The same where an engine ran just before.
const REOPEN_PATIENCE: Duration = Duration::from_secs(3);

impl Engine {
    /// Connects, checks, creates what is missing, opens the sinks and starts their workers.
    ///
    /// # Errors
    /// Transient while the source cannot be reached; otherwise what an operator has to resolve, with the next command.
    pub async fn prepare(config: &Config, schema: &SchemaFile, options: RunOptions) -> Result<Engine> {
        let Blueprint { source, client, survey, plan, wanted } = Blueprint::draw(config, schema).await?;
        let published = publish(&source, &client, schema, &survey, &plan).await?;

        // Before the sinks are opened, because opening takes their fencing tokens: a second engine waits its turn here.
        let name = &source.config.slot;
        let mut slots = slot::read_copies(&client, name, &survey.server.database).await?;
        slots.extend(slot::read(&client, name).await?);
        if let Some((slot, pid)) = slots.iter().find_map(|slot| Some((&slot.name, slot.active_pid?))) {
            return Err(Error::transient(format!("slot {slot} is in use by backend {pid}"))
                .hint("another walcast streams from it: stop that one, or give this one a slot of its own"));
        }

        let identity = source.identity(&survey.server);
        let before = options.view.prepared();
        let patience = if before.is_some() { REOPEN_PATIENCE } else { OPEN_PATIENCE };
        let mut sinks =
            OpenSinks::open(config, Opener::new(config, &plan, &identity, &options.turns), patience).await;
        if options.until_caught_up {
            sinks.give_up_away();
        }
        let checkpoints = sinks.checkpoints();
        if checkpoints.is_empty() {
            if sinks.has_away() {
                return Err(Error::transient("no sink can be reached"));
            }
            // A slot that feeds nobody would only hold back WAL.
            return Err(no_sink_left());
        }
        let slots = source.slots(&client, &survey.server).await?;
        let Judged { slot, copies, judgement, .. } =
            source.judge(&client, &survey.server, slots, &checkpoints).await?;
        let anew = Anew::of(options.refill.as_ref());
        let is_lost = match judgement.slot.error(&identity) {
            Some(error) if error.kind() == Kind::NeedsBackfill && anew == Anew::All => true,
            Some(error) => return Err(error),
            None => false,
        };
        if is_lost && slot.is_some() {
            slot::drop(&client, name).await?;
        }
        let start = match (&judgement.slot, slot.and_then(|slot| slot.confirmed_flush_lsn)) {
            (SlotVerdict::Create, _) | (_, None) => {
                let start = create_slot(&source, &client, survey.server.version).await?;
                warn_of_existing_rows(&plan, &wanted);
                start
            }
            (_, Some(_)) if is_lost => create_slot(&source, &client, survey.server.version).await?,
            (_, Some(confirmed)) => confirmed,
        };
        match is_lost {
            true => sinks.names().iter().for_each(|sink| sinks.begin_anew(sink, start)),
            false => settle(config, &mut sinks, &judgement, &identity, start, &options.start_at_slot, &anew),
        }
        sinks.settle_tables(|table, fill, position| {
            settled(&plan.tables[table], fill, position, published.came[table])
        });
        sinks.forgo(|table| !wanted[table]);
        sinks.hold(start, |sink| {
            let copy = source.copy_of(sink, &copies).filter(|copy| copy.invalidation().is_none())?;
            copy.confirmed_flush_lsn
        });
        settle_copies(&source, &client, config, &sinks, &judgement, &copies).await;

        let target = catalog::read_server(&client).await?.current_wal_lsn;
        let deadline = Arc::new(OnceLock::new());
        let when = deadline.clone();
        sinks.pause(|sink| {
            let before = before.as_ref().and_then(|before| before.progress.find(sink));
            before.is_some_and(|before| before.is_paused())
        });
        let fanout = sinks.spawn(config, move || when.get().copied())?;
        let fills = Arc::<FillView>::default();
        if let Some(refill) = &options.refill {
            let sinks = config.sinks.iter().map(|sink| sink.name.as_str());
            let request = refill.resolve(&plan, sinks)?;
            request.check_condition(&client, &plan).await?;
            request.check(fanout.progress.sinks().iter().filter(|sink| sink.is_running()))?;
            let _ = fills.request(request);
        }
        if let Some(before) = before {
            // What was asked for and not begun is asked for still. Nothing fails between this and what shows the new one:
            // whoever asks in between is told to ask again.
            before.fills.hand_over(&fills, |table| plan.find(&before.plan.tables[table].source));
        }
        options.view.set_prepared(Prepared {
            identity,
            fills: fills.clone(),
            progress: fanout.progress.clone(),
            plan: plan.clone(),
            budgets: fanout.opener.budgets(&config.sinks),
        });
        let (orders, ordered) = mpsc::unbounded_channel();
        let setup = Arc::new(Setup {
            source,
            config: config.clone(),
            current: Arc::new(CurrentPlan::new(plan.clone())),
            plan,
            schema: Arc::new(schema.clone()),
            planned_at: target,
            fills,
            options,
            deadline,
            wanted,
            came: published.came,
            replaced: watch::Sender::new(false),
            orders,
        });
        let columns = known_columns(&survey.tables);
        Ok(Engine { setup, fanout, target, published: published.is_there, columns, orders: ordered })
    }
}

/// Which sinks an operator wants to begin anew.
#[derive(Debug, PartialEq, Eq)]
enum Anew {
    Some(BTreeSet<String>),
    All,
}

impl Anew {
    fn of(refill: Option<&Refill>) -> Self {
        match refill.filter(|refill| refill.clears && refill.tables.is_empty()) {
            None => Anew::Some(BTreeSet::new()),
            Some(refill) if refill.sinks.is_empty() => Anew::All,
            Some(refill) => Anew::Some(refill.sinks.iter().cloned().collect()),
        }
    }

    fn includes(&self, sink: &str) -> bool {
        match self {
            Anew::All => true,
            Anew::Some(sinks) => sinks.contains(sink),
        }
    }
}

/// By table: what the publication has.
struct Published {
    /// It has the table.
    is_there: Vec<bool>,
    /// It did not have it before.
    came: Vec<bool>,
}

/// Makes the publication cover the plan, as far as that fits the source.
async fn publish(
    source: &Source,
    client: &Client,
    schema: &SchemaFile,
    survey: &Survey,
    plan: &Plan,
) -> Result<Published> {
    let name = &source.config.publication;
    let before = publication::describe(client, name).await?;
    let fits =
        |name: &TableName| plan.tables.iter().any(|table| table.source == *name && table.problem.is_none());
    let mut published = survey.published(schema);
    published.retain(|table| fits(&table.name));
    if published.is_empty() && before.is_none() {
        return Err(plan::nothing_fits());
    }
    match publication::ensure(client, name, &published, survey.server.version).await? {
        PublicationChange::Created => tracing::info!(publication = name, "publication created"),
        PublicationChange::Altered { reasons } => {
            let reasons = reasons.join("; ");
            tracing::warn!(publication = name, "publication altered; earlier changes are missing: {reasons}");
        }
        PublicationChange::Accepted { notes } => {
            notes.iter().for_each(|note| tracing::info!(publication = name, "{note}"));
        }
    }
    let now = publication::describe(client, name).await?;
    let is_in = |publication: &Option<Publication>, table: &PlannedTable| {
        let members = publication.as_ref().map_or(&[][..], |publication| &publication.tables);
        members.iter().any(|member| member.oid == table.oid)
    };
    let is_there: Vec<bool> = plan.tables.iter().map(|table| is_in(&now, table)).collect();
    let was_there = |table: &PlannedTable| before.is_none() || is_in(&before, table);
    let came = plan.tables.iter().zip(&is_there).map(|(table, is_there)| *is_there && !was_there(table));
    Ok(Published { came: came.collect(), is_there })
}

/// Lets every sink start, go on, or stop, as the verdict on it says. `start` is the slot's position.
fn settle(
    config: &Config,
    sinks: &mut OpenSinks,
    judgement: &Judgement,
    identity: &SourceIdentity,
    start: Lsn,
    start_at_slot: &BTreeSet<String>,
    anew: &Anew,
) {
    let is_filled = config.backfill.mode == BackfillMode::Initial;
    // Where no sink can go on, it is the slot that was moved, and nothing is emptied without being asked for.
    let goes_on = |(_, verdict): &(String, SinkVerdict)| {
        matches!(verdict, SinkVerdict::Resume | SinkVerdict::CatchUp { .. })
    };
    let is_single = is_filled && judgement.sinks.iter().any(goes_on);
    for (sink, verdict) in &judgement.sinks {
        match verdict.error(sink, identity) {
            None if *verdict == SinkVerdict::Fresh => {
                if judgement.slot != SlotVerdict::Create && !is_filled {
                    tracing::warn!(sink, lsn = %start, "new replica of an old slot: what it has fed is missing");
                }
                sinks.start_at(sink, start);
            }
            None => {
                if let SinkVerdict::CatchUp { confirmed } = verdict {
                    tracing::info!(sink, slot_confirmed = %start, copy_confirmed = %confirmed, "was catching up");
                    sinks.stand_apart(sink);
                }
            }
            Some(_) if *verdict == SinkVerdict::NoCheckpoint && start_at_slot.contains(sink) => {
                tracing::warn!(sink, lsn = %start, "starts at the slot's position: older rows are missing");
                sinks.start_at(sink, start);
            }
            Some(_) if is_filled && *verdict == SinkVerdict::NoCheckpoint => {
                tracing::info!(sink, lsn = %start, "new replica: it begins here and is filled");
                sinks.start_at(sink, start);
            }
            Some(error)
                if matches!(verdict, SinkVerdict::SlotAhead { .. }) && (is_single || anew.includes(sink)) =>
            {
                sinks.begin_anew(sink, start);
                tracing::warn!(sink, lsn = %start, "the replica is filled anew: {}", error.chain());
            }
            Some(error) => sinks.stop(sink, &error),
        }
    }
}

/// Drops the copies that no sink needs, and says which are nobody's. A sink that could not be opened may need its copy,
/// which then holds for it what the slot need not.
async fn settle_copies(
    source: &Source,
    client: &Client,
    config: &Config,
    sinks: &OpenSinks,
    judgement: &Judgement,
    copies: &[Slot],
) {
    for copy in source.abandoned(&config.sinks, copies) {
        tracing::warn!(
            slot = copy.name,
            retained_bytes = copy.retained_bytes,
            "the copy of a sink that is not configured keeps WAL; drop it: SELECT pg_drop_replication_slot('{}')",
            copy.name
        );
    }
    for sink in &config.sinks {
        let name = sink.name.as_str();
        let Some(copy) = source.copy_of(name, copies) else { continue };
        let verdict = judgement.sinks.iter().find(|(judged, _)| judged == name).map(|(_, verdict)| verdict);
        match verdict {
            None if copy.invalidation().is_none() => sinks.stand_apart(name),
            None | Some(SinkVerdict::CatchUp { .. }) => {}
            Some(
                SinkVerdict::OtherSystem { .. }
                | SinkVerdict::OtherTimeline { .. }
                | SinkVerdict::AfterSwitch { .. }
                | SinkVerdict::BeyondWal { .. },
            ) => {}
            Some(
                SinkVerdict::Resume
                | SinkVerdict::Fresh
                | SinkVerdict::NoCheckpoint
                | SinkVerdict::SlotMissing
                | SinkVerdict::SlotAhead { .. },
            ) => match slot::drop(client, &copy.name).await {
                Ok(()) => {
                    tracing::info!(sink = name, slot = copy.name, "a copy that is not needed is dropped")
                }
                Err(error) => tracing::warn!(slot = copy.name, "dropping a copy: {}", error.chain()),
            },
        }
    }
}

async fn create_slot(source: &Source, client: &Client, version: ServerVersion) -> Result<Lsn> {
    let name = &source.config.slot;
    let mut replication = source.connect_replication().await?;
    let created =
        slot::create(&mut replication, client, name, true, version, source.config.slot_create_timeout).await;
    replication.close().await;
    let start = created?.consistent_point;
    tracing::info!(slot = name, lsn = %start, "slot created");
    Ok(start)
}

/// What was committed before the slot existed is not in the stream.
fn warn_of_existing_rows(plan: &Plan, wanted: &[bool]) {
    let is_lacking = |(index, table): &(usize, &PlannedTable)| table.estimated_rows > 0 && !wanted[*index];
    for (_, table) in plan.tables.iter().enumerate().filter(is_lacking) {
        tracing::warn!(
            table = %table.source.plain(),
            rows = table.estimated_rows,
            "rows from before the slot are not brought (backfill.mode is never for this table)"
        );
    }
}
