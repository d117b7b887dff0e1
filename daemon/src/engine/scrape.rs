//! The counters of a lab, summed over its workers and put under the names that metrics have.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use vnet_dataplane::{CounterId, FunctionId, Nanos, PortId, Reason};
use vnet_fabric::RuleId;
use vnet_fabric::snapshot::{
    CounterKind, HitKind, LimiterSpec, PortKind, Snapshot, TunnelDirection, TunnelSpec,
};
use vnet_gateway::ConnectionStatus;
use vnet_router::{Balance, Router};

use super::bgp;
use super::lab::Lab;
use super::live::{drop_counts, tunnel_statuses};
use crate::metrics::{
    Direction, DropCounter, FirewallRuleCounter, LabCounters, NicCounter, NsgRuleCounter, PeeringCounter,
    ShaperQueue, SnatPorts, Traffic, TunnelCounter, WorkerCounter,
};
use crate::worker::monotonic;

/// Everything that a scrape shows of a lab.
pub(super) fn counters(lab: &Lab) -> LabCounters {
    // Asking a worker merges what the kernel has counted: first of all.
    let (flows, offloaded_flows) = flows(lab);
    let snapshot = lab.snapshot();
    let (firewall_rules, nsg_rules) = rules(lab, &snapshot);
    LabCounters {
        lab: lab.name.clone(),
        balance: lab
            .workers
            .iter()
            .map(|worker| worker.ledger.balance())
            .fold(Balance::default(), |sum, worker| sum + worker),
        nics: nics(lab, &snapshot),
        peerings: peerings(lab, &snapshot),
        drops: drops(lab),
        firewall_rules,
        nsg_rules,
        gateways: gateways(lab, &snapshot),
        tunnels: tunnels(lab, &snapshot),
        bgp: bgp::counters(lab),
        machine_shapers: machine_shapers(lab, &snapshot),
        flows,
        offloaded_flows,
        offloaded: lab.workers.iter().fold(Traffic::default(), |sum, worker| Traffic {
            packets: sum.packets + worker.ledger.offloaded.packets.get(),
            bytes: sum.bytes + worker.ledger.offloaded.bytes.get(),
        }),
        firewall_snat_ports: snat_ports(lab, snapshot.firewalls()),
        nat_gateway_snat_ports: snat_ports(lab, snapshot.nat_gateways()),
        workers: workers(lab),
        policy_since_ns: lab.policy_since_ns.load(Ordering::Relaxed),
    }
}

fn traffic((packets, bytes): (u64, u64)) -> Traffic {
    Traffic { packets, bytes }
}

fn counter(lab: &Lab, id: CounterId) -> Traffic {
    let sum = lab.workers.iter().map(|worker| worker.ledger.counter(id));
    traffic(sum.fold((0, 0), |(packets, bytes), (p, b)| (packets + p, bytes + b)))
}

fn port(lab: &Lab, id: PortId, direction: Direction) -> Traffic {
    let counts = lab.workers.iter().filter_map(|worker| worker.ledger.port(id));
    let pairs = counts.map(|counts| match direction {
        // As the machine sees it: what the router received is what the machine sent.
        Direction::Outbound => (counts.received.packets.get(), counts.received.bytes.get()),
        Direction::Inbound => (counts.sent.packets.get(), counts.sent.bytes.get()),
    });
    traffic(pairs.fold((0, 0), |(packets, bytes), (p, b)| (packets + p, bytes + b)))
}

fn nics(lab: &Lab, snapshot: &Snapshot) -> Vec<NicCounter> {
    let mut all = Vec::new();
    for info in snapshot.ports() {
        let (vm, nic) = match &info.kind {
            PortKind::Nic { vm, nic } => (vm.to_string(), nic.to_string()),
            PortKind::PrivateEndpoint { name: host } | PortKind::SiteHost { host, .. } => {
                (host.to_string(), "eth0".to_owned())
            }
            _ => continue,
        };
        for direction in [Direction::Inbound, Direction::Outbound] {
            let traffic = port(lab, info.id, direction);
            all.push(NicCounter { vm: vm.clone(), nic: nic.clone(), direction, traffic });
        }
    }
    all
}

fn peerings(lab: &Lab, snapshot: &Snapshot) -> Vec<PeeringCounter> {
    let of = |spec: &vnet_fabric::snapshot::CounterSpec| match &spec.kind {
        CounterKind::Peering { from, to } => Some(PeeringCounter {
            from: from.to_string(),
            to: to.to_string(),
            traffic: counter(lab, spec.id),
        }),
        CounterKind::Gateway { .. } | CounterKind::Tunnel { .. } => None,
    };
    snapshot.counters().iter().filter_map(of).collect()
}

fn gateways(lab: &Lab, snapshot: &Snapshot) -> Vec<(String, Traffic)> {
    let of = |spec: &vnet_fabric::snapshot::CounterSpec| match &spec.kind {
        CounterKind::Gateway { gateway } => Some((gateway.to_string(), counter(lab, spec.id))),
        CounterKind::Peering { .. } | CounterKind::Tunnel { .. } => None,
    };
    snapshot.counters().iter().filter_map(of).collect()
}

fn drops(lab: &Lab) -> Vec<DropCounter> {
    let mut all: BTreeMap<(String, Reason), u64> = BTreeMap::new();
    // A machine with several NICs is one series, which must not fall when one of them goes.
    for (_, vm, reason, packets) in drop_counts(lab) {
        *all.entry((vm, reason)).or_default() += packets;
    }
    all.into_iter().map(|((vm, reason), packets)| DropCounter { vm, reason, packets }).collect()
}

