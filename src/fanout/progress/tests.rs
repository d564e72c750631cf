//! What a slot may be told while its sinks move, leave, come and go.

use std::time::Duration;

use super::*;
use crate::error::{Error, Kind};

#[test]
fn the_slowest_sink_decides_and_a_stopped_one_still_counts_but_a_detached_one_does_not() {
    let (eu, na) = (SinkProgress::new("eu"), SinkProgress::new("na"));
    let progress = Progress::new(vec![eu.clone(), na.clone()]);
    assert_eq!(progress.confirmable(), Lsn::ZERO);
    eu.set_durable(Lsn(10));
    assert_eq!(progress.confirmable(), Lsn::ZERO);
    na.set_durable(Lsn(7));
    assert_eq!(progress.confirmable(), Lsn(7));
    na.stop(&Error::halt("wrong file"));
    eu.set_durable(Lsn(20));
    assert_eq!(progress.confirmable(), Lsn(7));
    assert!(progress.has_reached(Lsn(20)));
    na.stop(&Error::new(Kind::NeedsBackfill, "the slot is past it"));
    assert_eq!(progress.confirmable(), Lsn(20));
}

#[tokio::test]
async fn whoever_waits_for_a_position_learns_that_it_was_reached_or_never_will_be() {
    let eu = SinkProgress::new("eu");
    assert!(eu.reach(Lsn::ZERO).await);
    let waiting = tokio::spawn({
        let eu = eu.clone();
        async move { eu.reach(Lsn(10)).await }
    });
    eu.set_durable(Lsn(9));
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    eu.set_durable(Lsn(10));
    assert!(waiting.await.unwrap());
    let waiting = tokio::spawn({
        let eu = eu.clone();
        async move { eu.reach(Lsn(11)).await }
    });
    tokio::task::yield_now().await;
    eu.stop(&Error::halt("wrong file"));
    assert!(!waiting.await.unwrap());
}

#[test]
fn a_failure_is_kept_until_an_attempt_succeeds() {
    let eu = SinkProgress::new("eu");
    assert!(eu.failure().is_none());
    eu.count_retry(&Error::transient("away"));
    eu.count_retry(&Error::transient("still away").hint("look there"));
    let failure = eu.failure().unwrap();
    assert_eq!((failure.attempts, failure.problem.as_str()), (2, "still away"));
    assert_eq!(failure.hint.as_deref(), Some("look there"));
    eu.recover();
    assert!(eu.failure().is_none());
    assert_eq!(eu.retries(), 2);
}

#[test]
fn the_main_slot_waits_for_a_sink_that_left_until_a_copy_does_and_again_from_where_it_is_taken_in() {
    let (eu, na) = (SinkProgress::new("eu"), SinkProgress::new("na"));
    let main = Progress::new(vec![eu.clone(), na.clone()]);
    let copy = Progress::of_copy(na.clone());
    eu.set_durable(Lsn(20));
    na.set_durable(Lsn(10));
    let seen = || (main.confirmable(), main.needed_from(), copy.confirmable());
    assert_eq!(seen(), (Lsn(10), Lsn(10), Lsn(10)));

    assert!(na.leave(Lsn::ZERO));
    assert_eq!(
        seen(),
        (Lsn(10), Lsn(10), Lsn(10)),
        "it holds the slot, and may come back when the stream starts"
    );
    na.stand_apart();
    assert_eq!(seen(), (Lsn(20), Lsn(20), Lsn(10)), "its copy holds what it lacks");
    assert!(main.behind(Lsn(20)).is_none() && copy.behind(Lsn(11)).is_some());
    assert!(!na.rejoin());

    assert!(na.take_in(|| Lsn(30)));
    assert_eq!(seen(), (Lsn(10), Lsn(10), Lsn(10)), "both slots are held");
    assert!(main.behind(Lsn(20)).is_none(), "the copy still brings it there");
    na.set_durable(Lsn(29));
    assert!(!na.rejoin(), "between its position and 30 only the copy helps");
    na.set_durable(Lsn(30));
    assert!(na.rejoin());
    assert_eq!((na.state(), seen().0), (State::Attached, Lsn(20)));
}

#[test]
fn a_sink_that_is_left_behind_again_while_it_joins_does_not_join() {
    let na = SinkProgress::new("na");
    assert!(na.leave(Lsn::ZERO));
    na.stand_apart();
    assert!(na.take_in(|| Lsn(30)));
    assert!(!na.leave(Lsn::ZERO), "it was not attached");
    na.set_durable(Lsn(40));
    assert!(!na.rejoin(), "what came after 30 went past it");
    assert_eq!(na.state(), State::CatchingUp(Phase::Left));
}

