//! Seeded hashes of tuples. The seed is handed in, so that nobody outside can aim at one bucket.

use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;

use foldhash::fast::FixedState;

use crate::tuple::FiveTuple;

/// Protocol and family in one word.
pub(crate) fn kind_of(tuple: &FiveTuple) -> u32 {
    u32::from(tuple.protocol.0) | if tuple.source.is_ipv6() { 0x100 } else { 0 }
}

fn bits_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// An address as two words; [`kind_of`] keeps the families apart.
pub(crate) fn words_of(address: IpAddr) -> [u64; 2] {
    let bits = bits_of(address);
    [(bits >> 64) as u64, bits as u64]
}

/// A hash function of tuples.
#[derive(Clone, Debug)]
pub struct TupleHash(FixedState);

impl TupleHash {
    /// The function that belongs to `seed`.
    pub fn new(seed: u64) -> TupleHash {
        TupleHash(FixedState::with_seed(seed))
    }

    /// The same for a tuple and for its reverse: both directions of a flow come to one shard.
    pub fn symmetric(&self, tuple: &FiveTuple) -> u64 {
        self.symmetric_within(0, tuple)
    }

    /// As [`TupleHash::symmetric`], within the space of `scope`.
    pub(crate) fn symmetric_within(&self, scope: u32, tuple: &FiveTuple) -> u64 {
        let kind = u64::from(scope) << 32 | u64::from(kind_of(tuple));
        let ports = (u64::from(tuple.source_port), u64::from(tuple.destination_port));
        if let (IpAddr::V4(source), IpAddr::V4(destination)) = (tuple.source, tuple.destination) {
            let source = u64::from(source.to_bits()) << 16 | ports.0;
            let destination = u64::from(destination.to_bits()) << 16 | ports.1;
            return self.words(&[source.min(destination), source.max(destination), kind]);
        }
        let source = (bits_of(tuple.source), ports.0);
        let destination = (bits_of(tuple.destination), ports.1);
        let (low, high) = if source <= destination { (source, destination) } else { (destination, source) };
        let word = |bits: u128, shift: u32| (bits >> shift) as u64;
        let ports = low.1 << 16 | high.1;
        self.words(&[word(low.0, 64), word(low.0, 0), word(high.0, 64), word(high.0, 0), ports, kind])
    }

    pub(crate) fn words(&self, words: &[u64]) -> u64 {
        let mut hasher = self.0.build_hasher();
        for word in words {
            hasher.write_u64(*word);
        }
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tuple::Protocol;

    #[test]
    fn symmetric_and_seeded() {
        let hash = TupleHash::new(1);
        let other = TupleHash::new(2);
        let mut shards = [0usize; 8];
        for port in 0..8_000u16 {
            let tuple = FiveTuple {
                protocol: Protocol::TCP,
                source: "10.0.0.1".parse().unwrap(),
                destination: "10.0.0.2".parse().unwrap(),
                source_port: port,
                destination_port: 443,
            };
            assert_eq!(hash.symmetric(&tuple), hash.symmetric(&tuple.reversed()));
            assert_ne!(hash.symmetric(&tuple), other.symmetric(&tuple));
            shards[(hash.symmetric(&tuple) >> 61) as usize] += 1;
        }
        assert!(shards.iter().all(|&count| (800..1_200).contains(&count)), "{shards:?}");
    }
}
