//! Running programs inside a machine.
//!
//! The daemon has many threads, so nothing but system calls may happen between fork and exec. All that entering a machine takes
//! (mounts, names, looking things up) is done by a fresh process of the daemon's own program, `vnetd enter`, which then becomes
//! the program; see [`enter`](super::enter).

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use serde::{Deserialize, Serialize};

use super::backing::Backing;
use super::enter::{self, EnterSpec};
use super::error::{Context, HostError, Result};
use super::netns::Netns;
use super::process::{PidFd, ProcessId};

/// Exit code for a failure of the daemon's own, as `vnetctl exec` documents.
pub const EXIT_OWN_FAILURE: i32 = 125;
/// Exit code for a program that can't be run, as shells have it.
pub const EXIT_NOT_EXECUTABLE: i32 = 126;
/// Exit code for a program that is not there, as shells have it.
pub const EXIT_NOT_FOUND: i32 = 127;

/// What to run, and where.
#[derive(Debug)]
pub struct ExecSpec<'a> {
    /// The machine's namespace.
    pub ns: &'a Netns,
    /// The machine's own folders and files.
    pub backing: &'a Backing,
    /// The machine's host name.
    pub hostname: &'a str,
    /// Program and arguments; the program is looked up in `env`'s PATH. Empty for the shell that `env` names.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// Working directory; `/` where it is missing inside.
    pub cwd: Option<PathBuf>,
    /// User and group; none keeps the daemon's.
    pub user: Option<(u32, u32)>,
    /// Standard input, output and error.
    pub stdio: [OwnedFd; 3],
    /// Standard input is a terminal, which becomes the controlling one of the new session.
    pub terminal: bool,
}

/// Why a program did not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct SpawnError {
    /// [`EXIT_NOT_FOUND`], [`EXIT_NOT_EXECUTABLE`] or [`EXIT_OWN_FAILURE`].
    pub code: i32,
    /// In one sentence.
    pub message: String,
}

impl From<HostError> for SpawnError {
    fn from(error: HostError) -> Self {
        Self { code: EXIT_OWN_FAILURE, message: error.to_string() }
    }
}

/// A program that runs inside a machine. It leads a session and a process group of its own.
#[derive(Debug)]
pub struct Child {
    child: std::process::Child,
    pidfd: PidFd,
}

impl Child {
    /// Its number on the host.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its identity, to be found again by the next daemon.
    #[must_use]
    pub fn identity(&self) -> Option<ProcessId> {
        ProcessId::of(self.child.id())
    }

    /// Readable when it has ended.
    #[must_use]
    pub fn pidfd(&self) -> &PidFd {
        &self.pidfd
    }

    /// Waits for its end: its exit code, or 128 and the signal's number, as shells count.
    ///
    /// # Errors
    /// Where the kernel has lost it.
    pub fn wait(&mut self) -> Result<i32> {
        Ok(exit_code(self.child.wait().on("wait for process", self.child.id())?))
    }

    /// As [`Child::wait`], without waiting; none while it runs.
    ///
    /// # Errors
    /// Where the kernel has lost it.
    pub fn try_wait(&mut self) -> Result<Option<i32>> {
        Ok(self.child.try_wait().on("wait for process", self.child.id())?.map(exit_code))
    }

