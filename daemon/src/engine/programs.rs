//! Programs inside machines: the folders that they see, and the `run:` commands of the file.
//!
//! What became of each command is stored beside the lab's state: the next daemon takes over those that run, and
//! does not run again what is to run once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use vnet_config::model::{Restart, RunCommand, Topology};

use super::blueprint::Blueprint;
use super::build::Site;
use super::input;
use crate::host::backing::{Backing, MachineFile};
use crate::host::error::HostError;
use crate::host::exec::{self, Launcher};
use crate::host::netns::Netns;
use crate::host::process::{PidFd, ProcessId};
use crate::host::state_dir::StateDir;
use crate::host::supervise::{RunSpec, RunState, Supervised};

/// What programs find as their name server: Azure's platform address.
const RESOLV_CONF: &str = "nameserver 168.63.129.16\n";
/// Version of the stored records.
const VERSION: u32 = 1;

/// The programs of a lab's machines.
#[derive(Debug, Default)]
pub(super) struct Programs {
    backings: BTreeMap<String, Arc<Furniture>>,
    runners: BTreeMap<String, Runner>,
}

/// What a machine's programs find as its own. Folders and files are made when the first program needs them, since most machines
/// of a large lab never run one.
#[derive(Debug)]
pub(super) struct Furniture {
    root: PathBuf,
    hostname: String,
    files: Vec<MachineFile>,
    made: Mutex<Option<Backing>>,
}

impl Furniture {
    /// Makes it, unless that has been done.
    ///
    /// # Errors
    /// As [`Backing::prepare`].
    pub(super) fn backing(&self) -> Result<Backing, HostError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(backing) = &*made {
            return Ok(backing.clone());
        }
        let name = &self.hostname;
        let hosts = format!("127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 {name}\n");
        let backing = Backing::prepare(&self.root, name, &hosts, RESOLV_CONF, &self.files)?;
        Ok(made.insert(backing).clone())
    }

    fn is_for(&self, root: &Path, files: &[MachineFile]) -> bool {
        self.root == root && self.files == files
    }
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Fate {
    Running(ProcessId),
    Ended,
}

/// What became of a machine's commands, by the line that started each.
type Fates = BTreeMap<String, Fate>;

fn record_name(machine: &str) -> String {
    format!("run.{machine}.json")
}

impl Programs {
    /// Says what the machines see of their own: host name, hosts, and the files that the topology gives them. Files of the
    /// topology, and what programs may see already, are written at once.
    pub(super) fn prepare(
        &mut self,
        dir: &StateDir,
        topology: &Topology,
        blueprint: &Blueprint,
    ) -> Result<(), HostError> {
        let mut backings = BTreeMap::new();
        for (name, _) in blueprint.namespaces.iter().filter(|(_, namespace)| namespace.role.is_machine()) {
            let (root, files) = (dir.machine(name), input::machine_files(topology, name));
            // One that differs is forgotten first: a change that fails is taken back by writing the former files again.
            let furniture = match self.backings.remove(name) {
                Some(known) if known.is_for(&root, &files) => known,
                _ => {
                    let at_once = !files.is_empty() || root.exists();
                    let new = Furniture { root, hostname: name.clone(), files, made: Mutex::default() };
                    if at_once {
                        new.backing()?;
                    }
                    Arc::new(new)
                }
            };
            backings.insert(name.clone(), furniture);
        }
        self.backings = backings;
        Ok(())
    }

    /// What a machine sees of its own.
    pub(super) fn backing(&self, machine: &str) -> Option<&Arc<Furniture>> {
        self.backings.get(machine)
    }

