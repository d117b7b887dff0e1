//! One running lab: what the file says, what is in force, the host's side of it, and its workers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use vnet_api::{ApplyRequest, TopologyFile};
use vnet_config::SourceMap;
use vnet_config::model::Topology;
use vnet_dataplane::{FiveTuple, Nanos, OffloadEntry, OffloadSlot, PortId, TunnelId};
use vnet_fabric::control::{Effect, Event, LearnedRoute, State};
use vnet_fabric::snapshot::{BgpSpeaker, Snapshot};
use vnet_gateway::{ConnectionStatus, PORT};
use vnet_router::{Router, RouterOptions, Shared, TunnelSetup};

use super::blueprint::{Blueprint, INTERNET};
use super::build::{Built, DeviceOptions, Report, Site};
use super::input::Input;
use super::keys::{self, Keys};
use super::laps::Laps;
use super::live::owner_name;
use super::programs::{Begun, Furniture, Programs};
use super::store::{self, Accepted, Store};
use super::{Failure, Options, fault};
use crate::bgp::{Bgp, SpeakerPlan};
use crate::host::error::HostError;
use crate::host::netns::Netns;
use crate::host::state_dir::StateDir;
use crate::io::udp::UdpPort;
use crate::offload;
use crate::worker::{KernelFlows, TunnelChange, Worker, monotonic};

/// A lab that runs.
#[derive(Debug)]
pub(super) struct Lab {
    /// Its name.
    pub name: String,
    /// Its workers, the first of which receives the tunnels' datagrams.
    pub workers: Vec<Worker>,
    /// What the workers share.
    pub shared: Arc<Shared>,
    /// What carries plain flows in the kernel, or why nothing does.
    pub kernel: Result<Arc<dyn KernelFlows>, String>,
    /// When the policy in force was published, in nanoseconds since 1970.
    pub policy_since_ns: AtomicU64,
    /// What runs its gateways' BGP speakers.
    pub bgp: Arc<Bgp>,
    control: Mutex<Control>,
    view: ArcSwap<View>,
    /// True when the lab is being taken down: no program may enter it any more.
    closed: RwLock<bool>,
    /// Who owned each port that the lab ever had: what they dropped counts on when they are gone.
    owners: Mutex<HashMap<PortId, String>>,
}

/// What all labs share.
#[derive(Clone, Debug)]
pub(super) struct Services {
    /// Takes what becomes of tunnels.
    pub changes: std::sync::mpsc::Sender<TunnelChange>,
    /// Runs the speakers.
    pub bgp: Arc<Bgp>,
}

/// What of a lab can be asked while it is being changed: replaced whole by each change.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// Where the accepted file came from.
    pub origin: String,
    /// What it says.
    pub topology: Arc<Topology>,
    /// Where each of its values stands in its text.
    pub source: Arc<SourceMap>,
    /// What is in force beyond it.
    pub state: Arc<State>,
    /// Namespaces and devices.
    pub blueprint: Arc<Blueprint>,
    /// What programs can enter.
    pub machines: Arc<BTreeMap<String, Machine>>,
    /// The tunnels' keys.
    pub keys: Arc<Keys>,
}

/// A machine that programs can enter.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    /// Its namespace.
    pub ns: Arc<Netns>,
    /// What it sees of its own.
    pub backing: Arc<Furniture>,
    /// Where its commands write to.
    pub log: PathBuf,
}

/// Everything that an apply changes. One change at a time.
#[derive(Debug)]
struct Control {
    /// `None` when the lab has been taken down.
    dir: Option<Arc<StateDir>>,
    store: Store,
    /// The accepted file.
    file: TopologyFile,
    topology: Arc<Topology>,
    source: Arc<SourceMap>,
    state: State,
    blueprint: Arc<Blueprint>,
    site: Site,
    programs: Programs,
    keys: Keys,
    sockets: HashSet<SocketAddr>,
}

/// What an apply has come to.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// What the control state did to reach the file.
    pub effects: Vec<Effect>,
}

/// The lab that a file asks for, until it is accepted.
struct Wanted {
    input: Input,
    state: State,
    snapshot: Arc<Snapshot>,
    /// The very same as before where namespaces and devices stay as they are.
    blueprint: Arc<Blueprint>,
    keys: Keys,
    setups: Vec<TunnelSetup>,
}

