//! A rig and ways to its databases, for the tests of the D1 sink's parts.

#![allow(dead_code, reason = "every test file uses its own part")]

use std::sync::Arc;
use std::time::Duration;

use walcast::app::demo::Workerd;
use walcast::sink::d1::budget::{Budget, Limit};
use walcast::sink::d1::http;
use walcast::sink::d1::rest::{RestOptions, RestTransport};
use walcast::sink::d1::transport::{Answer, Failure, Statement, Transport};
use walcast::sink::d1::worker::{WorkerOptions, WorkerTransport};

/// A budget that no test uses up.
pub fn ample() -> Arc<Budget> {
    Arc::new(Budget::new(Limit { requests: 10_000_000, window: Duration::from_secs(1) }))
}

pub fn rest_options(workerd: &Workerd, database: &str) -> RestOptions {
    RestOptions {
        base_url: workerd.base_url(),
        account: Workerd::ACCOUNT.to_owned(),
        database: database.to_owned(),
        token: Workerd::TOKEN.to_owned().into(),
        timeout: http::TIMEOUT,
    }
}

pub fn rest(workerd: &Workerd, database: &str) -> RestTransport {
    RestTransport::new(rest_options(workerd, database), ample()).unwrap()
}

pub fn worker_options(workerd: &Workerd, binding: &str) -> WorkerOptions {
    WorkerOptions {
        url: workerd.worker_url(),
        binding: binding.to_owned(),
        key: Workerd::KEY.to_owned().into(),
        timeout: http::TIMEOUT,
    }
}

pub fn worker(workerd: &Workerd, binding: &str) -> WorkerTransport {
    WorkerTransport::new(worker_options(workerd, binding)).unwrap()
}

pub fn statement(sql: &str, params: &[&str]) -> Statement {
    Statement { sql: sql.into(), params: params.iter().map(|&param| param.to_owned()).collect() }
}

/// Runs one statement without parameters.
pub fn run(transport: &mut dyn Transport, sql: &str) -> Result<Answer, Failure> {
    let mut answers = transport.execute(&[statement(sql, &[])])?;
    assert_eq!(answers.len(), 1);
    Ok(answers.remove(0))
}
