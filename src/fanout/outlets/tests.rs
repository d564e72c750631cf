//! Who is waited for, who is left behind, and who is taken in where.

use std::thread;

use super::*;
use crate::decode::Event;
use crate::decode::message::Begin;
use crate::encode::mapper::Mapper;
use crate::encode::plan::Plan;
use crate::fanout::chain::{Chain, chain};
use crate::fanout::progress::{Phase, State};
use crate::fanout::queue::Received;

const LONG: Duration = Duration::from_secs(3600);

/// A transaction without changes.
fn run(commit: u64, is_whole: bool) -> Delivery {
    let mut mapper = Mapper::new(Arc::new(Plan::default()), 1, Lsn::ZERO);
    let begin = Begin { commit_lsn: Lsn(commit), commit_time_micros: 0, xid: 1 };
    mapper.map(Event::Begin(begin));
    if is_whole {
        mapper.map(Event::Commit { end_lsn: Lsn(commit + 8) });
    }
    Delivery::Run(Arc::new(mapper.take_full().unwrap()))
}

struct Taker {
    sink: Arc<SinkProgress>,
    chain: Chain,
    inlets: crossbeam_channel::Sender<Inlet>,
}

impl Taker {
    fn new(name: &str, outlets: &Outlets, bytes_max: usize) -> Self {
        let sink = SinkProgress::new(name);
        let (inlets, chain) = chain();
        let (outlet, inlet) = outlets.queue(&sink, bytes_max);
        outlets.attach(outlet);
        inlets.send(inlet).unwrap();
        Taker { sink, chain, inlets }
    }

    /// Where the deliveries end that are there, and which are restarts.
    fn take(&mut self) -> Vec<Option<u64>> {
        std::iter::from_fn(|| self.take_one()).collect()
    }

    fn take_one(&mut self) -> Option<Option<u64>> {
        let Received::Item(delivery) = self.chain.try_receive() else { return None };
        self.chain.release(delivery.bytes());
        Some(delivery.end_lsn().map(|lsn| lsn.0))
    }

    /// Takes what is sent, while sending it may wait for another sink.
    fn take_while_sending(&mut self, outlets: &Outlets, lsn: u64) {
        thread::scope(|scope| {
            let sending = scope.spawn(|| outlets.send(&run(lsn, true)));
            while self.take() != [Some(lsn + 8)] {
                thread::yield_now();
            }
            sending.join().unwrap();
        });
    }
}

#[test]
fn a_river_that_waits_for_a_sink_goes_on_once_that_one_is_taken_out() {
    let (outlets, mut left) = Outlets::new(LONG);
    let (stuck, mut quick) = (Taker::new("stuck", &outlets, 1), Taker::new("quick", &outlets, 1000));
    outlets.send(&run(100, true));
    thread::scope(|scope| {
        let sending = scope.spawn(|| outlets.send(&run(200, true)));
        while outlets.blocked_for() == Duration::ZERO {
            thread::yield_now();
        }
        stuck.sink.retire();
        sending.join().unwrap();
    });
    assert_eq!(quick.take(), [Some(108), Some(208)]);
    assert!(left.try_recv().is_err(), "it did not leave by itself");
    quick.sink.retire();
    outlets.let_go();
    outlets.send(&run(300, true));
    assert!(quick.take().iter().all(Option::is_none), "its queue is closed");
}

#[test]
fn a_stuck_sink_is_left_behind_once_another_has_nothing_to_do_and_keeps_what_is_queued() {
    let (outlets, mut left) = Outlets::new(Duration::from_millis(1));
    let (mut stuck, mut quick) = (Taker::new("stuck", &outlets, 1), Taker::new("quick", &outlets, 1000));
    outlets.send(&run(100, true));
    assert_eq!(quick.take(), [Some(108)]);
    // Nobody starves until the second one is taken too.
    quick.take_while_sending(&outlets, 200);
    assert_eq!(stuck.sink.state(), State::CatchingUp(Phase::Left));
    assert_eq!(left.try_recv().unwrap().name, "stuck");
    outlets.send(&run(300, true));
    // Behind what was queued for it, its worker forgets what has not ended and waits for another queue.
    assert_eq!(stuck.take(), [Some(108), None]);
    assert_eq!((quick.take(), quick.sink.state()), (vec![Some(308)], State::Attached));
    assert_eq!(outlets.position(), Lsn(308));
    // What it would ask for comes with that queue.
    stuck.chain.request_replay();
    assert_eq!(outlets.replays_requested(), 0);
}

#[test]
fn nobody_waits_for_a_sink_that_is_paused() {
    let (outlets, mut left) = Outlets::new(LONG);
    let (paused, mut quick) = (Taker::new("paused", &outlets, 1), Taker::new("quick", &outlets, 1000));
    paused.sink.set_paused(true);
    outlets.send(&run(100, true));
    assert_eq!(quick.take(), [Some(108)]);
    quick.take_while_sending(&outlets, 200);
    assert_eq!(left.try_recv().unwrap().name, "paused");
}

