//! Seeded runs: of every seed, or of the one that `WALCAST_SEED` names.

use std::env::VarError;
use std::fmt::Debug;
use std::num::NonZero;
use std::panic::{RefUnwindSafe, UnwindSafe, catch_unwind, resume_unwind, set_hook, take_hook};
use std::sync::atomic::{AtomicU64, Ordering};

/// Runs every seed below `seeds`, or only the one that is asked for, as many at once as there are processors; a failure
/// names its seed, and ends all.
pub fn each<T: Send>(seeds: u64, run: impl Fn(u64) -> T + RefUnwindSafe + Sync) -> Vec<T> {
    let seeds = asked().map_or(0..seeds, |seed| seed..seed + 1);
    let next = AtomicU64::new(seeds.start);
    let run_some = || {
        let mut ran = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return ran;
            }
            ran.push(catch_unwind(|| run(seed)).unwrap_or_else(|panic| {
                next.store(seeds.end, Ordering::Relaxed);
                eprintln!("failed; replay it with WALCAST_SEED={seed}");
                resume_unwind(panic)
            }));
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..processors).map(|_| scope.spawn(run_some)).collect();
        let ran =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        ran.flatten().collect()
    })
}

/// Takes away each of these safeguards: with every one of them some seed below `seeds` must fail.
pub fn each_is_missed<W, T, const N: usize>(
    safeguards: [W; N],
    seeds: u64,
    run: impl Fn(u64, W) -> T + RefUnwindSafe,
) where
    W: Copy + Debug + UnwindSafe + RefUnwindSafe,
{
    if asked().is_some() {
        return;
    }
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let failures = safeguards.map(|without| {
        let fails = |seed: &u64| catch_unwind(|| run(*seed, without)).is_err();
        (without, (0..seeds).find(fails))
    });
    set_hook(hook);
    eprintln!("the first seed that goes wrong: {failures:?}");
    for (without, failure) in failures {
        assert!(failure.is_some(), "nothing shows that {without:?} is missing");
    }
}

/// The seed that is asked for, or any; it is said which.
pub fn one() -> u64 {
    let seed = asked().unwrap_or_else(|| fastrand::u64(..));
    eprintln!("replay it with WALCAST_SEED={seed}");
    seed
}

/// The seed that is asked for.
pub fn asked() -> Option<u64> {
    match std::env::var("WALCAST_SEED") {
        Ok(seed) => Some(seed.parse().expect("WALCAST_SEED is a number")),
        Err(VarError::NotPresent) => None,
        Err(error) => panic!("WALCAST_SEED: {error}"),
    }
}
