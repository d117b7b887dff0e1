//! Programs inside machines: the folders that they see, and the `run:` commands of the file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use vnet_config::model::{Restart, RunCommand, Topology};

use super::blueprint::Blueprint;
use super::build::Site;
use super::input::Input;
use crate::host::backing::Backing;
use crate::host::error::HostError;
use crate::host::exec::Launcher;
use crate::host::netns::Netns;
use crate::host::state_dir::StateDir;

/// A command that ends at once is started again after this long, so that a broken one does not take a core.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// How often a supervisor looks whether it shall stop.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What programs find as their name server: Azure's platform address.
const RESOLV_CONF: &str = "nameserver 168.63.129.16\n";

/// The programs of a lab's machines.
#[derive(Debug, Default)]
pub(super) struct Programs {
    backings: BTreeMap<String, Backing>,
    supervisors: BTreeMap<String, Supervisor>,
}

#[derive(Debug)]
struct Supervisor {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed already.
            let _ = thread.join();
        }
    }
}

impl Programs {
    /// Writes what the machines see of their own: host name, hosts, and the files that the topology gives them.
    pub(super) fn prepare(
        &mut self,
        dir: &StateDir,
        input: &Input,
        blueprint: &Blueprint,
    ) -> Result<(), HostError> {
        let mut backings = BTreeMap::new();
        for (name, _) in blueprint.namespaces.iter().filter(|(_, namespace)| namespace.role.is_machine()) {
            let hosts = format!("127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 {name}\n");
            let files = input.machine_files(name);
            backings.insert(
                name.clone(),
                Backing::prepare(&dir.machine(name), name, &hosts, RESOLV_CONF, &files)?,
            );
        }
        self.backings = backings;
        self.supervisors.retain(|name, _| self.backings.contains_key(name));
        Ok(())
    }

    /// What a machine sees of its own.
    pub(super) fn backing(&self, machine: &str) -> Option<&Backing> {
        self.backings.get(machine)
    }

    /// Starts the commands of machines that are new.
    pub(super) fn start(&mut self, site: &Site, dir: &StateDir, topology: &Topology, created: &[String]) {
        for name in created {
            let Some(machine) = topology.virtual_machines.get(name).filter(|machine| !machine.run.is_empty())
            else {
                continue;
            };
            let (Some(ns), Some(backing)) = (site.namespace(name), self.backings.get(name)) else { continue };
            let ns = match ns.try_clone() {
                Ok(ns) => ns,
                Err(error) => {
                    tracing::error!(vm = %name, %error, "the commands of a machine could not be started");
                    continue;
                }
            };
            let runner = Runner {
                ns,
                backing: backing.clone(),
                name: name.clone(),
                log: dir.log(name),
                stop: Arc::new(AtomicBool::new(false)),
            };
            let stop = Arc::clone(&runner.stop);
            let commands = machine.run.clone();
            let thread = std::thread::Builder::new()
                .name(format!("run-{name}").chars().take(15).collect())
                .spawn(move || runner.run(&commands));
            match thread {
                Ok(thread) => {
                    self.supervisors.insert(name.clone(), Supervisor { stop, thread: Some(thread) });
                }
                Err(error) => tracing::error!(vm = %name, %error, "no thread for the commands of a machine"),
            }
        }
    }

    /// Starts no program any more. Those that run end with their namespaces.
    pub(super) fn stop(&mut self) {
        for supervisor in self.supervisors.values() {
            supervisor.stop.store(true, Ordering::Relaxed);
        }
        self.supervisors.clear();
    }
}

/// Runs one machine's commands in order; those that are to be restarted go on beside the others.
struct Runner {
    ns: Netns,
    backing: Backing,
    name: String,
    log: PathBuf,
    stop: Arc<AtomicBool>,
}

impl Runner {
    fn run(&self, commands: &[RunCommand]) {
        std::thread::scope(|scope| {
            for command in commands {
                match command.restart {
                    Restart::Never => self.once(&command.command),
                    Restart::Always => {
                        scope.spawn(|| self.supervise(&command.command));
                    }
                }
            }
        });
    }

    fn supervise(&self, command: &str) {
        while !self.stopping() {
            self.once(command);
            self.pause(RESTART_AFTER);
        }
    }

    fn once(&self, command: &str) {
        if self.stopping() {
            return;
        }
        let argv = ["/bin/sh", "-c", command].map(str::to_owned).to_vec();
        match Launcher::default().spawn_logged(&self.ns, &self.backing, &self.name, argv, &self.log) {
            Ok(mut child) => {
                // The namespace's end ends the program; this thread only has to see it.
                while !self.stopping() {
                    match child.try_wait() {
                        Ok(None) => std::thread::sleep(LOOK_EVERY),
                        Ok(Some(0)) => return,
                        Ok(Some(code)) => {
                            tracing::warn!(vm = %self.name, command, code, "a command of a machine failed");
                            return;
                        }
                        Err(error) => {
                            tracing::error!(vm = %self.name, command, %error, "a command of a machine is lost");
                            return;
                        }
                    }
                }
            }
            Err(error) => {
                tracing::error!(vm = %self.name, command, %error, "a command of a machine did not start")
            }
        }
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn pause(&self, length: Duration) {
        let until = std::time::Instant::now() + length;
        while !self.stopping() && std::time::Instant::now() < until {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}
