//! A lab's router with a kernel that carries flows as the daemon's program does, and packets to send through both.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use etherparse::PacketBuilder;
use vnet_dataplane::{
    CounterId, FiveTuple, FlowKey, Headers, Nanos, OffloadCounts, OffloadEntry, OffloadSlot, PortId,
    Protocol, Reason, SessionRecord, TcpFlags, TunnelId, VNET_HEADER_LEN,
};
use vnet_fabric::{Event, Snapshot, State, compile};
use vnet_gateway::ConnectionStatus;
use vnet_router::{Ledger, Output, Router, RouterOptions, SessionMemory, Shared, TapFilter, TapId, TapSink};

/// Something that left: where, as what, with which TTL.
pub(crate) type Sent = (PortId, FiveTuple, u8);

/// One packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub(crate) port: PortId,
    pub(crate) tuple: FiveTuple,
    pub(crate) flags: u8,
    pub(crate) ttl: u8,
    pub(crate) payload_bytes: usize,
}

impl Packet {
    fn bytes(&self) -> Vec<u8> {
        let (std::net::IpAddr::V4(from), std::net::IpAddr::V4(to)) =
            (self.tuple.source, self.tuple.destination)
        else {
            panic!("the tests' labs have IPv4 only")
        };
        let builder = PacketBuilder::ipv4(from.octets(), to.octets(), self.ttl);
        let (from, to) = (self.tuple.source_port, self.tuple.destination_port);
        let payload = vec![0x5a; self.payload_bytes];
        let mut packet = Vec::new();
        match self.tuple.protocol {
            Protocol::UDP => builder.udp(from, to).write(&mut packet, &payload),
            _ => {
                let mut builder = builder.tcp(from, to, 1, 4_096);
                if self.flags & TcpFlags::SYN != 0 {
                    builder = builder.syn();
                }
                if self.flags & TcpFlags::ACK != 0 {
                    builder = builder.ack(2);
                }
                if self.flags & TcpFlags::FIN != 0 {
                    builder = builder.fin();
                }
                if self.flags & TcpFlags::RST != 0 {
                    builder = builder.rst();
                }
                builder.write(&mut packet, &payload)
            }
        }
        .expect("written to memory");
        packet
    }
}

#[derive(Debug)]
struct Slot {
    entry: OffloadEntry,
    counts: OffloadCounts,
    withdrawn: bool,
    lost: bool,
}

/// Carries what the router has entered, under the rules of `OffloadEntry`.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) epoch: u32,
    pub(crate) capacity: usize,
    flows: HashMap<FlowKey, OffloadSlot>,
    slots: Vec<Option<Slot>>,
    pub(crate) sent: Vec<Sent>,
    pub(crate) carried: u64,
    /// Nothing is carried, though it is entered.
    pub(crate) passes_by: bool,
    /// Ports whose packets came to the router though they have entries.
    pub(crate) unmoved: Vec<PortId>,
}

impl Kernel {
    pub(crate) fn new(capacity: usize) -> Kernel {
        Kernel {
            epoch: 0,
            capacity,
            flows: HashMap::new(),
            slots: Vec::new(),
            sent: Vec::new(),
            carried: 0,
            passes_by: false,
            unmoved: Vec::new(),
        }
    }

    fn slot(&self, slot: OffloadSlot) -> Option<&Slot> {
        self.slots.get(slot.0 as usize)?.as_ref()
    }

    fn slot_mut(&mut self, slot: OffloadSlot) -> &mut Slot {
        self.slots[slot.0 as usize].as_mut().expect("the router uses its own slots")
    }

    /// Entries that could carry a packet now.
    pub(crate) fn entries(&self) -> Vec<(OffloadSlot, OffloadEntry)> {
        let alive = self.flows.values().filter_map(|slot| Some((*slot, self.slot(*slot)?.entry)));
        alive.collect()
    }

