//! What is in force beyond the file: a state machine of allocations, peerings, tunnels and learned routes.

pub mod addresses;
pub mod ids;
pub mod outage;
pub(crate) mod peering;
mod propagate;
mod refusal;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use vnet_config::model::Topology;
use vnet_config::{ChangedEntry, Section};
use vnet_dataplane::Nanos;

pub use addresses::Allocations;
pub(crate) use addresses::client_owner;
pub use ids::Ids;
pub use outage::{Outage, OutageCause};
pub use peering::{PeeringState, PeeringStatus, PeeringSyncLevel};

use peering::Manner;

use crate::compile;
use crate::snapshot::{Snapshot, TunnelStatus};

/// Version of the serialised form.
const STATE_VERSION: u32 = 1;

/// What is in force and not in the file. The daemon stores it; a restart goes on from it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Version of the serialised form.
    pub version: u32,
    /// Number of the newest snapshot.
    pub epoch: u64,
    /// Handles by name.
    pub ids: Ids,
    /// Private addresses that were allocated dynamically.
    pub addresses: Allocations,
    /// Each half of each peering, by `LOCAL -> REMOTE`.
    pub peerings: Arc<BTreeMap<String, PeeringStatus>>,
    /// Tunnel ends by name, as the gateways report them.
    pub tunnels: BTreeMap<String, TunnelStatus>,
    /// Routes learned by gateways, by the gateway's name.
    pub learned: BTreeMap<String, Arc<Vec<LearnedRoute>>>,
    /// Instances of gateways that carry nothing for a while.
    #[serde(default)]
    pub outages: Vec<Outage>,
    /// The accepted file. It is stored apart, and given again by an apply after a restart.
    #[serde(skip)]
    topology: Option<Arc<Topology>>,
    /// What the last event that changed anything has come to.
    #[serde(skip)]
    compiled: Option<Arc<Snapshot>>,
    /// Whether another apply of the same file would change nothing but the epoch.
    #[serde(skip)]
    is_settled: bool,
}

impl Default for State {
    fn default() -> Self {
        State {
            version: STATE_VERSION,
            epoch: 0,
            ids: Ids::default(),
            addresses: Allocations::default(),
            peerings: Arc::default(),
            tunnels: BTreeMap::new(),
            learned: BTreeMap::new(),
            outages: Vec::new(),
            topology: None,
            compiled: None,
            is_settled: false,
        }
    }
}

/// A route that a gateway learned over a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LearnedRoute {
    /// Destinations.
    pub prefix: IpNet,
    /// The connection that leads there.
    pub connection: String,
    /// The tunnel end that it came through.
    #[serde(default)]
    pub tunnel: String,
    /// The speaker that announced it.
    pub peer: IpAddr,
    /// Autonomous systems on the way, the nearest first.
    pub as_path: Vec<u32>,
}

/// What changes the state.
#[derive(Clone, Debug)]
pub enum Event {
    /// The file to be reached. It has been validated.
    Apply(Arc<Topology>),
    /// The file whose requests are made as Azure takes them: a Disconnected half stays so and changed ranges are not in
    /// sync. It has been validated, and [`State::refusals`] has none.
    ApplyAsAzure(Arc<Topology>),
    /// As [`Event::Apply`], of a file that differs from `former` in one entry alone. Where `former` is what was accepted last, it
    /// takes the time of the entry.
    ApplyEntry {
        /// The file to be reached. It has been validated.
        topology: Arc<Topology>,
        /// The file that it differs from.
        former: Arc<Topology>,
        /// Where.
        entry: ChangedEntry,
    },
    /// A tunnel end got its session.
    TunnelUp {
        /// Name of the tunnel end.
        tunnel: String,
    },
    /// A tunnel end lost its session, or can't get one.
    TunnelDown {
        /// Name of the tunnel end.
        tunnel: String,
        /// Why.
        reason: String,
    },
    /// A tunnel end has begun to shake hands (again).
    TunnelConnecting {
        /// Name of the tunnel end.
        tunnel: String,
    },
    /// What a gateway has learned is another than before.
    RoutesLearned {
        /// Name of the gateway.
        gateway: String,
        /// All its routes, in place of those before.
        routes: Vec<LearnedRoute>,
    },
    /// An instance of a gateway fails.
    InstanceFailed {
        /// Name of the gateway.
        gateway: String,
        /// The instance, from 0.
        instance: usize,
        /// Whether it is maintenance, which interrupts for a shorter time.
        planned: bool,
    },
    /// The time of [`State::next_timeout`] has come.
    Timer,
    /// Both halves of a peering take over the ranges that the networks have now.
    PeeringSync {
        /// The network whose half it is.
        local: String,
        /// The remote network.
        remote: String,
    },
}

