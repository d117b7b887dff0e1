//! Brings the host to a blueprint in two halves: what is missing is made before a change is accepted, what is in the way
//! no more is removed after it. So a change that fails has taken nothing away yet, and is taken back by removing what
//! it made.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use vnet_api::{Progress, ProgressState};
use vnet_dataplane::PortId;

use super::blueprint::{Blueprint, Cable, INTERNET, Namespace, Role};
use super::{factory, fault};
use crate::host::error::HostError;
use crate::host::link::{self, LinkSpec};
use crate::host::netlink::Netlink;
use crate::host::netns::{self, Netns, NetnsName};
use crate::host::sysctl::View;
use crate::host::{sweep, uplink};
use crate::io::tun::{Offloads, Tun, TunQueue, TunSpec};

type Result<T> = std::result::Result<T, HostError>;

/// Takes progress lines; the lab's work does not wait for a reader.
pub(super) type Report<'a> = &'a (dyn Fn(Progress) + Sync);

/// How devices are opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeviceOptions {
    /// Queues, one for each worker.
    pub queues: usize,
    /// Offloads to ask for.
    pub offloads: Offloads,
}

impl DeviceOptions {
    /// Makes or attaches a device in the namespace of the calling thread.
    pub(super) fn attach(self, view: &View, device: &str) -> Result<Vec<TunQueue>> {
        let mut spec = TunSpec::new(device, self.queues);
        spec.offloads = self.offloads;
        Ok(Tun::attach_by(view, &spec)?.into_queues())
    }
}

/// What a build has done: the caller hands the queues to the workers.
#[derive(Debug, Default)]
pub(super) struct Built {
    /// Queues of devices that were not attached before, one for each worker.
    pub queues: Vec<(PortId, Vec<TunQueue>)>,
    /// Ports whose devices are gone.
    pub detached: Vec<PortId>,
    /// Namespaces made by this build.
    pub created: Vec<String>,
    /// Devices that this build attached.
    attached: Vec<PortId>,
    /// Cables that this build laid.
    laid: Vec<Cable>,
    /// Whether this build made the way out by the host's network.
    connected: bool,
}

/// The host's side of one lab.
#[derive(Debug)]
pub(super) struct Site {
    lab: String,
    options: DeviceOptions,
    namespaces: HashMap<String, Arc<Netns>>,
    attached: HashMap<PortId, (String, String)>,
}

impl Site {
    /// The host's side of `lab`, with nothing attached yet.
    pub(super) fn new(lab: &str, options: DeviceOptions) -> Site {
        Site { lab: lab.to_owned(), options, namespaces: HashMap::new(), attached: HashMap::new() }
    }

    /// The namespace of a machine or appliance.
    pub(super) fn namespace(&self, name: &str) -> Option<&Arc<Netns>> {
        self.namespaces.get(name)
    }

    /// Where a port's device is.
    pub(super) fn device(&self, port: PortId) -> Option<(&Arc<Netns>, &str)> {
        let (owner, device) = self.attached.get(&port)?;
        Some((self.namespace(owner)?, device))
    }

    /// Makes what `new` has and `old` lacks, and changes what differs; nothing that only `old` has goes, but what is in
    /// the way of something of the same name.
    ///
    /// # Errors
    /// The first step that failed; `built` says what was done until then, for [`Site::roll_back`].
    pub(super) fn extend(
        &mut self,
        old: &Blueprint,
        new: &Blueprint,
        built: &mut Built,
        report: Report<'_>,
    ) -> Result<()> {
        self.clear_the_way(old, new, built)?;
        let missing = new.namespaces.iter().filter(|(name, _)| !self.namespaces.contains_key(*name));
        let missing: Vec<(&String, &Namespace)> = missing.collect();
        let addressed = self.make_all(&missing, built, report)?;
        let missing: HashSet<&String> = missing.iter().map(|(name, _)| *name).collect();
        for (name, namespace) in &new.namespaces {
            if old.namespaces.get(name) != Some(namespace) && !missing.contains(name) {
                self.make(name, namespace, built, report)?;
            }
        }
        let created: HashSet<String> = built.created.iter().cloned().collect();
        let laid: HashSet<&Cable> = old.cables.iter().collect();
        for cable in &new.cables {
            let touched = |end: &(String, String)| created.contains(&end.0);
            if !laid.contains(cable) || touched(&cable.near) || touched(&cable.far) {
                self.lay(cable, built)?;
            }
        }
        for (name, namespace) in new.namespaces.iter().filter(|(name, _)| !addressed.contains(*name)) {
            let before = old.namespaces.get(name).filter(|_| !created.contains(name));
            // A device that was made in a namespace that stays has no addresses yet.
            if before.map(|before| (&before.links, &before.devices))
                != Some((&namespace.links, &namespace.devices))
            {
                self.address(name, namespace, before)?;
            }
        }
        if new.uplink && (!old.uplink || created.contains(INTERNET)) {
            fault::step("uplink")?;
            built.connected = true;
            uplink::connect(&self.lab, self.open(INTERNET)?)?;
        }
        Ok(())
    }

