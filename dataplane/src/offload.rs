//! What the router and whoever can replay plain flows elsewhere, such as a program in the kernel, say to each other.

use crate::flow_table::FlowKey;
use crate::port::PortId;
use crate::time::Nanos;

/// A flow that can be replayed elsewhere: each of its packets is counted, its TTL lowered, and delivered to a port.
///
/// It holds for whole packets only that change nothing of the flow's state. TCP segments with SYN, FIN or RST,
/// fragments, IP options, IPv6 extension headers, ICMP and packets whose TTL would end stay with the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffloadEntry {
    /// Ingress port and tuple, as packets have it when they enter.
    pub key: FlowKey,
    /// Where they leave.
    pub target: PortId,
    /// What is taken from TTL or hop limit; a packet that has no more than this stays with the router.
    pub ttl_decrement: u8,
    /// Epoch of the snapshot that decided: the entry counts only while that epoch is in force.
    pub epoch: u32,
}

/// Place of an entry, from its offer to its release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OffloadSlot(pub u32);

/// What was replayed by an entry since it was entered. Each value only ever rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OffloadCounts {
    /// IP packets after segmentation.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
    /// When the last one passed, on the clock of the router's `now`; zero if none did.
    pub last_seen: Nanos,
}
