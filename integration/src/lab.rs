//! A daemon of the lab's own, and a lab that runs on it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::binaries::Binaries;
use crate::capture::Capture;
use crate::metrics::{self, Scrape};
use crate::process::{self, Output, Running};
use crate::wait::{PATIENCE, wait_until};

/// How long any one command may take.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// A daemon with a socket and a state folder of its own; its clones are the same daemon.
#[derive(Clone)]
pub struct Daemon {
    shared: Arc<Mutex<Option<Running>>>,
    binaries: Binaries,
    folder: PathBuf,
    log: PathBuf,
    metrics: String,
    environment: Vec<(String, String)>,
    /// The network namespace that is the host to it.
    host: Option<String>,
    /// A program and its arguments that become the daemon.
    wrapper: Vec<String>,
}

impl Daemon {
    /// One of these programs that does not run yet: its files lie in `folder`, what it logs is appended to `log`.
    ///
    /// # Errors
    /// Its folder cannot be made.
    pub fn new(folder: &Path, log: &Path, binaries: Binaries) -> Result<Daemon> {
        fs::create_dir_all(folder)?;
        Ok(Daemon {
            shared: Arc::default(),
            binaries,
            folder: folder.to_owned(),
            log: log.to_owned(),
            metrics: "127.0.0.1:0".to_owned(),
            environment: Vec::new(),
            host: None,
            wrapper: Vec::new(),
        })
    }

    /// With an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Daemon {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With its metrics at this address, not at a port that the kernel chooses.
    #[must_use]
    pub fn metrics_at(mut self, address: &str) -> Daemon {
        address.clone_into(&mut self.metrics);
        self
    }

    /// With the network namespace of this name as its host.
    #[must_use]
    pub fn on_host(mut self, namespace: &str) -> Daemon {
        self.host = Some(namespace.to_owned());
        self
    }

    /// Started by a program that takes the daemon's command line as its last arguments and becomes it.
    #[must_use]
    pub fn wrapped_in(mut self, wrapper: &[&str]) -> Daemon {
        self.wrapper = wrapper.iter().map(|part| (*part).to_owned()).collect();
        self
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("vnetd.sock")
    }

    /// Where its state lies.
    pub fn state_folder(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The command line that it is started by, each time the same.
    pub fn command(&self) -> Command {
        let host = self.host.as_ref().map(|namespace| format!("--net=/run/netns/{namespace}"));
        let mut words: Vec<&OsStr> = host.iter().flat_map(|net| ["nsenter".as_ref(), net.as_ref()]).collect();
        words.extend(self.wrapper.iter().map(OsStr::new));
        words.push(self.binaries.vnetd.as_ref());
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .arg("--socket")
            .arg(self.socket())
            .arg("--state-dir")
            .arg(self.state_folder())
            .args(["--metrics", &self.metrics])
            .env_remove("NOTIFY_SOCKET")
            .env("RUST_BACKTRACE", "1")
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts it, the first time or after its end.
    ///
    /// # Errors
    /// It does not answer on its socket.
    pub fn run(&self) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(&self.log)?;
        let mut command = self.command();
        command.stdout(Stdio::from(log.try_clone()?)).stderr(Stdio::from(log));
        let running = Running::start_logged(&mut command)?;
        *self.lock() = Some(running);
        wait_until("the daemon answers", PATIENCE, || {
            Ok(!self.is_alive() || metrics::get(&self.socket(), "/metrics").is_ok())
        })?;
        ensure!(self.is_alive(), "the daemon ended: {}", tail(&self.log(), 20));
        Ok(())
    }

    /// Whether its process runs.
    pub fn is_alive(&self) -> bool {
        self.lock().as_mut().is_some_and(Running::is_alive)
    }

    /// Its process id.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self) -> Result<u32> {
        self.lock().as_ref().map(Running::pid).context("the daemon does not run")
    }

