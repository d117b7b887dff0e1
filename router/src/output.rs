//! Where the router's packets go: the one seam between it and the world.

use std::net::SocketAddr;

use vnet_dataplane::{OffloadCounts, OffloadEntry, OffloadSlot, PortId, Reason, TunnelId};
use vnet_gateway::ConnectionStatus;

/// Takes what the router sends. The daemon writes to devices and sockets, a simulation records.
///
/// The router hands out its own buffer for the time of the call, so a packet is copied once on the way in
/// and once on the way out, and none waits in a queue that nobody asked for.
pub trait Output {
    /// Writes one frame, a 10-byte virtio_net header followed by an IP packet, to a port's device.
    ///
    /// # Errors
    /// Why the device did not take it: the reason of the drop.
    fn transmit(&mut self, port: PortId, frame: &[u8]) -> Result<(), Reason>;

    /// Sends datagrams that lie one after the other in `data`, each of `segment_size` bytes but the last,
    /// which may be shorter, from the public address `from` to `to`. `false` if they were not taken.
    fn send(&mut self, from: SocketAddr, to: SocketAddr, segment_size: usize, data: &[u8]) -> bool;

    /// A tunnel's state has changed: the control plane wants to know.
    fn tunnel_changed(&mut self, tunnel: TunnelId, status: ConnectionStatus);

    /// Replays the flow's packets elsewhere from now on, so that they do not come to the router any more. `None` where
    /// that is not possible at present: the router asks again later. A key that has an entry already is refused.
    ///
    /// Called between two batches, not per packet.
    fn offload(&mut self, _entry: &OffloadEntry) -> Option<OffloadSlot> {
        None
    }

    /// What an entry has replayed since it was entered, after its withdrawal too and until its release. `None` if it was
    /// lost, with what it counted since it was last asked: the router releases it then.
    fn offloaded(&self, _slot: OffloadSlot) -> Option<OffloadCounts> {
        None
    }

    /// Lets the entry count in another epoch too: the flow was decided anew, and all but the epoch is the same. False
    /// where that is not possible: the router withdraws the entry then.
    fn renew(&mut self, _slot: OffloadSlot, _epoch: u32) -> bool {
        false
    }

    /// Ends an entry: its packets come to the router again, but those that are under way at this moment. Those are
    /// still counted, which is why the slot stays until its release.
    fn withdraw(&mut self, _slot: OffloadSlot) {}

    /// Whether the counts of a withdrawn entry are final: nothing is under way any more. Asked from 100 ms after the
    /// withdrawal on.
    fn is_final(&self, _slot: OffloadSlot) -> bool {
        true
    }

    /// Packets that an entry in force should replay come to the router instead, for a second or more: whatever keeps those of
    /// this port from being replayed may be looked for. Called about once a second for each such flow.
    fn unmoved(&mut self, _port: PortId) {}

    /// Gives a slot back, which nobody else gets before: that of an entry which was lost, or was withdrawn and whose counts
    /// are final, and have been read by the router since.
    fn release(&mut self, _slot: OffloadSlot) {}
}
