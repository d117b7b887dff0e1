//! Finds and removes what carries a lab's name: processes, namespaces with their devices, state.
//!
//! Only names of the daemon's own form are looked at, and only namespaces below `/run/netns`; whatever else is on the host
//! is never touched.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::time::Duration;

use super::error::{HostError, Result};
use super::netns::{self, Netns, NetnsName};
use super::process;
use super::state_dir::{self, StateDir};
use super::uplink;
use crate::offload;

/// How long processes have to end by themselves.
const GRACE: Duration = Duration::from_millis(500);
/// How long the kernel has to end those that don't.
const LIMIT: Duration = Duration::from_secs(10);

/// What is there of one lab.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traces {
    /// Its namespaces, crash leftovers among them.
    pub namespaces: Vec<NetnsName>,
    /// It has a state folder.
    pub state: bool,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Processes that were ended.
    pub processes: usize,
    /// Namespaces, with every device in them.
    pub namespaces: usize,
    /// State folders.
    pub states: usize,
}

/// Everything of the daemon's on this host, by lab.
///
/// # Errors
/// Where `/run/netns` or the state folder can't be read.
pub fn find(state_root: &Path) -> Result<BTreeMap<String, Traces>> {
    let mut found: BTreeMap<String, Traces> = BTreeMap::new();
    for name in netns::list(None)? {
        found.entry(name.lab().to_owned()).or_default().namespaces.push(name);
    }
    for lab in state_dir::labs(state_root)? {
        found.entry(lab).or_default().state = true;
    }
    Ok(found)
}

/// Removes a lab's processes and namespaces, and its way out by the host's network; nothing else. Devices go with their namespaces, many at a time.
/// What can't be removed does not keep the rest; the first error is returned in the end.
///
/// # Errors
/// A process that does not end, or a name that can't be removed.
pub fn remove_namespaces(lab: &str) -> Result<Swept> {
    let outside = uplink::disconnect(lab);
    let offload = offload::remove(lab);
    let swept = remove(&netns::list(Some(lab))?)?;
    outside.and(offload).map(|()| swept)
}

/// Removes those of a lab's namespaces that `keep` does not name, with their processes: what a crash or a failed change left
/// beside the lab.
///
/// # Errors
/// As [`remove_namespaces`].
pub fn remove_strays(lab: &str, keep: &BTreeSet<String>) -> Result<Swept> {
    let mut names = netns::list(Some(lab))?;
    names.retain(|name| !keep.contains(name.vm()) && name.vm() != netns::FABRIC);
    remove(&names)
}

/// Removes these namespaces with their processes.
///
/// # Errors
/// As [`remove_namespaces`].
pub fn remove_each(names: &[NetnsName]) -> Result<Swept> {
    remove(names)
}

/// Removes everything of a lab, its state too. The lab has to be held: `state` is its lock.
///
/// # Errors
/// As [`remove_namespaces`]; the state stays then, so that a later call can finish.
pub fn remove_lab(lab: &str, state: StateDir) -> Result<Swept> {
    let mut swept = remove_namespaces(lab)?;
    state.remove()?;
    swept.states += 1;
    Ok(swept)
}

/// Removes every lab that no daemon holds. Labs that run are left alone.
///
/// # Errors
/// As [`remove_lab`], of the first lab that gave one; the others are removed all the same.
pub fn remove_abandoned(state_root: &Path) -> Result<Swept> {
    let mut total = Swept::default();
    let mut failure = None;
    for lab in find(state_root)?.keys() {
        let swept = match StateDir::open(state_root, lab) {
            Ok(state) => remove_lab(lab, state),
            Err(HostError::Busy { .. }) => continue,
            Err(error) => Err(error),
        };
        match swept {
            Ok(swept) => {
                total.processes += swept.processes;
                total.namespaces += swept.namespaces;
                total.states += swept.states;
            }
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(total), Err)
}

fn remove(names: &[NetnsName]) -> Result<Swept> {
    // Opened first: the identity is gone with the name. Leftovers that are no namespaces have no processes.
    let open: Vec<Netns> = names.iter().filter_map(|name| Netns::open(name).ok()).collect();
    let ids = open.iter().map(Netns::id).collect::<Result<HashSet<_>>>()?;
    // The host's own namespace can be bound to any name by hand; its processes are not the lab's.
    let own = Netns::current()?.id()?;
    let ids: HashSet<_> = ids.into_iter().filter(|id| *id != own).collect();
    drop(open);
    let mut swept = Swept::default();
    let mut failure = None;
    if !ids.is_empty() {
        match process::kill_all_in(&ids, GRACE, LIMIT) {
            Ok(processes) => swept.processes = processes,
            Err(error) => failure = Some(error),
        }
    }
    for name in names {
        match netns::delete(name) {
            Ok(()) => swept.namespaces += 1,
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(swept), Err)
}
