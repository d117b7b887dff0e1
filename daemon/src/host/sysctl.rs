//! Kernel settings of the namespace that the calling thread is in.
//!
//! `/proc/sys/net` shows the namespace of whoever opens it, so everything here is called by way of
//! [`Netns::run`](super::netns::Netns::run) or within [`create_with`](super::netns::create_with); the host's own settings
//! are out of reach from there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::error::{Context, HostError, Result};

/// What a machine's namespace is set to.
///
/// Kernels of machines talk of their own accord: they solicit routers, probe for duplicates of their link-local
/// address and report multicast groups. None of that reaches anything in a virtual network, and each such packet
/// would be counted as a drop. It has to be set before the first device comes up: `default` is what devices take over.
const GUEST: &[(&str, &str)] = &[
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/autoconf", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/dad_transmits", "0"),
    // Asymmetric ways are legitimate here, and judged by the fabric.
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    // An appliance with one NIC sends packets out where they came in; Azure has no use for ICMP redirects.
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    // Taking the first address of a subnet away must not take the others along.
    ("net/ipv4/conf/default/promote_secondaries", "1"),
    ("net/ipv4/conf/all/promote_secondaries", "1"),
    // The kernel's unprivileged ping sockets, which the built-in probes use.
    ("net/ipv4/ping_group_range", "0 2147483647"),
];

/// What makes a namespace a router of both families.
const FORWARDING: &[(&str, &str)] = &[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")];

/// Silences the namespace of the calling thread and makes it fit for a machine. Idempotent.
///
/// # Errors
/// Where a setting can't be written. A kernel without IPv6 lacks its settings, which is no error.
pub fn apply_guest() -> Result<()> {
    apply_guest_by(&View::default())
}

/// The same by way of `view`.
///
/// # Errors
/// As [`apply_guest`].
pub fn apply_guest_by(view: &View) -> Result<()> {
    apply(view, GUEST)
}

/// Keeps the kernel from giving `device` a link-local address: without one it announces and solicits nothing. For TUN devices,
/// which have no neighbours to find; a router's end of a cable can't do without.
///
/// # Errors
/// As [`apply_guest`].
pub fn without_link_local(view: &View, device: &str) -> Result<()> {
    apply(view, &[(&format!("net/ipv6/conf/{device}/addr_gen_mode"), "1")])
}

/// Lets the kernel of the calling thread's namespace route. For namespaces of the daemon's own (`internet`); whether an
/// NVA forwards is decided by what the user runs in it.
///
/// # Errors
/// As [`apply_guest`].
pub fn apply_forwarding() -> Result<()> {
    apply(&View::default(), FORWARDING)
}

/// Sets one key, `net/ipv4/ip_forward`, in the namespace of the calling thread.
///
/// # Errors
/// A key outside `net/`, a key that the kernel does not have, or a value that it refuses.
pub fn set(key: &str, value: &str) -> Result<()> {
    let path = path_of(key)?;
    write(&path, value).on("set", path.display())
}

/// Reads one key of the namespace of the calling thread, without the line end.
///
/// # Errors
/// A key outside `net/`, or one that the kernel does not have.
pub fn get(key: &str) -> Result<String> {
    let path = path_of(key)?;
    Ok(fs::read_to_string(&path).on("read", path.display())?.trim_end().to_owned())
}

fn apply(view: &View, settings: &[(&str, &str)]) -> Result<()> {
    let folders = Folders::open(view);
    for (key, value) in settings {
        if folders.set(key, value) {
            continue;
        }
        match set(key, value) {
            Err(error) if error.is_missing() && key.starts_with("net/ipv6/") => {}
            other => other?,
        }
    }
    Ok(())
}

/// Where settings are looked up: `/proc`, or a proc file system of one's own.
///
/// The kernel finds the way from `/proc/sys/net` to a namespace's own folders by comparing with those of every other
/// namespace that was looked at by way of the same file system: 0.3 ms each with a thousand of them.
#[derive(Debug, Default)]
pub struct View(Option<OwnedFd>);

impl View {
    /// A proc file system of one's own, mounted nowhere; `/proc` where that is not allowed.
    #[must_use]
    pub fn own() -> View {
        let mount = || {
            let context = rustix::mount::fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
            rustix::mount::fsconfig_create(context.as_fd())?;
            rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        };
        View(mount().ok())
    }

    /// Opens a folder of `/proc/sys`.
    fn folder(&self, path: &str) -> Option<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match &self.0 {
            Some(proc) => openat(proc, &*Path::new("sys").join(path), flags, Mode::empty()).ok(),
            None => open(&Path::new("/proc/sys").join(path), flags, Mode::empty()).ok(),
        }
    }
}

/// The folders of both families in the namespace of the calling thread, so that the way to them is gone once for all
/// settings.
struct Folders([(&'static str, Option<OwnedFd>); 2]);

impl Folders {
    fn open(view: &View) -> Folders {
        Folders(["net/ipv4/", "net/ipv6/"].map(|prefix| (prefix, view.folder(prefix))))
    }

    /// Sets one key; false if that did not work this way.
    fn set(&self, key: &str, value: &str) -> bool {
        let written = self.0.iter().find_map(|(prefix, folder)| {
            let (rest, folder) = (key.strip_prefix(prefix)?, folder.as_ref()?);
            let file = openat(folder, rest, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
            File::from(file).write_all(value.as_bytes()).ok()
        });
        written.is_some()
    }
}

fn path_of(key: &str) -> Result<PathBuf> {
    // Only the keys below net/ belong to a namespace; every other one would be the host's.
    if !key.starts_with("net/") || key.split('/').any(|part| part.is_empty() || part == "..") {
        return Err(HostError::Invalid(format!("{key:?} is not a setting of a network namespace")));
    }
    Ok(Path::new("/proc/sys").join(key))
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    match fs::write(path, value) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => write_through(path, value),
        other => other,
    }
}

/// Container engines mount `/proc/sys` read-only. A thread with a mount namespace of its own may make its own view
/// writable; the network namespace is inherited from the thread that starts it.
fn write_through(path: &Path, value: &str) -> io::Result<()> {
    let none: Option<&str> = None;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
            mount(none, "/proc/sys", none, MsFlags::MS_REMOUNT | MsFlags::MS_BIND, none)?;
            fs::write(path, value)
        });
        writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settings_of_the_namespace_are_reached() {
        for key in ["kernel/hostname", "net/../kernel/hostname", "/net/ipv4/ip_forward", "net//ipv4", ""] {
            assert!(matches!(path_of(key), Err(HostError::Invalid(_))), "{key}");
        }
        assert_eq!(path_of("net/ipv4/ip_forward").unwrap(), Path::new("/proc/sys/net/ipv4/ip_forward"));
    }
}
