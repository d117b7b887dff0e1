//! What this host lacks for labs to run, and how to mend it.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use vnet_api::{Check, CheckStatus, DoctorReport};

use super::netns::{self, NetnsName};
use super::uplink;
use super::{Result, netns::Netns};
use crate::io::tun::{self, Tun, TunSpec};
use crate::offload;

/// Linux 6.2 brought UDP segmentation offload to TUN.
const KERNEL_WANTED: (u32, u32) = (6, 2);
/// Linux 5.11: close_range with CLOSE_RANGE_CLOEXEC, the newest call that nothing stands in for.
const KERNEL_NEEDED: (u32, u32) = (5, 11);
/// Descriptors that a lab of a thousand machines takes.
const OPEN_FILES_WANTED: u64 = 16_384;
/// linux/capability.h.
const CAP_NET_ADMIN: u32 = 12;
/// linux/capability.h.
const CAP_SYS_ADMIN: u32 = 21;

/// Looks at everything that a lab needs. Makes one namespace for a moment, and removes it.
#[must_use]
pub fn examine(state_root: &Path, metrics: Option<SocketAddr>) -> DoctorReport {
    let mut checks = vec![kernel(), privilege(), device(), namespace_and_offload(), mounts(), overlay()];
    checks.push(state(state_root));
    checks.push(open_files());
    checks.push(host_egress());
    checks.push(kernel_offload());
    checks.extend(metrics.map(metrics_port));
    DoctorReport { checks }
}

fn check(name: &str, status: CheckStatus, found: impl Into<String>, remedy: &str) -> Check {
    let remedy = (status != CheckStatus::Ok).then(|| remedy.to_owned());
    Check { name: name.to_owned(), status, found: found.into(), remedy }
}

fn kernel() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let status = match parse_release(&release) {
        Some(version) if version >= KERNEL_WANTED => CheckStatus::Ok,
        Some(version) if version >= KERNEL_NEEDED => CheckStatus::Warning,
        _ => CheckStatus::Failed,
    };
    check("kernel", status, format!("Linux {}", release.trim()), "Use Linux 6.2 or later; 5.11 at least.")
}

/// Whether a device takes joined datagrams: from Linux 6.2 on.
#[must_use]
pub fn takes_datagram_segments() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    parse_release(&release).is_some_and(|version| version >= (6, 2))
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn privilege() -> Check {
    let status_file = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = effective_capabilities(&status_file).unwrap_or_default();
    let missing: Vec<_> = [("CAP_NET_ADMIN", CAP_NET_ADMIN), ("CAP_SYS_ADMIN", CAP_SYS_ADMIN)]
        .into_iter()
        .filter(|(_, bit)| held & (1 << bit) == 0)
        .map(|(name, _)| name)
        .collect();
    let (status, found) = match missing.as_slice() {
        [] => (CheckStatus::Ok, "CAP_NET_ADMIN and CAP_SYS_ADMIN are held".to_owned()),
        names => (CheckStatus::Failed, format!("{} missing", names.join(" and "))),
    };
    let remedy = "Run the daemon as root, or in a container with --cap-add NET_ADMIN --cap-add SYS_ADMIN.";
    check("privilege", status, found, remedy)
}

