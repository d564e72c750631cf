//! Six regions of which three fail, each in its own way: the others do not notice, and afterwards all are equal.
//!
//! The failures last for ten seconds, or for as many as `WALCAST_FAULT_SECONDS` says.

#[path = "support/pipeline.rs"]
mod pipeline;
#[path = "support/regions.rs"]
mod regions;

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use pipeline::{Pipeline, Session, parse_lsn};
use regions::{Region, Regions};
use serde_json::json;
use walcast::Lsn;

const FAILING: [(&str, &str); 3] = [("na", "internal-error"), ("eu", "429"), ("asia", "hang")];
const HEALTHY: [&str; 3] = ["sa", "oc", "af"];

fn checkpoint(region: &Region) -> Lsn {
    region.checkpoint().expect("readers are spared the faults").0
}

#[test]
fn regions_that_fail_do_not_hold_the_others_back_and_come_back_by_themselves() {
    let seconds =
        std::env::var("WALCAST_FAULT_SECONDS").map_or(10, |seconds| seconds.parse().expect("a number"));
    let regions = Regions::start(&["na", "eu", "asia", "sa", "oc", "af"]);
    let region =
        |name: &str| regions.all().iter().find(|region| region.name == name).expect("it is one of six");
    // A small queue, so that a region that fails is soon beyond it. Not too small: after a 429 its token keeps to four
    // requests a second, as the API says, and a request holds what has queued.
    let mut pipeline = Pipeline::builder()
        .setting("max_replication_slots", "10")
        .setting("max_wal_senders", "10")
        .only(&format!(
            "[queue]\nmax_bytes = \"512KiB\"\n[transaction]\npart_max_bytes = \"32KiB\"\n{}",
            regions.sections()
        ))
        .build(
            "CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int, pad text)",
            &json!({"t": {"primaryKey": "id", "columns": {"id": "INTEGER", "n": "INTEGER", "pad": "TEXT"}}}),
        );
    pipeline.start();
    for region in regions.all() {
        pipeline.eventually("the slot and the first checkpoints", || region.checkpoint());
    }
    let (stop, committed) = (AtomicBool::new(false), AtomicI64::new(0));
    let url = pipeline.cluster.url();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let session = Session::connect(&url).unwrap();
            while !stop.load(Ordering::Relaxed) {
                session
                    .exec("INSERT INTO t (n, pad) SELECT i, repeat('x', 200) FROM generate_series(1, 20) i")
                    .unwrap();
                committed.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for region in regions.all() {
                let has_some = || region.checkpoint().filter(|(_, transactions)| *transactions > 20);
                pipeline.eventually("the first transactions everywhere", has_some);
            }
            for (name, kind) in FAILING {
                regions.workerd.order(&json!({"db": name, "kind": kind, "times": "until cleared"})).unwrap();
            }
            let began = Instant::now();
            let mut lags: Vec<u64> = Vec::new();
            while began.elapsed() < Duration::from_secs(seconds) {
                // What is there now gets to the healthy ones, and there is no need to wait for the others.
                let now = pipeline.wal_lsn();
                for name in HEALTHY {
                    let asked = Instant::now();
                    pipeline.eventually(&format!("region {name} to be at {now}"), || {
                        (checkpoint(region(name)) >= now).then_some(())
                    });
                    lags.push(asked.elapsed().as_millis() as u64);
                }
                let slots =
                    pipeline.exec("SELECT slot_name || ' ' || confirmed_flush_lsn FROM pg_replication_slots");
                for (name, _) in FAILING {
                    // A failing region is held by the main slot, or by its own.
                    let own = format!("walcast__{name} ");
                    let held = slots.iter().find_map(|slot| slot.strip_prefix(&own));
                    let held = held.or_else(|| slots.iter().find_map(|slot| slot.strip_prefix("walcast ")));
                    let at = checkpoint(region(name));
                    assert!(parse_lsn(held.expect("a slot")) <= at, "{name} is at {at}: {slots:?}");
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            for (name, _) in FAILING {
                assert!(checkpoint(region(name)) < checkpoint(region("sa")), "{name} was to fail");
            }
            lags.sort_unstable();
            let of = |part: f64| lags[(lags.len() as f64 * part) as usize];
            eprintln!("healthy regions: lag p50 {} ms, p99 {} ms, {} samples", of(0.5), of(0.99), lags.len());
            regions.workerd.clear_faults().unwrap();
        }));
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let recovered = Instant::now();
    for region in regions.all() {
        pipeline.eventually(&format!("region {} to have everything", region.name), || {
            region.checkpoint().filter(|(_, transactions)| *transactions == committed.load(Ordering::Relaxed))
        });
    }
    eprintln!("all six had everything {:.1} s after the faults ended", recovered.elapsed().as_secs_f64());
    let expected = pipeline.exec("SELECT count(*), sum(id), sum(n) FROM t");
    for region in regions.all() {
        assert_eq!(region.rows("SELECT count(*), sum(id), sum(n) FROM t"), expected, "{}", region.name);
    }
    let is_gone = || {
        let slots = pipeline.exec("SELECT slot_name FROM pg_replication_slots");
        (slots == ["walcast"]).then_some(())
    };
    pipeline.eventually("the copies of the slot to be dropped", is_gone);
    assert_eq!(regions.workerd.violations().unwrap(), 0, "{}", regions.workerd.stats().unwrap()["violated"]);
    assert_eq!(pipeline.stop(), Some(0));
}
