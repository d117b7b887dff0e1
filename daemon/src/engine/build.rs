//! Brings the host to a blueprint, step by step, and takes back what it made when a step fails.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use vnet_api::{Progress, ProgressState};
use vnet_dataplane::PortId;

use super::blueprint::{Blueprint, Cable, Namespace, Role};
use super::fault;
use crate::host::error::HostError;
use crate::host::link::{self, LinkSpec};
use crate::host::netlink::Netlink;
use crate::host::netns::{self, Netns, NetnsName};
use crate::host::{process, sysctl};
use crate::io::tun::{Offloads, Tun, TunQueue, TunSpec};

/// How long a program may take to end when it is asked to.
const GRACE: Duration = Duration::from_millis(300);
/// How long ending programs may take in all.
const LIMIT: Duration = Duration::from_secs(10);

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

/// What a build has opened: the caller attaches it to the workers.
#[derive(Debug, Default)]
pub(super) struct Built {
    /// Queues of devices that were not attached before, one for each worker.
    pub queues: Vec<(PortId, Vec<TunQueue>)>,
    /// Ports whose devices are gone.
    pub detached: Vec<PortId>,
    /// Namespaces made by this build.
    pub created: Vec<String>,
}

/// The host's side of one lab.
#[derive(Debug)]
pub(super) struct Site {
    lab: String,
    options: DeviceOptions,
    namespaces: HashMap<String, Netns>,
    attached: HashMap<PortId, (String, String)>,
}

impl Site {
    /// The host's side of `lab`, with nothing attached yet.
    pub(super) fn new(lab: &str, options: DeviceOptions) -> Site {
        Site { lab: lab.to_owned(), options, namespaces: HashMap::new(), attached: HashMap::new() }
    }

    /// The namespace of a machine or appliance.
    pub(super) fn namespace(&self, name: &str) -> Option<&Netns> {
        self.namespaces.get(name)
    }

    /// Brings the host from `old` to `new`: removes what `new` lacks, makes what `old` lacks, and touches nothing
    /// else.
    ///
    /// # Errors
    /// The first step that failed. What this call made is gone again; what it removed or changed is brought back as
    /// far as the host allows, by building `old` again.
    pub(super) fn build(&mut self, old: &Blueprint, new: &Blueprint, report: Report<'_>) -> Result<Built> {
        let mut built = Built::default();
        match self.advance(old, new, &mut built, report) {
            Ok(()) => Ok(built),
            Err(error) => {
                self.roll_back(old, new, &built, report);
                Err(error)
            }
        }
    }

    fn advance(
        &mut self,
        old: &Blueprint,
        new: &Blueprint,
        built: &mut Built,
        report: Report<'_>,
    ) -> Result<()> {
        for (name, namespace) in &old.namespaces {
            if !new.namespaces.contains_key(name) {
                self.remove(name, namespace.role, built, report)?;
            }
        }
        for (name, namespace) in &new.namespaces {
            let before = old.namespaces.get(name).filter(|_| self.namespaces.contains_key(name));
            if before != Some(namespace) {
                self.make(name, namespace, before, built, report)?;
            }
        }
        for cable in &new.cables {
            self.lay(cable)?;
        }
        for (name, namespace) in &new.namespaces {
            let before = old.namespaces.get(name).filter(|_| !built.created.contains(name));
            if before.map(|before| &before.links) != Some(&namespace.links) {
                self.address(name, namespace, before)?;
            }
        }
        Ok(())
    }

    fn name(&self, name: &str) -> Result<NetnsName> {
        NetnsName::new(&self.lab, name)
    }

    /// Makes a namespace, or adopts the one that a former daemon left, with its devices.
    fn make(
        &mut self,
        name: &str,
        namespace: &Namespace,
        before: Option<&Namespace>,
        built: &mut Built,
        report: Report<'_>,
    ) -> Result<()> {
        fault::step("namespace")?;
        let began = Instant::now();
        let id = self.name(name)?;
        if before.is_none() {
            if Netns::open(&id).is_err() {
                built.created.push(name.to_owned());
            }
            let forwarding = namespace.forwarding;
            let (ns, ()) = netns::create_with(&id, |_| {
                sysctl::apply_guest()?;
                if forwarding { sysctl::apply_forwarding() } else { Ok(()) }
            })?;
            self.namespaces.insert(name.to_owned(), ns);
        }
        self.drop_devices(name, namespace, built)?;
        for (device, port) in &namespace.devices {
            if !self.attached.contains_key(port) {
                self.attach(name, device, *port, built)?;
            }
        }
        report(progress(namespace.role, name, ProgressState::Created, began));
        Ok(())
    }

    fn attach(&mut self, name: &str, device: &str, port: PortId, built: &mut Built) -> Result<()> {
        fault::step("device")?;
        let ns = self.open(name)?;
        let mut spec = TunSpec::new(device, self.options.queues);
        spec.offloads = self.options.offloads;
        let tun = ns.run(|| Tun::attach(&spec))??;
        built.queues.push((port, tun.into_queues()));
        self.attached.insert(port, (name.to_owned(), device.to_owned()));
        Ok(())
    }

