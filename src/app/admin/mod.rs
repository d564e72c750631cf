//! The HTTP API: how an operator, a probe or a scraper sees the engine, and steers it.
//!
//! It runs on a thread and a runtime of its own, beside the engine's, and reads what the engine shows
//! ([`EngineView`]); what it asks of it goes through [`Demand`]. A slow or hostile client costs the stream nothing. `server` takes connections, `guard` refuses
//! what no route should see, `secret` says who may write, `routes` lists what there is; each further file is a route
//! or what a route answers from.
//!
//! Every request, connection and answer has a limit. Secrets enter neither answers nor logs; row values enter only the
//! answers of the routes that need the secret.

mod answers;
pub mod client;
mod description;
mod events;
mod extract;
mod failed;
mod guard;
mod health;
mod jobs;
mod lag;
mod logs;
mod observer;
mod page;
mod problem;
mod rate;
mod rebuilds;
mod refill;
mod reload;
mod retry;
mod routes;
mod row;
mod secret;
mod server;
mod stall;
mod status;
mod steer;
mod sync;
mod wait;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use jiff::Timestamp;
use tokio::sync::{Semaphore, watch};

use self::events::Events;
use self::guard::Guard;
use self::observer::Observer;
use self::problem::Problem;
use self::secret::Gate;
use self::status::StatusCache;
use super::demand::Demand;
use super::jobs::Jobs;
use super::reload::Reloads;
use super::view::{EngineView, Prepared};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::telemetry::{self, Exposition};

/// Threads for what blocks, such as reading a replica's file.
const BLOCKING_THREADS_MAX: usize = 4;

/// The running API. Dropping it ends it in order: what is being answered gets a moment to finish.
pub struct AdminServer {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// What the routes answer from.
struct Shared {
    view: Arc<EngineView>,
    demand: Arc<Demand>,
    jobs: Arc<Jobs>,
    reloads: Reloads,
    /// What is in force now: see [`Shared::config`].
    config: watch::Receiver<Arc<Config>>,
    gate: Gate,
    guard: Guard,
    observer: Observer,
    status: StatusCache,
    events: Events,
    exposition: Exposition,
    /// Permits to wait for a position.
    waiting: Semaphore,
    started: Timestamp,
    /// Turns true when the API ends.
    stopping: watch::Receiver<bool>,
}

impl AdminServer {
    /// Listens, if the configuration says so, and answers from then on.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub fn start(
        in_force: &watch::Receiver<Arc<Config>>,
        view: &Arc<EngineView>,
        demand: &Arc<Demand>,
        reloads: Reloads,
    ) -> Result<Option<AdminServer>> {
        let config = in_force.borrow().clone();
        let Some(listen) = config.admin.listen else { return Ok(None) };
        let cannot = |error: std::io::Error| {
            Error::halt(format!("the HTTP API cannot listen on {listen}"))
                .because(error)
                .hint("give [admin] listen another address or port in walcast.toml; port 0 takes a free one")
        };
        let listener = std::net::TcpListener::bind(listen).map_err(cannot)?;
        listener.set_nonblocking(true).map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .build()
            .map_err(cannot)?;
        let (stop, stopping) = watch::channel(false);
        let exposition = telemetry::install()?;
        config.sinks.iter().for_each(|sink| telemetry::sink_expected(sink.name.as_str()));
        let shared = Arc::new(Shared {
            view: view.clone(),
            demand: demand.clone(),
            jobs: Arc::default(),
            config: in_force.clone(),
            reloads,
            gate: Gate::new(&config.admin),
            guard: Guard::new(&config.admin),
            observer: Observer::default(),
            status: StatusCache::default(),
            events: Events::new(),
            exposition,
            waiting: Semaphore::new(wait::WAITING_MAX),
            started: Timestamp::now(),
            stopping,
        });
        let thread = std::thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || runtime.block_on(server::run(listener, shared)))
            .map_err(cannot)?;
        tracing::info!(%address, "the HTTP API listens");
        Ok(Some(AdminServer { address, stop, thread: Some(thread) }))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Shared {
    /// The configuration that is in force now.
    fn config(&self) -> Arc<Config> {
        self.config.borrow().clone()
    }

    /// What the engine has prepared; an error while it has not.
    fn prepared(&self) -> std::result::Result<Arc<Prepared>, Problem> {
        self.view.prepared().ok_or_else(|| Problem::unavailable("the engine is not prepared yet"))
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the HTTP API's thread panicked");
        }
    }
}
