//! Ways to the D1 databases that the configuration names. What all sinks of a token share is made here, once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::config::{self, Config, D1Database, D1Writing, SchemaChanges, SinkTarget};
use crate::error::Result;
use crate::sink::d1::budget::{Budget, Limit};
use crate::sink::d1::limits::RequestLimits;
use crate::sink::d1::rest::{RestOptions, RestTransport};
use crate::sink::d1::transport::Transport;
use crate::sink::d1::worker::{WorkerOptions, WorkerTransport};
use crate::sink::d1::{Options, http};
use crate::sink::replica::OnRejected;

/// Makes transports, and ends their waiting when it goes.
pub struct Transports {
    limit: Limit,
    /// By API and token.
    budgets: Mutex<Vec<(String, config::Secret, Arc<Budget>)>>,
}

impl Transports {
    /// For the sinks of this configuration; nothing is connected.
    pub fn new(config: &Config) -> Self {
        let requests = u32::try_from(config.d1.requests_per_5_minutes).unwrap_or(u32::MAX);
        Transports { limit: Limit { requests, ..Limit::default() }, budgets: Mutex::default() }
    }

    /// The way to a sink's database; `None` for a sink that is no D1 database. `timeout`: how long a call may take, if
    /// not as long as D1 may.
    ///
    /// # Errors
    /// The address is none.
    pub fn connect(
        &self,
        target: &SinkTarget,
        timeout: Option<Duration>,
    ) -> Result<Option<Box<dyn Transport>>> {
        let timeout = timeout.unwrap_or(http::TIMEOUT);
        Ok(match target {
            SinkTarget::D1(database, _) => {
                let options = RestOptions {
                    base_url: database.base_url.clone(),
                    account: database.account_id.clone(),
                    database: database.database.clone(),
                    token: database.api_token.expose().to_owned().into(),
                    timeout,
                };
                Some(Box::new(RestTransport::new(options, self.budget(database))?))
            }
            SinkTarget::D1Worker(worker, _) => {
                let options = WorkerOptions {
                    url: worker.url.clone(),
                    binding: worker.binding.clone(),
                    key: worker.key.expose().to_owned().into(),
                    timeout,
                };
                Some(Box::new(WorkerTransport::new(options)?))
            }
            SinkTarget::Sqlite { .. } | SinkTarget::Null => None,
        })
    }

    /// The budget that the way to a sink's database keeps to; `None` where there is none.
    pub fn budget_of(&self, target: &SinkTarget) -> Option<Arc<Budget>> {
        match target {
            SinkTarget::D1(database, _) => Some(self.budget(database)),
            SinkTarget::D1Worker(..) | SinkTarget::Sqlite { .. } | SinkTarget::Null => None,
        }
    }

    /// The budget of the database's token: one for all databases that it opens.
    fn budget(&self, database: &D1Database) -> Arc<Budget> {
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        let of_token = |(url, token, _): &&(String, config::Secret, Arc<Budget>)| {
            *url == database.base_url && *token == database.api_token
        };
        if let Some((_, _, budget)) = budgets.iter().find(of_token) {
            return budget.clone();
        }
        let budget = Arc::new(Budget::new(self.limit));
        budgets.push((database.base_url.clone(), database.api_token.clone(), budget.clone()));
        budget
    }
}

impl Transports {
    /// Ends the waiting for requests.
    pub fn close(&self) {
        let budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        budgets.iter().for_each(|(_, _, budget)| budget.close());
    }
}

impl Drop for Transports {
    fn drop(&mut self) {
        self.close();
    }
}

/// What errors call the database of a sink.
pub fn place(target: &SinkTarget) -> String {
    match target {
        SinkTarget::D1(database, _) => format!("D1 database {}", database.database),
        SinkTarget::D1Worker(worker, _) => format!("D1 database {} at {}", worker.binding, worker.url),
        SinkTarget::Sqlite { path } => path.display().to_string(),
        SinkTarget::Null => "null".to_owned(),
    }
}

/// How a D1 sink writes.
pub fn options(writing: &D1Writing, on_rejected: OnRejected, changes: SchemaChanges) -> Options {
    Options {
        on_rejected,
        skip_unchanged: writing.skip_unchanged,
        request: request_limits(writing),
        awaits_operator: changes == SchemaChanges::Manual,
    }
}

/// How large its requests are.
pub fn request_limits(writing: &D1Writing) -> RequestLimits {
    RequestLimits { rows_max: writing.request_max_rows, bytes_max: writing.request_max_bytes }
}

/// The policy as sinks know it.
pub fn on_rejected(on_rejected: config::OnRejected) -> OnRejected {
    match on_rejected {
        config::OnRejected::DeadLetter => OnRejected::DeadLetter,
        config::OnRejected::Halt => OnRejected::Halt,
    }
}
