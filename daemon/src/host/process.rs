//! Processes of a machine: found by the network namespace that they are in, ended through process descriptors, so
//! that a number that the kernel has given away again is never signalled.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use super::error::{Context, HostError, Result};
use super::netns::NsId;

/// A process for good: its number and when it started, so that a former daemon's process can be told from a stranger who
/// was given its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// Number on the host.
    pub pid: u32,
    /// Start, in clock ticks since boot (proc(5), stat field 22).
    pub start_ticks: u64,
}

impl ProcessId {
    /// The identity of the process that has this number now; none where there is none.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self { pid, start_ticks: start_ticks(&stat)? })
    }
}

fn start_ticks(stat: &str) -> Option<u64> {
    // The command in the second field may hold blanks and parentheses: count from the last one.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// A descriptor of a process; readable when it has ended.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens the process that has this number now.
    ///
    /// # Errors
    /// `ESRCH` where there is none.
    pub fn open(pid: u32) -> io::Result<Self> {
        // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    /// Opens a process by its identity; none where it has ended.
    ///
    /// # Errors
    /// Where the process is out of descriptors.
    pub fn open_exactly(id: ProcessId) -> io::Result<Option<Self>> {
        let fd = match Self::open(id.pid) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            other => other?,
        };
        // Compared after opening: from here on the number can't change hands unseen.
        Ok((ProcessId::of(id.pid) == Some(id)).then_some(fd))
    }

    /// Sends a signal to the one process. One that has ended already is no error.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let no_info: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: pidfd_send_signal takes the descriptor, a number and a null pointer for no further information.
        let rc =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, no_info, 0) };
        match rc {
            0 => Ok(()),
            _ => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Waits until the process has ended; false where the time was over first.
    ///
    /// # Errors
    /// Where the kernel fails.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            let left = deadline.saturating_duration_since(Instant::now());
            match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                Ok(0) if Instant::now() < deadline => {}
                Ok(ready) => return Ok(ready > 0),
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The processes whose network namespace is one of `namespaces`, the daemon itself never among them.
///
/// # Errors
/// Where `/proc` can't be read.
pub fn find_in(namespaces: &HashSet<NsId>) -> Result<Vec<u32>> {
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").on("list", "/proc")? {
        let entry = entry.on("list", "/proc")?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if pid != own && network_of(pid).is_some_and(|id| namespaces.contains(&id)) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Ends every process in the given namespaces: asks (SIGTERM), and after `grace` insists (SIGKILL), again and again until a
/// look at all processes finds none left, as they may start others meanwhile. One pass serves any number of
/// namespaces. Returns how many were ended.
///
/// # Errors
/// [`HostError::Timeout`] where some still live after `limit` (a process can be stuck in the kernel).
pub fn kill_all_in(namespaces: &HashSet<NsId>, grace: Duration, limit: Duration) -> Result<usize> {
    let start = Instant::now();
    let mut ended: HashSet<u32> = HashSet::new();
    loop {
        let found = find_in(namespaces)?;
        if found.is_empty() {
            return Ok(ended.len());
        }
        if start.elapsed() >= limit {
            let what = format!("ending {} processes", found.len());
            return Err(HostError::Timeout { what, limit_ms: limit.as_millis() as u64 });
        }
        let insist = start.elapsed() >= grace;
        let mut waiting = Vec::new();
        for pid in found {
            let Ok(fd) = PidFd::open(pid) else { continue };
            // The number may have changed hands between the look and the opening.
            if !network_of(pid).is_some_and(|id| namespaces.contains(&id)) {
                continue;
            }
            let asked_already = !ended.insert(pid);
            if insist || !asked_already {
                fd.signal(if insist { libc::SIGKILL } else { libc::SIGTERM }).on("signal process", pid)?;
            }
            waiting.push(fd);
        }
        let until = start + if insist { limit } else { grace };
        for fd in &waiting {
            // Looks again soon: a child that was forked meanwhile has not been asked yet.
            let step = until.saturating_duration_since(Instant::now()).min(Duration::from_millis(50));
            fd.wait(step).on("wait for", "a process of the lab")?;
        }
    }
}

fn network_of(pid: u32) -> Option<NsId> {
    let metadata = fs::metadata(format!("/proc/{pid}/ns/net")).ok()?;
    Some(NsId { device: metadata.dev(), inode: metadata.ino() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_number_and_start() {
        let own = ProcessId::of(std::process::id()).unwrap();
        assert!(PidFd::open_exactly(own).unwrap().is_some());
        assert!(
            PidFd::open_exactly(ProcessId { start_ticks: own.start_ticks + 1, ..own }).unwrap().is_none()
        );
    }

    #[test]
    fn the_start_is_found_behind_a_hostile_command_name() {
        let rest = (3..=30).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(start_ticks(&format!("17 (a) b) ( c) {rest}")), Some(22));
    }

    #[test]
    fn a_process_that_ends_wakes_the_waiter() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let fd = PidFd::open(child.id()).unwrap();
        assert!(!fd.wait(Duration::from_millis(5)).unwrap());
        fd.signal(libc::SIGKILL).unwrap();
        assert!(fd.wait(Duration::from_secs(10)).unwrap());
        child.wait().unwrap();
        fd.signal(libc::SIGTERM).unwrap();
    }
}