impl Wanted {
    /// Public addresses of tunnels: each has a socket, whether or not its tunnels run at present.
    fn locals(&self) -> HashSet<SocketAddr> {
        self.snapshot.tunnels().map(|spec| SocketAddr::new(spec.local, PORT)).collect()
    }
}

/// What a change has done so far.
#[derive(Default)]
struct Done {
    built: Built,
    bound: Vec<SocketAddr>,
}

impl Lab {
    /// Makes a lab, or takes over one that a former daemon left: `accepted` is what it stored in `store`.
    ///
    /// # Errors
    /// The step that failed. What was made is gone again; what a former daemon left is as it was.
    pub(super) fn open(
        options: &Options,
        dir: StateDir,
        input: Input,
        (store, accepted): (Store, Option<Accepted>),
        services: Services,
        report: Report<'_>,
    ) -> Result<(Lab, Applied), Failure> {
        let name = input.topology.name.clone();
        let adopted = accepted.is_some();
        let (mut state, keys) = accepted.map_or_else(Default::default, |accepted| {
            let request = ApplyRequest { topology: accepted.file, as_azure: true };
            let mut state = accepted.state;
            // One that this version refuses is compared with nothing.
            if let Ok(former) = Input::load(&request) {
                state.resume(former.topology);
            }
            (state, accepted.keys)
        });
        // No session of a tunnel or a speaker outlives the daemon.
        state.forget_learned();
        let tunnels: Vec<String> = state.tunnels.keys().cloned().collect();
        for tunnel in tunnels {
            state.step(Event::TunnelConnecting { tunnel }, monotonic());
        }
        let memory = store::sessions(&dir, options.sessions_max)?;
        let now = seconds(monotonic());
        let shared = Arc::new(Shared::new(Snapshot::default(), memory, rand::random(), now));
        let kernel: Result<Arc<dyn KernelFlows>, String> =
            options.kernel.clone().and_then(|host| host.open(&name));
        if let Err(why) = &kernel {
            tracing::info!(lab = %name, %why, "no flow runs in the kernel");
            // A former daemon's would go on with nobody to end them.
            if let Err(error) = offload::abandon(&name) {
                tracing::warn!(lab = %name, %error, "what a former daemon has left in the kernel could not be removed");
            }
        }
        let left = kernel.as_ref().map_or_else(|_| Vec::new(), |kernel| kernel.take_adopted());
        if let Ok(kernel) = &kernel {
            // The former daemon may have published epochs that it did not store: none of its entries counts by chance.
            state.epoch = state.epoch.max(u64::from(kernel.epoch()));
            keep_alive(&shared, &**kernel, &left);
        }
        let workers = start_workers(&name, options, &shared, kernel.as_ref().ok(), &services.changes)?;
        let device_options = DeviceOptions { queues: options.workers, offloads: options.offloads };
        let view = View {
            origin: String::new(),
            topology: Arc::clone(&input.topology),
            source: Arc::clone(&input.source),
            state: Arc::default(),
            blueprint: Arc::default(),
            machines: Arc::default(),
            keys: Arc::default(),
        };
        let control = Control {
            dir: Some(Arc::new(dir)),
            store,
            file: TopologyFile::default(),
            topology: Arc::clone(&input.topology),
            source: Arc::clone(&input.source),
            state,
            blueprint: Arc::default(),
            site: Site::new(&name, device_options),
            programs: Programs::default(),
            keys,
            sockets: HashSet::new(),
        };
        let lab = Lab {
            name,
            workers,
            shared,
            kernel,
            policy_since_ns: AtomicU64::new(0),
            bgp: services.bgp,
            control: Mutex::new(control),
            view: ArcSwap::from_pointee(view),
            closed: RwLock::new(false),
            owners: Mutex::default(),
        };
        let applied = lab.apply(input, report)?;
        if let Some(worker) = lab.workers.first().filter(|_| !left.is_empty()) {
            worker.adopt(left);
        }
        if adopted {
            let control = lab.control();
            if let Err(error) = control.site.sweep(&control.blueprint) {
                tracing::error!(lab = %lab.name, %error, "what a crash left beside the lab could not be removed");
            }
        }
        Ok((lab, applied))
    }

