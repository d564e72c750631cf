//! D1 databases on a local workerd as the regions of a pipeline, read as an application reads them.

#![allow(dead_code, reason = "every test file uses its own part")]

use std::fmt::Write as _;

use serde_json::{Value, json};
use walcast::Lsn;
use walcast::app::demo::Workerd;

/// A workerd with a database for each region. Faults are ordered and numbers read on `workerd` itself.
pub struct Regions {
    pub workerd: Workerd,
    regions: Vec<Region>,
}

/// One region's database.
#[derive(Clone)]
pub struct Region {
    pub name: String,
    id: String,
    agent: ureq::Agent,
    url: String,
}

impl Regions {
    pub fn start(names: &[&str]) -> Self {
        let workerd = Workerd::start().expect("workerd");
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(std::time::Duration::from_secs(10)))
            .build()
            .into();
        let region = |name: &&str| {
            let id = workerd.create_database(name).expect("a database");
            let url = format!("{}/accounts/{}/d1/database/{id}/raw", workerd.base_url(), Workerd::ACCOUNT);
            Region { name: (*name).to_owned(), id, agent: agent.clone(), url }
        };
        let regions = names.iter().map(region).collect();
        Regions { workerd, regions }
    }

    pub fn all(&self) -> &[Region] {
        &self.regions
    }

    /// The sections of `walcast.toml` that make them sinks, with no limit to speak of on requests. Each has a token of its
    /// own: what the API says of a token's limit is for all regions of that token.
    pub fn sections(&self) -> String {
        let mut toml = "[d1]\nrequests_per_5_minutes = 100000\n".to_owned();
        for Region { name, id, .. } in &self.regions {
            write!(
                toml,
                "[[sink]]\nname = \"{name}\"\ntype = \"d1\"\naccount_id = \"{}\"\ndatabase = \"{id}\"\n\
                 api_token = \"{}-{name}\"\nbase_url = \"{}\"\n",
                Workerd::ACCOUNT,
                Workerd::TOKEN,
                self.workerd.base_url()
            )
            .unwrap();
        }
        toml
    }
}

impl Region {
    /// The rows of a query, columns joined by `|`, NULL as `NULL`; `None` where the database does not answer.
    pub fn try_rows(&self, sql: &str) -> Option<Vec<String>> {
        let token = format!("Bearer {}", Workerd::READER_TOKEN);
        let request = self.agent.post(&self.url).header("authorization", token);
        let text = request.send(json!({ "sql": sql }).to_string()).ok()?.body_mut().read_to_string().ok()?;
        let answer: Value = serde_json::from_str(&text).ok()?;
        let rows = answer["result"][0]["results"]["rows"].as_array()?;
        let cell = |value: &Value| match value {
            Value::Null => "NULL".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let line = |row: &Value| row.as_array().into_iter().flatten().map(cell).collect::<Vec<_>>().join("|");
        Some(rows.iter().map(line).collect())
    }

    pub fn rows(&self, sql: &str) -> Vec<String> {
        self.try_rows(sql).unwrap_or_else(|| panic!("region {} does not answer: {sql}", self.name))
    }

    /// Its checkpoint and the transactions it has applied, if it answers and has one.
    pub fn checkpoint(&self) -> Option<(Lsn, i64)> {
        let rows = self.try_rows("SELECT lsn, transactions FROM _walcast_checkpoint")?;
        let (lsn, transactions) = rows.first()?.split_once('|')?;
        Some((lsn.parse().ok()?, transactions.parse().ok()?))
    }
}
