//! What systemd is told (`Type=notify`): ready, alive, stopping. Without systemd nothing happens.

use sd_notify::NotifyState;

/// The first session streams.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// The configuration is read again; [`ready`] follows.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!("cannot notify systemd: {error}"),
    }
}

/// The engine finishes what it has.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Tells the watchdog, at half its interval, that the engine's thread still runs. Ends only with the task.
pub async fn watchdog() {
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    loop {
        send(&[NotifyState::Watchdog]);
        tokio::time::sleep(interval / 2).await;
    }
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("cannot notify systemd: {error}");
    }
}