    /// The part that changes; held for the whole of an apply, so nobody who only looks takes it.
    fn control(&self) -> MutexGuard<'_, Control> {
        // A panic in the middle of an apply leaves what was there before it or after it in every field.
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the last accepted change has made of the lab.
    pub(super) fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// The policy in force.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// Who owns each port that the lab has or had.
    pub(super) fn owners(&self) -> MutexGuard<'_, HashMap<PortId, String>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The commands of machines that were started since this was asked last. They are waited for without the lab's lock.
    pub(super) fn begun(&self) -> Begun {
        self.control().programs.begun()
    }

    /// Runs `enter` unless the lab is being taken down: what it starts is there for the taking down to find.
    pub(super) fn while_open<T>(&self, enter: impl FnOnce() -> T) -> Option<T> {
        let closed = self.closed.read().unwrap_or_else(PoisonError::into_inner);
        (!*closed).then(enter)
    }

    /// Brings the lab to what the file says.
    ///
    /// # Errors
    /// The step that failed; the lab is as it was before.
    pub(super) fn apply(&self, input: Input, report: Report<'_>) -> Result<Applied, Failure> {
        let mut control = self.control();
        let Some(dir) = control.dir.clone() else {
            return Err(Failure::Conflict(format!("The lab '{}' has just been taken down.", self.name)));
        };
        let mut state = control.state.clone();
        let refused = input.refusals(&state);
        if !refused.is_empty() {
            return Err(Failure::RefusedByAzure(refused));
        }
        let mut laps = Laps::begin(&self.name);
        let effects = state.step(input.event(), monotonic());
        let snapshot = state.snapshot();
        laps.lap("compile");
        let blueprint = Blueprint::new(&input.topology, &snapshot);
        let blueprint = Some(Arc::clone(&control.blueprint))
            .filter(|former| **former == blueprint)
            .unwrap_or_else(|| Arc::new(blueprint));
        let mut keys = control.keys.clone();
        let setups = keys::setups(&snapshot, &mut keys);
        keys.retain(&snapshot);
        let wanted = Wanted { input, state, snapshot, blueprint, keys, setups };
        laps.lap("draw up");
        let mut done = Done::default();
        if let Err(error) = self.reach(&mut control, &dir, &wanted, &mut done, report) {
            self.take_back(&mut control, &dir, &wanted.blueprint, &done, report);
            return Err(error.into());
        }
        laps.lap("build and store");
        self.accept(&mut control, &dir, wanted, done.built, report);
        laps.lap("put in force");
        Ok(Applied { effects })
    }

    /// Everything of a change that can fail: makes what is missing, and stores the change as its last step.
    fn reach(
        &self,
        control: &mut Control,
        dir: &StateDir,
        wanted: &Wanted,
        done: &mut Done,
        report: Report<'_>,
    ) -> Result<(), HostError> {
        if !Arc::ptr_eq(&control.blueprint, &wanted.blueprint) {
            control.site.extend(&control.blueprint, &wanted.blueprint, &mut done.built, report)?;
            self.attach(&control.site, &mut done.built);
        }
        fault::step("attach")?;
        // An entry of its own is never a machine.
        if wanted.input.changed.is_none() || !Arc::ptr_eq(&control.blueprint, &wanted.blueprint) {
            control.programs.prepare(dir, &wanted.input.topology, &wanted.blueprint)?;
        }
        fault::step("tunnels")?;
        let new: Vec<SocketAddr> = wanted.locals().difference(&control.sockets).copied().collect();
        for address in new {
            self.bind(control, address)?;
            done.bound.push(address);
        }
        fault::step("store")?;
        control.store.save(&wanted.input.file, &wanted.state, &wanted.keys)
    }