    /// Removes devices of a namespace that stays, which it shall no longer have.
    fn drop_devices(&mut self, name: &str, namespace: &Namespace, built: &mut Built) -> Result<()> {
        let gone: Vec<(PortId, String)> = self
            .attached
            .iter()
            .filter(|(port, (owner, _))| {
                owner == name && !namespace.devices.iter().any(|(_, kept)| kept == *port)
            })
            .map(|(port, (_, device))| (*port, device.clone()))
            .collect();
        for (port, device) in gone {
            self.attached.remove(&port);
            built.detached.push(port);
            let mut netlink = Netlink::open_in(self.open(name)?)?;
            link::delete(&mut netlink, &device)?;
        }
        Ok(())
    }

    fn lay(&self, cable: &Cable) -> Result<()> {
        fault::step("cable")?;
        let (near, far) = (self.open(&cable.near.0)?, self.open(&cable.far.0)?);
        link::veth(near, &cable.near.1, far, &cable.far.1)
    }

    fn address(&self, name: &str, namespace: &Namespace, before: Option<&Namespace>) -> Result<()> {
        fault::step("address")?;
        let unchanged = |spec: &LinkSpec| before.is_some_and(|before| before.links.contains(spec));
        let changed: Vec<LinkSpec> =
            namespace.links.iter().filter(|spec| !unchanged(spec)).cloned().collect();
        link::apply_in(self.open(name)?, &changed).map(|_| ())
    }

    fn open(&self, name: &str) -> Result<&Netns> {
        self.namespaces
            .get(name)
            .ok_or_else(|| HostError::Invalid(format!("the namespace of {name} has not been made")))
    }

    fn remove(&mut self, name: &str, role: Role, built: &mut Built, report: Report<'_>) -> Result<()> {
        fault::step("remove")?;
        let began = Instant::now();
        let ports: Vec<PortId> =
            self.attached.iter().filter(|(_, (owner, _))| owner == name).map(|(port, _)| *port).collect();
        for port in ports {
            self.attached.remove(&port);
            built.detached.push(port);
        }
        if let Some(ns) = self.namespaces.remove(name) {
            end_processes([&ns])?;
        }
        netns::delete(&self.name(name)?)?;
        report(progress(role, name, ProgressState::Removed, began));
        Ok(())
    }

    /// Takes back what a failed build did.
    fn roll_back(&mut self, old: &Blueprint, new: &Blueprint, built: &Built, report: Report<'_>) {
        let _quiet = fault::suspend();
        let mut undone = Built::default();
        for name in &built.created {
            let role = new.namespaces.get(name).map_or(Role::VirtualMachine, |namespace| namespace.role);
            let began = Instant::now();
            match self.remove(name, role, &mut undone, &|_| {}) {
                Ok(()) => report(progress(role, name, ProgressState::RolledBack, began)),
                Err(error) => tracing::error!(%name, %error, "a namespace could not be taken back"),
            }
        }
        if let Err(error) = self.advance(new, old, &mut undone, &|_| {}) {
            tracing::error!(lab = %self.lab, %error, "the lab could not be brought back to what it was");
        }
    }

    /// Removes every namespace of the lab with its processes, those that no blueprint names too.
    ///
    /// # Errors
    /// The first namespace that could not be removed; the others are gone.
    pub(super) fn tear_down(&mut self, blueprint: &Blueprint, report: Report<'_>) -> Result<()> {
        self.attached.clear();
        self.namespaces.clear();
        let names = netns::list(Some(&self.lab))?;
        let opened: Vec<Netns> = names.iter().filter_map(|id| Netns::open(id).ok()).collect();
        let mut first_error = end_processes(&opened).err();
        drop(opened);
        for id in names {
            let began = Instant::now();
            let role =
                blueprint.namespaces.get(id.vm()).map_or(Role::VirtualMachine, |namespace| namespace.role);
            match netns::delete(&id) {
                Ok(()) => report(progress(role, id.vm(), ProgressState::Removed, began)),
                Err(error) => {
                    tracing::error!(namespace = %id, %error, "a namespace could not be removed");
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Removes namespaces that carry the lab's name and that `blueprint` does not have: what a crash left.
    ///
    /// # Errors
    /// Where the host refuses.
    pub(super) fn sweep(&self, blueprint: &Blueprint) -> Result<()> {
        for id in netns::list(Some(&self.lab))? {
            if !blueprint.namespaces.contains_key(id.vm()) {
                if let Ok(ns) = Netns::open(&id) {
                    end_processes([&ns])?;
                }
                netns::delete(&id)?;
            }
        }
        Ok(())
    }
}

/// Ends every program in these namespaces.
fn end_processes<'a>(namespaces: impl IntoIterator<Item = &'a Netns>) -> Result<()> {
    let ids = namespaces.into_iter().map(Netns::id).collect::<Result<HashSet<_>>>()?;
    process::kill_all_in(&ids, GRACE, LIMIT).map(|_| ())
}

fn progress(role: Role, name: &str, state: ProgressState, began: Instant) -> Progress {
    Progress {
        object: format!("{} {name}", role.word()),
        state,
        ms: began.elapsed().as_millis() as u64,
        message: None,
    }
}
