//! Programs that cannot outlive their time: each runs in a process group of its own, which ends as a whole.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};

/// Where a program is found: in PATH, where Debian puts what only root runs, or among those that cargo has built.
pub fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
        .or_else(|| crate::tools::find(program))
}

/// What a program left when it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// Its exit code; 128 and the signal's number where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Whether the exit code is 0.
    pub fn success(&self) -> bool {
        self.code == 0
    }

    /// The output if the exit code is 0.
    ///
    /// # Errors
    /// Another exit code: the error carries both outputs.
    pub fn ok(self) -> Result<Output> {
        self.code(0)
    }

    /// The output if the exit code is `code`.
    ///
    /// # Errors
    /// Another exit code: the error carries both outputs.
    pub fn code(self, code: i32) -> Result<Output> {
        if self.code == code {
            return Ok(self);
        }
        bail!(
            "{} ended with code {} where {code} was expected\n--- stdout\n{}\n--- stderr\n{}",
            self.command,
            self.code,
            self.stdout.trim_end(),
            self.stderr.trim_end()
        )
    }

    /// Standard output as JSON.
    ///
    /// # Errors
    /// It is no JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout)
            .with_context(|| format!("{} printed no JSON:\n{}", self.command, self.stdout))
    }
}

/// Runs a command to its end with its output collected.
///
/// # Errors
/// It could not be started, or did not end within `limit` (its group is killed then).
pub fn output(command: &mut Command, limit: Duration) -> Result<Output> {
    Running::start(command)?.finish(limit)
}

/// Runs a command to its end, handing over each line of its standard output; standard error is inherited.
///
/// # Errors
/// It could not be started, or did not end within `limit` (its group is killed then).
pub fn lines(command: &mut Command, limit: Duration, mut line: impl FnMut(&str)) -> Result<ExitStatus> {
    command.stderr(Stdio::inherit());
    let mut running = Running::launch(command)?;
    let deadline = Instant::now() + limit;
    let mut seen = 0;
    loop {
        let (text, length, closed) = running.stdout.after(seen, deadline);
        seen = length;
        text.lines().for_each(&mut line);
        if closed && text.is_empty() {
            break;
        }
        if Instant::now() >= deadline {
            bail!("{} did not end within {} s and was killed", running.name, limit.as_secs());
        }
    }
    running.wait(deadline.max(Instant::now() + Duration::from_secs(5)))
}

/// A program that runs; its process group is killed when this is dropped.
pub struct Running {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Arc<Collected>,
    stderr: Arc<Collected>,
    is_reaped: bool,
}

