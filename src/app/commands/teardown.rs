//! `walcast teardown`: removes what walcast has made at the source, and nothing else.

use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;

use clap::Args;

use super::output;
use crate::app::cli::Global;
use crate::app::source::Source;
use crate::capture::catalog::read_server;
use crate::capture::publication::{self, Publication};
use crate::capture::slot::{self, Slot, SlotVerdict, SourceIdentity, TimelineHistory, judge};
use crate::error::{Error, Result};

const EXAMPLES: &str = "\
Examples:
  walcast teardown                       shows what it will remove, and asks
  walcast teardown --yes                 does not ask (scripts)
  walcast teardown --keep-publication    only the slot and its copies

The replicas stay as they are, but cannot go on from where they are without the slot.
To start anew: walcast nuke --all, which fills them again from a new slot.";

/// What `walcast teardown` takes.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Leave the publication
    #[arg(long)]
    keep_publication: bool,
}

/// Shows what is there, asks, and removes it. Does nothing where nothing is there.
///
/// # Errors
/// Something uses the slot, it is another tool's, or nobody can be asked.
pub async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode> {
    global.log()?;
    let config = global.load_for_source()?.source;
    let source = Source::new(&config)?;
    let client = source.connect().await?;
    let server = read_server(&client).await?;
    let identity = SourceIdentity::new(&server, &config.slot);
    let copies = slot::read_copies(&client, &config.slot, &server.database).await?;
    let slot = slot::read(&client, &config.slot).await?;
    let publication = match arguments.keep_publication {
        true => None,
        false => publication::describe(&client, &config.publication).await?,
    };
    for slot in slot.iter().chain(&copies) {
        refuse_other(slot, &identity)?;
    }
    if slot.is_none() && copies.is_empty() && publication.is_none() {
        output::print(&format!("nothing to remove: there is no slot {}{}\n", config.slot, {
            match arguments.keep_publication {
                true => String::new(),
                false => format!(" and no publication {}", config.publication),
            }
        }))?;
        return Ok(ExitCode::SUCCESS);
    }

    output::print(&announcement(&source, slot.iter().chain(&copies), publication.as_ref()))?;
    if !arguments.yes && !is_confirmed(&config.slot)? {
        eprintln!("nothing was removed");
        return Ok(ExitCode::FAILURE);
    }
    // The slots first: they decode through the publication.
    for slot in copies.iter().chain(&slot) {
        slot::drop(&client, &slot.name).await?;
        output::print(&format!("slot {} removed\n", slot.name))?;
    }
    if publication.is_some() {
        publication::drop(&client, &config.publication).await?;
        output::print(&format!("publication {} removed\n", config.publication))?;
    }
    output::print("To start anew: walcast nuke --all, which fills the replicas again from a new slot\n")?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses a slot that walcast did not make, or that something uses.
fn refuse_other(slot: &Slot, identity: &SourceIdentity) -> Result<()> {
    let history = TimelineHistory::default();
    let verdict = judge(identity, slot.current_wal_lsn, &history, Some(slot), &[]).slot;
    match verdict {
        SlotVerdict::WrongPlugin { .. } | SlotVerdict::WrongDatabase { .. } | SlotVerdict::NotLogical => {
            return Err(verdict.error(identity).unwrap_or_else(|| Error::bug("a wrong slot is no error")));
        }
        SlotVerdict::Create
        | SlotVerdict::Resume
        | SlotVerdict::Missing
        | SlotVerdict::Invalidated { .. }
        | SlotVerdict::NotReady { .. } => {}
    }
    match slot.active_pid {
        Some(pid) => {
            Err(Error::halt(format!("slot {} is in use by backend {pid}", slot.name)).hint(format!(
                "stop the walcast that uses it; if it is gone already: SELECT pg_terminate_backend({pid});"
            )))
        }
        None => Ok(()),
    }
}

fn announcement<'a>(
    source: &Source,
    slots: impl Iterator<Item = &'a Slot>,
    publication: Option<&Publication>,
) -> String {
    let mut text = format!("This removes from {}:\n", source.info);
    for slot in slots {
        let retained = match slot.retained_bytes {
            Some(bytes) => format!("it holds back {} of WAL", output::bytes(bytes.max(0).unsigned_abs())),
            None => "it holds back no WAL any more".to_owned(),
        };
        text.push_str(&format!("  slot {}: {retained}\n", slot.name));
    }
    if let Some(publication) = publication {
        let tables = match publication.all_tables {
            true => "of all tables".to_owned(),
            false => format!("of {}", output::count(publication.tables.len(), "table")),
        };
        text.push_str(&format!("  publication {}: {tables}\n", publication.name));
    }
    text.push_str("The replicas stay as they are. Without the slot they cannot go on from where they are.\n");
    text
}

/// Asks for the slot's name, which nobody types by accident.
fn is_confirmed(slot: &str) -> Result<bool> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Error::config("nobody can be asked, because standard input is no terminal")
            .hint("walcast teardown --yes"));
    }
    eprint!("Type the slot's name to go on: ");
    let failed = |error| Error::halt("asking for the slot's name").because(error);
    std::io::stderr().flush().map_err(failed)?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).map_err(failed)?;
    Ok(answer.trim() == slot)
}