    /// Removes namespaces that are to be something else, cables whose ends stay, and devices where a cable shall be.
    fn clear_the_way(&mut self, old: &Blueprint, new: &Blueprint, built: &mut Built) -> Result<()> {
        for (name, namespace) in &old.namespaces {
            let after = new.namespaces.get(name);
            if after
                .is_some_and(|after| after.role != namespace.role || after.forwarding != namespace.forwarding)
            {
                self.remove(name, built)?;
            }
        }
        let stays = |end: &(String, String)| new.namespaces.contains_key(&end.0);
        for cable in old.cables.iter().filter(|cable| stays(&cable.near) && stays(&cable.far)) {
            if !new.cables.contains(cable) {
                self.cut(cable)?;
            }
        }
        let ends: HashSet<&(String, String)> = new.cables.iter().map(|cable| &cable.far).collect();
        let covered: Vec<PortId> =
            self.attached.iter().filter(|(_, device)| ends.contains(device)).map(|(port, _)| *port).collect();
        covered.into_iter().try_for_each(|port| self.drop_device(port, built))
    }

    /// Removes what `new` does not have: its acceptance made it superfluous. What cannot be removed is logged: it
    /// hinders nothing, and the next start of the daemon tries again.
    pub(super) fn retire(&mut self, old: &Blueprint, new: &Blueprint, built: &mut Built, report: Report<'_>) {
        if old.uplink
            && !new.uplink
            && let Err(error) = uplink::disconnect(&self.lab)
        {
            tracing::error!(lab = %self.lab, %error, "the way out by the host could not be removed");
        }
        let superfluous: Vec<PortId> = self
            .attached
            .iter()
            .filter(|(port, (owner, _))| {
                let kept = new.namespaces.get(owner);
                kept.is_some_and(|kept| !kept.devices.iter().any(|(_, device)| device == *port))
            })
            .map(|(port, _)| *port)
            .collect();
        for port in superfluous {
            if let Err(error) = self.drop_device(port, built) {
                tracing::error!(lab = %self.lab, %error, "a device could not be removed");
            }
        }
        let gone = old.namespaces.iter().filter(|(name, _)| !new.namespaces.contains_key(*name));
        let gone: Vec<(&String, &Namespace)> = gone.collect();
        let began = Instant::now();
        let names: Vec<&str> = gone.iter().map(|(name, _)| name.as_str()).collect();
        match self.remove_all(&names, built) {
            Ok(()) => gone.iter().for_each(|(name, namespace)| {
                report(progress(namespace.role, name, ProgressState::Removed, began));
            }),
            Err(error) => {
                tracing::error!(lab = %self.lab, ?names, %error, "a namespace could not be removed");
            }
        }
    }

