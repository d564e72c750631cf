//! The pace on a clock of its own; turns and pauses by who got what, never by how long it took.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// Sends whenever it may, for so long, and returns when.
fn sent(pacer: &mut Pacer, start: Instant, length: Duration) -> Vec<Duration> {
    let mut now = start;
    let mut sent = Vec::new();
    while now < start + length {
        match pacer.take(now) {
            None => sent.push(now - start),
            Some(wait) => now += wait,
        }
    }
    sent
}

/// How many there are in the fullest window of this length.
fn most_within(sent: &[Duration], window: Duration) -> usize {
    let count = |from: usize| sent[from..].iter().take_while(|time| **time <= sent[from] + window).count();
    (0..sent.len()).map(count).max().unwrap_or(0)
}

#[test]
fn no_window_holds_more_than_the_limit_and_nearly_all_of_it_is_used() {
    for limit in [Limit::default(), Limit { requests: 10, window: Duration::from_secs(2) }] {
        let now = Instant::now();
        let mut pacer = Pacer::new(limit, now);
        let sent = sent(&mut pacer, now, limit.window * 4);
        let most = most_within(&sent, limit.window);
        assert!(most <= limit.requests as usize, "{most} in a window of {limit:?}");
        assert!(sent.len() * 10 >= limit.requests as usize * 4 * 9, "only {} of {limit:?}", sent.len());
    }
}

#[test]
fn a_limit_of_one_request_still_sends_it() {
    let limit = Limit { requests: 1, window: Duration::from_secs(10) };
    let now = Instant::now();
    let sent = sent(&mut Pacer::new(limit, now), now, Duration::from_secs(100));
    assert!(sent.len() >= 4 && most_within(&sent, limit.window) <= 1, "{sent:?}");
}

#[test]
fn what_the_api_says_is_left_is_spread_over_the_rest_of_its_window() {
    let now = Instant::now();
    let mut pacer = Pacer::new(Limit::default(), now);
    pacer.learn(Notice { left: Some((10, Duration::from_secs(100))), policy: None }, now);
    let sent = sent(&mut pacer, now, Duration::from_secs(100));
    assert!((8..=10).contains(&sent.len()), "{sent:?}");
}

#[test]
fn nothing_is_sent_while_nothing_is_left() {
    let now = Instant::now();
    let mut pacer = Pacer::new(Limit::default(), now);
    pacer.learn(Notice { left: Some((0, Duration::from_secs(30))), policy: None }, now);
    assert_eq!(pacer.paused(now), Some(Duration::from_secs(30)));
    let sent = sent(&mut pacer, now, Duration::from_secs(60));
    assert!(sent[0] >= Duration::from_secs(30), "{:?}", sent[0]);
    assert!(sent.len() > 50);
}

#[test]
fn an_older_answer_of_the_same_window_gives_nothing_back() {
    let now = Instant::now();
    let mut pacer = Pacer::new(Limit::default(), now);
    pacer.learn(Notice { left: Some((3, Duration::from_secs(100))), policy: None }, now);
    pacer.learn(Notice { left: Some((9, Duration::from_secs(100))), policy: None }, now);
    assert_eq!(pacer.left.unwrap().0, 3);
    pacer.learn(Notice { left: Some((1200, Duration::from_secs(300))), policy: None }, now);
    assert_eq!(pacer.left.unwrap().0, 1200, "a new window");
}

#[test]
fn a_smaller_policy_is_kept_and_a_larger_one_is_not_taken() {
    let now = Instant::now();
    let mut pacer = Pacer::new(Limit::default(), now);
    let small = Limit { requests: 60, window: Duration::from_secs(60) };
    pacer.learn(Notice { left: None, policy: Some(Limit { requests: 100_000, ..Limit::default() }) }, now);
    assert_eq!(pacer.limit, Limit::default());
    pacer.learn(Notice { left: None, policy: Some(small) }, now);
    assert_eq!(pacer.limit, small);
    pacer.learn(Notice { left: None, policy: Some(Limit { requests: 0, ..small }) }, now);
    assert_eq!(pacer.limit, small);
}

