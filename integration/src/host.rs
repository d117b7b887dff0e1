//! The host as it is, to be compared before and after; and what an interrupted run left there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process;
use crate::wait::PATIENCE;

/// What the name of every lab of the harness begins with; the process id follows, in hexadecimal.
pub const PREFIX: &str = "it";

const NAMESPACES: &str = "/run/netns";
/// Where labs pin what carries flows in the kernel, by name.
const PINS: &str = "/sys/fs/bpf/vnetd";

/// What a lab must leave as it was.
#[derive(Debug, PartialEq, Eq)]
pub struct HostState(BTreeMap<String, String>);

impl HostState {
    /// Looks at interfaces, addresses, routes, rules, mounts, namespaces and the network's sysctls.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn read() -> Result<HostState> {
        let mut state = BTreeMap::new();
        for arguments in [
            &["-o", "link", "show"][..],
            &["-o", "address", "show"],
            &["-4", "route", "show", "table", "all"],
            &["-6", "route", "show", "table", "all"],
            &["-4", "rule", "show"],
            &["-6", "rule", "show"],
            &["netns", "list"],
        ] {
            let output = process::output(Command::new("ip").args(arguments), PATIENCE)?.ok()?;
            state.insert(format!("ip {}", arguments.join(" ")), output.stdout);
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        // Mount ids differ from call to call for mounts that come and go elsewhere: the mount points count.
        let mut points: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
        points.sort_unstable();
        state.insert("mounts".to_owned(), points.join("\n"));
        for family in ["core", "ipv4", "ipv6", "unix"] {
            read_sysctls(&Path::new("/proc/sys/net").join(family), &mut state);
        }
        Ok(HostState(state))
    }

    /// What differs in the other, one line each.
    pub fn differences(&self, other: &HostState) -> Vec<String> {
        let keys: std::collections::BTreeSet<&String> = self.0.keys().chain(other.0.keys()).collect();
        keys.into_iter()
            .filter(|key| self.0.get(*key) != other.0.get(*key))
            .map(|key| format!("{key}: {:?} -> {:?}", self.0.get(key), other.0.get(key)))
            .collect()
    }
}

fn read_sysctls(folder: &Path, state: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_sysctls(&path, state);
        } else if let Ok(value) = fs::read_to_string(&path) {
            // Some are write-only, some need a hardware that is not there: what cannot be read is not compared.
            state.insert(path.display().to_string(), value);
        }
    }
}

/// Namespaces, pins, interfaces and processes of the host that carry `name`.
///
/// # Errors
/// `ip` fails.
pub fn remains_of(name: &str) -> Result<Vec<String>> {
    let mut found: Vec<String> =
        namespaces_of(name).into_iter().map(|space| format!("namespace {space}")).collect();
    found.extend(pins_of(name).into_iter().map(|pins| format!("pins {pins}")));
    let links = process::output(Command::new("ip").args(["-o", "link", "show"]), PATIENCE)?.ok()?;
    found.extend(
        links.stdout.lines().filter(|line| line.contains(name)).map(|line| format!("interface {line}")),
    );
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    found.extend(mounts.lines().filter(|line| line.contains(name)).map(|line| format!("mount {line}")));
    found.extend(processes_of(name).into_iter().map(|(pid, line)| format!("process {pid} {line}")));
    Ok(found)
}

/// Removes what carries `name`, as far as that goes: the last resort of a lab that failed.
pub fn sweep(name: &str) {
    for (pid, _) in processes_of(name) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    for space in namespaces_of(name) {
        let _ = process::output(Command::new("ip").args(["netns", "delete", &space]), PATIENCE);
    }
    for pins in pins_of(name) {
        let _ = fs::remove_dir_all(Path::new(PINS).join(pins));
    }
}

/// Removes what runs of this harness left whose process is gone.
pub fn sweep_dead_runs() {
    let mut names: Vec<String> = namespaces_of(PREFIX);
    names.extend(processes_of(&format!("/{PREFIX}")).into_iter().map(|(_, line)| line));
    for name in names {
        let Some(run) = name.split(['.', '/', ' ']).find_map(run_of) else { continue };
        if !Path::new(&format!("/proc/{}", run.1)).exists() {
            sweep(&run.0);
        }
    }
}

/// The prefix and the process id of a run, if `part` is a lab's name of this harness.
fn run_of(part: &str) -> Option<(String, i32)> {
    let digits = part.strip_prefix(PREFIX)?.split('-').next()?;
    if digits.is_empty() || !part[PREFIX.len() + digits.len()..].starts_with('-') {
        return None;
    }
    Some((format!("{PREFIX}{digits}-"), i32::from_str_radix(digits, 16).ok()?))
}

fn pins_of(name: &str) -> Vec<String> {
    let entries = fs::read_dir(PINS).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|entry| entry.starts_with(name))
        .collect()
}

fn namespaces_of(name: &str) -> Vec<String> {
    let wanted = format!("vnet.{name}");
    fs::read_dir(NAMESPACES)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|entry| entry.starts_with(&wanted) || entry.starts_with(name))
        .collect()
}

/// Daemons and programs of the harness's own: those whose command line names the scene's folder or namespaces.
fn processes_of(name: &str) -> Vec<(i32, String)> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != own)
        .filter_map(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            (line.contains("vnet") && line.contains(name)).then_some((pid, line))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_its_own_names() {
        assert_eq!(run_of("it1f-3-0"), Some(("it1f-".to_owned(), 0x1f)));
        assert_eq!(run_of("item-3"), None);
        assert_eq!(run_of("it-3"), None);
        assert_eq!(run_of("hub-spoke"), None);
    }
}
