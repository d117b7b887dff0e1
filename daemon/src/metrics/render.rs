//! From counters to Prometheus' text format.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    CounterVec, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use vnet_router::Balance;

use super::counters::{Direction, LabCounters, Traffic};

/// Buckets of an apply, in seconds: a changed rule takes milliseconds, a thousand VMs a minute.
const APPLY_BUCKETS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

const DIRECTED_TUNNEL: &[&str] = &["lab", "gateway", "connection", "tunnel", "direction"];
const DIRECTED_SESSION: &[&str] = &["lab", "gateway", "local", "neighbor", "direction"];
const SESSION: &[&str] = &["lab", "gateway", "local", "neighbor"];
const TUNNEL: &[&str] = &["lab", "gateway", "connection", "tunnel"];

/// What is measured over the daemon's life, beside the labs' own counters.
pub struct Metrics {
    process: Registry,
    apply_seconds: HistogramVec,
}

impl Metrics {
    /// Process metrics, build information and the apply histogram.
    ///
    /// # Errors
    /// Only if two metrics had one name.
    pub fn new() -> prometheus::Result<Metrics> {
        let process = Registry::new();
        #[cfg(target_os = "linux")]
        process.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let build = IntGaugeVec::new(
            Opts::new("vnet_build_info", "Always 1; the labels say what is running."),
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        process.register(Box::new(build))?;
        let apply_seconds = HistogramVec::new(
            HistogramOpts::new(
                "vnet_apply_duration_seconds",
                "Time that it took to bring a lab to what its file says.",
            )
            .buckets(APPLY_BUCKETS.to_vec()),
            &["lab"],
        )?;
        process.register(Box::new(apply_seconds.clone()))?;
        Ok(Metrics { process, apply_seconds })
    }

    /// Takes down how long an apply took.
    pub fn applied(&self, lab: &str, seconds: f64) {
        self.apply_seconds.with_label_values(&[lab]).observe(seconds);
    }

    /// Forgets a lab that is gone.
    pub fn forget(&self, lab: &str) {
        // An error here means that the lab was never applied by this process: nothing to forget.
        let _ = self.apply_seconds.remove_label_values(&[lab]);
    }

    /// The text that a scrape answers.
    ///
    /// # Errors
    /// A counter that contradicts another, as the same labels twice with different names.
    pub fn render(&self, labs: &[LabCounters]) -> prometheus::Result<String> {
        let mut families = self.process.gather();
        families.extend(lab_families(labs)?.gather());
        TextEncoder::new().encode_to_string(&families)
    }
}

struct Families {
    registry: Registry,
}

impl Families {
    fn add<C: Collector + Clone + 'static>(&self, collector: C) -> prometheus::Result<C> {
        self.registry.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn counter(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn seconds(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
        self.add(GaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn pair(&self, stem: &str, what: &str, labels: &[&str]) -> prometheus::Result<Pair> {
        let counter = |unit: &str, help: String| self.counter(&format!("{stem}_{unit}_total"), &help, labels);
        Ok(Pair {
            bytes: counter("bytes", format!("Bytes of IP packets {what}."))?,
            packets: counter("packets", format!("IP packets {what}, after segmentation."))?,
        })
    }
}

struct Pair {
    bytes: IntCounterVec,
    packets: IntCounterVec,
}

impl Pair {
    fn set(&self, labels: &[&str], traffic: Traffic) {
        self.bytes.with_label_values(labels).inc_by(traffic.bytes);
        self.packets.with_label_values(labels).inc_by(traffic.packets);
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64()
}

fn gauge_value(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn lab_families(labs: &[LabCounters]) -> prometheus::Result<Registry> {
    let families = Families { registry: Registry::new() };
    traffic_families(&families, labs)?;
    rule_families(&families, labs)?;
    tunnel_families(&families, labs)?;
    bgp_families(&families, labs)?;
    engine_families(&families, labs)?;
    Ok(families.registry)
}

fn traffic_families(families: &Families, labs: &[LabCounters]) -> prometheus::Result<()> {
    let nics = families.pair("vnet_nic", "that passed a NIC", &["lab", "vm", "nic", "direction"])?;
    let peerings = families.pair("vnet_peering", "that crossed a peering", &["lab", "from", "to"])?;
    let gateways = families.pair("vnet_gateway", "that a gateway took from networks", &["lab", "gateway"])?;
    let drops = families.counter(
        "vnet_drops_total",
        "IP packets dropped, by the machine that sent them and the reason.",
        &["lab", "vm", "reason"],
    )?;
    for counters in labs {
        let lab = counters.lab.as_str();
        for nic in &counters.nics {
            nics.set(&[lab, &nic.vm, &nic.nic, nic.direction.label()], nic.traffic);
        }
        for peering in &counters.peerings {
            peerings.set(&[lab, &peering.from, &peering.to], peering.traffic);
        }
        for (gateway, taken) in &counters.gateways {
            gateways.set(&[lab, gateway], *taken);
        }
        for drop in &counters.drops {
            drops.with_label_values(&[lab, &drop.vm, drop.reason.name()]).inc_by(drop.packets);
        }
    }
    Ok(())
}

fn rule_families(families: &Families, labs: &[LabCounters]) -> prometheus::Result<()> {
    let firewall = families.counter(
        "vnet_firewall_rule_hits_total",
        "New flows that a firewall rule decided.",
        &["lab", "firewall", "group", "collection", "rule", "action"],
    )?;
    let nsg = families.counter(
        "vnet_nsg_rule_hits_total",
        "New flows that a network security group's rule decided.",
        &["lab", "nsg", "rule", "direction", "action"],
    )?;
    let snat = families.gauge(
        "vnet_firewall_snat_ports_used",
        "Source ports in use for translation, one for each flow.",
        &["lab", "firewall"],
    )?;
    let nat = families.gauge(
        "vnet_nat_gateway_snat_ports_used",
        "Source ports in use for translation, one for each flow.",
        &["lab", "nat_gateway"],
    )?;
    for counters in labs {
        let lab = counters.lab.as_str();
        for rule in &counters.firewall_rules {
            let labels = [lab, &rule.firewall, &rule.group, &rule.collection, &rule.rule, &rule.action];
            firewall.with_label_values(&labels).inc_by(rule.hits);
        }
        for rule in &counters.nsg_rules {
            let labels = [lab, &rule.nsg, &rule.rule, rule.direction.label(), &rule.action];
            nsg.with_label_values(&labels).inc_by(rule.hits);
        }
        for ports in &counters.firewall_snat_ports {
            snat.with_label_values(&[lab, &ports.translator]).set(gauge_value(ports.used));
        }
        for ports in &counters.nat_gateway_snat_ports {
            nat.with_label_values(&[lab, &ports.translator]).set(gauge_value(ports.used));
        }
    }
    Ok(())
}

fn bgp_families(families: &Families, labs: &[LabCounters]) -> prometheus::Result<()> {
    let up = families.gauge("vnet_bgp_session_up", "1 if the session exchanges routes, else 0.", SESSION)?;
    let routes =
        families.gauge("vnet_bgp_routes_received", "Prefixes that the peer has announced.", SESSION)?;
    let messages = families.counter(
        "vnet_bgp_messages_total",
        "Messages from the peer (inbound) and to it (outbound).",
        DIRECTED_SESSION,
    )?;
    for counters in labs {
        for session in &counters.bgp {
            let labels = [counters.lab.as_str(), &session.gateway, &session.local, &session.neighbor];
            up.with_label_values(&labels).set(i64::from(session.up));
            routes.with_label_values(&labels).set(gauge_value(session.routes_received));
            let directed =
                |direction: Direction| [labels[0], labels[1], labels[2], labels[3], direction.label()];
            messages.with_label_values(&directed(Direction::Inbound)).inc_by(session.messages_received);
            messages.with_label_values(&directed(Direction::Outbound)).inc_by(session.messages_sent);
        }
    }
    Ok(())
}

fn tunnel_families(families: &Families, labs: &[LabCounters]) -> prometheus::Result<()> {
    let traffic = families.pair("vnet_gateway_tunnel", "carried by a tunnel", DIRECTED_TUNNEL)?;
    let handshakes = families.counter(
        "vnet_gateway_tunnel_handshakes_total",
        "Handshakes that a tunnel completed.",
        TUNNEL,
    )?;
    let up = families.gauge("vnet_gateway_tunnel_up", "1 if the tunnel has a session, else 0.", TUNNEL)?;
    let queue = families.gauge(
        "vnet_gateway_shaper_queue_bytes",
        "Bytes that wait for the tunnel's rate and its gateway's.",
        TUNNEL,
    )?;
    let delay = families.seconds(
        "vnet_gateway_shaper_delay_seconds",
        "How long a packet into or out of the tunnel waits for rates at present.",
        TUNNEL,
    )?;
    let machine_queue = families.gauge(
        "vnet_vm_shaper_queue_bytes",
        "Bytes from a machine that wait for its bandwidth.",
        &["lab", "vm"],
    )?;
    let machine_delay = families.seconds(
        "vnet_vm_shaper_delay_seconds",
        "How long a packet from a machine waits for its bandwidth at present.",
        &["lab", "vm"],
    )?;
    for counters in labs {
        for tunnel in &counters.tunnels {
            let labels = [counters.lab.as_str(), &tunnel.gateway, &tunnel.connection, &tunnel.tunnel];
            let directed =
                |direction: Direction| [labels[0], labels[1], labels[2], labels[3], direction.label()];
            traffic.set(&directed(Direction::Inbound), tunnel.inbound);
            traffic.set(&directed(Direction::Outbound), tunnel.outbound);
            handshakes.with_label_values(&labels).inc_by(tunnel.handshakes);
            up.with_label_values(&labels).set(i64::from(tunnel.up));
            queue.with_label_values(&labels).set(gauge_value(tunnel.shaper.bytes));
            delay.with_label_values(&labels).set(seconds(tunnel.shaper.delay_ns));
        }
        for (machine, shaper) in &counters.machine_shapers {
            let labels = [counters.lab.as_str(), machine];
            machine_queue.with_label_values(&labels).set(gauge_value(shaper.bytes));
            machine_delay.with_label_values(&labels).set(seconds(shaper.delay_ns));
        }
    }
    Ok(())
}

fn engine_families(families: &Families, labs: &[LabCounters]) -> prometheus::Result<()> {
    let fates = families.counter(
        "vnet_packets_total",
        "IP packets of a lab: those received and generated are those sent and dropped, but for what is queued.",
        &["lab", "fate"],
    )?;
    let flows = families.gauge("vnet_flows", "Entries of the flow table.", &["lab", "state"])?;
    let offloaded_flows = families.gauge(
        "vnet_offload_flows",
        "Entries of the flow table that the kernel carries.",
        &["lab"],
    )?;
    let offloaded = families.pair("vnet_offload", "that the kernel carried by itself", &["lab"])?;
    let busy = families.add(CounterVec::new(
        Opts::new("vnet_worker_busy_seconds_total", "Time that a worker spent on packets."),
        &["lab", "worker"],
    )?)?;
    let batches = families.counter(
        "vnet_worker_batches_total",
        "Batches that a worker handled.",
        &["lab", "worker"],
    )?;
    let policy_since = families.seconds(
        "vnet_policy_published_timestamp_seconds",
        "When the policy in force was published, in seconds since 1970.",
        &["lab"],
    )?;
    for counters in labs {
        let lab = counters.lab.as_str();
        policy_since.with_label_values(&[lab]).set(seconds(counters.policy_since_ns));
        let Balance { received, generated, sent, dropped } = counters.balance;
        let all = [("received", received), ("generated", generated), ("sent", sent), ("dropped", dropped)];
        for (fate, packets) in all {
            fates.with_label_values(&[lab, fate]).inc_by(packets);
        }
        for (state, count) in &counters.flows {
            flows.with_label_values(&[lab, state]).set(gauge_value(*count));
        }
        offloaded_flows.with_label_values(&[lab]).set(gauge_value(counters.offloaded_flows));
        offloaded.set(&[lab], counters.offloaded);
        for worker in &counters.workers {
            let number = worker.worker.to_string();
            busy.with_label_values(&[lab, &number]).inc_by(worker.busy_ns as f64 / 1e9);
            batches.with_label_values(&[lab, &number]).inc_by(worker.batches);
        }
    }
    Ok(())
}