    /// Slots that were not given back.
    pub(crate) fn used(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// Forgets every entry of a port, as when its device goes.
    pub(crate) fn lose(&mut self, port: PortId) {
        let lost: Vec<FlowKey> = self.flows.keys().filter(|key| key.ingress() == port).copied().collect();
        for key in lost {
            if let Some(slot) = self.flows.remove(&key) {
                self.slot_mut(slot).lost = true;
            }
        }
    }

    fn carry(&mut self, packet: &Packet, length: usize, now: Nanos) -> bool {
        let Some(&slot) = self.flows.get(&FlowKey::new(packet.port, &packet.tuple)) else { return false };
        let (epoch, passes_by) = (self.epoch, self.passes_by);
        let Slot { entry, counts, .. } = self.slot_mut(slot);
        let changes = packet.flags & (TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST) != 0;
        if passes_by || entry.epoch != epoch || changes || packet.ttl <= entry.ttl_decrement {
            return false;
        }
        counts.packets += 1;
        counts.bytes += length as u64;
        counts.last_seen = now;
        let sent = (entry.target, packet.tuple, packet.ttl - entry.ttl_decrement);
        self.sent.push(sent);
        self.carried += 1;
        true
    }
}

impl Output for Kernel {
    fn transmit(&mut self, port: PortId, frame: &[u8]) -> Result<(), Reason> {
        let headers = Headers::parse(&frame[VNET_HEADER_LEN..]).expect("the router sends sound packets");
        self.sent.push((port, headers.meta.tuple, headers.meta.ttl));
        Ok(())
    }

    fn send(&mut self, _from: SocketAddr, _to: SocketAddr, _segment_size: usize, _data: &[u8]) -> bool {
        false
    }

    fn tunnel_changed(&mut self, _tunnel: TunnelId, _status: ConnectionStatus) {}

    fn offload(&mut self, entry: &OffloadEntry) -> Option<OffloadSlot> {
        if self.flows.contains_key(&entry.key) || self.flows.len() >= self.capacity {
            return None;
        }
        let slot = Slot { entry: *entry, counts: OffloadCounts::default(), withdrawn: false, lost: false };
        let free = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if free == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[free] = Some(slot);
        let slot = OffloadSlot(free as u32);
        self.flows.insert(entry.key, slot);
        Some(slot)
    }

    fn offloaded(&self, slot: OffloadSlot) -> Option<OffloadCounts> {
        self.slot(slot).filter(|slot| !slot.lost).map(|slot| slot.counts)
    }

    fn renew(&mut self, slot: OffloadSlot, epoch: u32) -> bool {
        if self.slot_mut(slot).lost {
            return false;
        }
        self.slot_mut(slot).entry.epoch = epoch;
        true
    }

    fn withdraw(&mut self, slot: OffloadSlot) {
        let ended = self.slot_mut(slot);
        assert!(!ended.withdrawn, "an entry ends once");
        ended.withdrawn = true;
        let (key, lost) = (ended.entry.key, ended.lost);
        if !lost {
            assert_eq!(self.flows.remove(&key), Some(slot), "a key has one entry");
        }
    }

    fn unmoved(&mut self, port: PortId) {
        self.unmoved.push(port);
    }

    fn release(&mut self, slot: OffloadSlot) {
        let released = self.slot_mut(slot);
        assert!(released.withdrawn || released.lost, "an entry is withdrawn before its release");
        self.slots[slot.0 as usize] = None;
    }
}

/// A router, its policy's state, and the kernel beside it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) router: Router,
    pub(crate) kernel: Kernel,
    pub(crate) now: Nanos,
    state: State,
    options: RouterOptions,
}

impl World {
    pub(crate) fn new(topology: &str, options: RouterOptions, entries_max: usize) -> World {
        let memory = SessionMemory::new(vec![SessionRecord::FREE; 1 << 10]);
        let shared = Arc::new(Shared::new(Snapshot::default(), memory, 7, 0));
        let mut world = World {
            router: Router::new(shared, options, 7),
            kernel: Kernel::new(entries_max),
            now: Nanos::from_millis(1_000),
            state: State::default(),
            options,
        };
        world.apply(topology);
        world
    }

    /// Puts another topology in force, as the daemon does: first entries of the old epoch stop to count.
    pub(crate) fn apply(&mut self, topology: &str) {
        let loaded = vnet_config::load(topology, "test.yaml", None);
        let topology = loaded.unwrap_or_else(|diagnostics| panic!("{diagnostics}")).topology;
        let topology = Arc::new(topology);
        self.state.step(Event::Apply(Arc::clone(&topology)), self.now);
        let snapshot = compile(&topology, &self.state);
        self.kernel.epoch = snapshot.epoch() as u32;
        self.router.shared().snapshot.store(Arc::new(snapshot));
        self.batch(|_| ());
    }

