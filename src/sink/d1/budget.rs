//! The budget of requests that one API token has, shared by all sinks that use it.
//!
//! Cloudflare takes 1,200 requests in five minutes from a token, over all databases, and turns a token that goes over it
//! away for the rest of the five minutes (<https://developers.cloudflare.com/fundamentals/api/reference/limits/>). So
//! requests are spread evenly. With one request in flight per database, the databases take turns, and where several wait,
//! the largest request goes first: of the region that is furthest behind, since a request holds what has queued. No
//! request is overtaken more than twice; so the others wait a little longer, and theirs become larger. What any answer says of the limit (`Ratelimit`, `Ratelimit-Policy`, `retry-after`) holds for
//! all.
//!
//! Waiting for one's turn is short and happens here. A pause that the API asked for can be long; then the answer is how
//! long, and the sink's own worker waits, visibly, and can be stopped.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many requests a token may send in which time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Requests in a window; at least 1.
    pub requests: u32,
    /// The window.
    pub window: Duration,
}

impl Default for Limit {
    /// Cloudflare's: 1,200 in five minutes.
    fn default() -> Self {
        Limit { requests: 1200, window: Duration::from_secs(300) }
    }
}

/// What an answer says of the limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Notice {
    /// `Ratelimit`: requests that are left, and the time until there are new ones.
    pub left: Option<(u32, Duration)>,
    /// `Ratelimit-Policy`: the whole quota.
    pub policy: Option<Limit>,
}

/// Why a request may not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// The token is to be left alone for this long.
    Paused(Duration),
    /// walcast is shutting down.
    Closed,
}

/// How much of a budget is left, for status and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Requests that may be sent at once.
    pub available: u32,
    /// How long nothing may be sent.
    pub paused: Option<Duration>,
    /// Sinks that wait for their turn.
    pub waiting: usize,
    /// Requests since the start.
    pub requests: u64,
    /// How often the API turned the token away.
    pub throttled: u64,
}

/// A twentieth of a window's requests may be sent at once; the rest is spread over the window, so that no window of
/// that length, wherever it begins, holds more than the limit.
const BURST_SHARE: u32 = 20;
/// How many requests may go ahead of one that waits for longer.
const OVERTAKEN_MAX: u32 = 2;
/// The first and the longest pause after a 429 that does not say how long; each is twice the one before.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// Longer than a window is never waited, whatever an answer says.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// Two ends of a window that are no further apart are the same, since answers give whole seconds.
const SAME_WINDOW: Duration = Duration::from_secs(2);

/// One token's budget.
#[derive(Debug)]
pub struct Budget {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    pacer: Pacer,
    line: Line,
    is_closed: bool,
    requests: u64,
    throttled: u64,
}