    /// Puts a change in force that is stored: nothing of it can fail any more but removing what is superfluous.
    fn accept(
        &self,
        control: &mut Control,
        dir: &Arc<StateDir>,
        wanted: Wanted,
        mut built: Built,
        report: Report<'_>,
    ) {
        let locals = wanted.locals();
        let machines_change = wanted.input.changed.is_none();
        if let Err(error) = self.shared.tunnels().set(wanted.setups, monotonic()) {
            tracing::error!(lab = %self.name, %error, "a tunnel could not be set up");
        }
        let gone: Vec<SocketAddr> = control.sockets.difference(&locals).copied().collect();
        gone.iter().for_each(|address| self.unbind(control, *address));
        let before = std::mem::replace(&mut control.blueprint, wanted.blueprint);
        control.state = wanted.state;
        control.keys = wanted.keys;
        control.file = wanted.input.file;
        control.topology = wanted.input.topology;
        control.source = wanted.input.source;
        self.publish(control, wanted.snapshot, machines_change);
        if !Arc::ptr_eq(&before, &control.blueprint) {
            control.site.retire(&before, &control.blueprint, &mut built, report);
            self.attach(&control.site, &mut built);
        }
        let topology = Arc::clone(&control.topology);
        control.programs.start(&control.site, dir, &topology, &built.created);
        // The first worker sleeps until the next timer that it knows of: a tunnel's may be new.
        if let Some(worker) = self.workers.first() {
            worker.wake();
        }
    }

    /// Makes a snapshot and all that can be asked of the lab visible. `machines_change`: what programs find in machines may be another.
    fn publish(&self, control: &Control, snapshot: Arc<Snapshot>, machines_change: bool) {
        let mut owners = self.owners();
        for port in snapshot.ports() {
            owners.entry(port.id).or_insert_with(|| owner_name(&snapshot, port.id));
        }
        drop(owners);
        // Before the first packet that meets it: whoever measures from here on measures too much rather than too little.
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.policy_since_ns.store(since.as_nanos() as u64, Ordering::Relaxed);
        if let Ok(kernel) = &self.kernel {
            // From here on every packet comes to the workers, which decide it by the new policy or are about to take it.
            kernel.publish(snapshot.epoch() as u32);
        }
        let before = self.shared.snapshot.swap(Arc::clone(&snapshot));
        self.speak(control, &before, &snapshot);
        let former = self.view();
        let machines = if Arc::ptr_eq(&former.blueprint, &control.blueprint) && !machines_change {
            Arc::clone(&former.machines)
        } else {
            Arc::new(machines(control))
        };
        self.view.store(Arc::new(View {
            origin: control.file.origin.clone(),
            topology: Arc::clone(&control.topology),
            source: Arc::clone(&control.source),
            state: Arc::new(control.state.clone()),
            blueprint: Arc::clone(&control.blueprint),
            machines,
            keys: Arc::new(control.keys.clone()),
        }));
    }

    /// Has the gateways' speakers speak by a new snapshot. Those whose namespaces are about to go have closed their sockets then.
    fn speak(&self, control: &Control, before: &Snapshot, after: &Snapshot) {
        let stays = |old: &BgpSpeaker| after.bgp_speakers().any(|new| new.port == old.port);
        let some_go = !before.bgp_speakers().all(stays);
        if !some_go && after.bgp_speakers().next().is_none() {
            return;
        }
        let plan = |spec: &BgpSpeaker| {
            let (ns, _) = control.site.device(spec.port)?;
            Some(SpeakerPlan { spec: spec.clone(), ns: Arc::clone(ns) })
        };
        self.bgp.set(&self.name, after.bgp_speakers().filter_map(plan).collect(), some_go);
    }

    /// Hands new queues to the workers and takes those of gone devices away.
    fn attach(&self, site: &Site, built: &mut Built) {
        for port in built.detached.drain(..) {
            self.workers.iter().for_each(|worker| worker.detach(port));
            if let Ok(kernel) = &self.kernel {
                kernel.detach(port);
            }
        }
        for (port, queues) in built.queues.drain(..) {
            if let (Ok(kernel), Some((ns, device))) = (&self.kernel, site.device(port)) {
                kernel.attach(port, ns, device);
            }
            for (worker, queue) in self.workers.iter().zip(queues) {
                worker.attach(port, queue);
            }
        }
    }

