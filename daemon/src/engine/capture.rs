//! Captures: taps in the workers, and what they take as a pcapng file.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::mpsc;
use vnet_api::CaptureRequest;
use vnet_dataplane::{Nanos, PortId};
use vnet_fabric::snapshot::{CounterKind, PortKind, Snapshot};
use vnet_fabric::{RuleId, Verdict};
use vnet_router::{TapFilter, TapId, TapSink, Tapped};

use super::lab::Lab;
use super::live::{owner_name, port_name};
use crate::api::{Answer, ApiError};
use crate::pcapng::{Direction, Writer};
use crate::worker::monotonic;

/// Bytes of packets that may wait for the reader; what comes when they are there is lost, and counted.
const RING_BYTES_MAX: usize = 32 << 20;
/// How often a capture that sees no packet looks whether its reader and its lab are still there.
const LOOK: Duration = Duration::from_millis(200);

static TAPS: AtomicU64 = AtomicU64::new(0);

/// A packet on its way from a worker to the reader.
#[derive(Debug)]
struct Taken {
    at: Nanos,
    port: PortId,
    entered: bool,
    verdict: Option<Verdict>,
    decided_by: Option<RuleId>,
    packet: Vec<u8>,
}

#[derive(Debug, Default)]
struct Waiting {
    packets: VecDeque<Taken>,
    bytes: usize,
    lost: u64,
}

/// Between the workers and the reader: bounded, and never waits for the reader.
#[derive(Debug, Default)]
struct Ring {
    waiting: Mutex<Waiting>,
    filled: Condvar,
}

impl Ring {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // A packet is added or taken whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has come, once there is something or the time is over.
    fn take(&self, limit: Duration) -> VecDeque<Taken> {
        let waiting = self.waiting();
        let outcome = self.filled.wait_timeout_while(waiting, limit, |waiting| waiting.packets.is_empty());
        let (mut waiting, _) = outcome.unwrap_or_else(PoisonError::into_inner);
        waiting.bytes = 0;
        std::mem::take(&mut waiting.packets)
    }
}

impl TapSink for Ring {
    fn take(&self, tapped: &Tapped<'_>) {
        let mut waiting = self.waiting();
        if waiting.bytes + tapped.packet.len() > RING_BYTES_MAX {
            waiting.lost += 1;
            return;
        }
        waiting.bytes += tapped.packet.len();
        waiting.packets.push_back(Taken {
            at: tapped.at,
            port: tapped.port,
            entered: tapped.entered,
            verdict: tapped.verdict,
            decided_by: tapped.decided_by,
            packet: tapped.packet.to_vec(),
        });
        self.filled.notify_one();
    }
}

/// A running capture. Dropping it ends its taps.
pub(super) struct Capture {
    lab: Arc<Lab>,
    id: TapId,
    ring: Arc<Ring>,
    ports: Vec<PortId>,
    target: String,
    request: CaptureRequest,
}

impl Drop for Capture {
    fn drop(&mut self) {
        let id = self.id;
        for worker in &self.lab.workers {
            worker.ask(move |router, _| router.untap(id));
        }
    }
}

impl Capture {
    /// Begins to capture: from the return of this on, no packet of the target passes unseen.
    pub(super) fn begin(lab: Arc<Lab>, request: CaptureRequest) -> Answer<Capture> {
        let snapshot = lab.snapshot();
        let filter = filter(&snapshot, &request.target).ok_or_else(|| {
            let message = format!(
                "The lab has no machine, NIC, peering or connection '{}': captures are of a VM, VM/NIC, NETWORK/NETWORK or a \
                 connection.",
                request.target
            );
            ApiError::unresolved(message)
        })?;
        let id = TapId(TAPS.fetch_add(1, Ordering::Relaxed));
        let ring = Arc::new(Ring::default());
        let ports = filter.ports.clone();
        let target = request.target.clone();
        let capture = Capture { lab, id, ring, ports, target, request };
        for worker in &capture.lab.workers {
            let (filter, sink) = (filter.clone(), Arc::clone(&capture.ring));
            worker.ask(move |router, _| router.tap(id, filter, sink));
        }
        Ok(capture)
    }

