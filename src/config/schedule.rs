//! `[schedule]`: runs now and then instead of a stream that never ends; and `[heartbeat]`: a measurement now and then.

use std::time::Duration;

use serde::Deserialize;

use super::scalar;

/// Runs at intervals: each streams until every sink is where the server was, and lets go of the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// From the beginning of a run to that of the next. 1 s to 1 day.
    #[serde(deserialize_with = "scalar::duration")]
    pub every: Duration,
    /// How long a run may take. A transaction that is on its way then still ends. Default 25 s; 100 ms to `every`.
    #[serde(default = "max_duration", deserialize_with = "scalar::duration")]
    pub max_duration: Duration,
}

fn max_duration() -> Duration {
    Duration::from_secs(25)
}

/// How long a commit takes to each sink is measured with one of walcast's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Heartbeat {
    /// The pause between two. Default none: not measured, because each is a transaction at the source and a write of the
    /// checkpoint in every sink, which D1 bills. What keeps an idle slot moving needs no heartbeat. 1 s to 1 h.
    #[serde(deserialize_with = "scalar::some_duration")]
    pub interval: Option<Duration>,
}
