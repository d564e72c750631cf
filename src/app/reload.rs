//! Asking the process to read its configuration again. Whoever asks learns first whether the new one will do, while the
//! old one is still in force, and then what came of it. What is done about it is the supervisor's matter.

use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, Result};

/// Requests that wait while another one is being looked at. Jobs and signals ask one at a time.
const WAITING_MAX: usize = 2;

/// Where the process is asked.
#[derive(Clone)]
pub struct Reloads(mpsc::Sender<Request>);

/// Somebody asks.
pub struct Request {
    checked: Option<oneshot::Sender<Result<()>>>,
    done: oneshot::Sender<Result<String>>,
}

/// A new configuration that will do, on its way into force.
#[derive(Debug)]
pub struct Accepted(oneshot::Receiver<Result<String>>);

impl Reloads {
    /// A way to ask, and where it is asked.
    pub fn new() -> (Reloads, mpsc::Receiver<Request>) {
        let (asked, requests) = mpsc::channel(WAITING_MAX);
        (Reloads(asked), requests)
    }

    /// Asks, and waits until the new configuration is found to do.
    ///
    /// # Errors
    /// It will not do: the old one stays in force. Transient where the source cannot be asked, or the process ends.
    pub async fn ask(&self) -> Result<Accepted> {
        let ((checked, answer), (done, outcome)) = (oneshot::channel(), oneshot::channel());
        self.0.send(Request { checked: Some(checked), done }).await.map_err(|_| ends())?;
        answer.await.unwrap_or_else(|_| Err(ends()))?;
        Ok(Accepted(outcome))
    }
}

impl Accepted {
    /// Waits until it is in force; one sentence says what is different.
    ///
    /// # Errors
    /// It came to nothing, and the old one is in force again.
    pub async fn done(self) -> Result<String> {
        self.0.await.unwrap_or_else(|_| Err(ends()))
    }
}

impl Request {
    /// It will not do.
    pub fn refuse(mut self, error: Error) {
        match self.checked.take() {
            // Whoever asked need not be there any more.
            Some(checked) => drop(checked.send(Err(error))),
            None => drop(self.done.send(Err(error))),
        }
    }

    /// It will do.
    pub fn accept(&mut self) {
        if let Some(checked) = self.checked.take() {
            let _ = checked.send(Ok(()));
        }
    }

    /// It is in force.
    pub fn done(mut self, outcome: String) {
        self.accept();
        let _ = self.done.send(Ok(outcome));
    }
}

fn ends() -> Error {
    Error::transient("walcast is stopping")
}