fn rules(lab: &Lab, snapshot: &Snapshot) -> (Vec<FirewallRuleCounter>, Vec<NsgRuleCounter>) {
    let hits = |id: RuleId| lab.workers.iter().map(|worker| worker.ledger.hits(id)).sum();
    let action = |allow: bool| if allow { "Allow" } else { "Deny" }.to_owned();
    let (mut firewalls, mut groups) = (Vec::new(), Vec::new());
    for (id, info) in snapshot.rules() {
        match &info.hits {
            Some(HitKind::Firewall { firewall, group, collection, rule, allow }) => {
                firewalls.push(FirewallRuleCounter {
                    firewall: firewall.to_string(),
                    group: group.to_string(),
                    collection: collection.to_string(),
                    rule: rule.to_string(),
                    action: action(*allow),
                    hits: hits(id),
                });
            }
            Some(HitKind::Nsg { nsg, rule, inbound, allow }) => groups.push(NsgRuleCounter {
                nsg: nsg.to_string(),
                rule: rule.to_string(),
                direction: if *inbound { Direction::Inbound } else { Direction::Outbound },
                action: action(*allow),
                hits: hits(id),
            }),
            None => {}
        }
    }
    (firewalls, groups)
}

fn tunnels(lab: &Lab, snapshot: &Snapshot) -> Vec<TunnelCounter> {
    let now = monotonic();
    let statuses = tunnel_statuses(lab, snapshot, now);
    let ends = snapshot.tunnels().zip(statuses).map(|(spec, status)| {
        let of = |wanted: TunnelDirection| {
            let found = snapshot.counters().iter().find(|candidate| {
                matches!(&candidate.kind, CounterKind::Tunnel { gateway, connection, tunnel, direction }
                    if *gateway == spec.gateway && *connection == spec.connection
                        && *tunnel == spec.index && *direction == wanted)
            });
            found.map_or(Traffic { packets: 0, bytes: 0 }, |found| counter(lab, found.id))
        };
        TunnelCounter {
            gateway: spec.gateway.to_string(),
            connection: spec.connection.to_string(),
            tunnel: spec.index.to_string(),
            inbound: of(TunnelDirection::Ingress),
            outbound: of(TunnelDirection::Egress),
            handshakes: status.as_ref().map_or(0, |status| status.handshakes),
            up: status.is_some_and(|status| status.status == ConnectionStatus::Connected),
            shaper: tunnel_shaper(lab, snapshot, spec, now),
        }
    });
    ends.collect()
}

/// What waits at a tunnel end: packets pass its gateway's limiter of a direction and its own, one after the other.
pub(super) fn tunnel_shaper(lab: &Lab, snapshot: &Snapshot, spec: &TunnelSpec, now: Nanos) -> ShaperQueue {
    let rates = lab.shared.rates();
    let own = format!("tunnel/{}/", spec.name);
    let of = |direction: &str| {
        snapshot
            .gateway_limiters(&spec.gateway)
            .filter(|limiter| limiter.name.ends_with(direction))
            .filter(|limiter| limiter.name.starts_with("gateway/") || limiter.name.starts_with(&own))
            .fold(ShaperQueue::default(), |sum, limiter| ShaperQueue {
                bytes: sum.bytes + rates.queued_bytes(limiter.id, now),
                delay_ns: sum.delay_ns + rates.queueing_delay(limiter.id, now).as_nanos() as u64,
            })
    };
    let (out, back) = (of("/egress"), of("/ingress"));
    ShaperQueue { bytes: out.bytes + back.bytes, delay_ns: out.delay_ns.max(back.delay_ns) }
}

/// What waits for the bandwidth of machines that have a limit.
pub(super) fn machine_shapers(lab: &Lab, snapshot: &Snapshot) -> Vec<(String, ShaperQueue)> {
    let (rates, now) = (lab.shared.rates(), monotonic());
    let of = |spec: &LimiterSpec| {
        let queue = ShaperQueue {
            bytes: rates.queued_bytes(spec.id, now),
            delay_ns: rates.queueing_delay(spec.id, now).as_nanos() as u64,
        };
        Some((spec.machine()?.to_owned(), queue))
    };
    snapshot.limiters().iter().filter_map(of).collect()
}

fn snat_ports<'a>(lab: &Lab, translators: impl Iterator<Item = (&'a str, FunctionId)>) -> Vec<SnatPorts> {
    let sessions = lab.shared.sessions();
    translators
        .map(|(name, function)| SnatPorts {
            translator: name.to_owned(),
            used: sessions.bindings(function) as u64,
        })
        .collect()
}

/// Flows by state, and those of them that the kernel carries.
fn flows(lab: &Lab) -> (Vec<(String, u64)>, u64) {
    let mut sum: Vec<(String, u64)> = Vec::new();
    let mut offloaded = 0;
    let counts = |router: &mut Router, _| (router.flow_counts(), router.offloaded_flows());
    for (counts, own) in lab.workers.iter().filter_map(|worker| worker.ask(counts)) {
        offloaded += own;
        for (state, count) in counts {
            match sum.iter_mut().find(|(name, _)| name == state) {
                Some((_, total)) => *total += count,
                None => sum.push((state.to_owned(), count)),
            }
        }
    }
    (sum, offloaded)
}

fn workers(lab: &Lab) -> Vec<WorkerCounter> {
    use std::sync::atomic::Ordering::Relaxed;
    let of = |(worker, state): (usize, &crate::worker::Worker)| WorkerCounter {
        worker,
        busy_ns: state.stats.busy_ns.load(Relaxed),
        batches: state.stats.batches.load(Relaxed),
    };
    lab.workers.iter().enumerate().map(of).collect()
}
