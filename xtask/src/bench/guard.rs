//! Takes away what a run has made when the run itself cannot: after an interrupt, a kill, a panic.
//!
//! The guard is this program run anew, in a process group of its own. It reads its standard input, whose other end
//! only the run holds: when that ends, however it ends, the guard removes whatever carries the run's prefix, and gives the
//! session its former place among the machine's others.

use std::fs;
use std::io::{Read, stdin};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vnet_integration::process;

use super::namespace::{LIMIT, ip};

/// How long taking a lab down may take.
const DOWN_LIMIT: Duration = Duration::from_secs(60);
const PINS: &str = "/sys/fs/bpf/vnetd";

/// What the guard is told of the run.
#[derive(Args)]
pub(crate) struct GuardArguments {
    /// What the names of the run's namespaces and labs begin with
    #[arg(long)]
    prefix: String,
    /// The folder of the run's daemons
    #[arg(long)]
    folder: PathBuf,
    /// What takes labs down
    #[arg(long)]
    vnetctl: PathBuf,
}

/// The running guard; when this is dropped it looks after the run's remains and ends.
pub(crate) struct Guard {
    child: Child,
}

impl Guard {
    /// Starts it.
    pub(crate) fn start(prefix: &str, folder: &Path, vnetctl: &Path) -> Result<Guard> {
        let child = Command::new(std::env::current_exe()?)
            .args(["bench-guard", "--prefix", prefix, "--folder"])
            .arg(folder)
            .arg("--vnetctl")
            .arg(vnetctl)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("cannot start the guard")?;
        Ok(Guard { child })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Waits for the run's end, then sweeps.
///
/// # Errors
/// The prefix is none that a run has.
pub(crate) fn run(arguments: &GuardArguments) -> Result<bool> {
    let is_ours = arguments.prefix.strip_prefix("bench-").is_some_and(|rest| rest.len() > 1);
    ensure!(is_ours, "'{}' is no prefix of a run", arguments.prefix);
    let session = Foremost::new();
    let mut ignored = Vec::new();
    // An error means the same as the end.
    let _ = stdin().read_to_end(&mut ignored);
    sweep(arguments);
    drop(session);
    Ok(true)
}

/// The scheduler divides the processors among sessions before it looks at niceness (sched(7), autogroup).
const AUTOGROUP: &str = "/proc/self/autogroup";

/// Puts the session of the run, all paths of it alike, before what else runs on the machine, until it is dropped: what a
/// service of the host does in between would count as a path's delay.
struct Foremost {
    /// The session's niceness before, where it could be changed.
    former: Option<String>,
}

impl Foremost {
    fn new() -> Foremost {
        // "/autogroup-17 nice 0"
        let shown = fs::read_to_string(AUTOGROUP).unwrap_or_default();
        let former = shown.split_whitespace().next_back().map(str::to_owned);
        // A kernel without autogroups, or a container: then the run is one among others.
        let raised = former.is_some() && fs::write(AUTOGROUP, "-20").is_ok();
        Foremost { former: former.filter(|_| raised) }
    }
}

impl Drop for Foremost {
    fn drop(&mut self) {
        if let Some(former) = &self.former {
            let _ = fs::write(AUTOGROUP, former);
        }
    }
}

fn sweep(arguments: &GuardArguments) {
    for socket in sockets(&arguments.folder) {
        let mut down = Command::new(&arguments.vnetctl);
        down.env("VNETD_SOCKET", &socket).args(["down", "--all"]);
        // Where the daemon does not answer, its namespaces are removed below.
        let _ = process::output(&mut down, DOWN_LIMIT);
    }
    for pid in processes_of(&arguments.folder) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let namespaces = entries("/run/netns")
        .filter(|name| name.strip_prefix("vnet.").unwrap_or(name).starts_with(&arguments.prefix));
    for name in namespaces {
        for pid in ip(&["netns", "pids", &name]).unwrap_or_default().split_whitespace() {
            if let Ok(pid) = pid.parse() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let _ = process::output(Command::new("ip").args(["netns", "delete", &name]), LIMIT);
    }
    for name in entries(PINS).filter(|name| name.starts_with(&arguments.prefix)) {
        let _ = fs::remove_dir_all(Path::new(PINS).join(name));
    }
    let _ = fs::remove_dir_all(&arguments.folder);
}

/// Sockets of daemons that still run.
fn sockets(folder: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(folder).into_iter().flatten().flatten();
    let sockets = folders.map(|entry| entry.path().join("vnetd.sock"));
    sockets.filter(|socket| std::os::unix::net::UnixStream::connect(socket).is_ok()).collect()
}

/// Processes whose command line names the run's folder; not this one.
fn processes_of(folder: &Path) -> Vec<i32> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let wanted = folder.to_string_lossy().into_owned();
    entries("/proc")
        .filter_map(|name| name.parse::<i32>().ok())
        .filter(|pid| *pid != own)
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&wanted)
        })
        .collect()
}

fn entries(folder: &str) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.into_iter()
}