impl Budget {
    /// A full budget.
    pub fn new(limit: Limit) -> Self {
        let state = State {
            pacer: Pacer::new(limit, Instant::now()),
            line: Line::default(),
            is_closed: false,
            requests: 0,
            throttled: 0,
        };
        Budget { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Waits for the caller's turn and takes one request of so many bytes from the budget.
    ///
    /// # Errors
    /// Without waiting where the token is paused, and at once when the budget is [closed](Self::close).
    pub fn take(&self, bytes: usize) -> Result<(), Held> {
        let mut state = self.lock();
        let ticket = state.line.join(bytes);
        let outcome = loop {
            if state.is_closed {
                break Err(Held::Closed);
            }
            let now = Instant::now();
            if let Some(paused) = state.pacer.paused(now) {
                break Err(Held::Paused(paused));
            }
            if state.line.next() != Some(ticket) {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            match state.pacer.take(now) {
                None => {
                    state.line.serve(ticket);
                    state.requests += 1;
                    break Ok(());
                }
                Some(wait) => {
                    let waited = self.changed.wait_timeout(state, wait);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        };
        state.line.leave(ticket);
        drop(state);
        self.changed.notify_all();
        outcome
    }

    /// Takes in what an answer says of the limit.
    pub fn learn(&self, notice: Notice) {
        if notice != Notice::default() {
            self.lock().pacer.learn(notice, Instant::now());
            self.changed.notify_all();
        }
    }

    /// The API turned the token away and asks for a pause, or does not say how long. Returns how long it is.
    pub fn throttled(&self, retry_after: Option<Duration>) -> Duration {
        let mut state = self.lock();
        state.throttled += 1;
        let pause = state.pacer.throttled(retry_after, Instant::now());
        drop(state);
        self.changed.notify_all();
        pause
    }

    /// The API served a request: pauses begin small again.
    pub fn served(&self) {
        self.lock().pacer.throttled_times = 0;
    }

    /// Ends all waiting, for good.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// How much is left.
    pub fn standing(&self) -> Standing {
        let mut state = self.lock();
        let now = Instant::now();
        state.pacer.refill(now);
        Standing {
            available: state.pacer.available as u32,
            paused: state.pacer.paused(now),
            waiting: state.line.waiting.len(),
            requests: state.requests,
            throttled: state.throttled,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete in itself, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who waits for a request, in the order in which they came.
#[derive(Debug, Default)]
struct Line {
    waiting: Vec<Waiting>,
    next_ticket: u64,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    bytes: usize,
    overtaken: u32,
}

impl Line {
    fn join(&mut self, bytes: usize) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiting.push(Waiting { ticket, bytes, overtaken: 0 });
        ticket
    }

    /// Whose turn it is: the first who has let enough others go ahead, or else the largest; of two, who came first.
    fn next(&self) -> Option<u64> {
        let patient = self.waiting.iter().find(|one| one.overtaken >= OVERTAKEN_MAX);
        let largest = || self.waiting.iter().rev().max_by_key(|one| one.bytes);
        patient.or_else(largest).map(|one| one.ticket)
    }

    /// This one gets a request: those that came before it have been overtaken.
    fn serve(&mut self, ticket: u64) {
        self.waiting.iter_mut().take_while(|one| one.ticket != ticket).for_each(|one| one.overtaken += 1);
        self.leave(ticket);
    }

    fn leave(&mut self, ticket: u64) {
        self.waiting.retain(|one| one.ticket != ticket);
    }
}

/// When the next request may be sent. Time enters as an argument.
#[derive(Debug)]
struct Pacer {
    limit: Limit,
    /// Requests that may be sent at once, as of `updated`.
    available: f64,
    updated: Instant,
    /// What the API says is left, and when there is new.
    left: Option<(u32, Instant)>,
    paused_until: Option<Instant>,
    throttled_times: u32,
}

impl Pacer {
    fn new(limit: Limit, now: Instant) -> Self {
        let mut pacer =
            Pacer { limit, available: 0.0, updated: now, left: None, paused_until: None, throttled_times: 0 };
        pacer.available = pacer.burst();
        pacer
    }

    fn burst(&self) -> f64 {
        f64::from((self.limit.requests / BURST_SHARE).max(1))
    }

    /// Requests per second: what the limit leaves beside the burst, or less where the API has less left.
    fn rate(&self, now: Instant) -> f64 {
        // Half a request where the burst is all there is, so that it never stands still.
        let beside_burst = (f64::from(self.limit.requests) - self.burst()).max(0.5);
        let rate = beside_burst / self.limit.window.as_secs_f64().max(f64::MIN_POSITIVE);
        match self.left {
            Some((left, renewed)) if now < renewed => {
                rate.min(f64::from(left) / (renewed - now).as_secs_f64())
            }
            _ => rate,
        }
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.updated).as_secs_f64();
        self.available = (self.available + elapsed * self.rate(now)).min(self.burst());
        self.updated = self.updated.max(now);
        if self.left.is_some_and(|(_, renewed)| renewed <= now) {
            self.left = None;
        }
    }

    /// How much longer nothing may be sent.
    fn paused(&self, now: Instant) -> Option<Duration> {
        let used_up = self.left.filter(|(left, _)| *left == 0).map(|(_, renewed)| renewed);
        self.paused_until.max(used_up).filter(|until| *until > now).map(|until| until - now)
    }

    /// Takes one request, or says how long to wait before asking again.
    fn take(&mut self, now: Instant) -> Option<Duration> {
        if let Some(pause) = self.paused(now) {
            return Some(pause);
        }
        self.refill(now);
        if self.available < 1.0 {
            let wait = Duration::try_from_secs_f64((1.0 - self.available) / self.rate(now));
            // Never nothing, which rounding would make a busy loop of.
            return Some(wait.unwrap_or(PAUSE_MAX).clamp(Duration::from_millis(1), PAUSE_MAX));
        }
        self.available -= 1.0;
        if let Some((left, _)) = &mut self.left {
            *left = left.saturating_sub(1);
        }
        None
    }

    fn learn(&mut self, notice: Notice, now: Instant) {
        self.refill(now);
        if let Some(policy) = notice.policy
            && policy.requests > 0
            && !policy.window.is_zero()
            && rate_of(policy) < rate_of(self.limit)
        {
            self.limit = policy;
        }
        if let Some((left, after)) = notice.left {
            let renewed = now + after.min(PAUSE_MAX);
            // An answer may be older than a request that has been sent since.
            let left = match self.left {
                Some((known, known_renewed)) if renewed < known_renewed + SAME_WINDOW => known.min(left),
                _ => left,
            };
            self.left = Some((left, renewed));
            self.available = self.available.min(f64::from(left));
        }
    }

    fn throttled(&mut self, retry_after: Option<Duration>, now: Instant) -> Duration {
        let [first, longest] = PAUSES;
        let own = first.saturating_mul(2u32.saturating_pow(self.throttled_times)).min(longest);
        self.throttled_times = self.throttled_times.saturating_add(1);
        let until = now + retry_after.unwrap_or(own).min(PAUSE_MAX);
        self.paused_until = self.paused_until.max(Some(until));
        // The first after the pause goes alone.
        self.refill(now);
        self.available = self.available.min(0.0);
        self.paused(now).unwrap_or_default()
    }
}

fn rate_of(limit: Limit) -> f64 {
    f64::from(limit.requests) / limit.window.as_secs_f64().max(f64::MIN_POSITIVE)
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
