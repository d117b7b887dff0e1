//! What the tests need from Debian's packages, and how it gets there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::unistd::Uid;
use vnet_integration::tools::TOOLS;

use crate::command::{is_present, run};

/// A Debian package and a program of it: where the program is, the package counts as installed.
struct Package {
    name: &'static str,
    program: &'static str,
}

const PACKAGES: &[Package] = &[
    Package { name: "iproute2", program: "ip" },
    Package { name: "iperf3", program: "iperf3" },
    Package { name: "iputils-ping", program: "ping" },
    Package { name: "traceroute", program: "traceroute" },
    Package { name: "tcpdump", program: "tcpdump" },
    Package { name: "netcat-openbsd", program: "nc.openbsd" },
    Package { name: "nftables", program: "nft" },
    Package { name: "wireguard-tools", program: "wg" },
    Package { name: "wireguard-go", program: "wireguard-go" },
    Package { name: "bird2", program: "bird" },
    Package { name: "frr", program: "vtysh" },
    Package { name: "gobgpd", program: "gobgpd" },
    Package { name: "sockperf", program: "sockperf" },
    Package { name: "prometheus", program: "promtool" },
    Package { name: "make", program: "make" },
    Package { name: "clang", program: "clang" },
    Package { name: "systemd", program: "systemd-analyze" },
    Package { name: "debootstrap", program: "debootstrap" },
    Package { name: "buildah", program: "buildah" },
    Package { name: "podman", program: "podman" },
    Package { name: "runc", program: "runc" },
    Package { name: "valgrind", program: "valgrind" },
];

/// Builds those of the needed programs that Debian has no package of, where they are missing.
///
/// # Errors
/// cargo cannot fetch or build one.
pub(crate) fn install_tools() -> Result<()> {
    for tool in TOOLS.iter().filter(|tool| !is_present(tool.program)) {
        println!("==> cargo install {} {}", tool.package, tool.version);
        tool.install()?;
    }
    Ok(())
}

const POLICY: &str = "/usr/sbin/policy-rc.d";
const APT_LIMIT: Duration = Duration::from_secs(900);

/// Installs those of the needed packages that are missing.
///
/// # Errors
/// Something is missing and this is not root, or apt failed.
pub(crate) fn install_missing() -> Result<()> {
    let missing: Vec<&str> =
        PACKAGES.iter().filter(|package| !is_present(package.program)).map(|package| package.name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let line = missing.join(" ");
    if !Uid::effective().is_root() {
        bail!("missing: {line}\nInstall them: sudo apt-get install --no-install-recommends {line}");
    }
    if !is_present("apt-get") {
        bail!("missing: {line}; there is no apt-get here, install them by hand");
    }
    println!("==> apt-get install {line}");
    let _quiet = NoServices::new()?;
    if apt(&["install"], &missing)? {
        return Ok(());
    }
    // The package lists may be old or absent: fetch them and try once more.
    if apt(&["update"], &[])? && apt(&["install"], &missing)? {
        return Ok(());
    }
    bail!("apt-get could not install {line}")
}

fn apt(verb: &[&str], packages: &[&str]) -> Result<bool> {
    let mut command = Command::new("apt-get");
    command.args(["-q", "-y", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=300"]);
    command.args(verb).args(packages).env("DEBIAN_FRONTEND", "noninteractive");
    if !packages.is_empty() {
        command.arg("--no-install-recommends");
    }
    run(&mut command, APT_LIMIT)
}

/// While it lives, packages do not start their services at installation (Debian's policy-rc.d): the tests need
/// Prometheus' programs, not a server that runs.
struct NoServices {
    made: bool,
}

impl NoServices {
    fn new() -> Result<NoServices> {
        if Path::new(POLICY).exists() {
            return Ok(NoServices { made: false });
        }
        fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| format!("cannot write {POLICY}"))?;
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot make {POLICY} executable"))?;
        Ok(NoServices { made: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.made {
            let _ = fs::remove_file(POLICY);
        }
    }
}
