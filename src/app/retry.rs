//! Dead letters once more: each row is read again by its key, at the source and in the region that did not take it.
//!
//! **Closed** is a letter whose row is right in the region by now: the region's row equals what the source's row, read
//! afterwards, has to become there. So it is when the stream has brought the row again since, or when the row is gone.
//! What still comes to the region ends at that row or at a newer one, so nothing is forgotten that is not right.
//!
//! **No row is written here.** One that is still wrong has no form in the region, which only a change at the source or in
//! `schema.json` helps; or it waits to be written ([`Retried::to_write`]). That has to take its place in the order of the
//! stream: written from beside it, a value that was read a moment ago could replace a newer one. So a running engine reads
//! it for the sink as it reads any row that an update has missed (`fill`), and here is only looked whether it is right.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Client;

use super::d1::Transports;
use super::letters;
use super::trace::{self, Verdict};
use crate::Lsn;
use crate::config::{self, Config, SinkTarget};
use crate::encode::plan::Plan;
use crate::error::{Error, Kind, Result};
use crate::fanout::fill::{OwedKey, REBUILDING};
use crate::sink::reading::{DeadLetter, Letters};

/// Letters of one sink that are looked at in one go.
const LETTERS_MAX: usize = 1_000;
/// The same where each look is a request that counts against a limit.
const LETTERS_MAX_D1: usize = 100;

/// Which dead letters are meant.
#[derive(Debug, Clone, Default)]
pub struct Which {
    /// Those of this sink; `None` for every sink.
    pub sink: Option<String>,
    /// Those of this table, by its name at the source or in the regions; `None` for all.
    pub table: Option<String>,
    /// Those of the row with this key, as the source spells it; needs a table.
    pub key: Option<Vec<String>>,
}

/// What came of it, in letters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Retried {
    /// The row is right: the letter is gone.
    pub closed: u64,
    /// The row is on its way, or changes all the time: try again.
    pub on_their_way: u64,
    /// The source's row still has no form in the region.
    pub without_form: u64,
    /// Why, once for each column and reason.
    pub reasons: Vec<String>,
    /// The row is wrong in the region and could be right: it has to be written.
    pub differing: u64,
    /// The letter does not say which row it is about, or the region could not be read.
    pub unclear: u64,
    /// Whether there are more than were looked at.
    pub has_more: bool,
    /// The rows behind `differing` and `on_their_way` that are there at the source.
    pub to_write: Vec<RowToWrite>,
}

/// A row that is there at the source, and not so in one region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RowToWrite {
    /// The region's sink.
    pub sink: String,
    /// The table at the source.
    pub table: String,
    /// Its index in the plan.
    #[serde(skip)]
    pub index: usize,
    /// The row, and the change that the region did not take.
    #[serde(skip)]
    pub owed: OwedKey,
    /// The row's key as the source spells it.
    pub key: Vec<String>,
}

impl Retried {
    /// Whether a letter is left of those that were looked at, or one was not looked at.
    pub fn is_complete(&self) -> bool {
        self.on_their_way + self.without_form + self.differing + self.unclear == 0 && !self.has_more
    }

    /// The whole in one line.
    pub fn sentence(&self) -> String {
        let mut parts = vec![format!("{} closed", self.closed)];
        let mut add = |count: u64, what: &str| {
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        };
        add(self.on_their_way, "on their way");
        add(self.without_form, "still without a form");
        add(self.differing, "to be written anew");
        add(self.unclear, "unclear");
        if self.has_more {
            parts.push("and there are more".to_owned());
        }
        parts.join(", ")
    }

    /// What to do about what is left.
    pub fn hint(&self) -> Option<&'static str> {
        match () {
            () if self.without_form > 0 => {
                Some("correct these rows at the source, or the column's type in schema.json")
            }
            () if self.differing > 0 => Some(
                "POST /retry-failed lets a running walcast read them anew; else write them again at the source, all columns of them",
            ),
            () if self.unclear > 0 => Some("walcast failed list shows them"),
            () if self.on_their_way > 0 || self.has_more => Some("retry once more"),
            () => None,
        }
    }
}

/// The letters of one row in one region.
struct Group {
    sink: config::Sink,
    /// Its position in the plan.
    table: usize,
    key: Option<Vec<String>>,
    ids: Vec<i64>,
    /// The commit, and the transaction's id, of the newest one.
    cause: (Lsn, u32),
}

