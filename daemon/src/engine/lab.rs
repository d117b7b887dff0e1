//! One running lab: what the file says, what is in force, the host's side of it, and its workers.

use std::collections::HashSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vnet_api::{Progress, ProgressState, TopologyFile};
use vnet_config::model::Topology;
use vnet_dataplane::{Nanos, TunnelId};
use vnet_fabric::control::{Effect, Event, State};
use vnet_fabric::snapshot::Snapshot;
use vnet_gateway::ConnectionStatus;
use vnet_router::{Router, SessionMemory, Shared};

use super::blueprint::{Blueprint, INTERNET};
use super::build::{Built, DeviceOptions, Report, Site};
use super::input::Input;
use super::keys::{self, Keys};
use super::programs::Programs;
use super::store::{self, Accepted};
use super::{Failure, Options, fault};
use crate::host::error::HostError;
use crate::host::state_dir::StateDir;
use crate::io::udp::UdpPort;
use crate::worker::{TunnelChange, Worker, monotonic};

/// A lab that runs.
#[derive(Debug)]
pub(super) struct Lab {
    /// Its name.
    pub name: String,
    /// Its workers, the first of which receives the tunnels' datagrams.
    pub workers: Vec<Worker>,
    /// What the workers share.
    pub shared: Arc<Shared>,
    control: Mutex<Control>,
}

/// Everything that an apply changes. One change at a time.
#[derive(Debug)]
pub(super) struct Control {
    dir: StateDir,
    /// The accepted file.
    pub file: TopologyFile,
    /// What it says.
    pub topology: Arc<Topology>,
    /// What is in force beyond it.
    pub state: State,
    /// Namespaces and devices, as they should be.
    pub blueprint: Blueprint,
    /// Namespaces and devices, as they are.
    pub site: Site,
    /// Programs of the machines.
    pub programs: Programs,
    keys: Keys,
    sockets: HashSet<SocketAddr>,
}

impl Control {
    /// Where a machine's commands write to.
    pub(super) fn log(&self, machine: &str) -> std::path::PathBuf {
        self.dir.log(machine)
    }
}

/// What an apply has come to.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// What the control state did to reach the file.
    pub effects: Vec<Effect>,
}

impl Lab {
    /// Makes a lab, or takes over one that a former daemon left: `accepted` is what it stored.
    ///
    /// # Errors
    /// The step that failed. What was made is gone again; what a former daemon left is as it was.
    pub(super) fn open(
        options: &Options,
        dir: StateDir,
        input: Input,
        accepted: Option<Accepted>,
        changes: std::sync::mpsc::Sender<TunnelChange>,
        report: Report<'_>,
    ) -> Result<(Lab, Applied), Failure> {
        let name = input.topology.name.clone();
        let adopted = accepted.is_some();
        let (mut state, keys) =
            accepted.map_or_else(Default::default, |accepted| (accepted.state, accepted.keys));
        if adopted {
            // No session of a tunnel outlives the daemon.
            let tunnels: Vec<String> = state.tunnels.keys().cloned().collect();
            for tunnel in tunnels {
                state.step(Event::TunnelConnecting { tunnel }, monotonic());
            }
        }
        let records = store::sessions(&dir, options.sessions_max)?;
        let now = monotonic();
        let shared = Arc::new(Shared::new(
            Snapshot::default(),
            SessionMemory::new(records),
            rand::random(),
            seconds(now),
        ));
        let workers = start_workers(&name, options, &shared, &changes)?;
        let device_options = DeviceOptions { queues: options.workers, offloads: options.offloads };
        let control = Control {
            dir,
            file: TopologyFile::default(),
            topology: Arc::clone(&input.topology),
            state,
            blueprint: Blueprint::default(),
            site: Site::new(&name, device_options),
            programs: Programs::default(),
            keys,
            sockets: HashSet::new(),
        };
        let lab = Lab { name, workers, shared, control: Mutex::new(control) };
        let applied = {
            let mut control = lab.control();
            let applied = lab.converge(&mut control, input, adopted, report)?;
            if adopted {
                let blueprint = control.blueprint.clone();
                control.site.sweep(&blueprint)?;
            }
            applied
        };
        Ok((lab, applied))
    }