/// What the daemon has to do after an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Compile and publish a snapshot: these layers changed.
    Recompile(Vec<ChangedLayer>),
    /// A tunnel end is new: make its session.
    StartTunnel {
        /// Name of the tunnel end.
        tunnel: String,
    },
    /// A tunnel end is gone: end its session.
    StopTunnel {
        /// Name of the tunnel end.
        tunnel: String,
    },
    /// A pair was deleted and created anew to reach the file: it was disconnected, or of another type.
    PeeringRecreated {
        /// One network; where one half was Disconnected, that one's.
        local: String,
        /// The other.
        remote: String,
    },
    /// A half lost its other.
    PeeringDisconnected {
        /// The network whose half it is.
        local: String,
        /// The network whose half was deleted.
        remote: String,
    },
    /// A connected half goes on with ranges that are not the present ones.
    PeeringNotInSync {
        /// The network whose half it is.
        local: String,
        /// The other.
        remote: String,
        /// What has changed.
        level: PeeringSyncLevel,
    },
    /// A pair took over changed ranges to reach the file.
    PeeringSynced {
        /// One network.
        local: String,
        /// The other.
        remote: String,
    },
}

/// A part of the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangedLayer {
    /// Everything that the file says.
    Topology,
    /// Ranges of peered networks.
    Peerings,
    /// Routes of a gateway.
    Gateways,
    /// The state of a tunnel.
    Tunnels,
}

impl State {
    /// Takes an event and says what follows from it. `now` is for timers: see [`State::next_timeout`].
    pub fn step(&mut self, event: Event, now: Nanos) -> Vec<Effect> {
        match event {
            Event::Apply(topology) => self.apply(topology, Manner::Reach, now),
            Event::ApplyAsAzure(topology) => self.apply(topology, Manner::AsAzure, now),
            Event::ApplyEntry { topology, former, entry } => self
                .reroute(&topology, &former, &entry)
                .unwrap_or_else(|| self.apply(topology, Manner::Reach, now)),
            Event::TunnelUp { tunnel } => self.set_tunnel(tunnel, TunnelStatus::Connected),
            Event::TunnelDown { tunnel, reason } => {
                self.set_tunnel(tunnel, TunnelStatus::NotConnected(reason))
            }
            Event::TunnelConnecting { tunnel } => self.set_tunnel(tunnel, TunnelStatus::Connecting),
            Event::RoutesLearned { gateway, routes } => self.learn(gateway, routes),
            Event::InstanceFailed { gateway, instance, planned } => {
                self.fail_instance(&gateway, instance, planned, now)
            }
            Event::Timer => self.end_outages(now),
            Event::PeeringSync { local, remote } => self.sync_peering(&local, &remote),
        }
    }

    /// The file that was accepted last.
    pub fn topology(&self) -> Option<&Arc<Topology>> {
        self.topology.as_ref()
    }

    /// Takes the file over that this state was stored with: nothing changes but what a later apply compares with.
    pub fn resume(&mut self, topology: Arc<Topology>) {
        self.topology = Some(topology);
    }

