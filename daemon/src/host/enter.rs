//! The hidden subcommand `vnetd enter`: a process of its own, with one thread, that moves into a machine and becomes the
//! program that was asked for.
//!
//! What changes for the program: network namespace, host name, and a mount namespace in which /run, /tmp, the machine's
//! files and /sys are the machine's own. All else is the host's.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use serde::{Deserialize, Serialize};

use super::backing::Backing;
use super::error::{Context, HostError, Result};
use super::exec::{EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, EXIT_OWN_FAILURE, SpawnError};
use super::netns::NETNS_DIR;

/// The first argument that makes a vnetd process a helper.
pub const SUBCOMMAND: &str = "enter";

/// Lowest descriptor that is not one of the standard three.
const FIRST_EXTRA_FD: RawFd = 3;

/// Bytes of memory for what a program writes below folders that are covered; they are gone with it.
const SCRATCH_OPTIONS: &str = "mode=0700,size=256m";

/// What the helper is told, through a memory file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EnterSpec {
    pub(crate) argv: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) user: Option<(u32, u32)>,
    pub(crate) terminal: bool,
    pub(crate) hostname: String,
    pub(crate) backing: Backing,
    pub(crate) netns_fd: RawFd,
    pub(crate) status_fd: RawFd,
}

/// Becomes the helper where the arguments say so, and does not return then. The first thing that `main` calls, before any
/// other thread or descriptor exists.
pub fn run_if_asked() {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some(SUBCOMMAND) {
        return;
    }
    let spec = args.next().and_then(|fd| fd.parse().ok()).and_then(read_spec);
    let Some(spec) = spec else {
        // Not an error of the user's: nobody is told of this subcommand.
        let _ = writeln!(io::stderr(), "vnetd enter is started by the daemon only");
        std::process::exit(EXIT_OWN_FAILURE);
    };
    let status_fd = spec.status_fd;
    let failure = become_program(&spec);
    report(status_fd, &failure);
    std::process::exit(failure.code);
}

fn read_spec(fd: RawFd) -> Option<EnterSpec> {
    let mut text = String::new();
    adopt(fd)?.read_to_string(&mut text).ok()?;
    let spec: EnterSpec = serde_json::from_str(&text).ok()?;
    (spec.netns_fd >= FIRST_EXTRA_FD && spec.status_fd >= FIRST_EXTRA_FD).then_some(spec)
}