    /// The part that changes; held for the whole of an apply.
    pub(super) fn control(&self) -> MutexGuard<'_, Control> {
        // A panic in the middle of an apply leaves what was there before it or after it in every field.
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The policy in force.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// Brings the lab to what the file says.
    ///
    /// # Errors
    /// The step that failed; the lab is as it was before.
    pub(super) fn apply(&self, input: Input, report: Report<'_>) -> Result<Applied, Failure> {
        let mut control = self.control();
        self.converge(&mut control, input, false, report)
    }

    fn converge(
        &self,
        control: &mut Control,
        input: Input,
        adopted: bool,
        report: Report<'_>,
    ) -> Result<Applied, Failure> {
        let mut state = control.state.clone();
        let effects = state.step(Event::Apply(Arc::clone(&input.topology)), monotonic());
        let snapshot = vnet_fabric::compile::compile(&input.topology, &state);
        let blueprint = Blueprint::new(&input.topology, &snapshot);
        let mut keys = control.keys.clone();
        let before = control.blueprint.clone();
        let mut built = control.site.build(&before, &blueprint, report)?;
        let finished = self
            .attach(&mut built)
            .and_then(|()| control.programs.prepare(&control.dir, &input, &blueprint))
            .and_then(|()| self.bind_tunnels(control, &snapshot, &mut keys))
            .and_then(|()| {
                fault::step("store")?;
                let accepted =
                    Accepted { file: input.file.clone(), state: state.clone(), keys: keys.clone() };
                store::save(&control.dir, &accepted)
            });
        if let Err(error) = finished {
            self.take_back(control, &before, &blueprint, &built, report);
            return Err(error.into());
        }
        keys.retain(&snapshot);
        control.keys = keys;
        control.state = state;
        control.blueprint = blueprint;
        control.file = input.file.clone();
        control.topology = Arc::clone(&input.topology);
        self.shared.snapshot.store(Arc::new(snapshot));
        let created = if adopted { Vec::new() } else { built.created };
        control.programs.start(&control.site, &control.dir, &input.topology, &created);
        Ok(Applied { effects })
    }

    /// Hands new queues to the workers and takes those of gone devices away.
    fn attach(&self, built: &mut Built) -> Result<(), HostError> {
        for port in &built.detached {
            self.workers.iter().for_each(|worker| worker.detach(*port));
        }
        for (port, queues) in built.queues.drain(..) {
            for (worker, queue) in self.workers.iter().zip(queues) {
                worker.attach(port, queue);
            }
        }
        fault::step("attach")
    }

    /// Opens and closes sockets so that there is one for each public address of a tunnel, and sets the tunnels.
    fn bind_tunnels(
        &self,
        control: &mut Control,
        snapshot: &Snapshot,
        keys: &mut Keys,
    ) -> Result<(), HostError> {
        fault::step("tunnels")?;
        let setups = keys::setups(snapshot, keys);
        let wanted: HashSet<SocketAddr> = setups.iter().map(|setup| setup.local).collect();
        let gone: Vec<SocketAddr> = control.sockets.difference(&wanted).copied().collect();
        let new: Vec<SocketAddr> = wanted.difference(&control.sockets).copied().collect();
        for address in new {
            let internet = control
                .site
                .namespace(INTERNET)
                .ok_or_else(|| HostError::Invalid("the lab has no internet namespace".into()))?;
            let failed = |source| HostError::Io {
                action: "bind the tunnel socket",
                object: address.to_string(),
                source,
            };
            let socket = internet.run(|| UdpSocket::bind(address))?.map_err(failed)?;
            for (index, worker) in self.workers.iter().enumerate() {
                let port = socket.try_clone().and_then(UdpPort::new).map_err(failed)?;
                worker.bind(address, port, index == 0);
            }
            control.sockets.insert(address);
        }
        for address in gone {
            self.workers.iter().for_each(|worker| worker.unbind(address));
            control.sockets.remove(&address);
        }
        let set = self.shared.tunnels().set(setups, monotonic());
        // The first worker sleeps until the next timer that it knows of: this one is new.
        if let Some(worker) = self.workers.first() {
            worker.wake();
        }
        set.map_err(|error| HostError::Invalid(error.to_string()))
    }