/// The commit and the transaction that brought a letter.
fn cause(letter: &DeadLetter) -> (Lsn, u32) {
    // A transaction id has 32 bits, which the column holds without a sign.
    (letter.commit_lsn.parse().unwrap_or(Lsn::ZERO), letter.xid as u32)
}

/// Looks at the letters, closes those of rows that are right, and calls `seen` with how many of how many letters were
/// looked at, now and then.
///
/// # Errors
/// There is no such sink or table, the key has another form, or the source or a region's letters cannot be read.
pub async fn retry(
    config: &Arc<Config>,
    plan: &Arc<Plan>,
    client: &Client,
    which: &Which,
    mut seen: impl FnMut(u64, u64),
) -> Result<Retried> {
    let table = which.table.as_deref().map(|name| table_of(plan, name)).transpose()?;
    if which.key.is_some() && table.is_none() {
        return Err(Error::config("a key needs a table"));
    }
    let mut retried = Retried::default();
    let groups = match (&which.key, table) {
        (Some(key), Some(table)) => groups_of_row(config, plan, client, which, table, key).await?,
        _ => {
            let (config, plan, sink) = (config.clone(), plan.clone(), which.sink.clone());
            let listed =
                tokio::task::spawn_blocking(move || listed_groups(&config, &plan, sink.as_deref(), table));
            let (groups, has_more, unclear) =
                listed.await.map_err(|error| Error::bug("listing dead letters").because(error))??;
            (retried.has_more, retried.unclear) = (has_more, unclear);
            groups
        }
    };
    let total = groups.iter().map(|group| group.ids.len() as u64).sum();
    let mut done = 0;
    for group in groups {
        seen(done, total);
        done += group.ids.len() as u64;
        look(config, plan, client, group, &mut retried).await?;
    }
    seen(total, total);
    Ok(retried)
}

pub(super) fn table_of(plan: &Plan, name: &str) -> Result<usize> {
    let by_target = || plan.tables.iter().position(|table| table.target == name);
    plan.named(name)
        .or_else(by_target)
        .ok_or_else(|| Error::config(format!("schema.json has no table {name:?}")))
}

/// The letters of one row, in every region that is meant.
async fn groups_of_row(
    config: &Arc<Config>,
    plan: &Arc<Plan>,
    client: &Client,
    which: &Which,
    table: usize,
    key: &[String],
) -> Result<Vec<Group>> {
    let sinks: Vec<config::Sink> =
        letters::sinks(config, which.sink.as_deref())?.into_iter().cloned().collect();
    let of_sinks = Arc::new(Config { sinks: sinks.clone(), ..(**config).clone() });
    let traced = trace::trace(&of_sinks, plan, client, &plan.tables[table].source.plain(), key).await?;
    let groups = sinks.into_iter().zip(traced.regions).map(|(sink, region)| Group {
        sink,
        table,
        key: Some(traced.key.clone()),
        ids: region.dead_letters.iter().map(|letter| letter.id).collect(),
        cause: region.dead_letters.last().map_or((Lsn::ZERO, 0), cause),
    });
    Ok(groups.filter(|group| !group.ids.is_empty()).collect())
}

/// The letters of the sinks that are meant, by row; whether there are more, and how many are of no table of the plan.
fn listed_groups(
    config: &Config,
    plan: &Plan,
    sink: Option<&str>,
    table: Option<usize>,
) -> Result<(Vec<Group>, bool, u64)> {
    let transports = Transports::new(config);
    let (mut groups, mut has_more, mut unclear) = (Vec::new(), false, 0);
    for sink in letters::sinks(config, sink)? {
        let limit = match &sink.target {
            SinkTarget::D1(..) | SinkTarget::D1Worker(..) => LETTERS_MAX_D1,
            SinkTarget::Sqlite { .. } | SinkTarget::Null => LETTERS_MAX,
        };
        let target = table.map(|table| plan.tables[table].target.clone());
        let which = Letters { target, ..Letters::default() };
        let mut found = letters::of_sink(sink, &transports, &which, limit + 1)?;
        has_more |= found.len() > limit;
        found.truncate(limit);
        let mut by_row: BTreeMap<(usize, String), Vec<DeadLetter>> = BTreeMap::new();
        for letter in found {
            match plan.tables.iter().position(|table| table.target == letter.target) {
                Some(table) => by_row.entry((table, letter.key.clone())).or_default().push(letter),
                None => unclear += 1,
            }
        }
        let group = |((table, key), letters): ((usize, String), Vec<DeadLetter>)| Group {
            sink: sink.clone(),
            table,
            key: source_key(&key),
            ids: letters.iter().map(|letter| letter.id).collect(),
            cause: letters.last().map_or((Lsn::ZERO, 0), cause),
        };
        groups.extend(by_row.into_iter().map(group));
    }
    Ok((groups, has_more, unclear))
}