    /// Takes back what [`Site::extend`] did, as far as the host allows. Namespaces that it did not make stay.
    pub(super) fn roll_back(
        &mut self,
        old: &Blueprint,
        new: &Blueprint,
        done: &Built,
        report: Report<'_>,
    ) -> Built {
        let _quiet = fault::suspend();
        let mut undone = Built::default();
        let complain = |outcome: Result<()>, what: &str| {
            if let Err(error) = outcome {
                tracing::error!(%what, %error, "could not be taken back");
            }
        };
        if done.connected && !old.uplink {
            complain(uplink::disconnect(&self.lab), "the way out by the host");
        }
        for cable in &done.laid {
            complain(self.cut(cable), "a cable");
        }
        for port in &done.attached {
            if self.attached.get(port).is_some_and(|(owner, _)| !done.created.contains(owner)) {
                complain(self.drop_device(*port, &mut undone), "a device");
            }
        }
        let names: Vec<&str> = done.created.iter().map(String::as_str).collect();
        let began = Instant::now();
        let removed = self.remove_all(&names, &mut undone);
        if removed.is_ok() {
            for name in names {
                let role = new.namespaces.get(name).map_or(Role::VirtualMachine, |namespace| namespace.role);
                report(progress(role, name, ProgressState::RolledBack, began));
            }
        }
        complain(removed, "a namespace");
        complain(self.restore(old, new, &mut undone), "the former lab");
        undone
    }

    /// Makes again what `old` had and `new` had otherwise.
    fn restore(&mut self, old: &Blueprint, new: &Blueprint, undone: &mut Built) -> Result<()> {
        let differs = |name: &str, namespace: &Namespace| new.namespaces.get(name) != Some(namespace);
        // What the new lab would not have had was not touched.
        let touched: Vec<(&String, &Namespace)> = (old.namespaces.iter())
            .filter(|(name, namespace)| new.namespaces.contains_key(*name) && differs(name, namespace))
            .collect();
        let gone = touched.iter().filter(|(name, _)| !self.namespaces.contains_key(*name));
        let gone: Vec<(&String, &Namespace)> = gone.copied().collect();
        self.make_all(&gone, undone, &|_| {})?;
        for (name, namespace) in touched {
            self.make(name, namespace, undone, &|_| {})?;
        }
        if old.cables != new.cables {
            old.cables.iter().try_for_each(|cable| self.lay(cable, undone))?;
        }
        for (name, namespace) in &old.namespaces {
            if differs(name, namespace) {
                self.address(name, namespace, None)?;
            }
        }
        Ok(())
    }

    fn name(&self, name: &str) -> Result<NetnsName> {
        NetnsName::new(&self.lab, name)
    }

    /// Makes namespaces with their devices, or adopts those that a former daemon left, side by side on threads of their own.
    /// Gives the names of those that have their addresses and routes too: all but the ends of cables, which are laid later.
    fn make_all(
        &mut self,
        missing: &[(&String, &Namespace)],
        built: &mut Built,
        report: Report<'_>,
    ) -> Result<HashSet<String>> {
        let mut addressed = HashSet::new();
        if missing.is_empty() {
            return Ok(addressed);
        }
        netns::prepare_dir()?;
        let (lab, options) = (self.lab.as_str(), self.options);
        let mut failure = None;
        for (made, outcome) in factory::make_all(lab, options, missing, report) {
            if made.created {
                built.created.push(made.name.clone());
            }
            for (port, device, queues) in made.devices {
                built.queues.push((port, queues));
                built.attached.push(port);
                self.attached.insert(port, (made.name.clone(), device));
            }
            if let Some(ns) = made.ns {
                self.namespaces.insert(made.name.clone(), Arc::new(ns));
            }
            if made.addressed {
                addressed.insert(made.name);
            }
            failure = failure.or(outcome.err());
        }
        failure.map_or(Ok(addressed), Err)
    }

    /// Attaches the devices that a namespace lacks.
    fn make(
        &mut self,
        name: &str,
        namespace: &Namespace,
        built: &mut Built,
        report: Report<'_>,
    ) -> Result<()> {
        let began = Instant::now();
        for (device, port) in &namespace.devices {
            if !self.attached.contains_key(port) {
                self.attach(name, device, *port, built)?;
            }
        }
        report(progress(namespace.role, name, ProgressState::Updated, began));
        Ok(())
    }

    fn attach(&mut self, name: &str, device: &str, port: PortId, built: &mut Built) -> Result<()> {
        fault::step("device")?;
        let options = self.options;
        let queues = self.open(name)?.run(|| options.attach(&View::default(), device))??;
        built.queues.push((port, queues));
        built.attached.push(port);
        self.attached.insert(port, (name.to_owned(), device.to_owned()));
        Ok(())
    }