    /// Brings the host, the sockets and the tunnels back to what they were.
    fn take_back(
        &self,
        control: &mut Control,
        before: &Blueprint,
        after: &Blueprint,
        built: &Built,
        report: Report<'_>,
    ) {
        let _quiet = fault::suspend();
        for name in &built.created {
            report(Progress { object: name.clone(), state: ProgressState::RolledBack, ms: 0, message: None });
        }
        match control.site.build(after, before, &|_| {}) {
            Ok(mut undone) => {
                if let Err(error) = self.attach(&mut undone) {
                    tracing::error!(lab = %self.name, %error, "devices could not be attached again");
                }
            }
            Err(error) => tracing::error!(lab = %self.name, %error, "the lab could not be brought back"),
        }
        let snapshot = self.snapshot();
        let mut keys = control.keys.clone();
        if let Err(error) = self.bind_tunnels(control, &snapshot, &mut keys) {
            tracing::error!(lab = %self.name, %error, "the tunnels could not be brought back");
        }
    }

    /// Takes note of what became of a tunnel, and publishes what follows from it.
    pub(super) fn tunnel_changed(&self, tunnel: TunnelId, status: ConnectionStatus) {
        let mut control = self.control();
        let Some(name) = self.snapshot().tunnel(tunnel).map(|spec| spec.name.to_string()) else { return };
        let event = match status {
            ConnectionStatus::Connected => Event::TunnelUp { tunnel: name.clone() },
            ConnectionStatus::NotConnected => {
                let status = self.shared.tunnels().status(tunnel, monotonic());
                let reason = status.and_then(|status| status.failure).map(|failure| failure.to_string());
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
            let snapshot = vnet_fabric::compile::compile(&control.topology, &control.state);
            self.shared.snapshot.store(Arc::new(snapshot));
        }
    }

    /// Ends the lab: programs, namespaces, devices and state. What fails is reported; the rest is done.
    ///
    /// # Errors
    /// The first thing that could not be removed.
    pub(super) fn down(self: Arc<Self>, report: Report<'_>) -> Result<(), HostError> {
        let mut control = self.control();
        control.programs.stop();
        let blueprint = control.blueprint.clone();
        let sockets: Vec<SocketAddr> = control.sockets.drain().collect();
        for worker in &self.workers {
            sockets.iter().for_each(|address| worker.unbind(*address));
            worker.stop();
        }
        let outcome = control.site.tear_down(&blueprint, report);
        control.dir.remove()?;
        outcome
    }

    /// Peer configuration keys: this end's key of a tunnel end by name.
    pub(super) fn with_keys<T>(&self, read: impl FnOnce(&mut Keys, &Snapshot) -> T) -> T {
        let mut control = self.control();
        let snapshot = self.snapshot();
        read(&mut control.keys, &snapshot)
    }
}

fn start_workers(
    name: &str,
    options: &Options,
    shared: &Arc<Shared>,
    changes: &std::sync::mpsc::Sender<TunnelChange>,
) -> Result<Vec<Worker>, HostError> {
    (0..options.workers)
        .map(|index| {
            let router = Router::new(Arc::clone(shared), options.router, rand::random());
            Worker::start(name, &format!("vnet-{index}-{name}"), router, changes.clone()).map_err(|source| {
                HostError::Io { action: "start worker", object: format!("{index} of lab {name}"), source }
            })
        })
        .collect()
}

/// The clock of the session records, in whole seconds.
pub(super) fn seconds(now: Nanos) -> u32 {
    (now.0 / 1_000_000_000) as u32
}
