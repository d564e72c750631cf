//! Which keys an entry's batches touched, as hashes: enough to find the entries of a row, and nothing to read it from.
//!
//! Enters: hashes, from the workers. Leaves: bytes for the file, four for each key. Both what is on its way and what an
//! entry keeps have a limit; beyond it an entry says that it had too many, and may have touched any key.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Keys that one entry keeps.
const KEYS_MAX: usize = 16_384;
/// Hashes that one batch, and an entry that is not written yet, may come to before the same ones are counted once.
const HASHES_MAX: usize = 4 * KEYS_MAX;
/// Hashes in memory, of all sinks together: 4 MiB.
const ON_THE_WAY_MAX: usize = 1 << 20;

/// Hashes in memory.
static ON_THE_WAY: AtomicUsize = AtomicUsize::new(0);

/// The keys that batches touched, or that it is not known which.
#[derive(Debug, Default)]
pub(crate) struct Keys(Option<Vec<u32>>);

impl Keys {
    /// It is not known which.
    pub(super) const UNKNOWN: Keys = Keys(None);

    /// The keys with these hashes, unless there are too many.
    pub(super) fn of(hashes: impl Iterator<Item = u32>) -> Keys {
        let room = ON_THE_WAY_MAX.saturating_sub(ON_THE_WAY.load(Ordering::Relaxed)).min(HASHES_MAX);
        let hashes: Vec<u32> = hashes.take(room + 1).collect();
        if hashes.len() > room {
            return Keys::UNKNOWN;
        }
        ON_THE_WAY.fetch_add(hashes.len(), Ordering::Relaxed);
        Keys(Some(hashes))
    }

    /// Takes the keys of further batches in.
    pub(super) fn add(&mut self, mut other: Keys) {
        match (&mut self.0, &mut other.0) {
            (Some(hashes), Some(more)) => {
                hashes.append(more);
                if hashes.len() > HASHES_MAX {
                    self.condense();
                }
            }
            _ => *self = Keys::UNKNOWN,
        }
    }

    /// Counts the same ones once, and gives up where there are too many.
    fn condense(&mut self) {
        let Some(hashes) = &mut self.0 else { return };
        let before = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        ON_THE_WAY.fetch_sub(before - hashes.len(), Ordering::Relaxed);
        if hashes.len() > KEYS_MAX {
            *self = Keys::UNKNOWN;
        }
    }

    /// What the file keeps; `None` where it is not known which keys there are.
    pub(super) fn take_bytes(&mut self) -> Option<Vec<u8>> {
        self.condense();
        let hashes = self.0.as_ref()?;
        Some(hashes.iter().flat_map(|hash| hash.to_be_bytes()).collect())
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        ON_THE_WAY.fetch_sub(self.0.as_ref().map_or(0, Vec::len), Ordering::Relaxed);
    }
}

/// Whether one of `hashes` is among those that the file keeps.
pub(super) fn holds(kept: &[u8], hashes: &[u32]) -> bool {
    let (kept, _) = kept.as_chunks::<4>();
    // Of numbers of one length in big-endian order, the bytes sort as the numbers do.
    hashes.iter().any(|hash| kept.binary_search(&hash.to_be_bytes()).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_holds_the_keys_of_its_batches_and_no_other() {
        let mut keys = Keys::of([7, u32::MAX, 256].into_iter());
        keys.add(Keys::of([1, 7, 7].into_iter()));
        let bytes = keys.take_bytes().unwrap();
        assert_eq!(bytes.len(), 4 * 4);
        for hash in [1, 7, 256, u32::MAX] {
            assert!(holds(&bytes, &[0, hash]));
        }
        assert!(!holds(&bytes, &[0, 2, 255, 257]) && !holds(&bytes, &[]) && !holds(&[], &[1]));
    }

    #[test]
    fn the_same_keys_again_take_no_room_and_too_many_are_not_known() {
        let mut keys = Keys::of([].into_iter());
        for _ in 0..20 {
            keys.add(Keys::of(0..KEYS_MAX as u32));
        }
        assert_eq!(keys.take_bytes().map(|bytes| bytes.len()), Some(4 * KEYS_MAX));
        keys.add(Keys::of([u32::MAX].into_iter()));
        assert_eq!(keys.take_bytes(), None);
        keys.add(Keys::of([1].into_iter()));
        assert_eq!(keys.take_bytes(), None);
        assert_eq!(Keys::of(0..=HASHES_MAX as u32).take_bytes(), None);
    }
}