/// The key as it may be given to the source; whether it is that of the letter, looking at it shows.
fn source_key(key: &str) -> Option<Vec<String>> {
    let parts: Vec<Value> = serde_json::from_str(key).ok()?;
    let text = |part: Value| match part {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    parts.into_iter().map(text).collect()
}

/// Looks at one row in one region, and closes its letters if it is right there.
async fn look(
    config: &Config,
    plan: &Arc<Plan>,
    client: &Client,
    group: Group,
    retried: &mut Retried,
) -> Result<()> {
    let Group { sink, table: index, key, ids, cause } = group;
    let letters = ids.len() as u64;
    let Some(key) = key else {
        retried.unclear += letters;
        return Ok(());
    };
    let of_sink = Arc::new(Config { sinks: vec![sink.clone()], ..config.clone() });
    let table = plan.tables[index].source.plain();
    let traced = match trace::trace(&of_sink, plan, client, &table, &key).await {
        Ok(traced) => traced,
        // The region's form of the key is not always one that the source can read.
        Err(error) if error.kind() == Kind::Config => {
            retried.unclear += letters;
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let Some(region) = traced.regions.first() else { return Err(Error::bug("a row was looked at nowhere")) };
    let is_about_it = region.dead_letters.iter().any(|letter| ids.contains(&letter.id));
    match region.verdict {
        _ if !is_about_it => retried.unclear += letters,
        Verdict::Equal => {
            // Only those that were there before the row was looked at.
            let which = Letters { ids, ..Letters::default() };
            let config = config.clone();
            let dropped =
                tokio::task::spawn_blocking(move || letters::drop(&sink, &Transports::new(&config), &which));
            let dropped = dropped.await.map_err(|error| Error::bug("closing letters").because(error))??;
            retried.closed += dropped as u64;
        }
        Verdict::Unknown => retried.unclear += letters,
        // What readers see there has another form until the table is whole.
        Verdict::NotLive if region.table_state == Some(REBUILDING) => retried.unclear += letters,
        _ if !traced.source.rejected.is_empty() => {
            retried.without_form += letters;
            for reason in traced.source.rejected {
                if !retried.reasons.contains(&reason) {
                    retried.reasons.push(reason);
                }
            }
        }
        verdict @ (Verdict::OnItsWay
        | Verdict::NotLive
        | Verdict::Changing
        | Verdict::DeadLetter
        | Verdict::Differs) => {
            match verdict {
                Verdict::OnItsWay | Verdict::NotLive | Verdict::Changing => retried.on_their_way += letters,
                _ => retried.differing += letters,
            }
            // Under load a region is always a little behind, and its row may be wrong all the same.
            if traced.source.row.is_some() {
                let (sink, key) = (region.sink.clone(), traced.key);
                let owed = OwedKey { key: key.clone(), commit_lsn: cause.0, xid: cause.1 };
                retried.to_write.push(RowToWrite { sink, table, index, owed, key });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letters_key_becomes_the_texts_that_the_source_reads() {
        let texts = |key: &str| source_key(key);
        assert_eq!(texts("[17]"), Some(vec!["17".to_owned()]));
        assert_eq!(texts("[-9223372036854775808,\"a\\\"b\"]").unwrap(), ["-9223372036854775808", "a\"b"]);
        for unclear in ["[null]", "[\"cut…", "[[1]]", ""] {
            assert_eq!(texts(unclear), None, "{unclear}");
        }
    }

    #[test]
    fn what_is_left_is_counted_and_the_hint_is_about_it() {
        let all = Retried { closed: 3, ..Retried::default() };
        assert_eq!((all.is_complete(), all.sentence().as_str(), all.hint()), (true, "3 closed", None));
        let left = Retried { closed: 1, differing: 2, without_form: 1, has_more: true, ..Retried::default() };
        assert_eq!(
            left.sentence(),
            "1 closed, 1 still without a form, 2 to be written anew, and there are more"
        );
        assert!(!left.is_complete() && left.hint().unwrap().contains("schema.json"));
    }
}
