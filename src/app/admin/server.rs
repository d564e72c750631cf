//! Connections: taken one by one up to a limit, each served until it ends, is too slow, or the API stops.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Shared, rebuilds, routes};

/// Connections at a time; more wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 256;
/// How long a client may take to send a request's head, and how long a connection may lie idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest request head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long a client may leave what was sent to it unread.
#[cfg(target_os = "linux")]
const UNREAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long what is being answered may take when the API ends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the metrics are folded, so that they stay small where nobody reads them.
const FOLD_INTERVAL: Duration = Duration::from_secs(5);
/// How often the targets are looked into, which takes requests of D1 databases.
const TARGETS_INTERVAL: Duration = Duration::from_secs(60);
/// The pause after a connection could not be taken, for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves until `shared.stopping` turns true.
pub(super) async fn run(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("the HTTP API cannot listen: {error}"),
    };
    let router = routes::router(&shared);
    let mut stopping = shared.stopping.clone();
    let connections = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    tokio::select! {
        () = take_connections(&listener, &router, &permits, &connections) => {}
        () = shared.observer.run(&shared) => {}
        () = fold_metrics(&shared) => {}
        () = look_into_targets(&shared) => {}
        () = shared.events.run(&shared) => {}
        () = rebuilds::run(&shared) => {}
        _ = stopping.wait_for(|stop| *stop) => {}
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_TIMEOUT, connections.shutdown()).await.is_err() {
        tracing::debug!("the HTTP API left connections behind");
    }
}

async fn fold_metrics(shared: &Shared) {
    loop {
        tokio::time::sleep(FOLD_INTERVAL).await;
        shared.exposition.fold();
    }
}

/// Keeps the gauges of what lies in the targets no older than that, also where nobody asks for the status.
async fn look_into_targets(shared: &Shared) {
    loop {
        tokio::time::sleep(TARGETS_INTERVAL).await;
        shared.status.get(&shared.config(), TARGETS_INTERVAL).await;
    }
}

async fn take_connections(
    listener: &TcpListener,
    router: &Router,
    permits: &Arc<Semaphore>,
    connections: &GracefulShutdown,
) {
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => serve(stream, peer, router, permit, connections),
            Err(error) => {
                tracing::debug!("a connection to the HTTP API was not taken: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    router: &Router,
    permit: OwnedSemaphorePermit,
    connections: &GracefulShutdown,
) {
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(UNREAD_TIMEOUT));
    let router = TowerToHyperService::new(router.clone());
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let connection = connections.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!("a connection to the HTTP API ended: {error}");
        }
        drop(permit);
    });
}
