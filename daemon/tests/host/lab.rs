//! What a test makes on the host, and takes away again however it ends.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use vnetd::host::backing::{Backing, MachineFile};
use vnetd::host::exec::Launcher;
use vnetd::host::link::{self, LinkSpec, RouteSpec};
use vnetd::host::netns::{self, Netns, NetnsName};
use vnetd::host::{Result, process, sysctl};
use vnetd::io::tun::{Tun, TunSpec};

/// Why the tests can't run here, if so.
pub(crate) fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root");
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        return Some("needs /dev/net/tun");
    }
    // Two tests look through the eyes of iproute2.
    if std::process::Command::new("ip").arg("-V").output().is_err() {
        return Some("needs ip of iproute2");
    }
    None
}

/// A lab name that no other test, and no other run, has.
pub(crate) struct Lab {
    pub(crate) name: String,
    pub(crate) dir: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self { name, dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn ns_name(&self, vm: &str) -> NetnsName {
        NetnsName::new(&self.name, vm).unwrap()
    }

    /// A silenced namespace without devices.
    pub(crate) fn namespace(&self, vm: &str) -> Netns {
        netns::create_with(&self.ns_name(vm), |_| sysctl::apply_guest()).unwrap().0
    }

    /// A machine with one NIC.
    pub(crate) fn machine(&self, vm: &str, addresses: &[&str]) -> Result<(Netns, Tun)> {
        let (ns, tun) = netns::create_with(&self.ns_name(vm), |_| {
            sysctl::apply_guest()?;
            Tun::attach(&TunSpec::new("eth0", 2))
        })?;
        link::apply_in(&ns, &[nic(addresses)])?;
        Ok((ns, tun))
    }

    pub(crate) fn backing(&self, vm: &str, files: &[MachineFile]) -> Backing {
        let root: PathBuf = self.dir.path().join(vm);
        Backing::prepare(&root, vm, "127.0.0.1 localhost\n", "nameserver 168.63.129.16\n", files).unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let names = netns::list(Some(&self.name)).unwrap_or_default();
        let ids: HashSet<_> =
            names.iter().filter_map(|name| Netns::open(name).ok()).filter_map(|ns| ns.id().ok()).collect();
        let _ = process::kill_all_in(&ids, Duration::ZERO, Duration::from_secs(5));
        for name in &names {
            let _ = netns::delete(name);
        }
    }
}

pub(crate) fn nic(addresses: &[&str]) -> LinkSpec {
    LinkSpec {
        name: "eth0".into(),
        mtu: Some(1500),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        routes: RouteSpec::defaults().to_vec(),
    }
}

pub(crate) fn launcher() -> Launcher {
    Launcher::with_helper(env!("CARGO_BIN_EXE_vnetd").as_ref())
}
