//! Labs: their life, and what the API asks of them.

mod backend;
mod bgp;
mod blueprint;
mod build;
mod capture;
mod evidence;
mod factory;
mod failover;
mod fault;
mod input;
mod keys;
mod lab;
mod laps;
mod live;
mod probe;
mod programs;
mod public_addresses;
mod records;
mod resources;
mod run;
mod scrape;
mod store;
mod traffic;

pub use backend::Service;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use tokio::sync::Notify;
use vnet_api::{ApplyRequest, Diagnostic, Progress};
use vnet_router::RouterOptions;

use crate::api::error::ApiError;
use crate::bgp::{Bgp, Learned, News};
use crate::host::error::HostError;
use crate::host::state_dir::{self, StateDir};
use crate::host::sweep;
use crate::io::tun::Offloads;
use crate::worker::{KernelHost, Patience, TunnelChange, monotonic};

use build::Report;
use input::Input;
use lab::{Applied, Lab, Services};
use store::Store;

/// How an engine runs its labs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where labs' state lies.
    pub state_root: PathBuf,
    /// Workers of each lab.
    pub workers: usize,
    /// Offloads of the devices.
    pub offloads: Offloads,
    /// Sessions of each lab.
    pub sessions_max: usize,
    /// How long workers wait for packets that are about to come.
    pub patience: Patience,
    /// Bounds and switches of the router.
    pub router: RouterOptions,
    /// What carries plain flows in the kernel, or why nothing does.
    pub kernel: Result<Arc<dyn KernelHost>, String>,
    /// Where metrics are served, for `doctor`.
    pub metrics: Option<std::net::SocketAddr>,
}

/// Why something about a lab failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The file is refused.
    #[error("the topology file is refused")]
    Refused(Vec<Diagnostic>),
    /// Azure would refuse the change in the present state.
    #[error("Azure would refuse the change in the lab's present state")]
    RefusedByAzure(Vec<Diagnostic>),
    /// The host refused.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Another change of the lab is under way, or another daemon runs it.
    #[error("{0}")]
    Conflict(String),
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> ApiError {
        match failure {
            Failure::Refused(diagnostics) => ApiError::refused(diagnostics),
            Failure::RefusedByAzure(diagnostics) => ApiError::refused_by_azure(diagnostics),
            Failure::Host(error @ HostError::Busy { .. }) => ApiError::conflict(error.to_string()),
            Failure::Host(error) if error.is_forbidden() => ApiError::unavailable(format!(
                "{error}; labs need root, or the rights that `vnetctl doctor` names"
            )),
            Failure::Host(error) => ApiError::internal(error.to_string()),
            Failure::Conflict(message) => ApiError::conflict(message),
        }
    }
}

/// All labs of this daemon.
#[derive(Debug)]
pub struct Engine {
    options: Options,
    labs: Mutex<Labs>,
    changes: mpsc::Sender<TunnelChange>,
    bgp: Arc<Bgp>,
    /// Signalled when a lab went: the daemon may end with its last one.
    pub idle: Notify,
}

/// The labs, and those that are being made or taken down.
#[derive(Debug, Default)]
struct Labs {
    running: BTreeMap<String, Arc<Lab>>,
    busy: BTreeSet<String>,
    /// The daemon is ending: no lab begins any more.
    closed: bool,
}

/// A lab's name, kept from everybody else while its lab is made or taken down.
struct Reserved<'a> {
    engine: &'a Engine,
    name: String,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.engine.labs().busy.remove(&self.name);
        // A permit is kept for a listener that is not listening at this moment.
        self.engine.idle.notify_one();
    }
}

