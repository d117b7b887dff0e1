//! The worker's devices and sockets, as the router's output.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use vnet_dataplane::{Nanos, OffloadCounts, OffloadEntry, OffloadSlot, PortId, Reason, TunnelId};
use vnet_gateway::{ConnectionStatus, DatagramBatch};
use vnet_router::{Output, Router};

use super::{KernelFlows, TunnelChange};
use crate::io::tun::{TunQueue, Written};
use crate::io::udp::{ReceiveBatch, UdpPort};

/// Batches read from one socket before the next one has its turn.
const BATCHES_MAX: usize = 8;

/// A tunnel socket with the address that it is bound to.
pub(super) struct Bound {
    pub(super) local: SocketAddr,
    pub(super) port: UdpPort,
}

pub(super) struct Ports {
    lab: String,
    queues: Vec<Option<TunQueue>>,
    sockets: Vec<Option<Bound>>,
    /// Taken out for the time in which its datagrams are routed.
    received: Option<ReceiveBatch>,
    changes: Sender<TunnelChange>,
    kernel: Option<Arc<dyn KernelFlows>>,
}

impl Ports {
    pub(super) fn new(
        lab: &str,
        kernel: Option<Arc<dyn KernelFlows>>,
        changes: Sender<TunnelChange>,
    ) -> Ports {
        Ports {
            lab: lab.to_owned(),
            queues: Vec::new(),
            sockets: Vec::new(),
            received: None,
            changes,
            kernel,
        }
    }

    pub(super) fn queue(&self, port: PortId) -> Option<&TunQueue> {
        self.queues.get(port.index())?.as_ref()
    }

    pub(super) fn attach(&mut self, port: PortId, queue: TunQueue) {
        if self.queues.len() <= port.index() {
            self.queues.resize_with(port.index() + 1, || None);
        }
        self.queues[port.index()] = Some(queue);
    }

    pub(super) fn detach(&mut self, port: PortId) -> Option<TunQueue> {
        self.queues.get_mut(port.index())?.take()
    }

    /// An index that no socket has.
    pub(super) fn free_socket(&mut self) -> usize {
        self.sockets.iter().position(Option::is_none).unwrap_or_else(|| {
            self.sockets.push(None);
            self.sockets.len() - 1
        })
    }

    pub(super) fn bind(&mut self, index: usize, socket: Bound) {
        self.sockets[index] = Some(socket);
    }

    pub(super) fn unbind(&mut self, address: SocketAddr) -> Option<Bound> {
        let bound = |socket: &Option<Bound>| socket.as_ref().is_some_and(|socket| socket.local == address);
        let index = self.sockets.iter().position(bound)?;
        self.sockets[index].take()
    }

    /// Hands what a socket has received to the router, a few batches at most.
    pub(super) fn receive(&mut self, index: usize, router: &mut Router, now: Nanos) {
        let mut batch = self.received.take().unwrap_or_default();
        for _ in 0..BATCHES_MAX {
            let Some(Some(socket)) = self.sockets.get_mut(index) else { break };
            let local = socket.local;
            match socket.port.receive_batch(&mut batch) {
                Ok(0) => break,
                Ok(_) => {
                    for (from, data) in batch.datagrams() {
                        router.datagram(local, from, data, now, self);
                    }
                }
                Err(error) => {
                    tracing::warn!(%local, %error, "a tunnel socket failed");
                    break;
                }
            }
        }
        self.received = Some(batch);
        router.flush_opened(now, self);
    }
}

impl Output for Ports {
    fn transmit(&mut self, port: PortId, frame: &[u8]) -> Result<(), Reason> {
        match self.queue(port).map(|queue| queue.write(frame)) {
            Some(Written::Delivered) => Ok(()),
            Some(Written::QueueFull) => Err(Reason::ReceiverQueueFull),
            // The machine is there and has switched its device off, or the device is about to go.
            Some(Written::DeviceDown) | None => Err(Reason::NoListener),
            // The frame is the daemon's own work.
            Some(Written::Refused) => Err(Reason::Internal),
        }
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, segment_size: usize, data: &[u8]) -> bool {
        let socket = self.sockets.iter_mut().flatten().find(|socket| socket.local == from);
        let batch = DatagramBatch { to, segment_size, data };
        socket.is_some_and(|socket| socket.port.send_batch(&batch).is_ok_and(|sent| sent > 0))
    }

    fn tunnel_changed(&mut self, tunnel: TunnelId, status: ConnectionStatus) {
        // Nobody listens any more when the engine has ended.
        let _ = self.changes.send(TunnelChange { lab: self.lab.clone(), tunnel, status });
    }

    fn offload(&mut self, entry: &OffloadEntry) -> Option<OffloadSlot> {
        self.kernel.as_ref()?.enter(entry)
    }

    fn offloaded(&self, slot: OffloadSlot) -> Option<OffloadCounts> {
        self.kernel.as_ref()?.counts(slot)
    }

    fn renew(&mut self, slot: OffloadSlot, epoch: u32) -> bool {
        self.kernel.as_ref().is_some_and(|kernel| kernel.renew(slot, epoch))
    }

    fn is_final(&self, slot: OffloadSlot) -> bool {
        self.kernel.as_ref().is_none_or(|kernel| kernel.is_final(slot))
    }

    fn unmoved(&mut self, port: PortId) {
        if let Some(kernel) = &self.kernel {
            kernel.inspect(port);
        }
    }

    fn withdraw(&mut self, slot: OffloadSlot) {
        if let Some(kernel) = &self.kernel {
            kernel.withdraw(slot);
        }
    }

    fn release(&mut self, slot: OffloadSlot) {
        if let Some(kernel) = &self.kernel {
            kernel.release(slot);
        }
    }
}