    /// Sends a signal to its process group. To be called before the end was waited for: afterwards the number may be
    /// another's.
    ///
    /// # Errors
    /// A number that is no signal, or a kernel that refuses. A group that has ended is no error.
    pub fn signal_group(&self, signal: i32) -> Result<()> {
        signal_group(self.child.id(), signal)
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Sends a signal to the process group that `leader` leads.
///
/// # Errors
/// As [`Child::signal_group`].
pub fn signal_group(leader: u32, signal: i32) -> Result<()> {
    let signal = nix::sys::signal::Signal::try_from(signal)
        .map_err(|_| HostError::Invalid(format!("{signal} is not the number of a signal")))?;
    let group = nix::unistd::Pid::from_raw(leader.cast_signed());
    match nix::sys::signal::killpg(group, signal) {
        Err(nix::Error::ESRCH) => Ok(()),
        other => other.on("signal the process group of", leader),
    }
}

/// Starts programs by way of a helper program.
#[derive(Clone, Debug)]
pub struct Launcher {
    helper: PathBuf,
}

impl Default for Launcher {
    /// The daemon's own program, even if its file has been replaced since it started.
    fn default() -> Self {
        Self { helper: "/proc/self/exe".into() }
    }
}

impl Launcher {
    /// Another program that calls [`enter::run_if_asked`] first thing; for tests.
    #[must_use]
    pub fn with_helper(helper: &Path) -> Self {
        Self { helper: helper.to_owned() }
    }

    /// Starts the program and returns when it runs.
    ///
    /// # Errors
    /// A program that is not there or can't be run, and everything that keeps it from getting that far.
    pub fn spawn(&self, spec: ExecSpec<'_>) -> std::result::Result<Child, SpawnError> {
        let (status_read, status_write) =
            nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).on("make", "a pipe")?;
        let enter_spec = EnterSpec {
            argv: spec.argv,
            env: spec.env,
            cwd: spec.cwd,
            user: spec.user,
            terminal: spec.terminal,
            hostname: spec.hostname.to_owned(),
            backing: spec.backing.clone(),
            netns_fd: spec.ns.as_fd().as_raw_fd(),
            status_fd: status_write.as_raw_fd(),
        };
        let spec_file = memory_file(&enter_spec)?;
        let inherited = [enter_spec.netns_fd, enter_spec.status_fd, spec_file.as_raw_fd()];
        let [stdin, stdout, stderr] = spec.stdio;
        let mut command = Command::new(&self.helper);
        command
            .args([enter::SUBCOMMAND, &spec_file.as_raw_fd().to_string()])
            .env_clear()
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr);
        // SAFETY: between fork and exec the closure only calls fcntl, which is async-signal-safe, on descriptors that the
        // parent keeps open until spawn returns; it allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(move || inherited.iter().try_for_each(|fd| keep_open(*fd)));
        }
        let mut child = command.spawn().on("start", self.helper.display())?;
        drop(command);
        drop(status_write);
        let mut failure = String::new();
        File::from(status_read).read_to_string(&mut failure).on("read the state of", "a starting program")?;
        if failure.is_empty() {
            let pidfd = PidFd::open(child.id()).on("open process", child.id())?;
            return Ok(Child { child, pidfd });
        }
        let _ = child.wait();
        Err(serde_json::from_str(&failure).unwrap_or_else(|error| SpawnError {
            code: EXIT_OWN_FAILURE,
            message: format!("{failure}: {error}"),
        }))
    }

    /// Starts a program of a machine's `run:` list: its output goes to the end of `log`, its input is empty. The log's
    /// descriptor is the program's own, so it goes on writing when the daemon is gone.
    ///
    /// # Errors
    /// As [`Launcher::spawn`], and a log that can't be written.
    pub fn spawn_logged(
        &self,
        ns: &Netns,
        backing: &Backing,
        hostname: &str,
        argv: Vec<String>,
        log: &Path,
    ) -> std::result::Result<Child, SpawnError> {
        let log = open_log(log)?;
        let errors = log.try_clone().on("duplicate", "the log")?;
        let nothing = File::open("/dev/null").on("open", "/dev/null")?;
        let stdio = [nothing.into(), log.into(), errors.into()];
        let env = machine_environment(hostname);
        self.spawn(ExecSpec {
            ns,
            backing,
            hostname,
            argv,
            env,
            cwd: None,
            user: None,
            stdio,
            terminal: false,
        })
    }
}

/// The environment of a program that no user started.
#[must_use]
pub fn machine_environment(hostname: &str) -> BTreeMap<String, String> {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    [("PATH", path), ("HOME", "/root"), ("LANG", "C.UTF-8"), ("HOSTNAME", hostname)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// Bytes at which a log is begun anew at the next start of a program; the former one is kept beside it.
const LOG_BYTES_MAX: u64 = 8 << 20;

fn open_log(path: &Path) -> Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).on("create", folder.display())?;
    }
    if fs::metadata(path).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
        fs::rename(path, path.with_extension("log.1")).on("put aside", path.display())?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).on("open", path.display())
}

/// The spec may hold secrets of the environment: it goes through memory, not through the arguments or a file.
fn memory_file(spec: &EnterSpec) -> Result<File> {
    let bytes = serde_json::to_vec(spec).map_err(|error| {
        HostError::Invalid(format!("the program's description can't be written as JSON: {error}"))
    })?;
    // SAFETY: memfd_create takes a C string and flags, and returns a new descriptor or -1.
    let fd: RawFd = unsafe { libc::memfd_create(c"vnetd-enter".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error()).on("make", "a memory file");
    }
    // SAFETY: the kernel has just made this descriptor and nobody else has it.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.write_all(&bytes).and_then(|()| file.rewind()).on("write", "a memory file")?;
    Ok(file)
}

fn keep_open(fd: RawFd) -> std::io::Result<()> {
    // SAFETY: F_SETFD takes an integer; a wrong descriptor is an error, nothing worse.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// Standard input, output and error of a program whose output nobody wants.
///
/// # Errors
/// Where `/dev/null` is missing.
pub fn no_stdio() -> Result<[OwnedFd; 3]> {
    let open = || OpenOptions::new().read(true).write(true).open("/dev/null").on("open", "/dev/null");
    Ok([open()?.into(), open()?.into(), open()?.into()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        let status = |line: &str| exit_code(Command::new("sh").args(["-c", line]).status().unwrap());
        assert_eq!((status("exit 3"), status("kill -TERM $$")), (3, 143));
    }

    #[test]
    fn a_log_that_has_grown_too_long_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/web.log");
        write!(open_log(&path).unwrap(), "a").unwrap();
        write!(open_log(&path).unwrap(), "b").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "ab");
        OpenOptions::new().write(true).open(&path).unwrap().set_len(LOG_BYTES_MAX + 1).unwrap();
        open_log(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        assert_eq!(fs::metadata(path.with_extension("log.1")).unwrap().len(), LOG_BYTES_MAX + 1);
    }
}
