//! One dimension: the values' space cut into intervals within which the same rules match.

use std::collections::{BTreeMap, HashMap};

use super::bitset::{Dense, Row, SparseSets};

/// A value of a dimension.
pub(super) trait Key: Copy + Ord {
    const MIN: Self;
    const MAX: Self;
    fn successor(self) -> Option<Self>;
}

macro_rules! key {
    ($($kind:ty),+) => {
        $(impl Key for $kind {
            const MIN: Self = <$kind>::MIN;
            const MAX: Self = <$kind>::MAX;
            fn successor(self) -> Option<Self> {
                self.checked_add(1)
            }
        })+
    };
}

key!(u8, u16, u32, u128);

/// The sets of one dimension.
#[derive(Clone, Debug)]
pub(super) struct Plane<K> {
    any: Dense,
    sets: SparseSets,
    /// Where intervals begin, ascending, the first at the space's start.
    starts: Vec<K>,
    /// The set of each interval.
    intervals: Vec<u32>,
}

impl<K: Key> Plane<K> {
    /// `fields` gives, rule by rule, the ranges that it names, or none for any value.
    pub(super) fn build(fields: impl ExactSizeIterator<Item = Option<Vec<(K, K)>>>) -> Plane<K> {
        let rules = fields.len();
        let mut any = Dense::new(rules);
        let mut events: Vec<(K, bool, u32)> = Vec::new();
        for (rule, field) in fields.enumerate() {
            match field {
                None => any.insert(rule),
                Some(ranges) => {
                    for (first, last) in ranges {
                        events.push((first, true, rule as u32));
                        if let Some(end) = last.successor() {
                            events.push((end, false, rule as u32));
                        }
                    }
                }
            }
        }
        events.sort_unstable();
        let mut plane =
            Plane { any, sets: SparseSets::new(rules), starts: Vec::new(), intervals: Vec::new() };
        plane.sweep(&events);
        plane
    }

    fn sweep(&mut self, events: &[(K, bool, u32)]) {
        // How many of a rule's ranges cover the point that the sweep has reached.
        let mut active: BTreeMap<u32, u32> = BTreeMap::new();
        let mut known: HashMap<Vec<u32>, u32> = HashMap::new();
        let empty = self.sets.push(std::iter::empty());
        known.insert(Vec::new(), empty);
        self.starts.push(K::MIN);
        self.intervals.push(empty);
        for group in events.chunk_by(|a, b| a.0 == b.0) {
            for &(_, begins, rule) in group {
                let count = active.entry(rule).or_insert(0);
                // Ends sort before beginnings: a count may touch zero only to rise again.
                *count = if begins { *count + 1 } else { count.saturating_sub(1) };
                if *count == 0 {
                    active.remove(&rule);
                }
            }
            let members: Vec<u32> = active.keys().copied().collect();
            let set = match known.get(&members) {
                Some(&set) => set,
                None => {
                    let set = self.sets.push(members.iter().copied());
                    known.insert(members, set);
                    set
                }
            };
            let start = group[0].0;
            if start == K::MIN {
                self.intervals[0] = set;
            } else if self.intervals.last() != Some(&set) {
                self.starts.push(start);
                self.intervals.push(set);
            }
        }
    }

    /// The rules that match `value`.
    pub(super) fn row(&self, value: K) -> Row<'_> {
        let interval = self.starts.partition_point(|start| *start <= value).saturating_sub(1);
        Row::new(&self.any, &self.sets, self.intervals.get(interval).copied())
    }

    /// The rules that match whatever the value.
    pub(super) fn any(&self) -> Row<'_> {
        Row::new(&self.any, &self.sets, None)
    }
}
