//! Why one value cannot become what the plan asks for. The row that holds it goes to the dead letters; the reason is
//! stored and logged with it, so it never contains the value itself.

use std::fmt;

/// A value that its target type cannot hold, or that is not what its source type promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    reason: String,
}

impl Rejection {
    /// A rejection for the given reason: one clause without a full stop and without the value, such as `numeric has
    /// a fraction and cannot be an INTEGER`.
    pub fn new(reason: impl Into<String>) -> Self {
        Rejection { reason: reason.into() }
    }

    /// The reason, free of row values.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Rejection {}