    /// Removes a device of a namespace that stays.
    fn drop_device(&mut self, port: PortId, built: &mut Built) -> Result<()> {
        let Some((owner, device)) = self.attached.remove(&port) else { return Ok(()) };
        built.detached.push(port);
        link::delete(&mut Netlink::open_in(self.open(&owner)?)?, &device)
    }

    fn lay(&self, cable: &Cable, built: &mut Built) -> Result<()> {
        fault::step("cable")?;
        let (near, far) = (self.open(&cable.near.0)?, self.open(&cable.far.0)?);
        built.laid.push(cable.clone());
        link::veth(near, &cable.near.1, far, &cable.far.1)
    }

    /// Removes a cable. One whose router is gone went with it.
    fn cut(&self, cable: &Cable) -> Result<()> {
        match self.namespaces.get(&cable.near.0) {
            Some(router) => link::delete(&mut Netlink::open_in(router)?, &cable.near.1),
            None => Ok(()),
        }
    }

    fn address(&self, name: &str, namespace: &Namespace, before: Option<&Namespace>) -> Result<()> {
        fault::step("address")?;
        let unchanged = |spec: &LinkSpec| {
            let device = |at: &Namespace| at.devices.iter().find(|(device, _)| *device == spec.name).cloned();
            before.is_some_and(|before| before.links.contains(spec) && device(before) == device(namespace))
        };
        let changed: Vec<LinkSpec> =
            namespace.links.iter().filter(|spec| !unchanged(spec)).cloned().collect();
        link::apply_in(self.open(name)?, &changed).map(|_| ())
    }

    fn open(&self, name: &str) -> Result<&Netns> {
        self.namespaces
            .get(name)
            .map(Arc::as_ref)
            .ok_or_else(|| HostError::Invalid(format!("the namespace of {name} has not been made")))
    }

    fn remove(&mut self, name: &str, built: &mut Built) -> Result<()> {
        fault::step("remove")?;
        self.remove_all(&[name], built)
    }

    /// Removes namespaces, many at a time. What can't be removed does not keep the rest.
    fn remove_all(&mut self, names: &[&str], built: &mut Built) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let gone: HashSet<&str> = names.iter().copied().collect();
        self.attached.retain(|port, (owner, _)| {
            let goes = gone.contains(owner.as_str());
            if goes {
                built.detached.push(*port);
            }
            !goes
        });
        self.namespaces.retain(|name, _| !gone.contains(name.as_str()));
        let ids = names.iter().map(|name| self.name(name)).collect::<Result<Vec<_>>>()?;
        sweep::remove_each(&ids).map(|_| ())
    }

    /// Removes every namespace of the lab with its processes, those that no blueprint names too.
    ///
    /// # Errors
    /// The first namespace that could not be removed; the others are gone.
    pub(super) fn tear_down(&mut self, blueprint: &Blueprint, report: Report<'_>) -> Result<()> {
        self.attached.clear();
        self.namespaces.clear();
        let began = Instant::now();
        let outcome = sweep::remove_namespaces(&self.lab).map(|_| ());
        let left: BTreeSet<NetnsName> =
            netns::list(Some(&self.lab)).unwrap_or_default().into_iter().collect();
        for (name, namespace) in &blueprint.namespaces {
            if self.name(name).is_ok_and(|id| !left.contains(&id)) {
                report(progress(namespace.role, name, ProgressState::Removed, began));
            }
        }
        outcome
    }

    /// Removes namespaces that carry the lab's name and that `blueprint` does not have: what a crash left.
    ///
    /// # Errors
    /// Where the host refuses.
    pub(super) fn sweep(&self, blueprint: &Blueprint) -> Result<()> {
        let keep: BTreeSet<String> = blueprint.namespaces.keys().cloned().collect();
        sweep::remove_strays(&self.lab, &keep).map(|_| ())
    }
}

pub(super) fn progress(role: Role, name: &str, state: ProgressState, began: Instant) -> Progress {
    Progress {
        object: format!("{} {name}", role.word()),
        state,
        ms: began.elapsed().as_millis() as u64,
        message: None,
    }
}