#[test]
fn pauses_that_nobody_names_double_up_to_a_minute_and_begin_small_again() {
    let now = Instant::now();
    let mut pacer = Pacer::new(Limit::default(), now);
    let mut at = now;
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let pause = pacer.throttled(None, at);
        assert!(pacer.take(at).is_some());
        pauses.push(pause.as_secs());
        at += pause;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    pacer.throttled_times = 0;
    assert_eq!(pacer.throttled(None, at), Duration::from_secs(1));
    assert_eq!(pacer.throttled(Some(Duration::from_secs(300)), at), Duration::from_secs(300));
    assert_eq!(
        pacer.throttled(Some(Duration::from_secs(5)), at),
        Duration::from_secs(300),
        "the longer one stays"
    );
}

#[test]
fn a_pause_is_for_everybody_and_nobody_waits_for_it_here() {
    let budget = Budget::new(Limit::default());
    assert_eq!(budget.throttled(Some(HOUR)), HOUR);
    for _ in 0..3 {
        assert!(matches!(budget.take(1), Err(Held::Paused(wait)) if wait > HOUR / 2));
    }
    let standing = budget.standing();
    assert_eq!((standing.requests, standing.throttled, standing.waiting), (0, 1, 0));
    assert!(standing.paused.is_some());
}

#[test]
fn equal_waiters_are_served_in_the_order_they_came() {
    // So slow that every request beyond the first is one that the test hands out.
    let budget = Arc::new(Budget::new(Limit { requests: 1, window: HOUR }));
    budget.take(1).unwrap();
    let served = Arc::new(Mutex::new(Vec::new()));
    let waiters: Vec<_> = (0..4)
        .map(|waiter| {
            let (mine, list) = (budget.clone(), served.clone());
            let thread = thread::spawn(move || {
                mine.take(1).unwrap();
                list.lock().unwrap().push(waiter);
            });
            while budget.standing().waiting <= waiter {
                thread::yield_now();
            }
            thread
        })
        .collect();
    for waiter in 0..4 {
        budget.lock().pacer.available = 1.0;
        budget.changed.notify_all();
        while served.lock().unwrap().len() <= waiter {
            thread::yield_now();
        }
    }
    waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    assert_eq!(*served.lock().unwrap(), [0, 1, 2, 3]);
}

/// Who is served, by the sizes of their requests, each of which asks again at once.
fn served(sizes: &[usize], requests: usize) -> Vec<usize> {
    let mut line = Line::default();
    let mut waiting: Vec<(u64, usize)> = sizes.iter().map(|&bytes| (line.join(bytes), bytes)).collect();
    (0..requests)
        .map(|_| {
            let ticket = line.next().unwrap();
            line.serve(ticket);
            let one = waiting.iter_mut().find(|(waiting, _)| *waiting == ticket).unwrap();
            one.0 = line.join(one.1);
            one.1
        })
        .collect()
}

#[test]
fn the_largest_request_goes_first_and_none_is_overtaken_more_than_twice() {
    // One region is far behind: it gets most requests, and the others theirs in turn.
    assert_eq!(served(&[1, 100, 2], 9), [100, 100, 1, 100, 2, 100, 100, 1, 100]);
    assert_eq!(served(&[5, 5, 5], 6), [5; 6]);
    let mut line = Line::default();
    let small = line.join(1);
    for _ in 0..OVERTAKEN_MAX {
        let large = line.join(100);
        assert_eq!(line.next(), Some(large));
        line.serve(large);
    }
    line.join(100);
    assert_eq!(line.next(), Some(small));
    // Who gives up waiting is no longer in anybody's way.
    line.leave(small);
    assert_ne!(line.next(), Some(small));
}

#[test]
fn closing_ends_every_wait() {
    let budget = Arc::new(Budget::new(Limit { requests: 1, window: HOUR }));
    budget.take(1).unwrap();
    let closed = Arc::new(AtomicUsize::new(0));
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            let (budget, closed) = (budget.clone(), closed.clone());
            thread::spawn(move || {
                if budget.take(1) == Err(Held::Closed) {
                    closed.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    while budget.standing().waiting < 3 {
        thread::yield_now();
    }
    budget.close();
    waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    assert_eq!(closed.load(Ordering::SeqCst), 3);
    assert_eq!(budget.take(1), Err(Held::Closed));
    assert_eq!(budget.standing().requests, 1);
}