    fn apply(&mut self, topology: Arc<Topology>, manner: Manner, now: Nanos) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.addresses.converge(&topology);
        let peerings = Arc::make_mut(&mut self.peerings);
        effects.extend(peering::converge(peerings, self.topology.as_deref(), &topology, manner));
        self.is_settled = manner == Manner::Reach;
        self.learned.retain(|gateway, _| topology.virtual_network_gateways.contains_key(gateway));
        let gone = |route: &LearnedRoute| !topology.connections.contains_key(&route.connection);
        for routes in self.learned.values_mut().filter(|routes| routes.iter().any(gone)) {
            Arc::make_mut(routes).retain(|route| !gone(route));
        }
        let former = self.topology.replace(topology);
        effects.extend(self.converge_tunnels());
        self.provision(former.as_deref(), now);
        effects.push(self.recompile(ChangedLayer::Topology));
        effects
    }

    /// Takes a file that differs in the routes of one table from the one that was accepted last: nothing but the routes of the
    /// table's subnets follows from that. None where more may, and then nothing has been done.
    fn reroute(
        &mut self,
        topology: &Arc<Topology>,
        former: &Arc<Topology>,
        entry: &ChangedEntry,
    ) -> Option<Vec<Effect>> {
        let is_last = self.topology.as_ref().is_some_and(|accepted| Arc::ptr_eq(accepted, former));
        if entry.section != Section::RouteTables || !is_last || !self.is_settled {
            return None;
        }
        let compiled = self.compiled.clone().filter(|compiled| compiled.epoch() == self.epoch)?;
        let epoch = self.epoch + 1;
        let mut ids = std::mem::take(&mut self.ids);
        let snapshot =
            compile::with_routes(&compiled, (former, topology), self, &mut ids, &entry.name, epoch);
        self.ids = ids;
        self.compiled = Some(Arc::new(snapshot?));
        self.epoch = epoch;
        self.topology = Some(Arc::clone(topology));
        Some(vec![Effect::Recompile(vec![ChangedLayer::Topology])])
    }

    /// Starts tunnels that the file has anew and stops those that it lost.
    fn converge_tunnels(&mut self) -> Vec<Effect> {
        let Some(topology) = self.topology.clone() else { return Vec::new() };
        let wanted = compile::tunnel_names(&topology);
        let mut effects = Vec::new();
        for tunnel in self.tunnels.keys().filter(|name| !wanted.contains(*name)) {
            effects.push(Effect::StopTunnel { tunnel: tunnel.clone() });
        }
        self.tunnels.retain(|name, _| wanted.contains(name));
        for tunnel in wanted {
            if !self.tunnels.contains_key(&tunnel) {
                self.tunnels.insert(tunnel.clone(), TunnelStatus::Connecting);
                effects.push(Effect::StartTunnel { tunnel });
            }
        }
        effects
    }

    fn set_tunnel(&mut self, tunnel: String, status: TunnelStatus) -> Vec<Effect> {
        match self.tunnels.get_mut(&tunnel) {
            Some(known) if *known != status => {
                *known = status;
                vec![self.recompile(ChangedLayer::Tunnels)]
            }
            _ => Vec::new(),
        }
    }

    fn learn(&mut self, gateway: String, mut routes: Vec<LearnedRoute>) -> Vec<Effect> {
        let Some(topology) = &self.topology else { return Vec::new() };
        // What was said before an apply may speak of what is gone.
        routes.retain(|route| topology.connections.contains_key(&route.connection));
        let is_known = topology.virtual_network_gateways.contains_key(&gateway);
        routes.sort_by(|a, b| {
            (a.prefix, &a.connection, &a.tunnel, a.peer).cmp(&(b.prefix, &b.connection, &b.tunnel, b.peer))
        });
        let before = self.learned.get(&gateway).map_or(&[][..], |known| known.as_slice());
        if !is_known || before == routes {
            return Vec::new();
        }
        // The path alone decides nothing here: it is what the speaker chose by.
        let ways = |routes: &[LearnedRoute]| -> Vec<(IpNet, String)> {
            routes.iter().map(|route| (route.prefix, route.tunnel.clone())).collect()
        };
        let same_ways = ways(before) == ways(&routes);
        self.learned.insert(gateway, Arc::new(routes));
        if same_ways { Vec::new() } else { vec![self.recompile(ChangedLayer::Gateways)] }
    }

    /// Takes what the lab's gateways learn of each other for learned.
    pub(crate) fn settle_routes(&mut self) {
        let snapshot = self.snapshot();
        if snapshot.bgp_speakers().next().is_some() {
            self.learned = propagate::settled(&snapshot);
            self.recompile(ChangedLayer::Gateways);
        }
    }

    /// Forgets what was learned: no session outlives the speakers.
    pub fn forget_learned(&mut self) {
        self.learned.clear();
    }

    fn sync_peering(&mut self, local: &str, remote: &str) -> Vec<Effect> {
        let Some(topology) = self.topology.clone() else { return Vec::new() };
        if !peering::sync(Arc::make_mut(&mut self.peerings), &topology, local, remote) {
            return Vec::new();
        }
        let synced = Effect::PeeringSynced { local: local.to_owned(), remote: remote.to_owned() };
        vec![synced, self.recompile(ChangedLayer::Peerings)]
    }

    /// What is in force, compiled: as the last event left it. Without a file it is empty.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        match (&self.compiled, &self.topology) {
            (Some(compiled), _) if compiled.epoch() == self.epoch => Arc::clone(compiled),
            (_, Some(topology)) => Arc::new(compile::compile(topology, self)),
            (_, None) => Arc::default(),
        }
    }

    /// Opens a new epoch, with a handle for every name that its snapshot uses.
    fn recompile(&mut self, layer: ChangedLayer) -> Effect {
        self.epoch += 1;
        if let Some(topology) = self.topology.clone() {
            let mut ids = std::mem::take(&mut self.ids);
            self.compiled = Some(Arc::new(compile::compile_with(&topology, self, &mut ids)));
            self.ids = ids;
        }
        Effect::Recompile(vec![layer])
    }

    /// Gives the compiled snapshot away.
    pub(crate) fn take_snapshot(&mut self) -> Snapshot {
        let compiled = self.compiled.take().and_then(Arc::into_inner);
        compiled.unwrap_or_else(|| Arc::into_inner(self.snapshot()).unwrap_or_default())
    }
}
