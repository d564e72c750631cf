//! The one error type. An error's [`Kind`] says what to do with it; its message names the slot, table, sink or
//! position it is about; its hint names the operator's next command; the cause stays in `source()`.
//!
//! Row values and secrets never enter a message.

use std::fmt;
use std::time::Duration;

/// `std::result::Result` with walcast's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is to be done about an error. Every policy in the engine is one exhaustive `match` over this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// May go away by itself: retry the same thing with backoff.
    Transient,
    /// The other side asked for a pause: retry after it, not before.
    Throttled {
        /// How long the other side asked us to wait.
        retry_after: Duration,
    },
    /// This row cannot be applied and never will: dead letter.
    Rejected,
    /// The sink lost its open transaction: the stream must be replayed from the sink's checkpoint.
    Replay,
    /// The sink's position and the slot's no longer meet: only a backfill makes this sink right again.
    NeedsBackfill,
    /// The sink's target is gone, or something else stands in its place: open it again, as a new one.
    Replaced,
    /// Nothing but an operator can resolve it: stop, keep everything, say what to do.
    Halt,
    /// The configuration, `schema.json` or the command line is wrong.
    Config,
    /// walcast contradicts itself: please report it.
    Bug,
}

impl Kind {
    /// The kind as one lower-case word, for logs, metrics and `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Transient => "transient",
            Kind::Throttled { .. } => "throttled",
            Kind::Rejected => "rejected",
            Kind::Replay => "replay",
            Kind::NeedsBackfill => "needs-backfill",
            Kind::Replaced => "replaced",
            Kind::Halt => "halt",
            Kind::Config => "config",
            Kind::Bug => "bug",
        }
    }
}

/// An error with a [`Kind`], a message, an optional hint and an optional cause.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of the given kind. The message is one sentence without a full stop.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner { kind, message: message.into(), hint: None, source: None }))
    }

    /// An error that a retry may cure.
    pub fn transient(message: impl Into<String>) -> Self {
        Self::new(Kind::Transient, message)
    }

    /// An error that only an operator can resolve.
    pub fn halt(message: impl Into<String>) -> Self {
        Self::new(Kind::Halt, message)
    }

    /// An error in the configuration, `schema.json` or the command line.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(Kind::Config, message)
    }

    /// A contradiction inside walcast.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(Kind::Bug, message)
    }

    /// Adds the operator's next step, as a command where there is one.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Keeps the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Puts what was being done in front of the message: `reading the catalog: connection closed`.
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.0.message = format!("{doing}: {}", self.0.message);
        self
    }

    /// What to do about it.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The operator's next step.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The message with its causes on one line, as logs and `--json` show it.
    pub fn chain(&self) -> String {
        let mut text = self.0.message.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let next = error.to_string();
            if !text.contains(&next) {
                text.push_str(": ");
                text.push_str(&next);
            }
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.0.kind.as_str(), self.chain())?;
        match &self.0.hint {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
