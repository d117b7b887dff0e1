//! What a lab is to the runner: its name, its needs, its scene.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::Uid;

use crate::binaries::{binaries, workspace};
use crate::host;
use crate::lab::{Complaints, Daemon, Lab as RunningLab};
use crate::process::find_program;

/// The body of a lab.
pub type Body = fn(&Scene) -> Result<()>;

/// One lab of the suite.
#[derive(Clone, Copy)]
pub struct Lab {
    /// `area::what it shows`.
    pub name: &'static str,
    /// Programs that it runs, beside those that every lab needs.
    pub programs: &'static [&'static str],
    /// Whether it must run with no other lab beside it.
    pub is_alone: bool,
    /// Whether it needs no root and no devices.
    pub is_unprivileged: bool,
    /// What it does.
    pub body: Body,
}

impl Lab {
    /// A lab that runs beside others.
    pub const fn new(name: &'static str, body: Body) -> Lab {
        Lab { name, programs: &[], is_alone: false, is_unprivileged: false, body }
    }

    /// With programs that it runs.
    pub const fn needs(mut self, programs: &'static [&'static str]) -> Lab {
        self.programs = programs;
        self
    }

    /// Run with no other lab beside it: it measures rates, or looks at the host as a whole.
    pub const fn alone(mut self) -> Lab {
        self.is_alone = true;
        self
    }

    /// Needs no root and no devices.
    pub const fn unprivileged(mut self) -> Lab {
        self.is_unprivileged = true;
        self
    }

    /// Why this machine cannot run it, if it cannot.
    pub fn obstacle(&self) -> Option<String> {
        if !self.is_unprivileged {
            if !Uid::effective().is_root() {
                return Some("needs root".to_owned());
            }
            if !Path::new("/dev/net/tun").exists() {
                return Some("needs /dev/net/tun".to_owned());
            }
            if find_program("ip").is_none() {
                return Some("needs the program ip".to_owned());
            }
        }
        let missing: Vec<&str> =
            self.programs.iter().copied().filter(|program| find_program(program).is_none()).collect();
        (!missing.is_empty()).then(|| format!("needs the programs {}", missing.join(", ")))
    }

    /// Runs it; its scene's folder is kept if it fails.
    ///
    /// # Errors
    /// What the lab found, with the place of its artifacts.
    pub fn run(&self) -> Result<()> {
        // Those that run alone take the floor for themselves.
        static FLOOR: RwLock<()> = RwLock::new(());
        let (_shared, _whole);
        if self.is_alone {
            _whole = FLOOR.write().unwrap_or_else(PoisonError::into_inner);
        } else {
            _shared = FLOOR.read().unwrap_or_else(PoisonError::into_inner);
        }
        let scene = Scene::new(self.name)?;
        let outcome = std::panic::catch_unwind(|| (self.body)(&scene));
        let outcome = match outcome {
            Ok(result) => result,
            Err(panic) => Err(anyhow::Error::msg(message_of(panic.as_ref()))),
        };
        let outcome = outcome.and_then(|()| scene.nothing_left()).and_then(|()| scene.nothing_wrong());
        match outcome {
            Ok(()) => {
                // A folder that stays behind does no harm.
                let _ = fs::remove_dir_all(&scene.artifacts);
                Ok(())
            }
            Err(error) => Err(error.context(format!("logs and captures: {}", scene.artifacts.display()))),
        }
    }
}

fn message_of(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else {
        "the lab panicked".to_owned()
    }
}

/// Where a lab plays: unique names, a folder for what it writes.
pub struct Scene {
    prefix: String,
    artifacts: PathBuf,
    folder: tempfile::TempDir,
    next: AtomicU32,
    complaints: Complaints,
}

impl std::panic::RefUnwindSafe for Scene {}

impl Scene {
    fn new(name: &str) -> Result<Scene> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{}{:x}-{number}", host::PREFIX, std::process::id());
        let artifacts = workspace().join("integration/artifacts").join(name.replace("::", "."));
        let _ = fs::remove_dir_all(&artifacts);
        fs::create_dir_all(&artifacts).with_context(|| artifacts.display().to_string())?;
        let folder = tempfile::Builder::new().prefix(&format!("{prefix}-")).tempdir()?;
        // Programs inside machines may run as another user.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        Ok(Scene { prefix, artifacts, folder, next: AtomicU32::new(0), complaints: Complaints::default() })
    }

    /// Where logs and captures go.
    pub fn artifacts(&self) -> &Path {
        &self.artifacts
    }

    /// A folder that goes when the lab ends.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A name that no other lab has: at most 24 characters, of those that the topology file allows.
    pub fn unique_name(&self) -> String {
        format!("{}-{}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// A daemon of its own.
    ///
    /// # Errors
    /// It does not start.
    pub fn daemon(&self) -> Result<Daemon> {
        let daemon = self.idle_daemon()?;
        daemon.run()?;
        Ok(daemon)
    }

    /// A daemon of its own that does not run yet.
    ///
    /// # Errors
    /// Its folder cannot be made.
    pub fn idle_daemon(&self) -> Result<Daemon> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder.path().join(format!("daemon{number}"));
        Daemon::new(&folder, &self.artifacts.join(format!("vnetd{number}.log")), binaries()?)
    }

    /// A lab on this daemon that is not up yet.
    pub fn lab_on(&self, daemon: Daemon) -> RunningLab {
        RunningLab::new(
            daemon,
            &self.unique_name(),
            self.folder.path(),
            &self.artifacts,
            Complaints::clone(&self.complaints),
        )
    }

    /// Brings a topology up with a daemon of its own. The text's `name:` is replaced by a unique one.
    ///
    /// # Errors
    /// It does not come up.
    pub fn up(&self, topology: &str) -> Result<RunningLab> {
        self.up_on(self.daemon()?, topology)
    }

    /// Brings a topology up on this daemon.
    ///
    /// # Errors
    /// It does not come up.
    pub fn up_on(&self, daemon: Daemon, topology: &str) -> Result<RunningLab> {
        let mut lab = self.lab_on(daemon);
        lab.up(topology)?.ok()?;
        Ok(lab)
    }

    /// No lab complained when it went.
    fn nothing_wrong(&self) -> Result<()> {
        let complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(complaints.is_empty(), "{}", complaints.join("; "));
        Ok(())
    }

    /// Nothing on the host carries a name of this scene any more.
    fn nothing_left(&self) -> Result<()> {
        let left = host::remains_of(&self.prefix)?;
        if left.is_empty() {
            return Ok(());
        }
        host::sweep(&self.prefix);
        bail!("left behind: {}", left.join(", "))
    }
}