/// Takes over a descriptor that the parent left open, unless it is none.
fn adopt(fd: RawFd) -> Option<File> {
    // SAFETY: F_GETFD only asks; a number that is no descriptor is an error.
    if fd < FIRST_EXTRA_FD || unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: the descriptor is open, was inherited for this purpose, and nothing else in this process refers to it.
    Some(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

fn report(status_fd: RawFd, failure: &SpawnError) {
    let Some(mut status) = adopt(status_fd) else { return };
    if let Ok(text) = serde_json::to_vec(failure) {
        // Nobody is left to be told where the daemon is gone.
        let _ = status.write_all(&text);
    }
}

/// Returns only on failure.
fn become_program(spec: &EnterSpec) -> SpawnError {
    if let Err(error) = enter(spec) {
        return error.into();
    }
    let argv = match spec.argv.split_first() {
        Some((program, args)) => (program.clone(), args),
        None => (spec.env.get("SHELL").cloned().unwrap_or_else(|| "/bin/sh".to_owned()), &[][..]),
    };
    let mut command = Command::new(&argv.0);
    command.args(argv.1).env_clear().envs(&spec.env);
    if let Some((uid, gid)) = spec.user {
        command.uid(uid).gid(gid);
    }
    let error = command.exec();
    let code = if error.kind() == io::ErrorKind::NotFound { EXIT_NOT_FOUND } else { EXIT_NOT_EXECUTABLE };
    SpawnError { code, message: format!("{}: {error}", argv.0) }
}

fn enter(spec: &EnterSpec) -> Result<()> {
    let netns = adopt(spec.netns_fd)
        .ok_or_else(|| HostError::Invalid("the namespace's descriptor is missing".into()))?;
    setns(&netns, CloneFlags::CLONE_NEWNET).on("enter the namespace of", &spec.hostname)?;
    drop(netns);
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS).on("make namespaces for", &spec.hostname)?;
    nix::unistd::sethostname(&spec.hostname).on("set the host name", &spec.hostname)?;
    mount_view(&spec.backing)?;
    // A session of its own: signals to the daemon's terminal or group don't reach it.
    nix::unistd::setsid().on("make", "a session")?;
    if spec.terminal {
        // SAFETY: TIOCSCTTY takes an integer; standard input is open, and an error where it is no terminal.
        let rc = unsafe { libc::ioctl(io::stdin().as_raw_fd(), libc::TIOCSCTTY, 0) };
        if rc < 0 {
            return Err(io::Error::last_os_error()).on("take over", "the terminal");
        }
    }
    close_on_exec().on("close", "the daemon's descriptors")?;
    let cwd = spec.cwd.as_deref().unwrap_or(Path::new("/"));
    std::env::set_current_dir(cwd).or_else(|_| std::env::set_current_dir("/")).on("go to", cwd.display())
}

fn mount_view(backing: &Backing) -> Result<()> {
    let none: Option<&str> = None;
    // Mounts of the host still appear here (and unmounts!); nothing that is mounted here gets out.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
        .on("detach", "the mounts of the host")?;
    // The names of other machines' namespaces: not this machine's business, and references that would keep them alive.
    while umount2(NETNS_DIR, MntFlags::MNT_DETACH).is_ok() {}
    // sysfs shows the devices of the network namespace that it was mounted in.
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).on("mount", "/sys")?;
    // Opened before /tmp and /run are covered: the lab's folder may lie below one of them.
    let own: Vec<(File, &str)> = [(backing.run(), "/run"), (backing.tmp(), "/tmp")]
        .into_iter()
        .map(|(folder, over)| Ok((File::open(&folder).on("open", folder.display())?, over)))
        .collect::<Result<_>>()?;
    cover(backing)?;
    for (folder, over) in &own {
        let source = format!("/proc/self/fd/{}", folder.as_raw_fd());
        mount(Some(source.as_str()), *over, none, MsFlags::MS_BIND, none).on("mount", over)?;
    }
    Ok(())
}

/// Lays the machine's files over the host's folders, with memory on top for what programs write there.
fn cover(backing: &Backing) -> Result<()> {
    let scratch = backing.scratch();
    mount(Some("tmpfs"), &scratch, Some("tmpfs"), MsFlags::MS_NODEV, Some(SCRATCH_OPTIONS))
        .on("mount", scratch.display())?;
    for (number, covered) in backing.covered.iter().enumerate() {
        let (upper, work) = (scratch.join(format!("{number}u")), scratch.join(format!("{number}w")));
        for folder in [&upper, &work] {
            fs::create_dir(folder).on("create", folder.display())?;
        }
        // The merged folder shows the mode of its topmost layer.
        let mode = fs::metadata(covered).on("inspect", covered.display())?.permissions();
        fs::set_permissions(&upper, mode).on("set the mode of", upper.display())?;
        let options = format!(
            "lowerdir={}:{},upperdir={},workdir={}",
            escape(&backing.layer_over(covered))?,
            escape(covered)?,
            escape(&upper)?,
            escape(&work)?
        );
        mount(Some("overlay"), covered, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .on("lay the machine's files over", covered.display())?;
    }
    Ok(())
}

/// Overlay options are separated by commas and colons.
fn escape(path: &Path) -> Result<String> {
    let text = path.to_str().ok_or_else(|| HostError::Invalid(format!("{} is not UTF-8", path.display())))?;
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '\\' | ',' | ':') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    Ok(escaped)
}

/// Whatever was left open, by the daemon or by who started it, is none of the program's.
fn close_on_exec() -> io::Result<()> {
    // SAFETY: close_range takes three integers; with CLOSE_RANGE_CLOEXEC it closes nothing now.
    let rc = unsafe {
        libc::syscall(libc::SYS_close_range, FIRST_EXTRA_FD, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_of_overlay_options_are_escaped() {
        assert_eq!(escape(Path::new("/a,b:c\\d")).unwrap(), "/a\\,b\\:c\\\\d");
    }
}