    /// Brings what runs to what the file says: commands of machines in `created` are new, others are left, taken over
    /// from a former daemon, started or ended as their lists have changed.
    pub(super) fn start(
        &mut self,
        site: &Site,
        dir: &Arc<StateDir>,
        topology: &Topology,
        created: &[String],
    ) {
        let gone: Vec<String> = self
            .runners
            .keys()
            .filter(|name| topology.virtual_machines.get(*name).is_none_or(|machine| machine.run.is_empty()))
            .cloned()
            .collect();
        for name in gone {
            self.runners.remove(&name);
            end_unlisted(dir, &name, &[]);
        }
        for (name, machine) in topology.virtual_machines.iter().filter(|(_, machine)| !machine.run.is_empty())
        {
            let is_new = created.contains(name);
            if !is_new && self.runners.get(name).is_some_and(|runner| runner.commands == machine.run) {
                continue;
            }
            self.runners.remove(name);
            if is_new {
                // Of a machine of the same name that is gone.
                let _ = dir.discard(&record_name(name));
            } else {
                end_unlisted(dir, name, &machine.run);
            }
            let (Some(ns), Some(backing)) = (site.namespace(name), self.backings.get(name)) else { continue };
            let started =
                backing.backing().and_then(|backing| Runner::start(ns, backing, name, dir, &machine.run));
            match started {
                Ok(runner) => {
                    self.runners.insert(name.clone(), runner);
                }
                Err(error) => {
                    tracing::error!(vm = %name, %error, "the commands of a machine were not started")
                }
            }
        }
    }

    /// The sequences of commands that were started and have not been asked for yet.
    pub(super) fn begun(&mut self) -> Begun {
        Begun(self.runners.values_mut().filter_map(|runner| runner.settled.take()).collect())
    }

    /// Starts no program any more. Those that run end with their namespaces.
    pub(super) fn stop(&mut self) {
        // All are told before the first is waited for.
        self.runners.values_mut().for_each(Runner::tell);
        self.runners.clear();
    }
}

/// Sequences of commands on their way. Nothing is ever sent: a sender is dropped when its commands have ended but those that
/// are to be restarted, or when the machine is gone.
#[derive(Debug)]
pub(super) struct Begun(Vec<mpsc::Receiver<()>>);

impl Begun {
    /// Waits until all have ended, or until `deadline`. False if some go on.
    pub(super) fn wait(self, deadline: Instant) -> bool {
        self.0.iter().all(|settled| {
            let left = deadline.saturating_duration_since(Instant::now());
            settled.recv_timeout(left) == Err(mpsc::RecvTimeoutError::Disconnected)
        })
    }
}

fn load(dir: &StateDir, machine: &str) -> Fates {
    dir.load(&record_name(machine), VERSION).ok().flatten().unwrap_or_default()
}

/// Asks programs to end whose commands are in the list no more.
fn end_unlisted(dir: &StateDir, machine: &str, commands: &[RunCommand]) {
    let mut fates = load(dir, machine);
    let listed: BTreeSet<&str> = commands.iter().map(|command| command.command.as_str()).collect();
    for (_, fate) in fates.iter().filter(|(line, _)| !listed.contains(line.as_str())) {
        if let Fate::Running(id) = fate
            && let Ok(Some(_)) = PidFd::open_exactly(*id)
            && let Err(error) = exec::signal_group(id.pid, libc::SIGTERM)
        {
            tracing::warn!(vm = %machine, %error, "a command that is listed no more could not be ended");
        }
    }
    fates.retain(|line, _| listed.contains(line.as_str()));
    if let Err(error) = dir.save(&record_name(machine), VERSION, &fates) {
        tracing::warn!(vm = %machine, %error, "what became of the commands could not be stored");
    }
}

/// What a runner's thread hears.
enum Note {
    State(usize, RunState),
    Stop,
}

/// Runs one machine's commands in order; those that are to be restarted go on beside the others.
#[derive(Debug)]
struct Runner {
    commands: Vec<RunCommand>,
    notes: mpsc::Sender<Note>,
    /// See [`Begun`].
    settled: Option<mpsc::Receiver<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Runner {
    fn start(
        ns: &Netns,
        backing: Backing,
        name: &str,
        dir: &Arc<StateDir>,
        commands: &[RunCommand],
    ) -> Result<Runner, HostError> {
        let (notes, inbox) = mpsc::channel();
        let (unsettled, settled) = mpsc::channel();
        let mut sequence = Sequence {
            ns: ns.try_clone()?,
            backing,
            name: name.to_owned(),
            log: dir.log(name),
            fates: load(dir, name),
            dir: Arc::clone(dir),
            commands: commands.to_vec(),
            notes: notes.clone(),
            programs: Vec::new(),
            unsettled: Some(unsettled),
        };
        let thread =
            std::thread::Builder::new().name("run".into()).spawn(move || sequence.run(&inbox)).map_err(
                |source| HostError::Io { action: "start a thread for", object: name.to_owned(), source },
            )?;
        Ok(Runner { commands: commands.to_vec(), notes, settled: Some(settled), thread: Some(thread) })
    }

    fn tell(&mut self) {
        // A thread that has ended needs no telling.
        let _ = self.notes.send(Note::Stop);
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.tell();
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed already.
            let _ = thread.join();
        }
    }
}