    /// Opens the socket of a tunnel's public address, one descriptor for each worker.
    fn bind(&self, control: &mut Control, address: SocketAddr) -> Result<(), HostError> {
        let internet = control
            .site
            .namespace(INTERNET)
            .ok_or_else(|| HostError::Invalid("the lab has no internet namespace".into()))?;
        let failed =
            |source| HostError::Io { action: "bind the tunnel socket", object: address.to_string(), source };
        let socket = internet.run(|| UdpSocket::bind(address))?.map_err(failed)?;
        let ports: Vec<UdpPort> = (self.workers.iter())
            .map(|_| socket.try_clone().and_then(UdpPort::new).map_err(failed))
            .collect::<Result<_, _>>()?;
        for (index, (worker, port)) in self.workers.iter().zip(ports).enumerate() {
            worker.bind(address, port, index == 0);
        }
        control.sockets.insert(address);
        Ok(())
    }

    fn unbind(&self, control: &mut Control, address: SocketAddr) {
        self.workers.iter().for_each(|worker| worker.unbind(address));
        control.sockets.remove(&address);
    }

    /// Brings host and sockets back to what they were.
    fn take_back(
        &self,
        control: &mut Control,
        dir: &StateDir,
        wanted: &Blueprint,
        done: &Done,
        report: Report<'_>,
    ) {
        let _quiet = fault::suspend();
        done.bound.iter().for_each(|address| self.unbind(control, *address));
        let mut undone = control.site.roll_back(&control.blueprint, wanted, &done.built, report);
        self.attach(&control.site, &mut undone);
        if let Err(error) = control.programs.prepare(dir, &control.topology, &control.blueprint) {
            tracing::error!(lab = %self.name, %error, "the machines' files could not be brought back");
        }
    }

    /// Both halves of a peering take over the ranges that their networks have now. What it answers is whether that has
    /// changed anything.
    ///
    /// # Errors
    /// The lab is gone, or the state cannot be stored: then nothing has changed.
    pub(super) fn sync_peering(&self, local: &str, remote: &str) -> Result<bool, Failure> {
        self.take(Event::PeeringSync { local: local.to_owned(), remote: remote.to_owned() })
    }

    /// Takes an event that changes no namespace and no device, and puts in force what follows from it. What it answers is
    /// whether that has changed anything.
    ///
    /// # Errors
    /// The lab is gone, or the state cannot be stored: then nothing has changed.
    pub(super) fn take(&self, event: Event) -> Result<bool, Failure> {
        let mut control = self.control();
        if control.dir.is_none() {
            return Err(Failure::Conflict(format!("The lab '{}' has just been taken down.", self.name)));
        }
        let mut state = control.state.clone();
        if state.step(event, monotonic()).is_empty() {
            return Ok(false);
        }
        let snapshot = state.snapshot();
        // What tunnels accept may follow the ranges.
        let mut keys = control.keys.clone();
        let setups = keys::setups(&snapshot, &mut keys);
        let Control { store, file, .. } = &mut *control;
        store.save(file, &state, &keys)?;
        if let Err(error) = self.shared.tunnels().set(setups, monotonic()) {
            tracing::error!(lab = %self.name, %error, "a tunnel could not be set up");
        }
        (control.state, control.keys) = (state, keys);
        self.publish(&control, snapshot, false);
        if let Some(worker) = self.workers.first() {
            worker.wake();
        }
        Ok(true)
    }

    /// Takes note of what became of a tunnel, and publishes what follows from it.
    pub(super) fn tunnel_changed(&self, tunnel: TunnelId, status: ConnectionStatus) {
        let mut control = self.control();
        let Some(name) = self.snapshot().tunnel(tunnel).map(|spec| spec.name.to_string()) else { return };
        // What was reported may have been overtaken: threads report side by side, and a new lab's tunnels are asked too.
        let present = self.shared.tunnels().status(tunnel, monotonic());
        let status = present.as_ref().map_or(status, |present| present.status);
        let event = match status {
            ConnectionStatus::Connected => Event::TunnelUp { tunnel: name.clone() },
            ConnectionStatus::NotConnected => {
                let reason = present.and_then(|present| present.failure).map(|failure| failure.to_string());
                Event::TunnelDown {
                    tunnel: name.clone(),
                    reason: reason.unwrap_or_else(|| "no session".into()),
                }
            }
            ConnectionStatus::Unknown | ConnectionStatus::Connecting => {
                Event::TunnelConnecting { tunnel: name.clone() }
            }
        };
        tracing::info!(lab = %self.name, tunnel = %name, ?status, "tunnel");
        let effects = control.state.step(event, monotonic());
        if effects.iter().any(|effect| matches!(effect, Effect::Recompile(_))) {
            let snapshot = control.state.snapshot();
            self.publish(&control, snapshot, false);
        }
    }

