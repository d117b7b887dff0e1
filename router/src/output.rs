//! Where the router's packets go: the one seam between it and the world.

use std::net::SocketAddr;

use vnet_dataplane::{PortId, Reason, TunnelId};
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
}