impl Engine {
    /// An engine without labs.
    ///
    /// # Errors
    /// No thread for the tunnels' changes, or for BGP.
    pub fn new(options: Options) -> std::io::Result<Arc<Engine>> {
        let (changes, inbox) = mpsc::channel::<TunnelChange>();
        let (news, mut take) = News::new();
        let bgp = Arc::new(Bgp::start(news)?);
        let engine = Arc::new(Engine { options, labs: Mutex::default(), changes, bgp, idle: Notify::new() });
        let weak = Arc::downgrade(&engine);
        std::thread::Builder::new().name("bgp-routes".into()).spawn(move || {
            while let Some(news) = take() {
                let Some(engine) = weak.upgrade() else { return };
                for Learned { lab, gateway, routes } in news {
                    if let Some(lab) = engine.find(&lab) {
                        lab.learned(gateway, routes);
                    }
                }
            }
        })?;
        let weak = Arc::downgrade(&engine);
        std::thread::Builder::new().name("tunnel-changes".into()).spawn(move || {
            while let Ok(change) = inbox.recv() {
                let Some(engine) = weak.upgrade() else { return };
                if let Some(lab) = engine.find(&change.lab) {
                    lab.tunnel_changed(change.tunnel, change.status);
                }
            }
        })?;
        Ok(engine)
    }

    fn services(&self) -> Services {
        Services { changes: self.changes.clone(), bgp: Arc::clone(&self.bgp) }
    }

    fn labs(&self) -> MutexGuard<'_, Labs> {
        // Every change of it is one insert or remove.
        self.labs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Arc<Lab>> {
        self.labs().running.values().cloned().collect()
    }

    fn find(&self, name: &str) -> Option<Arc<Lab>> {
        self.labs().running.get(name).cloned()
    }

    fn get(&self, name: &str) -> Result<Arc<Lab>, ApiError> {
        let labs = self.labs();
        let found = labs.running.get(name).cloned();
        found.ok_or_else(|| ApiError::lab_not_among(name, labs.running.keys()))
    }

    /// Number of labs.
    pub fn len(&self) -> usize {
        self.labs().running.len()
    }

    /// No lab runs.
    pub fn is_empty(&self) -> bool {
        self.labs().running.is_empty()
    }

    /// Whether no worker stands still. Never waits.
    pub fn is_alive(&self) -> bool {
        let now = monotonic();
        self.all().iter().flat_map(|lab| &lab.workers).all(|worker| worker.is_alive(now))
    }

    /// Refuses new labs from now on if there is none, and none is being made. True if so.
    pub fn close_if_empty(&self) -> bool {
        let mut labs = self.labs();
        labs.closed |= labs.running.is_empty() && labs.busy.is_empty();
        labs.closed
    }

    /// Takes over the labs that a former daemon left, and removes what is left of those whose first `up` was cut
    /// off. A lab that cannot be taken over is reported and left as it is.
    pub fn adopt_all(&self) {
        let names = state_dir::labs(&self.options.state_root).unwrap_or_else(|error| {
            tracing::error!(%error, "the labs of a former daemon cannot be listed");
            Vec::new()
        });
        for name in names {
            match self.adopt(&name) {
                Ok(true) => tracing::info!(lab = %name, "lab taken over"),
                Ok(false) => tracing::info!(lab = %name, "removed what an unfinished up had left"),
                Err(error) => {
                    tracing::error!(lab = %name, %error, "lab cannot be taken over: it is left as it is")
                }
            }
        }
    }

    fn adopt(&self, name: &str) -> Result<bool, Failure> {
        let dir = StateDir::open(&self.options.state_root, name)?;
        let (store, Some(accepted)) = Store::open(&dir)? else {
            sweep::remove_lab(name, dir)?;
            return Ok(false);
        };
        // What is in force stays so: a restart is no apply.
        let request = ApplyRequest { topology: accepted.file.clone(), as_azure: true };
        let input = Input::load(&request).map_err(Failure::Refused)?;
        let stored = (store, Some(accepted));
        let (lab, _) = Lab::open(&self.options, dir, input, stored, self.services(), &|_| {})?;
        // The next apply has no part in what is taken over, and waits for none of it.
        drop(lab.begun());
        self.enlist(lab);
        Ok(true)
    }