#[test]
fn a_sink_without_a_copy_comes_back_by_a_replay_once_it_has_drained() {
    let na = SinkProgress::new("na");
    na.set_durable(Lsn(10));
    assert!(!na.has_drained() && !na.come_back(), "it is attached");
    assert!(na.leave(Lsn(30)));
    assert!(!na.has_drained());
    na.set_durable(Lsn(30));
    assert!(na.has_drained() && na.come_back());
    assert_eq!(na.state(), State::Attached);
    na.leave(Lsn(30));
    na.stand_apart();
    assert!(!na.has_drained() && !na.come_back(), "it has a stream of its own");
}

#[test]
fn the_main_slot_waits_for_a_sink_from_before_it_is_opened_until_it_is_taken_out() {
    let (eu, ap) = (SinkProgress::new("eu"), SinkProgress::new("ap"));
    let main = Progress::new(vec![eu.clone()]);
    eu.set_durable(Lsn(20));
    ap.await_opening(Lsn(15));
    main.clone().set_sinks(vec![eu.clone(), ap.clone()]);
    assert_eq!((main.confirmable(), ap.is_away(), ap.has_drained()), (Lsn(15), true, false));
    assert!(main.behind(Lsn(20)).is_none(), "it takes no stream yet");
    assert!(ap.arrive(Lsn(18), true) && !ap.is_away());
    assert_eq!((main.confirmable(), ap.state()), (Lsn(18), State::CatchingUp(Phase::Left)));
    assert!(ap.has_drained(), "without a copy the main stream starts again for it");
    ap.retire();
    assert_eq!(main.confirmable(), Lsn(20));
    ap.stop(&Error::halt("its worker is late"));
    assert!(!ap.arrive(Lsn(19), true) && !ap.is_running() && !ap.come_back() && !ap.take_in(|| Lsn(30)));
    assert!(matches!(ap.state(), State::Detached(_)));
}

#[test]
fn a_sink_whose_slot_may_be_past_it_gets_a_copy_or_nothing() {
    let ap = SinkProgress::new("ap");
    ap.await_opening(Lsn(15));
    assert!(ap.arrive(Lsn(18), false));
    ap.set_durable(Lsn(100));
    assert!(!ap.has_drained(), "the main stream could have passed it already");
    ap.stand_apart();
    assert_eq!(ap.state(), State::CatchingUp(Phase::Apart));
}

#[test]
fn a_sink_that_stops_on_its_copy_does_not_hold_the_main_slot() {
    let (eu, na) = (SinkProgress::new("eu"), SinkProgress::new("na"));
    let main = Progress::new(vec![eu.clone(), na.clone()]);
    eu.set_durable(Lsn(20));
    na.leave(Lsn::ZERO);
    na.stand_apart();
    na.stop(&Error::halt("wrong file"));
    assert_eq!(main.confirmable(), Lsn(20));
    na.stand_apart();
    assert!(
        !na.take_in(|| Lsn(30)) && !na.leave(Lsn::ZERO) && !na.is_running(),
        "and nothing starts it again"
    );
}

#[test]
fn the_main_slot_waits_for_a_sink_whose_target_is_gone_until_another_one_is_opened() {
    let (eu, na) = (SinkProgress::new("eu"), SinkProgress::new("na"));
    let main = Progress::new(vec![eu.clone(), na.clone()]);
    [&eu, &na].into_iter().for_each(|sink| sink.set_durable(Lsn(10)));
    assert!(!na.is_lost());
    na.lose(&Error::new(Kind::Replaced, "the file is gone"));
    eu.set_durable(Lsn(20));
    assert!(na.is_lost() && na.is_away() && na.is_running(), "others go on");
    assert_eq!(na.obstacle().as_deref(), Some("the file is gone"));
    assert_eq!((main.confirmable(), na.has_drained()), (Lsn(10), false));
    na.retire();
    assert_eq!(main.confirmable(), Lsn(20));
}

#[test]
fn a_sink_that_is_paused_or_has_failed_for_long_takes_nothing() {
    let (never, eu) = (Duration::from_secs(3600), SinkProgress::new("eu"));
    assert!(!eu.takes_nothing(Duration::ZERO));
    eu.count_retry(&Error::transient("it is locked"));
    assert!(
        eu.takes_nothing(Duration::ZERO) && !eu.takes_nothing(never),
        "one that has just begun to fail may go on"
    );
    eu.recover();
    assert!(!eu.takes_nothing(Duration::ZERO));
    eu.set_paused(true);
    assert!(eu.takes_nothing(never));
}

#[test]
fn a_position_never_goes_back() {
    let eu = SinkProgress::new("eu");
    eu.set_durable(Lsn(10));
    eu.set_durable(Lsn(3));
    assert_eq!(eu.durable_lsn(), Lsn(10));
}
