//! The image: built by buildah from the committed Dockerfile, run by podman. Its bases are made by debootstrap and the
//! crates are those that cargo has here, so that nothing is pulled from a registry of images.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vnet_integration::binaries::{binaries, workspace};
use vnet_integration::process::{self, Output, Running};
use vnet_integration::suite::Lab;
use vnet_integration::{PATIENCE, Scene, wait_until};

pub(crate) const LABS: &[Lab] = &[Lab::new("image::builds_and_runs_a_lab", builds_and_runs).needs(&[
    "buildah",
    "podman",
    "runc",
    "debootstrap",
])];

const RUN_BASE: &str = "localhost/vnetd-run-base";
const BUILD_BASE: &str = "localhost/vnetd-build-base";
const IMAGE: &str = "localhost/vnetd-under-test";
const BUILD_LIMIT: Duration = Duration::from_secs(25 * 60);

/// Where images and the container's build lie: beside the build's own output, so that the next run finds the bases.
struct Workshop {
    folder: PathBuf,
}

impl Workshop {
    fn new() -> Result<Workshop> {
        let programs = binaries()?;
        let target = programs.vnetd.parent().and_then(Path::parent).context("no target folder")?;
        let folder = target.join("container");
        fs::create_dir_all(folder.join("target"))?;
        Ok(Workshop { folder })
    }

    fn tool(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .arg("--root")
            .arg(self.folder.join("storage"))
            .arg("--runroot")
            .arg(self.folder.join("run"))
            .args(["--storage-driver", "vfs"]);
        command
    }

    fn buildah(&self, arguments: &[&str]) -> Result<Output> {
        process::output(self.tool("buildah").args(arguments), BUILD_LIMIT)
    }

    fn podman(&self) -> Command {
        let mut command = self.tool("podman");
        // Neither a service manager nor cgroups of version 2 are needed.
        command.args(["--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]);
        command
    }

    fn has(&self, image: &str) -> Result<bool> {
        Ok(self.buildah(&["inspect", "--type", "image", image])?.success())
    }

    /// Debian as debootstrap makes it.
    fn run_base(&self, scratch: &Path) -> Result<()> {
        if self.has(RUN_BASE)? {
            return Ok(());
        }
        let root = scratch.join("debian");
        let mut debootstrap = Command::new("debootstrap");
        debootstrap.args(["--variant=minbase", "bookworm"]).arg(&root).arg("http://deb.debian.org/debian");
        process::output(&mut debootstrap, BUILD_LIMIT)?.ok()?;
        let container = self.buildah(&["from", "scratch"])?.ok()?.stdout.trim().to_owned();
        self.buildah(&["add", "-q", &container, &root.to_string_lossy(), "/"])?.ok()?;
        self.buildah(&["commit", "-q", "--rm", &container, RUN_BASE])?.ok()?;
        fs::remove_dir_all(&root)?;
        Ok(())
    }

    /// The same with a linker and a compiler for the kernel's programs; the Rust toolchain is mounted when it is used.
    fn build_base(&self) -> Result<()> {
        if self.has(BUILD_BASE)? {
            return Ok(());
        }
        let container = self.buildah(&["from", RUN_BASE])?.ok()?.stdout.trim().to_owned();
        let install =
            "apt-get update -q && apt-get install -q -y --no-install-recommends clang gcc libc6-dev make";
        self.buildah(&[
            "run",
            "--isolation",
            "chroot",
            "--network",
            "host",
            &container,
            "sh",
            "-c",
            install,
        ])?
        .ok()?;
        self.buildah(&[
            "config",
            "--env",
            "PATH=/usr/local/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "--env",
            "CARGO_HOME=/usr/local/cargo",
            "--env",
            "CARGO_NET_OFFLINE=true",
            &container,
        ])?
        .ok()?;
        self.buildah(&["commit", "-q", "--rm", &container, BUILD_BASE])?.ok()?;
        Ok(())
    }

    fn build(&self) -> Result<()> {
        let sysroot = process::output(
            Command::new("rustc").args(["--print", "sysroot"]).current_dir(workspace()),
            Duration::from_secs(60),
        )?
        .ok()?;
        let sysroot = sysroot.stdout.trim();
        ensure!(Path::new(sysroot).join("bin/cargo").exists(), "{sysroot} holds no cargo");
        let cargo_home = std::env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
        let registry = cargo_home.context("no CARGO_HOME")?.join("registry");
        let context = workspace().to_string_lossy().into_owned();
        self.buildah(&[
            "bud",
            "--isolation",
            "chroot",
            "--build-arg",
            &format!("BUILD_BASE={BUILD_BASE}"),
            "--build-arg",
            &format!("RUN_BASE={RUN_BASE}"),
            // Compiled in a fraction of the time; what is shown here is the image, not its speed.
            "--build-arg",
            "PROFILE=dev",
            "-v",
            &format!("{sysroot}:/usr/local/rust:ro"),
            "-v",
            &format!("{}:/usr/local/cargo/registry", registry.display()),
            "-v",
            &format!("{}:/src/target", self.folder.join("target").display()),
            "-t",
            IMAGE,
            &context,
        ])?
        .ok()?;
        Ok(())
    }
}

fn builds_and_runs(scene: &Scene) -> Result<()> {
    let workshop = Workshop::new()?;
    workshop.run_base(scene.folder())?;
    workshop.build_base()?;
    workshop.build()?;

    let name = format!("vnetd-{}", scene.unique_name());
    let mut run = workshop.podman();
    run.args(["run", "--rm", "--name", &name, "--network", "none"])
        // podman's own limits are higher than those that an unprivileged host may hand on.
        .args(["--ulimit", "nofile=16384:16384", "--ulimit", "nproc=16384:16384"])
        .args(["--cap-add", "NET_ADMIN", "--cap-add", "SYS_ADMIN", "--device", "/dev/net/tun", IMAGE]);
    let mut container = Running::start(&mut run)?;
    let inside = |arguments: &[&str]| -> Result<Output> {
        let mut exec = workshop.podman();
        exec.args(["exec", &name]).args(arguments);
        process::output(&mut exec, Duration::from_secs(120))
    };
    wait_until("the daemon in the container answers", PATIENCE, || {
        ensure!(container.is_alive(), "it ended: {}{}", container.stdout(), container.stderr());
        Ok(inside(&["vnetctl", "labs"])?.success())
    })?;
    let outcome = (|| -> Result<()> {
        inside(&["vnetctl", "up", "/usr/share/vnetd/examples/hub-spoke.yaml"])?.ok()?;
        let test = inside(&["vnetctl", "test"])?.ok()?;
        ensure!(test.stdout.contains("[PASS]") && !test.stdout.contains("[FAIL]"), "{}", test.stdout);
        // Whether a container may load programs is its host's affair; that they are built in is the image's.
        let offload = inside(&["vnetctl", "show", "offload", "-o", "json"])?.ok()?;
        ensure!(
            offload.stdout.contains("\"state\"") && !offload.stdout.contains("clang"),
            "{}",
            offload.stdout
        );
        inside(&["vnetctl", "down"])?.ok()?;
        Ok(())
    })();
    let mut stop = workshop.podman();
    process::output(stop.args(["stop", "-t", "10", &name]), Duration::from_secs(60))?;
    let ended = container.finish(PATIENCE)?;
    fs::write(scene.artifacts().join("container.log"), format!("{}{}", ended.stdout, ended.stderr))?;
    outcome?;
    ensure!(ended.success(), "the daemon ends in good order: {ended:?}");
    // The image of this run; the bases stay for the next.
    workshop.buildah(&["rmi", IMAGE])?;
    Ok(())
}
