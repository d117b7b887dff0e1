//! Labs of vnetd, each with a daemon of its own.

use std::path::Path as FilePath;

use anyhow::Result;
use vnet_integration::binaries::Binaries;
use vnet_integration::{Daemon, Lab};

use super::Bench;
use super::path::Path;

/// Where a daemon's plain flows run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offload {
    /// In the daemon, all of them.
    Off,
    /// In the kernel, once they are decided.
    Kernel,
}

impl Offload {
    fn value(self) -> &'static str {
        match self {
            Offload::Off => "off",
            Offload::Kernel => "kernel",
        }
    }
}

/// A lab that is measured; it is taken down when this is dropped.
pub(crate) struct BenchLab {
    lab: Lab,
    offload: Offload,
}

impl BenchLab {
    /// Brings a topology up. `role` tells the lab from the others of this run: seven letters at most.
    pub(crate) fn start(bench: &Bench, role: &str, topology: &str, offload: Offload) -> Result<BenchLab> {
        BenchLab::start_with(bench, role, topology, offload, &[])
    }

    /// As `start`, with environment variables for the daemon.
    pub(crate) fn start_with(
        bench: &Bench,
        role: &str,
        topology: &str,
        offload: Offload,
        environment: &[(&str, &str)],
    ) -> Result<BenchLab> {
        BenchLab::of(&bench.programs, bench, role, topology, offload, environment)
    }

    /// As `start_with`, with other programs.
    pub(crate) fn of(
        programs: &Binaries,
        bench: &Bench,
        role: &str,
        topology: &str,
        offload: Offload,
        environment: &[(&str, &str)],
    ) -> Result<BenchLab> {
        let folder = bench.folder().join(role);
        let lab = idle_lab(programs, bench, role, &folder, offload, environment)?;
        let mut lab = BenchLab { lab, offload };
        lab.lab.daemon().run()?;
        lab.lab.up(topology)?.ok()?;
        Ok(lab)
    }

    /// The lab itself.
    pub(crate) fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Whether its flows run where they should: in the kernel some packets were carried, if it was to carry any.
    pub(crate) fn runs_as_told(&self) -> Result<bool> {
        let carried = || self.lab.metric("vnet_offload_packets_total", &[]);
        Ok(self.offload == Offload::Off || carried()? > 0.0)
    }

    /// From one machine to another's address.
    pub(crate) fn path(&self, name: &'static str, client: &str, server: &str, address: &str) -> Result<Path> {
        let carriers = vec![self.lab.daemon().pid()?];
        Ok(Path::new(name, &self.lab.namespace(client), &self.lab.namespace(server), address, carriers))
    }
}

/// A lab that is not up, on a daemon that does not run yet.
pub(crate) fn idle_lab(
    programs: &Binaries,
    bench: &Bench,
    role: &str,
    folder: &FilePath,
    offload: Offload,
    environment: &[(&str, &str)],
) -> Result<Lab> {
    let mut daemon = Daemon::new(folder, &folder.join("vnetd.log"), programs.clone())?
        .env("VNETD_OFFLOAD", offload.value());
    for (name, value) in environment {
        daemon = daemon.env(name, value);
    }
    let name = format!("{}{role}", bench.prefix);
    Ok(Lab::new(daemon, &name, folder, folder, vnet_integration::lab::Complaints::default()))
}