#[test]
fn a_sink_for_which_nobody_waits_is_waited_for() {
    let (outlets, _) = Outlets::new(Duration::ZERO);
    let mut alone = Taker::new("alone", &outlets, 1);
    outlets.send(&run(100, true));
    thread::scope(|scope| {
        let sending = scope.spawn(|| outlets.send(&run(200, true)));
        while outlets.blocked_for().is_zero() {
            thread::yield_now();
        }
        assert_eq!(alone.take_one(), Some(Some(108)));
        sending.join().unwrap();
    });
    assert_eq!((alone.take(), alone.sink.state()), (vec![Some(208)], State::Attached));
}

#[test]
fn a_sink_is_not_taken_for_the_one_of_its_name_that_was_taken_out() {
    let (outlets, mut left) = Outlets::new(LONG);
    let mut before = Taker::new("eu", &outlets, 1000);
    let after = SinkProgress::new("eu");
    outlets.leave(&after);
    assert!(left.try_recv().is_err());
    outlets.send(&run(100, true));
    assert_eq!((before.take(), before.sink.state()), (vec![Some(108)], State::Attached));
    outlets.leave(&before.sink);
    let (outlet, _inlet) = outlets.queue(&before.sink, 1000);
    outlets.come_back(outlet);
    assert!(outlets.is_returning(&before.sink) && !outlets.is_returning(&after));
}

#[test]
fn sinks_that_are_both_full_wait_for_each_other() {
    let (outlets, _) = Outlets::new(Duration::ZERO);
    let (mut one, mut other) = (Taker::new("one", &outlets, 1), Taker::new("other", &outlets, 1));
    outlets.send(&run(100, true));
    thread::scope(|scope| {
        let sending = scope.spawn(|| outlets.send(&run(200, true)));
        while outlets.blocked_for().is_zero() {
            thread::yield_now();
        }
        assert_eq!(one.sink.state(), other.sink.state());
        // As soon as one has room it gets what was sent, so it does not starve while it works on that.
        assert_eq!(other.take_one(), Some(Some(108)));
        assert_eq!(one.take_one(), Some(Some(108)));
        sending.join().unwrap();
    });
    assert_eq!((one.sink.state(), other.sink.state()), (State::Attached, State::Attached));
}

#[test]
fn a_sink_is_taken_in_only_between_transactions_and_gets_all_from_there() {
    let (outlets, _) = Outlets::new(LONG);
    let (mut na, mut eu) = (Taker::new("na", &outlets, 1000), Taker::new("eu", &outlets, 1000));
    outlets.leave(&eu.sink);
    eu.sink.stand_apart();
    let rejoin = |eu: &Taker| {
        let (outlet, inlet) = outlets.queue(&eu.sink, 1000);
        eu.inlets.send(inlet).unwrap();
        outlets.join(outlet);
    };
    // Nothing has been sent yet, so nothing is known of where a session would start.
    rejoin(&eu);
    outlets.send(&Delivery::Restart);
    outlets.send(&run(100, false));
    assert_eq!(eu.sink.state(), State::CatchingUp(Phase::Apart));
    outlets.send(&run(100, true));
    assert_eq!(eu.sink.state(), State::CatchingUp(Phase::Joining(Lsn(108))));
    outlets.send(&run(200, true));
    assert_eq!(eu.take(), [None, Some(208)]);
    assert_eq!(na.take(), [None, None, Some(108), Some(208)]);

    // Left behind before it was back; taken in at once where the river rests.
    outlets.leave(&eu.sink);
    eu.sink.stand_apart();
    rejoin(&eu);
    assert_eq!(eu.sink.state(), State::CatchingUp(Phase::Joining(Lsn(208))));
}

#[test]
fn a_sink_is_taken_in_no_earlier_than_where_the_slot_may_have_been_confirmed_without_it() {
    let (outlets, _) = Outlets::new(LONG);
    let (na, eu) = (Taker::new("na", &outlets, 1000), Taker::new("eu", &outlets, 1000));
    let joins_at = |lsn| {
        outlets.leave(&eu.sink);
        eu.sink.stand_apart();
        let (outlet, _inlet) = outlets.queue(&eu.sink, 1000);
        outlets.join(outlet);
        assert_eq!(eu.sink.state(), State::CatchingUp(Phase::Joining(Lsn(lsn))));
    };
    outlets.send(&run(1000, true));
    // The stream starts again behind what the others have.
    outlets.send(&Delivery::Restart);
    outlets.send(&Delivery::Idle(Lsn(600)));
    joins_at(1008);
    // Another sink's own stream has brought it further than this one is.
    na.sink.set_durable(Lsn(2000));
    joins_at(2000);
}

#[test]
fn a_river_that_waits_gives_up_when_the_outlets_are_closed() {
    let (outlets, _) = Outlets::new(LONG);
    let _stuck = Taker::new("stuck", &outlets, 1);
    outlets.send(&run(100, true));
    thread::scope(|scope| {
        let sending = scope.spawn(|| outlets.send(&run(200, true)));
        while outlets.blocked_for().is_zero() {
            thread::yield_now();
        }
        outlets.close();
        sending.join().unwrap();
    });
}
