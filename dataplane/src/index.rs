//! An index from hashes to slots of a table: five octets for each bucket.
//!
//! It is cut into shards that grow one by one, so that growing a large table never holds up packets for as long as
//! it takes to move all of it.

use hashbrown::HashTable;

/// A power of two; the least that makes the moves of a million entries take less than a millisecond each.
const SHARDS: usize = 64;

#[derive(Clone, Debug)]
pub(crate) struct Index {
    shards: Box<[HashTable<u32>]>,
    len: usize,
}

impl Index {
    pub(crate) fn new() -> Index {
        Index { shards: (0..SHARDS).map(|_| HashTable::new()).collect(), len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The slot of this hash for which `is` is true.
    pub(crate) fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        self.shards[shard(hash)].find(hash, |&slot| is(slot)).copied()
    }

    /// Enters a slot that is not in the index; `hash_of` gives the hash of those that are.
    pub(crate) fn insert(&mut self, hash: u64, slot: u32, hash_of: impl Fn(u32) -> u64) {
        self.shards[shard(hash)].insert_unique(hash, slot, |&slot| hash_of(slot));
        self.len += 1;
    }

    pub(crate) fn remove(&mut self, hash: u64, slot: u32) {
        if let Ok(found) = self.shards[shard(hash)].find_entry(hash, |&candidate| candidate == slot) {
            found.remove();
            self.len -= 1;
        }
    }
}

/// By bits that the tables within do not use.
fn shard(hash: u64) -> usize {
    (hash >> 40) as usize % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(slot: u32) -> u64 {
        u64::from(slot).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn finds_what_was_entered_and_nothing_else() {
        let mut index = Index::new();
        for slot in 0..50_000 {
            index.insert(hash(slot), slot, hash);
        }
        for slot in (0..50_000).step_by(3) {
            index.remove(hash(slot), slot);
            index.remove(hash(slot), slot);
        }
        assert_eq!(index.len(), 33_333);
        for slot in 0..60_000 {
            let expected = (slot < 50_000 && slot % 3 != 0).then_some(slot);
            assert_eq!(index.find(hash(slot), |found| found == slot), expected);
        }
    }
}