    /// Sends the file, piece by piece, until what was asked for is there or nobody reads any more.
    pub(super) fn run(self, pieces: &mpsc::Sender<Bytes>) {
        let mut file = Writer::new();
        let mut interfaces = HashMap::new();
        let snapshot = self.lab.snapshot();
        for port in &self.ports {
            interfaces.insert(*port, file.interface(&port_name(&snapshot, *port), ""));
        }
        // A link's packets are seen where they enter the lab; the interface is the link.
        let link = self.ports.is_empty().then(|| file.interface(&self.target, "link"));
        let offset_ns = wall_offset_ns();
        let end = self.request.seconds.map(|seconds| monotonic() + Duration::from_secs(seconds));
        let mut left = self.request.count.unwrap_or(u64::MAX);
        while pieces.blocking_send(file.take().into()).is_ok() && left > 0 {
            let now = monotonic();
            let rest = end.map_or(LOOK, |end| end.since(now).min(LOOK));
            if rest.is_zero() || self.lab.while_open(|| ()).is_none() {
                break;
            }
            let snapshot = self.lab.snapshot();
            for taken in self.ring.take(rest) {
                if left == 0 {
                    break;
                }
                left -= 1;
                let interface = match link {
                    Some(link) => link,
                    None => *interfaces
                        .entry(taken.port)
                        .or_insert_with(|| file.interface(&port_name(&snapshot, taken.port), "")),
                };
                let direction = if taken.entered { Direction::Outbound } else { Direction::Inbound };
                let comment = comment(&snapshot, &taken);
                file.packet(interface, taken.at.0 + offset_ns, direction, &comment, &taken.packet);
            }
            if pieces.is_closed() {
                return;
            }
        }
        let lost = self.ring.waiting().lost;
        file.statistics(link.unwrap_or(0), monotonic().0 + offset_ns, lost);
        // The reader may have gone in this moment.
        let _ = pieces.blocking_send(file.take().into());
    }
}

/// What a name stands for: a machine's NICs, one NIC, both directions of a peering, or a connection's tunnels.
fn filter(snapshot: &Snapshot, target: &str) -> Option<TapFilter> {
    let has_device = |kind: &PortKind| !matches!(kind, PortKind::Tunnel(_));
    let ports: Vec<PortId> = snapshot
        .ports()
        .filter(|port| has_device(&port.kind))
        .filter(|port| &*port.name == target || owner_name(snapshot, port.id) == target)
        .map(|port| port.id)
        .collect();
    if !ports.is_empty() {
        return Some(TapFilter { ports, counters: Vec::new() });
    }
    let ends = target.split_once('/');
    let counters = snapshot.counters().iter().filter(|spec| match &spec.kind {
        CounterKind::Peering { from, to } => ends == Some((&**from, &**to)) || ends == Some((&**to, &**from)),
        CounterKind::Tunnel { connection, .. } => &**connection == target,
        CounterKind::Gateway { gateway } => &**gateway == target,
    });
    let counters: Vec<_> = counters.map(|spec| spec.id).collect();
    (!counters.is_empty()).then_some(TapFilter { ports: Vec::new(), counters })
}

/// What became of a packet, in the words of `vnetctl flows`.
fn comment(snapshot: &Snapshot, taken: &Taken) -> String {
    let mut text = match taken.verdict {
        _ if !taken.entered => format!("delivered to {}", port_name(snapshot, taken.port)),
        None => format!("from {}: not forwarded, it speaks to its own link", port_name(snapshot, taken.port)),
        Some(verdict) => {
            let from = port_name(snapshot, taken.port);
            match verdict {
                Verdict::Deliver(to) => format!("from {from}: Allow, to {}", port_name(snapshot, to)),
                Verdict::Seal(tunnel) => {
                    let name = snapshot.tunnel(tunnel).map(|spec| spec.name.to_string());
                    format!("from {from}: Allow, into the tunnel {}", name.unwrap_or_default())
                }
                Verdict::Drop(reason) => format!("from {from}: Deny, {}", reason.name()),
            }
        }
    };
    if let Some(rule) = taken.decided_by.and_then(|rule| snapshot.rule(rule)) {
        text.push_str(&format!(", by {}", rule.reference.name));
    }
    text
}

/// What the wall clock is ahead of the workers' clock.
fn wall_offset_ns() -> u64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (wall.as_nanos() as u64).saturating_sub(monotonic().0)
}