fn effective_capabilities(status_file: &str) -> Option<u64> {
    let line = status_file.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn device() -> Check {
    let remedy = "Load the tun module (modprobe tun); in a container add --device /dev/net/tun.";
    match tun::features() {
        Ok(features) if features.vnet_hdr && features.multi_queue => {
            check("tun", CheckStatus::Ok, "/dev/net/tun with offload and several queues", remedy)
        }
        Ok(features) => check("tun", CheckStatus::Failed, format!("{features:?}"), remedy),
        Err(error) => check("tun", CheckStatus::Failed, error.to_string(), remedy),
    }
}

/// Makes what every machine is made of.
fn namespace_and_offload() -> Check {
    let remedy = "Give the daemon CAP_SYS_ADMIN and let it mount: AppArmor's docker-default profile forbids it \
                  (--security-opt apparmor=unconfined), and so do systemd options that give a service mounts of its own.";
    let attempt = || -> Result<bool> {
        let name = NetnsName::new("doctor", &std::process::id().to_string())?;
        let made = netns::create_with(&name, |_| Tun::attach(&TunSpec::new("eth0", 1)));
        // The name goes first: the device goes with the namespace, which is quicker than by itself.
        netns::delete(&name)?;
        let (_, device): (Netns, Tun) = made?;
        Ok(device.offloads().uso)
    };
    match attempt() {
        Ok(true) => {
            check("namespaces", CheckStatus::Ok, "made one with a device, with TCP and UDP offload", remedy)
        }
        Ok(false) => {
            let found = "made one with a device; no UDP offload";
            check("namespaces", CheckStatus::Warning, found, "Use Linux 6.2 or later for faster UDP.")
        }
        Err(error) => check("namespaces", CheckStatus::Failed, error.to_string(), remedy),
    }
}

fn mounts() -> Check {
    let remedy =
        "Start the daemon with the right to mount; it makes /run/netns a shared mount as ip netns does.";
    match netns::is_shared_mount(Path::new(netns::NETNS_DIR)) {
        Ok(true) => check("mounts", CheckStatus::Ok, "/run/netns is a shared mount", remedy),
        Ok(false) => check("mounts", CheckStatus::Failed, "/run/netns is not a shared mount", remedy),
        Err(error) => check("mounts", CheckStatus::Failed, error.to_string(), remedy),
    }
}

fn overlay() -> Check {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let loaded = known.lines().any(|line| line.split_whitespace().next_back() == Some("overlay"));
    let (status, found) = match loaded {
        true => (CheckStatus::Ok, "overlayfs is there"),
        false => (CheckStatus::Warning, "overlayfs is not loaded"),
    };
    check(
        "overlay",
        status,
        found,
        "Load it (modprobe overlay): exec shows machines their own files with it.",
    )
}

fn state(root: &Path) -> Check {
    let attempt = || -> io::Result<()> {
        fs::create_dir_all(root)?;
        let probe = root.join(format!(".doctor-{}", std::process::id()));
        fs::write(&probe, b"")?;
        fs::remove_file(&probe)
    };
    let remedy = "Choose a writable folder with --state-dir or XDG_STATE_HOME.";
    match attempt() {
        Ok(()) => check("state", CheckStatus::Ok, format!("{} can be written", root.display()), remedy),
        Err(error) => check("state", CheckStatus::Failed, format!("{}: {error}", root.display()), remedy),
    }
}

fn open_files() -> Check {
    let remedy = "Raise it (LimitNOFILE= of the unit, ulimit -n): a machine takes about ten.";
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) => {
            let status = if hard >= OPEN_FILES_WANTED { CheckStatus::Ok } else { CheckStatus::Warning };
            check("files", status, format!("at most {hard} open files"), remedy)
        }
        Err(error) => check("files", CheckStatus::Warning, error.to_string(), remedy),
    }
}

/// A topology that does not ask for it runs without.
fn host_egress() -> Check {
    let remedy = "Only for internet.egress: host: give the host an IPv4 default route, and load nf_tables and nft_masq.";
    match uplink::obstacle() {
        None => check("host egress", CheckStatus::Ok, "labs may leave by the host's network", remedy),
        Some(why) => check("host egress", CheckStatus::Warning, why, remedy),
    }
}

/// Loads what carries flows in the kernel, for a moment.
fn kernel_offload() -> Check {
    let remedy = "Every flow passes the daemon. For plain ones to run in the kernel: Linux 5.15 or later with bpf(2) and clsact \
                  (modprobe sch_ingress cls_bpf), the right to mount bpffs on /sys/fs/bpf, and a daemon that was built \
                  where clang is installed.";
    match offload::examine() {
        Ok(()) => check("offload", CheckStatus::Ok, "plain flows can run in the kernel", remedy),
        Err(error) => check("offload", CheckStatus::Warning, error.to_string(), remedy),
    }
}

fn metrics_port(address: SocketAddr) -> Check {
    let remedy = "Stop what listens there, or choose another address; the daemon runs without, and metrics are on its socket.";
    match TcpListener::bind(address) {
        Ok(_) => check("metrics", CheckStatus::Ok, format!("{address} is free"), remedy),
        Err(error) => check("metrics", CheckStatus::Warning, format!("{address}: {error}"), remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions_are_read() {
        assert_eq!(parse_release("6.1.0-18-amd64\n"), Some((6, 1)));
        assert_eq!(parse_release("5.15.167.4-microsoft-standard-WSL2"), Some((5, 15)));
        assert_eq!(parse_release(""), None);
    }

    #[test]
    fn capabilities_are_read_off_the_status_file() {
        let text = "Name:\tvnetd\nCapPrm:\t0000000000000000\nCapEff:\t0000000000201000\n";
        let held = effective_capabilities(text).unwrap();
        assert!(held & (1 << CAP_NET_ADMIN) != 0 && held & (1 << CAP_SYS_ADMIN) != 0);
        assert_eq!(effective_capabilities("CapEff:\tnonsense"), None);
    }

    #[test]
    fn a_port_that_is_taken_is_only_a_warning_with_a_remedy() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let found = metrics_port(listener.local_addr().unwrap());
        assert_eq!(found.status, CheckStatus::Warning);
        assert!(found.remedy.is_some());
    }

    #[test]
    fn a_folder_that_cannot_be_made_fails() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(state(&file.path().join("below")).status, CheckStatus::Failed);
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(state(dir.path()).status, CheckStatus::Ok);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    }
}
