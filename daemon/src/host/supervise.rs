//! Programs of a machine's `run:` list: started once, or again whenever they end, and taken over from a former daemon.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::backing::Backing;
use super::error::{Context, Result};
use super::exec::{Child, Launcher, SpawnError};
use super::netns::Netns;
use super::process::{PidFd, ProcessId};

/// Pause before the first restart; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A program that ran so long begins with the shortest pause again.
const SETTLED: Duration = Duration::from_secs(60);

/// A program to look after.
#[derive(Debug)]
pub struct RunSpec {
    /// The machine's namespace.
    pub ns: Netns,
    /// The machine's own folders and files.
    pub backing: Backing,
    /// The machine's host name.
    pub hostname: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Where its output goes.
    pub log: PathBuf,
    /// Start it again whenever it ends.
    pub restart: bool,
    /// The program as a former daemon started it: if it still runs, it is not started again.
    pub adopt: Option<ProcessId>,
}

/// How a program stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Not started yet.
    Waiting,
    /// It runs.
    Running(ProcessId),
    /// It ended, with this exit code; unknown for one that a former daemon started.
    Exited(Option<i32>),
    /// It could not be started.
    Failed(SpawnError),
}

/// A program that is looked after. Dropping it ends the looking after, not the program: that ends with its machine, and is
/// taken over by the next daemon.
#[derive(Debug)]
pub struct Supervised {
    state: Arc<Mutex<RunState>>,
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Supervised {
    /// Starts the program, or takes it over, on a thread of its own. `changed` is called with each new state, so that the running
    /// program's identity can be stored.
    ///
    /// # Errors
    /// Where no thread or pipe can be made; that the program can't be started is a state.
    pub fn start(
        launcher: Launcher,
        spec: RunSpec,
        changed: impl Fn(&RunState) + Send + 'static,
    ) -> Result<Self> {
        let (stop_read, stop) = io::pipe().on("make", "a pipe")?;
        let state = Arc::new(Mutex::new(RunState::Waiting));
        let shared = Arc::clone(&state);
        let note = move |state: RunState| {
            changed(&state);
            *shared.lock().unwrap_or_else(PoisonError::into_inner) = state;
        };
        let thread = std::thread::Builder::new()
            .name("supervise".into())
            .spawn(move || {
                if let Err(error) = look_after(&launcher, &spec, &stop_read, &note) {
                    tracing::warn!(machine = spec.hostname, %error, "a program of the machine's is no longer looked after");
                }
            })
            .on("start", "a thread")?;
        Ok(Self { state, stop: Some(stop), thread: Some(thread) })
    }

    /// How the program stands.
    #[must_use]
    pub fn state(&self) -> RunState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // The other end of the pipe reports the hang-up.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn look_after(
    launcher: &Launcher,
    spec: &RunSpec,
    stop: &PipeReader,
    note: &impl Fn(RunState),
) -> Result<()> {
    let mut pause = PAUSE_MIN;
    if let Some(id) = spec.adopt
        && let Some(process) = PidFd::open_exactly(id).on("take over process", id.pid)?
    {
        note(RunState::Running(id));
        if !wait(stop, Some(&process), None)? {
            return Ok(());
        }
        note(RunState::Exited(None));
        if !spec.restart || !wait(stop, None, Some(pause))? {
            return Ok(());
        }
    }
    loop {
        let started = Instant::now();
        match launcher.spawn_logged(&spec.ns, &spec.backing, &spec.hostname, spec.argv.clone(), &spec.log) {
            Ok(mut child) => {
                if let Some(id) = child.identity() {
                    note(RunState::Running(id));
                }
                if !wait(stop, Some(child.pidfd()), None)? {
                    reap_later(child);
                    return Ok(());
                }
                note(RunState::Exited(Some(child.wait()?)));
            }
            Err(error) => note(RunState::Failed(error)),
        }
        if started.elapsed() >= SETTLED {
            pause = PAUSE_MIN;
        }
        if !spec.restart || !wait(stop, None, Some(pause))? {
            return Ok(());
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Waits until the process has ended or the time is over; false when it is time to stop.
fn wait(stop: &PipeReader, process: Option<&PidFd>, limit: Option<Duration>) -> Result<bool> {
    let deadline = limit.map(|limit| Instant::now() + limit);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = match left {
            Some(left) => {
                PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        let mut fds = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        fds.extend(process.map(|process| PollFd::new(process.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error).on("wait for", "a program"),
            Ok(_) if fds[0].revents().is_some_and(|events| !events.is_empty()) => return Ok(false),
            Ok(0) if left.is_some_and(|left| !left.is_zero()) => {}
            Ok(_) => return Ok(true),
        }
    }
}

/// A machine that is taken down has its programs ended right after; a child that nobody waits for would stay as a zombie.
fn reap_later(mut child: Child) {
    let spawned = std::thread::Builder::new().name("reap".into()).spawn(move || child.wait());
    if let Err(error) = spawned {
        tracing::debug!(%error, "a program will stay as a zombie until the daemon ends");
    }
}