impl Running {
    /// Starts a command with all three streams piped.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start(command: &mut Command) -> Result<Running> {
        command.stderr(Stdio::piped());
        Running::launch(command)
    }

    /// Starts a command whose output the caller has directed elsewhere.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start_logged(command: &mut Command) -> Result<Running> {
        Running::spawn(command.stdin(Stdio::null()))
    }

    fn launch(command: &mut Command) -> Result<Running> {
        Running::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))
    }

    fn spawn(command: &mut Command) -> Result<Running> {
        let name = describe(command);
        let mut child = command.process_group(0).spawn().with_context(|| format!("cannot start {name}"))?;
        let stdout = child.stdout.take().map(Collected::read).unwrap_or_default();
        let stderr = child.stderr.take().map(Collected::read).unwrap_or_default();
        let stdin = child.stdin.take();
        Ok(Running { name, child, stdin, stdout, stderr, is_reaped: false })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes to its standard input.
    ///
    /// # Errors
    /// The program has closed it.
    pub fn write(&mut self, text: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("standard input is closed")?;
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).with_context(|| self.name.clone())
    }

    /// Closes its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Its standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Its standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until either output contains `text`.
    ///
    /// # Errors
    /// It ended or `limit` passed before.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            // Before the outputs are read: what it wrote last is not missed.
            let ended = self.child.try_wait()?;
            if self.stdout().contains(text) || self.stderr().contains(text) {
                return Ok(());
            }
            if ended.is_some() || Instant::now() >= deadline {
                bail!("{} did not say {text:?}: {}{}", self.name, self.stdout(), self.stderr());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal to its process group; no error where it has ended.
    pub fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = killpg(Pid::from_raw(pid), signal);
        }
    }

    /// Kills this one process and leaves the rest of its group alone.
    pub fn kill_alone(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.is_reaped = true;
    }

    /// Closes its standard input and waits for its end.
    ///
    /// # Errors
    /// It did not end within `limit`; its group is killed.
    pub fn finish(mut self, limit: Duration) -> Result<Output> {
        self.close_stdin();
        self.finish_open(limit)
    }

    /// Waits for its end with standard input left open.
    ///
    /// # Errors
    /// It did not end within `limit`; its group is killed.
    pub fn finish_open(mut self, limit: Duration) -> Result<Output> {
        let status = self.wait(Instant::now() + limit)?;
        // A grandchild may hold the pipes open: what there is after a moment is what counts.
        let grace = Instant::now() + Duration::from_secs(2);
        self.stdout.wait_closed(grace);
        self.stderr.wait_closed(grace);
        Ok(Output {
            command: self.name.clone(),
            code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: self.stdout(),
            stderr: self.stderr(),
        })
    }

    /// Asks it to end with `signal` and waits for that.
    ///
    /// # Errors
    /// It did not end within `limit`; its group is killed.
    pub fn stop(self, signal: Signal, limit: Duration) -> Result<Output> {
        self.signal(signal);
        self.finish(limit)
    }

    fn wait(&mut self, deadline: Instant) -> Result<ExitStatus> {
        // Somebody who looked whether it is alive may have reaped it: then its number is nobody's, or another's.
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        // Becomes readable at its end: whoever measures how long it took measures no interval of looking.
        let end = pidfd_open(rustix::process::Pid::from_child(&self.child), PidfdFlags::empty())?;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.signal(Signal::SIGKILL);
                let _ = self.child.wait();
                bail!("{} did not end in time\n{}{}", self.name, self.stdout(), self.stderr());
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(end.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_reaped {
            return;
        }
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

fn describe(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// A stream's bytes, read by a thread of its own so that the program never blocks on a full pipe.
#[derive(Default)]
struct Collected {
    state: Mutex<(Vec<u8>, bool)>,
    changed: Condvar,
}

impl Collected {
    fn read(stream: impl Read + Send + 'static) -> Arc<Collected> {
        let collected = Arc::new(Collected::default());
        let writer = Arc::clone(&collected);
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                writer.lock().0.append(&mut line);
                writer.changed.notify_all();
            }
            writer.lock().1 = true;
            writer.changed.notify_all();
        });
        collected
    }

    fn lock(&self) -> MutexGuard<'_, (Vec<u8>, bool)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().0).into_owned()
    }

    /// What came after the first `seen` bytes, waiting for some until the deadline; how many there are now; and
    /// whether the stream has ended.
    fn after(&self, seen: usize, deadline: Instant) -> (String, usize, bool) {
        let mut state = self.lock();
        while state.0.len() <= seen && !state.1 {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        (String::from_utf8_lossy(&state.0[seen..]).into_owned(), state.0.len(), state.1)
    }

    fn wait_closed(&self, deadline: Instant) {
        let mut state = self.lock();
        while !state.1 {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return };
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collects_output_and_code() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let output = output(&mut command, Duration::from_secs(5)).unwrap();
        assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (3, "out\n", "err\n"));
        assert!(output.ok().is_err());
    }

    #[test]
    fn kills_what_takes_too_long_with_its_children() {
        let started = Instant::now();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & wait"]);
        assert!(output(&mut command, Duration::from_millis(100)).is_err());
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn hands_over_lines() {
        let mut seen = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo a; echo b"]);
        let status = lines(&mut command, Duration::from_secs(5), |line| seen.push(line.to_owned())).unwrap();
        assert!(status.success());
        assert_eq!(seen, ["a", "b"]);
    }

    #[test]
    fn talks_to_a_program() {
        let mut running = Running::start(Command::new("cat").arg("-u")).unwrap();
        running.write("hello\n").unwrap();
        running.wait_for("hello", Duration::from_secs(5)).unwrap();
        assert!(running.finish(Duration::from_secs(5)).unwrap().success());
    }
}
