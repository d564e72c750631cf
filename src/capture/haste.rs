//! A position that somebody waits for. Until the stream has brought it, the server is asked for its position again and
//! again instead of now and then: behind the last published change there is nothing else that says how far the WAL is.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::Lsn;

/// How often the server is asked while somebody waits.
pub(super) const HASTE_INTERVAL: Duration = Duration::from_millis(50);

/// Whether somebody waits for more than a stream has brought.
#[derive(Clone)]
pub struct Haste {
    wanted: watch::Receiver<Lsn>,
    brought: Arc<dyn Fn() -> Lsn + Send + Sync>,
}

impl Haste {
    /// `wanted` is what is waited for, `brought` how far the stream is.
    pub fn new(wanted: watch::Receiver<Lsn>, brought: impl Fn() -> Lsn + Send + Sync + 'static) -> Self {
        Haste { wanted, brought: Arc::new(brought) }
    }

    /// Whether it is.
    pub fn is_on(&self) -> bool {
        *self.wanted.borrow() > (self.brought)()
    }

    /// Resolves when somebody asks anew; never, once nobody can any more.
    pub(super) async fn asked(&mut self) {
        if self.wanted.changed().await.is_err() {
            std::future::pending().await
        }
    }
}