    /// Takes note of what a gateway has learned, and publishes what follows from it.
    pub(super) fn learned(&self, gateway: String, routes: Vec<LearnedRoute>) {
        let mut control = self.control();
        if control.dir.is_none() {
            return;
        }
        let count = routes.len();
        let effects =
            control.state.step(Event::RoutesLearned { gateway: gateway.clone(), routes }, monotonic());
        if effects.iter().any(|effect| matches!(effect, Effect::Recompile(_))) {
            tracing::debug!(lab = %self.name, %gateway, count, "routes learned");
            let snapshot = control.state.snapshot();
            self.publish(&control, snapshot, false);
        }
    }

    /// Ends the lab: programs, namespaces, devices and state. What fails is reported; the rest is done, and the state
    /// stays, so that a later call can finish.
    ///
    /// # Errors
    /// The first thing that could not be removed.
    pub(super) fn down(&self, report: Report<'_>) -> Result<(), HostError> {
        *self.closed.write().unwrap_or_else(PoisonError::into_inner) = true;
        let mut control = self.control();
        let Some(dir) = control.dir.take() else { return Ok(()) };
        control.programs.stop();
        // A namespace lives as long as one of its devices or sockets is open.
        self.bgp.set(&self.name, Vec::new(), true);
        self.workers.iter().for_each(Worker::end);
        control.sockets.clear();
        let blueprint = std::mem::take(&mut control.blueprint);
        if let Ok(kernel) = &self.kernel {
            kernel.remove();
        }
        let outcome = control.site.tear_down(&blueprint, report);
        let view = self.view();
        self.view.store(Arc::new(View { machines: Arc::default(), ..View::clone(&view) }));
        outcome.and_then(|()| dir.remove())
    }
}

/// What programs can enter.
fn machines(control: &Control) -> BTreeMap<String, Machine> {
    let machines = control.blueprint.namespaces.iter().filter_map(|(name, namespace)| {
        let ns = control.site.namespace(name).filter(|_| namespace.role.is_machine())?;
        let backing = Arc::clone(control.programs.backing(name)?);
        let log = control.dir.as_ref()?.log(name);
        Some((name.clone(), Machine { ns: Arc::clone(ns), backing, log }))
    });
    machines.collect()
}

fn start_workers(
    name: &str,
    options: &Options,
    shared: &Arc<Shared>,
    kernel: Option<&Arc<dyn KernelFlows>>,
    changes: &std::sync::mpsc::Sender<TunnelChange>,
) -> Result<Vec<Worker>, HostError> {
    (0..options.workers)
        .map(|index| {
            let own = RouterOptions { offload: kernel.is_some(), ..options.router };
            let router = Router::new(Arc::clone(shared), own, rand::random());
            let thread = format!("vnet-{index}-{name}");
            Worker::start(name, &thread, router, kernel.cloned(), changes.clone(), options.patience).map_err(
                |source| HostError::Io {
                    action: "start worker",
                    object: format!("{index} of lab {name}"),
                    source,
                },
            )
        })
        .collect()
}

/// Tells the sessions of what the kernel has carried while no daemon ran, before their idle time ends them.
fn keep_alive(shared: &Shared, kernel: &dyn KernelFlows, entries: &[(OffloadSlot, OffloadEntry)]) {
    let seen: HashMap<FiveTuple, u32> = entries
        .iter()
        .filter_map(|(slot, entry)| Some((entry.key.tuple(), seconds(kernel.counts(*slot)?.last_seen))))
        .collect();
    let last = |tuple: &FiveTuple| seen.get(tuple).copied();
    shared.sessions().refresh(|record| last(&record.original()).max(last(&record.reply())));
}

/// The clock of the session records, in whole seconds.
pub(super) fn seconds(now: Nanos) -> u32 {
    (now.0 / 1_000_000_000) as u32
}