    /// `kill -9`, of the daemon alone: what it started goes on.
    pub fn kill(&self) {
        if let Some(running) = self.lock().take() {
            running.kill_alone();
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(running) = self.lock().as_ref() {
            running.signal(signal);
        }
    }

    /// Asks it to end, and waits for that.
    ///
    /// # Errors
    /// It does not.
    pub fn stop(&self) -> Result<Output> {
        let running = self.lock().take().context("the daemon does not run")?;
        running.stop(Signal::SIGTERM, PATIENCE)
    }

    /// A `vnetctl` that talks to it.
    pub fn ctl(&self) -> Command {
        let mut command = Command::new(&self.binaries.vnetctl);
        command.env("VNETD_SOCKET", self.socket()).env_remove("VNETCTL_LAB").env("NO_COLOR", "1");
        command
    }

    /// What it says at `/metrics`.
    ///
    /// # Errors
    /// It does not answer, or not in Prometheus' format.
    pub fn metrics(&self) -> Result<Scrape> {
        metrics::parse(&metrics::get(&self.socket(), "/metrics")?)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last lines of a text.
fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// A lab; it is taken down when this is dropped.
pub struct Lab {
    daemon: Daemon,
    name: String,
    file: PathBuf,
    artifacts: PathBuf,
    is_up: bool,
    complaints: Complaints,
}

/// What was found wrong where no result can be returned: the scene fails for it.
pub type Complaints = Arc<Mutex<Vec<String>>>;

impl Lab {
    /// A lab of this name that is not up yet; its topology file will lie in `folder`.
    pub fn new(daemon: Daemon, name: &str, folder: &Path, artifacts: &Path, complaints: Complaints) -> Lab {
        Lab {
            daemon,
            name: name.to_owned(),
            file: folder.join(format!("{name}.yaml")),
            artifacts: artifacts.to_owned(),
            is_up: false,
            complaints,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its daemon.
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Its topology file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The name of the namespace of one of its machines.
    pub fn namespace(&self, machine: &str) -> String {
        format!("vnet.{}.{machine}", self.name)
    }

    /// `vnetctl up` with this topology, under this lab's name.
    ///
    /// # Errors
    /// `vnetctl` could not be run; its own failure is in the output.
    pub fn up(&mut self, topology: &str) -> Result<Output> {
        self.write(topology)?;
        // Half a lab wants a `down` as much as a whole one.
        self.is_up = true;
        let file = self.file.clone();
        self.ctl(&["up", &file.to_string_lossy()])
    }

    /// `vnetctl apply` with this topology.
    ///
    /// # Errors
    /// `vnetctl` could not be run; its own failure is in the output.
    pub fn apply(&self, topology: &str) -> Result<Output> {
        self.write(topology)?;
        self.ctl(&["apply", &self.file.to_string_lossy()])
    }

    /// Applies a topology as Azure takes the change.
    ///
    /// # Errors
    /// The command does not run; that it refuses is in its output.
    pub fn apply_as_azure(&self, topology: &str) -> Result<Output> {
        self.write(topology)?;
        self.ctl(&["apply", "--as-azure", &self.file.to_string_lossy()])
    }

    /// What an apply of a topology would do, with more arguments to `plan`.
    ///
    /// # Errors
    /// The command does not run; that it refuses is in its output.
    pub fn plan(&self, topology: &str, arguments: &[&str]) -> Result<Output> {
        self.write(topology)?;
        let file = self.file.to_string_lossy();
        self.ctl(&[&["plan", &*file], arguments].concat())
    }

    fn write(&self, topology: &str) -> Result<()> {
        let (lines, names): (Vec<&str>, Vec<&str>) =
            topology.lines().partition(|line| !line.starts_with("name:"));
        ensure!(names.len() == 1, "a topology has one line that begins with name:");
        fs::write(&self.file, format!("name: {}\n{}\n", self.name, lines.join("\n")))?;
        Ok(())
    }

    /// `vnetctl down`.
    ///
    /// # Errors
    /// `vnetctl` could not be run or failed.
    pub fn down(&mut self) -> Result<Output> {
        self.expect_balance()?;
        self.take_down()
    }

    fn take_down(&mut self) -> Result<Output> {
        let output = self.ctl(&["down"])?.ok()?;
        self.is_up = false;
        Ok(output)
    }

    /// Whether the daemon knows the lab: one whose first `up` was refused is not there.
    fn runs(&self) -> bool {
        let labs = self.ctl(&["labs", "-o", "json"]);
        labs.is_ok_and(|output| output.stdout.contains(&format!("\"{}\"", self.name)))
    }

    /// Every packet that came in or was made has gone out or has a reason; what is queued gets its time.
    ///
    /// # Errors
    /// The sums differ.
    pub fn expect_balance(&self) -> Result<()> {
        if !self.is_up || !self.daemon.is_alive() {
            return Ok(());
        }
        wait_until("packets in and out agree", PATIENCE, || {
            let scrape = self.daemon.metrics()?;
            ensure!(scrape.contains("vnet_packets_total"), "the daemon counts no packets");
            let sum = |fate: &str| scrape.sum("vnet_packets_total", &[("lab", &self.name), ("fate", fate)]);
            let [received, generated, sent, dropped] = ["received", "generated", "sent", "dropped"].map(sum);
            ensure!(
                received + generated == sent + dropped,
                "{received} received and {generated} generated, {sent} sent and {dropped} dropped"
            );
            Ok(true)
        })
    }

    /// Any verb of `vnetctl`, for this lab.
    ///
    /// # Errors
    /// `vnetctl` could not be run, or not to its end.
    pub fn ctl(&self, arguments: &[&str]) -> Result<Output> {
        self.ctl_within(arguments, COMMAND_LIMIT)
    }

    /// Any verb of `vnetctl`, within a time.
    ///
    /// # Errors
    /// `vnetctl` could not be run, or not to its end.
    pub fn ctl_within(&self, arguments: &[&str], limit: Duration) -> Result<Output> {
        let mut command = self.daemon.ctl();
        command.env("VNETCTL_LAB", &self.name).args(arguments);
        process::output(&mut command, limit)
    }

    /// A verb that must succeed, with `-o json`.
    ///
    /// # Errors
    /// It fails, or prints no JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        self.ctl(&all)?.ok()?.json()
    }

    /// What `path` predicts; its exit code may say deny.
    ///
    /// # Errors
    /// It prints no JSON.
    pub fn path(&self, from: &str, to: &str, service: &str) -> Result<Value> {
        self.ctl(&["path", from, to, service, "-o", "json"])?.json()
    }

    /// `vnetctl exec`: runs a program inside a machine to its end.
    ///
    /// # Errors
    /// It could not be run, or not to its end.
    pub fn exec(&self, machine: &str, arguments: &[&str]) -> Result<Output> {
        self.exec_within(machine, arguments, COMMAND_LIMIT)
    }

    /// As [`Lab::exec`], within a time.
    ///
    /// # Errors
    /// It could not be run, or not to its end.
    pub fn exec_within(&self, machine: &str, arguments: &[&str], limit: Duration) -> Result<Output> {
        Running::start(&mut self.exec_command(machine, arguments))?.finish(limit)
    }

    /// `vnetctl exec`: starts a program inside a machine.
    ///
    /// # Errors
    /// It could not be started.
    pub fn spawn(&self, machine: &str, arguments: &[&str]) -> Result<Running> {
        Running::start(&mut self.exec_command(machine, arguments))
    }

    fn exec_command(&self, machine: &str, arguments: &[&str]) -> Command {
        let mut command = self.daemon.ctl();
        command.env("VNETCTL_LAB", &self.name).args(["exec", machine, "--"]).args(arguments);
        command
    }

    /// Starts a program in a machine's namespace without the daemon's help: it does not notice when the daemon dies.
    ///
    /// # Errors
    /// It could not be started.
    pub fn spawn_apart(&self, machine: &str, arguments: &[&str]) -> Result<Running> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(machine)]).args(arguments);
        Running::start(&mut command)
    }

    /// Starts a server inside a machine and waits until it listens on a TCP port.
    ///
    /// # Errors
    /// It does not listen.
    pub fn serve(&self, machine: &str, port: u16, arguments: &[&str]) -> Result<Running> {
        let mut server = self.spawn_apart(machine, arguments)?;
        self.wait_listening(machine, port, "-Hltn", &mut server)?;
        Ok(server)
    }

    /// As [`Lab::serve`] for a UDP port.
    ///
    /// # Errors
    /// It does not listen.
    pub fn serve_udp(&self, machine: &str, port: u16, arguments: &[&str]) -> Result<Running> {
        let mut server = self.spawn_apart(machine, arguments)?;
        self.wait_listening(machine, port, "-Hlun", &mut server)?;
        Ok(server)
    }

    fn wait_listening(&self, machine: &str, port: u16, flags: &str, server: &mut Running) -> Result<()> {
        let filter = format!("sport = :{port}");
        wait_until(&format!("{machine} listens on {port}"), PATIENCE, || {
            if !server.is_alive() {
                bail!("the server ended: {}{}", server.stdout(), server.stderr());
            }
            let mut ss = Command::new("ip");
            ss.args(["netns", "exec", &self.namespace(machine), "ss", flags, &filter]);
            Ok(!process::output(&mut ss, COMMAND_LIMIT)?.ok()?.stdout.trim().is_empty())
        })
    }

    /// Real ping: whether an answer comes within the time; tries until then.
    ///
    /// # Errors
    /// No answer.
    pub fn expect_ping(&self, from: &str, to: &str) -> Result<()> {
        wait_until(&format!("{from} reaches {to} by ping"), PATIENCE, || {
            Ok(self.exec(from, &["ping", "-n", "-c", "1", "-W", "1", to])?.success())
        })
    }

    /// Real ping: none of three is answered.
    ///
    /// # Errors
    /// One was.
    pub fn expect_no_ping(&self, from: &str, to: &str) -> Result<()> {
        let output = self.exec(from, &["ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", to])?;
        ensure!(output.code == 1, "{from} must not reach {to}:\n{}{}", output.stdout, output.stderr);
        Ok(())
    }

    /// Whether a real TCP connection opens within 2 s.
    ///
    /// # Errors
    /// nc could not be run.
    pub fn connects(&self, from: &str, to: &str, port: u16) -> Result<bool> {
        Ok(self.exec(from, &["nc", "-n", "-z", "-w", "2", to, &port.to_string()])?.success())
    }

    /// What this lab's metrics add up to.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let mut all = vec![("lab", self.name.as_str())];
        all.extend(labels);
        Ok(self.daemon.metrics()?.sum(name, &all))
    }

