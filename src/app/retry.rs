//! Dead letters once more: each row is read again by its key, at the source and in the region that did not take it.
//!
//! **Closed** is a letter whose row is right in the region by now: the region's row equals what the source's row, read
//! afterwards, has to become there. So it is when the stream has brought the row again since, or when the row is gone.
//! What still comes to the region ends at that row or at a newer one, so nothing is forgotten that is not right.
//!
//! **Nothing is written here.** A row that is still wrong is one that has no form in the region, which only a change at
//! the source or in `schema.json` helps; or it waits to be written ([`Retried::to_write`]). That has to take its place in
//! the order of the stream: written from beside it, a value that was read a moment ago could replace a newer one.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Client;

use super::d1::Transports;
use super::letters;
use super::trace::{self, Verdict};
use crate::config::{self, Config, SinkTarget};
use crate::encode::plan::Plan;
use crate::error::{Error, Kind, Result};
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
    /// The rows behind `differing`.
    pub to_write: Vec<RowToWrite>,
}

/// A row that is wrong in one region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RowToWrite {
    /// The region's sink.
    pub sink: String,
    /// The table at the source.
    pub table: String,
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
            () if self.differing > 0 => {
                Some("write these rows once more at the source, all columns of them, and retry")
            }
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

fn table_of(plan: &Plan, name: &str) -> Result<usize> {
    let found = plan.tables.iter().position(|table| table.source.plain() == name || table.target == name);
    found.ok_or_else(|| Error::config(format!("schema.json has no table {name:?}")))
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
        let mut by_row: BTreeMap<(usize, String), Vec<i64>> = BTreeMap::new();
        for DeadLetter { id, target, key, .. } in found {
            match plan.tables.iter().position(|table| table.target == target) {
                Some(table) => by_row.entry((table, key)).or_default().push(id),
                None => unclear += 1,
            }
        }
        let group = |((table, key), ids): ((usize, String), Vec<i64>)| Group {
            sink: sink.clone(),
            table,
            key: source_key(&key),
            ids,
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
    let Group { sink, table, key, ids } = group;
    let letters = ids.len() as u64;
    let Some(key) = key else {
        retried.unclear += letters;
        return Ok(());
    };
    let of_sink = Arc::new(Config { sinks: vec![sink.clone()], ..config.clone() });
    let table = plan.tables[table].source.plain();
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
        Verdict::OnItsWay | Verdict::Changing => retried.on_their_way += letters,
        Verdict::DeadLetter | Verdict::Differs if traced.source.rejected.is_empty() => {
            retried.differing += letters;
            let sink = region.sink.clone();
            retried.to_write.push(RowToWrite { sink, table, key: traced.key });
        }
        Verdict::DeadLetter | Verdict::Differs => {
            retried.without_form += letters;
            for reason in traced.source.rejected {
                if !retried.reasons.contains(&reason) {
                    retried.reasons.push(reason);
                }
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
