//! The memory that the daemon shares with the programs in the kernel, as `daemon/bpf/offload.bpf.c` has it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, AtomicU64};

use vnet_dataplane::{FiveTuple, FlowKey, PortId, Protocol};

/// Slots of a bucket: as many flows with equal parts of their hashes can be entered at once.
pub(super) const WAYS: usize = 8;
/// Words of a flow's key.
pub(super) const KEY_WORDS: usize = 6;

/// What counts at present.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Control {
    /// Only slots of this epoch count.
    pub(super) epoch: AtomicU32,
    /// Number of buckets less one; the number is a power of two.
    pub(super) mask: AtomicU32,
    /// Where a flow's hash begins: a lab's own, so that nobody can aim at a bucket.
    pub(super) seed: AtomicU64,
    /// Of the programs that were loaded with it, see [`version`].
    pub(super) version: AtomicU64,
}

/// One flow.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Slot {
    pub(super) key: [AtomicU64; KEY_WORDS],
    /// Number of the interface that leads to the receiver, in the fabric's namespace.
    pub(super) target: AtomicU32,
    pub(super) ttl_decrement: AtomicU32,
    /// IP packets after segmentation.
    pub(super) packets: AtomicU64,
    /// Their bytes with IP headers.
    pub(super) bytes: AtomicU64,
    /// CLOCK_MONOTONIC_COARSE, in nanoseconds.
    pub(super) last_seen_ns: AtomicU64,
}

/// The slots that a hash leads to.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Bucket {
    /// As [`tag`] says; 0 where the slot is not in use.
    pub(super) tag: [AtomicU64; WAYS],
    pub(super) slot: [Slot; WAYS],
}

/// A flow's key in the form that the program compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyWords(pub(super) [u64; KEY_WORDS]);

impl KeyWords {
    pub(super) fn of(key: &FlowKey) -> KeyWords {
        let tuple = key.tuple();
        let version = if tuple.source.is_ipv4() { 4 } else { 6 };
        let head = u64::from(key.ingress().0) << 32 | u64::from(tuple.protocol.0) << 8 | version;
        let [s0, s1] = tuple.source_port.to_be_bytes();
        let [d0, d1] = tuple.destination_port.to_be_bytes();
        let ports = u64::from(u32::from_ne_bytes([s0, s1, d0, d1]));
        let (source, destination) = (words_of(tuple.source), words_of(tuple.destination));
        KeyWords([head, ports, source[0], source[1], destination[0], destination[1]])
    }

    /// The key that it was made of; `None` where no key gives these words.
    pub(super) fn flow_key(&self) -> Option<FlowKey> {
        let [head, ports, ..] = self.0;
        let address = |low: u64, high: u64| match head & 0xff {
            4 => Some(IpAddr::V4(Ipv4Addr::from(u32::try_from(low).ok()?.to_ne_bytes()))),
            6 => {
                let mut octets = [0; 16];
                octets[..8].copy_from_slice(&low.to_ne_bytes());
                octets[8..].copy_from_slice(&high.to_ne_bytes());
                Some(IpAddr::V6(Ipv6Addr::from(octets)))
            }
            _ => None,
        };
        let [s0, s1, d0, d1] = u32::try_from(ports).ok()?.to_ne_bytes();
        let tuple = FiveTuple {
            protocol: Protocol((head >> 8) as u8),
            source: address(self.0[2], self.0[3])?,
            destination: address(self.0[4], self.0[5])?,
            source_port: u16::from_be_bytes([s0, s1]),
            destination_port: u16::from_be_bytes([d0, d1]),
        };
        let key = FlowKey::new(PortId((head >> 32) as u32), &tuple);
        (KeyWords::of(&key) == *self).then_some(key)
    }

    /// NIC by whose egress the flow's packets leave their machine.
    pub(super) fn nic(&self) -> u32 {
        (self.0[0] >> 32) as u32
    }

    /// The program's own hash: the upper half chooses the bucket, the lower one is part of the tag.
    pub(super) fn hash(&self, seed: u64) -> u64 {
        self.0.iter().fold(seed, |hash, word| {
            let hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^ hash >> 32
        })
    }
}

/// Tells programs apart that agree in the sizes of their maps and mean something else: FNV-1a of the object that they are in.
pub(super) fn version(object: &[u8]) -> u64 {
    object
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, octet| (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3))
}

/// What a slot in force is marked with.
pub(super) fn tag(epoch: u32, hash: u64) -> u64 {
    u64::from(epoch) << 32 | hash & 0xffff_ffff
}

fn words_of(address: IpAddr) -> [u64; 2] {
    match address {
        IpAddr::V4(address) => [u64::from(u32::from_ne_bytes(address.octets())), 0],
        IpAddr::V6(address) => {
            let octets = address.octets();
            // Halves of sixteen octets are eight.
            let half = |at: usize| u64::from_ne_bytes(octets[at..at + 8].try_into().expect("eight octets"));
            [half(0), half(8)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(source: &str, destination: &str) -> FlowKey {
        let tuple = FiveTuple {
            protocol: Protocol::TCP,
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            source_port: 40_000,
            destination_port: 443,
        };
        FlowKey::new(PortId(7), &tuple)
    }

    #[test]
    fn keys_come_back_as_they_were() {
        for key in [key("10.1.0.4", "10.2.0.4"), key("fd00:1::4", "fd00:2::8000:4")] {
            let words = KeyWords::of(&key);
            assert_eq!((words.flow_key(), words.nic()), (Some(key), 7));
        }
    }

    #[test]
    fn words_of_no_key_are_refused() {
        let mut words = KeyWords::of(&key("10.1.0.4", "10.2.0.4"));
        words.0[3] = 1;
        assert_eq!(words.flow_key(), None, "a second word of an IPv4 address");
        words.0[3] = 0;
        words.0[0] &= !0xff;
        assert_eq!(words.flow_key(), None, "no version");
    }

    #[test]
    fn another_program_has_another_version() {
        assert_ne!(version(b"one program"), version(b"another one"));
        assert_ne!(version(b""), 0);
    }

    #[test]
    fn structures_have_the_sizes_of_the_program_s() {
        assert_eq!(size_of::<Control>(), 24);
        assert_eq!(size_of::<Slot>(), 80);
        assert_eq!(size_of::<Bucket>(), 8 * 8 + 8 * 80);
    }
}
