//! Labs: their life, and what the API asks of them.

mod backend;
mod blueprint;
mod build;
mod fault;
mod input;
mod keys;
mod lab;
mod live;
mod probe;
mod programs;
mod records;
mod resources;
mod run;
mod scrape;
mod store;
mod traffic;

pub use backend::Service;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use tokio::sync::Notify;
use vnet_api::{ApplyRequest, Diagnostic, Progress};
use vnet_router::RouterOptions;

use crate::api::error::ApiError;
use crate::host::error::HostError;
use crate::host::state_dir::{self, StateDir};
use crate::io::tun::Offloads;
use crate::worker::{TunnelChange, monotonic};

use build::Report;
use input::Input;
use lab::{Applied, Lab};

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
    /// Bounds and switches of the router.
    pub router: RouterOptions,
    /// Where metrics are served, for `doctor`.
    pub metrics: Option<std::net::SocketAddr>,
}

/// Why something about a lab failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The file is refused.
    #[error("the topology file is refused")]
    Refused(Vec<Diagnostic>),
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
            Failure::Host(error @ HostError::Busy { .. }) => ApiError::conflict(error.to_string()),
            Failure::Host(error) => ApiError::internal(error.to_string()),
            Failure::Conflict(message) => ApiError::conflict(message),
        }
    }
}

/// All labs of this daemon.
#[derive(Debug)]
pub struct Engine {
    options: Options,
    labs: Mutex<BTreeMap<String, Arc<Lab>>>,
    changes: mpsc::Sender<TunnelChange>,
    /// Signalled when a lab went: the daemon may end with its last one.
    pub idle: Notify,
}

impl Engine {
    /// An engine without labs.
    ///
    /// # Errors
    /// No thread for the tunnels' changes.
    pub fn new(options: Options) -> std::io::Result<Arc<Engine>> {
        let (changes, inbox) = mpsc::channel::<TunnelChange>();
        let engine = Arc::new(Engine { options, labs: Mutex::default(), changes, idle: Notify::new() });
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

    fn labs(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Lab>>> {
        // Every change of the map is one insert or remove.
        self.labs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, name: &str) -> Option<Arc<Lab>> {
        self.labs().get(name).cloned()
    }

    fn get(&self, name: &str) -> Result<Arc<Lab>, ApiError> {
        self.find(name).ok_or_else(|| ApiError::lab_not_found(name))
    }

    /// Number of labs.
    pub fn len(&self) -> usize {
        self.labs().len()
    }

    /// Whether every worker still answers.
    pub fn is_alive(&self) -> bool {
        let labs: Vec<Arc<Lab>> = self.labs().values().cloned().collect();
        labs.iter().flat_map(|lab| &lab.workers).all(|worker| worker.ask(|_, _| ()).is_some())
    }

    /// No lab runs.
    pub fn is_empty(&self) -> bool {
        self.labs().is_empty()
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
                Err(error) => tracing::error!(lab = %name, %error, "lab cannot be taken over"),
            }
        }
    }

    /// Removes the namespaces and the state of a lab that nobody runs.
    fn remove_leftovers(&self, name: &str, dir: StateDir) -> Result<(), HostError> {
        self.clear_host(name)?;
        dir.remove()
    }

    /// Removes namespaces that carry the name of a lab that nobody runs.
    fn clear_host(&self, name: &str) -> Result<(), HostError> {
        let options = build::DeviceOptions { queues: 1, offloads: self.options.offloads };
        build::Site::new(name, options).tear_down(&blueprint::Blueprint::default(), &|_| {})
    }

    fn adopt(&self, name: &str) -> Result<bool, Failure> {
        let dir = StateDir::open(&self.options.state_root, name)?;
        let Some(accepted) = store::load(&dir)? else {
            self.remove_leftovers(name, dir)?;
            return Ok(false);
        };
        let input =
            Input::load(&ApplyRequest { topology: accepted.file.clone() }).map_err(Failure::Refused)?;
        let (lab, _) = Lab::open(&self.options, dir, input, Some(accepted), self.changes.clone(), &|_| {})?;
        self.enlist(lab);
        Ok(true)
    }

    /// Brings a lab to what the file says. True if it is new.
    ///
    /// # Errors
    /// [`Failure`]; the lab is as it was before, or not there if it was not.
    fn apply(&self, input: Input, report: Report<'_>) -> Result<(bool, Applied), Failure> {
        let name = input.topology.name.clone();
        if let Some(lab) = self.find(&name) {
            return Ok((false, lab.apply(input, report)?));
        }
        let dir = StateDir::open(&self.options.state_root, &name)?;
        // What an unfinished up of a daemon that died has left is in the way of nobody but this lab.
        self.clear_host(&name)?;
        match Lab::open(&self.options, dir, input, None, self.changes.clone(), report) {
            Ok((lab, applied)) => {
                self.enlist(lab);
                Ok((true, applied))
            }
            Err(error) => {
                if let Ok(dir) = StateDir::open(&self.options.state_root, &name)
                    && let Err(error) = dir.remove()
                {
                    tracing::error!(lab = %name, %error, "the state of a failed up could not be removed");
                }
                Err(error)
            }
        }
    }

    /// Enters a lab into the list. Its tunnels have begun before, and what they reported then found no lab.
    fn enlist(&self, lab: Lab) {
        let lab = Arc::new(lab);
        self.labs().insert(lab.name.clone(), Arc::clone(&lab));
        let tunnels: Vec<_> = lab.snapshot().tunnels().map(|spec| spec.id).collect();
        for tunnel in tunnels {
            let status = lab.shared.tunnels().status(tunnel, monotonic()).map(|status| status.status);
            if let Some(status) = status {
                lab.tunnel_changed(tunnel, status);
            }
        }
    }

    fn down(&self, name: &str, report: &(dyn Fn(Progress) + Sync)) -> Result<(), ApiError> {
        let lab = self.labs().remove(name).ok_or_else(|| ApiError::lab_not_found(name))?;
        let outcome = lab.down(report);
        self.idle.notify_waiters();
        outcome.map_err(|error| ApiError::from(Failure::Host(error)))
    }
}