    /// Keeps a lab's name for one change of the list of labs. `None` if the lab runs.
    fn reserve(&self, name: &str) -> Result<Option<Reserved<'_>>, Failure> {
        let mut labs = self.labs();
        if labs.running.contains_key(name) {
            return Ok(None);
        }
        if labs.closed {
            return Err(Failure::Conflict("The daemon is ending with its last lab: try again.".into()));
        }
        if !labs.busy.insert(name.to_owned()) {
            let message = format!("The lab '{name}' is being made or taken down: wait for that to end.");
            return Err(Failure::Conflict(message));
        }
        Ok(Some(Reserved { engine: self, name: name.to_owned() }))
    }

    /// Brings a lab to what the file says. True if it is new.
    ///
    /// # Errors
    /// [`Failure`]; the lab is as it was before, or not there if it was not.
    fn apply(&self, input: Input, report: Report<'_>) -> Result<(bool, Applied), Failure> {
        let name = input.topology.name.clone();
        let Some(_reserved) = self.reserve(&name)? else {
            let lab = self
                .find(&name)
                .ok_or_else(|| Failure::Conflict(format!("The lab '{name}' has just been taken down.")))?;
            let applied = lab.apply(input, report)?;
            failover::await_timer(&lab);
            return Ok((false, applied));
        };
        let dir = StateDir::open(&self.options.state_root, &name)?;
        let stored = Store::open(&dir).map_err(|error| {
            Failure::Conflict(format!(
                "The lab '{name}' is there and cannot be taken over: {error}. Take it down first."
            ))
        })?;
        let is_new = stored.1.is_none();
        if is_new {
            // What an unfinished up of a daemon that died has left is in the way of nobody but this lab.
            sweep::remove_namespaces(&name)?;
        }
        match Lab::open(&self.options, dir, input, stored, self.services(), report) {
            Ok((lab, applied)) => {
                self.enlist(lab);
                Ok((is_new, applied))
            }
            Err(error) => {
                let state = StateDir::open(&self.options.state_root, &name);
                if is_new && let Err(error) = state.and_then(|state| sweep::remove_lab(&name, state)) {
                    tracing::error!(lab = %name, %error, "what a failed up made could not be removed");
                }
                Err(error)
            }
        }
    }

    /// Enters a lab into the list. Its tunnels and speakers have begun before, and what they reported then found no lab.
    fn enlist(&self, lab: Lab) {
        let lab = Arc::new(lab);
        self.labs().running.insert(lab.name.clone(), Arc::clone(&lab));
        self.bgp.repeat(&lab.name);
        let tunnels: Vec<_> = lab.snapshot().tunnels().map(|spec| spec.id).collect();
        for tunnel in tunnels {
            let status = lab.shared.tunnels().status(tunnel, monotonic()).map(|status| status.status);
            if let Some(status) = status {
                lab.tunnel_changed(tunnel, status);
            }
        }
        failover::await_timer(&lab);
    }

    /// Takes a lab down: one that runs, or what is there of one that no daemon runs.
    fn down(&self, name: &str, report: &(dyn Fn(Progress) + Sync)) -> Result<(), ApiError> {
        let (lab, _reserved) = {
            let mut labs = self.labs();
            match labs.running.remove(name) {
                Some(lab) => {
                    labs.busy.insert(name.to_owned());
                    (Some(lab), Some(Reserved { engine: self, name: name.to_owned() }))
                }
                None => (None, None),
            }
        };
        if let Some(lab) = lab {
            return lab.down(report).map_err(|error| ApiError::from(Failure::Host(error)));
        }
        let _reserved = self.reserve(name)?;
        let traces = sweep::find(&self.options.state_root).map_err(Failure::Host)?;
        if !traces.get(name).is_some_and(|traces| traces.state) {
            return Err(ApiError::lab_not_among(name, self.labs().running.keys()));
        }
        let state = StateDir::open(&self.options.state_root, name).map_err(Failure::Host)?;
        sweep::remove_lab(name, state).map_err(Failure::Host)?;
        Ok(())
    }

    /// Removes what is left of labs that have state here and that no daemon runs. Gives what it removed. A lab without
    /// state here may be another daemon's, with a state folder of its own: it is left alone.
    fn sweep(&self) -> Result<Vec<String>, Failure> {
        let mut removed = Vec::new();
        for name in state_dir::labs(&self.options.state_root)? {
            let Ok(Some(_reserved)) = self.reserve(&name) else { continue };
            let state = StateDir::open(&self.options.state_root, &name);
            match state.and_then(|state| sweep::remove_lab(&name, state)) {
                Ok(_) => removed.push(format!("lab {name}")),
                Err(error) => tracing::warn!(lab = %name, %error, "left alone"),
            }
        }
        Ok(removed)
    }
}