    /// Packets dropped for a reason so far.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn drops(&self, reason: &str) -> Result<f64> {
        self.metric("vnet_drops_total", &[("reason", reason)])
    }

    /// Runs `action`, which must add to the drops of a reason.
    ///
    /// # Errors
    /// `action` fails, or there is no such drop within 5 s.
    pub fn expect_drop<T>(&self, reason: &str, action: impl FnOnce() -> Result<T>) -> Result<T> {
        let before = self.drops(reason)?;
        let result = action()?;
        wait_until(&format!("a drop for {reason}"), PATIENCE, || Ok(self.drops(reason)? > before))
            .with_context(|| self.ctl(&["drops"]).map(|output| output.stdout).unwrap_or_default())?;
        Ok(result)
    }

    /// Starts a capture in a namespace of the lab, `internet` too.
    ///
    /// # Errors
    /// tcpdump does not start.
    pub fn capture(&self, machine: &str, interface: &str, filter: &str) -> Result<Capture> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let file = self.artifacts.join(format!("{machine}-{interface}-{number}.pcap"));
        Capture::start(&self.namespace(machine), interface, filter, &file)
    }

    /// Waits until every tunnel of the lab is connected, seen from both ends.
    ///
    /// # Errors
    /// One is not within 30 s.
    pub fn wait_tunnels(&self) -> Result<()> {
        wait_until("the tunnels are up", PATIENCE, || {
            let report = self.json(&["gateway", "status"])?;
            let tunnels = report["value"].as_array().context("no list of tunnels")?;
            Ok(!tunnels.is_empty() && tunnels.iter().all(|tunnel| tunnel["state"] == "Connected"))
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.is_up {
            return;
        }
        if !self.daemon.is_alive() && self.daemon.run().is_err() {
            return;
        }
        if !self.runs() {
            return;
        }
        for (verb, file) in [("drops", "drops.txt"), ("flows", "flows.txt"), ("show", "show.txt")] {
            if let Ok(output) = self.ctl(&[verb]) {
                let _ = fs::write(self.artifacts.join(format!("{}-{file}", self.name)), output.stdout);
            }
        }
        let _ = fs::copy(&self.file, self.artifacts.join(format!("{}.yaml", self.name)));
        if let Err(error) = self.expect_balance() {
            let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
            complaints.push(format!("{}: {error:#}", self.name));
        }
        if let Err(error) = self.take_down() {
            // The scene finds what is left and fails for it.
            eprintln!("{}: {error:#}", self.name);
        }
    }
}

/// A topology with one part of its text changed.
///
/// # Panics
/// The text does not hold `from` exactly once: the lab's own mistake.
pub fn edited(topology: &str, from: &str, to: &str) -> String {
    assert_eq!(topology.matches(from).count(), 1, "{from:?} must stand in the topology once");
    topology.replacen(from, to, 1)
}
