//! Makes the namespaces of a build, as many side by side as the host has cores: a lab may have a thousand.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use vnet_api::ProgressState;
use vnet_dataplane::PortId;

use super::blueprint::Namespace;
use super::build::{DeviceOptions, Report, progress};
use super::fault;
use crate::host::error::HostError;
use crate::host::netlink::Netlink;
use crate::host::netns::{self, Netns, NetnsName};
use crate::host::sysctl::View;
use crate::host::{link, sysctl};
use crate::io::tun::TunQueue;

type Result<T> = std::result::Result<T, HostError>;

/// Threads at most: what the kernel does for a namespace is only partly done side by side.
const THREADS_MAX: usize = 8;

/// Namespaces that are set up by way of one proc file system: each makes the next a little slower, and a new file system takes
/// as long as a few of them.
const VIEW_NAMESPACES_MAX: usize = 64;

/// What has become of one namespace, as far as it came.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// The last part of its name.
    pub name: String,
    /// Whether it was not there before.
    pub created: bool,
    /// The namespace.
    pub ns: Option<Netns>,
    /// Its devices by port, with their names and queues.
    pub devices: Vec<(PortId, String, Vec<TunQueue>)>,
    /// Whether it has its addresses and routes.
    pub addressed: bool,
}

/// Makes or adopts all of `missing`. After the first failure nothing more is begun; what has been begun is in the list.
pub(super) fn make_all(
    lab: &str,
    options: DeviceOptions,
    missing: &[(&String, &Namespace)],
    report: Report<'_>,
) -> Vec<(Made, Result<()>)> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(missing.len()));
    let work = || {
        let mut view = View::own();
        let mut looked_at = 0;
        while let Some((name, namespace)) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
            let began = Instant::now();
            let mut made = Made { name: (*name).clone(), ..Made::default() };
            if looked_at == VIEW_NAMESPACES_MAX {
                (view, looked_at) = (View::own(), 0);
            }
            looked_at += 1;
            let outcome = make(lab, options, &view, namespace, &mut made);
            match &outcome {
                Ok(()) => report(progress(namespace.role, name, ProgressState::Created, began)),
                Err(_) => next.store(missing.len(), Ordering::Relaxed),
            }
            done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((made, outcome));
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores.min(THREADS_MAX).min(missing.len()) {
            // The threads are thrown away: each stays in the last namespace that it made.
            let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, work);
            if let Err(source) = thread {
                let error =
                    HostError::Io { action: "start a thread for", object: "namespaces".into(), source };
                next.store(missing.len(), Ordering::Relaxed);
                let mut done = done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                done.push((Made::default(), Err(error)));
            }
        }
    });
    done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Moves the calling thread into the namespace and does there all that is to be done.
fn make(
    lab: &str,
    options: DeviceOptions,
    view: &View,
    namespace: &Namespace,
    made: &mut Made,
) -> Result<()> {
    fault::step("namespace")?;
    let (ns, created) = netns::enter_or_create(&NetnsName::new(lab, &made.name)?)?;
    (made.ns, made.created) = (Some(ns), created);
    sysctl::apply_guest_by(view)?;
    if namespace.forwarding {
        sysctl::apply_forwarding()?;
    }
    for (device, port) in &namespace.devices {
        fault::step("device")?;
        made.devices.push((*port, device.clone(), options.attach(view, device)?));
    }
    let own = |device: &str| device == "lo" || namespace.devices.iter().any(|(own, _)| own == device);
    if !namespace.links.iter().all(|link| own(&link.name)) {
        return Ok(());
    }
    fault::step("address")?;
    let mut netlink = Netlink::open()?;
    if created {
        link::apply_fresh(&mut netlink, &namespace.links)?;
    } else {
        link::apply_all(&mut netlink, &namespace.links)?;
    }
    made.addressed = true;
    Ok(())
}