    /// Another router in the place of this one, as after a crash; sessions, snapshot and kernel stay.
    pub(crate) fn restart(&mut self) {
        let shared = Arc::clone(self.router.shared());
        self.router = Router::new(shared, self.options, 9);
        self.router.begin();
        self.router.adopt_offloads(self.kernel.entries(), self.now, &mut self.kernel);
    }

    /// Another worker of the same lab, to be put in the place of this one by `std::mem::swap`.
    pub(crate) fn other_worker(&self) -> Router {
        let mut router = Router::new(Arc::clone(self.router.shared()), self.options, 11);
        router.begin();
        router
    }

    fn batch<T>(&mut self, work: impl FnOnce(&mut World) -> T) -> T {
        self.router.begin();
        let done = work(self);
        self.router.poll_output(self.now, &mut self.kernel);
        done
    }

    /// Sends a packet, by whichever way it goes, and gives what left.
    pub(crate) fn send(&mut self, packet: &Packet) -> Vec<Sent> {
        let bytes = packet.bytes();
        self.kernel.sent.clear();
        if !self.kernel.carry(packet, bytes.len(), self.now) {
            let mut frame = vec![0; VNET_HEADER_LEN];
            frame.extend_from_slice(&bytes);
            self.batch(|world| world.router.input(packet.port, &mut frame, world.now, &mut world.kernel));
        }
        std::mem::take(&mut self.kernel.sent)
    }

    /// Lets time pass; the router wakes when it has asked to be.
    pub(crate) fn pass(&mut self, millis: u64) {
        let end = self.now.0 + millis * 1_000_000;
        while let Some(at) = self.router.next_timeout().filter(|at| at.0 <= end) {
            self.now = self.now.max(at);
            self.batch(|_| ());
        }
        self.now = Nanos(end);
    }

    pub(crate) fn port(&self, name: &str) -> PortId {
        self.router.snapshot().port_by_name(name).expect("the lab has this port").id
    }

    /// Taps the router as the daemon's workers do.
    pub(crate) fn tap<S: TapSink + 'static>(&mut self, filter: TapFilter, sink: &Arc<S>) {
        let sink = Arc::clone(sink);
        self.router.tap(TapId(1), filter, sink);
        self.router.settle_offloads(self.now, &mut self.kernel);
    }

    pub(crate) fn merge(&mut self) {
        self.router.merge_offloads(self.now, &mut self.kernel);
    }

    /// Everything that was counted, once the kernel's part is merged.
    pub(crate) fn counted(&mut self) -> Counted {
        self.merge();
        Counted::of(self.router.ledger(), self.router.snapshot())
    }

    /// (packets, bytes) of every flow by its port and tuple.
    pub(crate) fn flows(&self) -> std::collections::BTreeMap<(PortId, FiveTuple), (u64, u64)> {
        let flows = self.router.flows(self.now).into_iter();
        flows.map(|flow| ((flow.port, flow.tuple), (flow.packets, flow.bytes))).collect()
    }
}

/// A ledger's figures, comparable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Received, sent, dropped packets and bytes by port.
    pub(crate) ports: Vec<(PortId, [u64; 4], Vec<u64>)>,
    /// Counters of peerings.
    pub(crate) counters: Vec<(u64, u64)>,
    /// Received and made, sent and dropped.
    pub(crate) balance: (u64, u64),
}

impl Counted {
    fn of(ledger: &Ledger, snapshot: &Snapshot) -> Counted {
        let ports = (0..64).map(PortId).filter_map(|port| {
            let counts = ledger.port(port)?;
            let pair = |pair: &vnet_router::Pair| [pair.packets.get(), pair.bytes.get()];
            let ([a, b], [c, d]) = (pair(&counts.received), pair(&counts.sent));
            Some((port, [a, b, c, d], counts.drops.iter().map(vnet_router::Single::get).collect()))
        });
        let counters = (0..64).map(|id| ledger.counter(CounterId(id)));
        let balance = ledger.balance();
        assert!(snapshot.counters().len() < 64 && snapshot.ports().count() < 64);
        Counted {
            ports: ports.collect(),
            counters: counters.collect(),
            balance: (balance.received + balance.generated, balance.sent + balance.dropped),
        }
    }
}