struct Sequence {
    ns: Netns,
    backing: Backing,
    name: String,
    log: PathBuf,
    fates: Fates,
    dir: Arc<StateDir>,
    commands: Vec<RunCommand>,
    notes: mpsc::Sender<Note>,
    programs: Vec<Supervised>,
    unsettled: Option<mpsc::Sender<()>>,
}

impl Sequence {
    fn run(&mut self, inbox: &mpsc::Receiver<Note>) {
        for index in 0..self.commands.len() {
            let command = &self.commands[index];
            let once = command.restart == Restart::Never;
            let before = self.fates.get(&command.command).copied();
            let adopt = match before {
                Some(Fate::Running(id)) => PidFd::open_exactly(id).ok().flatten().map(|_| id),
                _ => None,
            };
            if once && before.is_some() && adopt.is_none() {
                // It has run already, or ended while no daemon was there.
                continue;
            }
            if let Err(error) = self.launch(index, adopt) {
                tracing::error!(vm = %self.name, command = %self.commands[index].command, %error, "a command was not started");
                continue;
            }
            if once && !self.follow(inbox, Some(index)) {
                return;
            }
        }
        self.unsettled = None;
        self.follow(inbox, None);
    }

    fn launch(&mut self, index: usize, adopt: Option<ProcessId>) -> Result<(), HostError> {
        let command = &self.commands[index];
        let spec = RunSpec {
            ns: self.ns.try_clone()?,
            backing: self.backing.clone(),
            hostname: self.name.clone(),
            argv: ["/bin/sh", "-c", &command.command].map(str::to_owned).to_vec(),
            log: self.log.clone(),
            restart: command.restart == Restart::Always,
            adopt,
        };
        let notes = self.notes.clone();
        let program = Supervised::start(Launcher::default(), spec, move |state| {
            // Nobody listens any more when the lab is taken down.
            let _ = notes.send(Note::State(index, state.clone()));
        })?;
        self.programs.push(program);
        Ok(())
    }

    /// Takes note of what becomes of the programs, until the one at `until` has ended. False when it is time to stop.
    fn follow(&mut self, inbox: &mpsc::Receiver<Note>, until: Option<usize>) -> bool {
        while let Ok(Note::State(index, state)) = inbox.recv() {
            let command = &self.commands[index];
            let fate = match &state {
                RunState::Waiting => continue,
                RunState::Running(id) => Fate::Running(*id),
                RunState::Exited(code) => {
                    if code.is_some_and(|code| code != 0) {
                        tracing::warn!(vm = %self.name, command = %command.command, ?code, "a command of a machine failed");
                    }
                    Fate::Ended
                }
                RunState::Failed(error) => {
                    tracing::error!(vm = %self.name, command = %command.command, %error, "a command of a machine did not start");
                    Fate::Ended
                }
            };
            self.fates.insert(command.command.clone(), fate);
            if let Err(error) = self.dir.save(&record_name(&self.name), VERSION, &self.fates) {
                tracing::warn!(vm = %self.name, %error, "what became of a command could not be stored");
            }
            if fate == Fate::Ended && until == Some(index) {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_has_ended_is_waited_for_and_what_goes_on_until_the_deadline() {
        let (ends, ended) = mpsc::channel::<()>();
        let (goes_on, open) = mpsc::channel::<()>();
        let begun = Instant::now();
        let ending = std::thread::spawn(move || drop(ends));
        assert!(Begun(vec![ended]).wait(begun + Duration::from_secs(60)));
        assert!(begun.elapsed() < Duration::from_secs(60));
        ending.join().expect("the thread ends");
        let (ends, ended) = mpsc::channel::<()>();
        drop(ends);
        let deadline = Instant::now() + Duration::from_millis(20);
        assert!(!Begun(vec![open, ended]).wait(deadline));
        assert!(Instant::now() >= deadline);
        drop(goes_on);
        assert!(Begun(Vec::new()).wait(begun));
    }
}
