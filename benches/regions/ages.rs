//! How old the newest change of each region is, read from it as an application reads it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::api::TIMEOUT;
use crate::regions::{Reader, Regions};

/// Between two looks at all files.
const INTERVAL: Duration = Duration::from_millis(10);
/// The same with databases, where each look is a request.
const DATABASE_INTERVAL: Duration = Duration::from_millis(50);

/// The regions that are looked at.
pub struct Ages<'a> {
    regions: &'a Regions,
    readers: BTreeMap<String, Reader>,
}

impl<'a> Ages<'a> {
    pub fn new(regions: &'a Regions, names: &[&str]) -> Self {
        let readers = names.iter().map(|name| ((*name).to_owned(), opened(regions, name))).collect();
        Ages { regions, readers }
    }

    /// Looks at all regions but one for as long as this takes; the ages of their newest changes.
    pub fn measure(&mut self, without: Option<&str>, act: &(dyn Fn() + Sync)) -> Vec<Duration> {
        // It may be another file afterwards, and a reader must not keep the old one from being let go.
        let left_out = without.and_then(|name| self.readers.remove_entry(name)).map(|(name, _)| name);
        let interval = match self.regions {
            Regions::Files(_) => INTERVAL,
            Regions::Databases(..) => DATABASE_INTERVAL,
        };
        let mut ages = Vec::new();
        std::thread::scope(|scope| {
            let acting = scope.spawn(act);
            while !acting.is_finished() {
                ages.extend(self.readers.values().map(age));
                std::thread::sleep(interval);
            }
            acting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
        if let Some(name) = left_out {
            let reader = opened(self.regions, &name);
            self.readers.insert(name, reader);
        }
        ages
    }
}

/// A region to which a change has come.
fn opened(regions: &Regions, name: &str) -> Reader {
    let reader = regions.reader(name);
    let started = Instant::now();
    while reader
        .text("SELECT coalesce(CAST(commit_time_micros AS TEXT), '') FROM _walcast_checkpoint")
        .is_empty()
    {
        assert!(started.elapsed() < TIMEOUT, "no change comes to {name}");
        std::thread::sleep(INTERVAL);
    }
    reader
}

fn age(region: &Reader) -> Duration {
    let micros = region.text("SELECT CAST(commit_time_micros AS TEXT) FROM _walcast_checkpoint");
    let committed = UNIX_EPOCH + Duration::from_micros(micros.parse().expect("a time"));
    SystemTime::now().duration_since(committed).unwrap_or_default()
}
