//! A thousand virtual networks with a machine each: what changing and keeping them takes.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use vnet_integration::{Lab, Running, scale};

use crate::bench::Bench;
use crate::bench::cpu::{Usage, resident_bytes, wait_calm};
use crate::bench::lab::{Offload, idle_lab};
use crate::bench::namespace::Namespace;
use crate::bench::samples::Samples;
use crate::bench::section::{Aim, Bound, Figure, Section};

/// Hub and spoke, a thousand times.
pub(crate) const SCALE: Section = Section {
    name: "scale",
    title: "1,000 virtual networks with a machine each, hub and spoke, beside 1,000 namespaces with a TUN",
    figures: &[
        Figure::less("up_s", "up (s)"),
        Figure::less("apply_ms", "apply of one route (ms)"),
        Figure::less("matrix_s", "matrix (s)"),
        Figure::less("down_s", "down (s)"),
        Figure::less("idle_cpu_percent", "idle daemon (% of a core)"),
        Figure::less("idle_kib_per_machine", "memory (KiB/machine)"),
    ],
    pairs: &[("vnetd", "bare"), ("vnetd-offload", "bare")],
    aims: &[
        Aim::ratio("up_s", "vnetd", "bare", Bound::AtMost(4.0)),
        Aim::one("apply_ms", "vnetd", Bound::AtMost(20.0)),
        Aim::one("matrix_s", "vnetd", Bound::AtMost(5.0)),
        Aim::one("down_s", "vnetd", Bound::AtMost(1.0)),
        Aim::one("idle_cpu_percent", "vnetd", Bound::AtMost(1.0)),
        Aim::one("idle_kib_per_machine", "vnetd", Bound::AtMost(64.0)),
        Aim::ratio("up_s", "vnetd-offload", "bare", Bound::AtMost(4.0)),
        Aim::one("apply_ms", "vnetd-offload", Bound::AtMost(20.0)),
        Aim::one("down_s", "vnetd-offload", Bound::AtMost(1.0)),
    ],
    is_quick: false,
    measure,
};

const NETWORKS: usize = 1000;
const ROUNDS_MAX: usize = 3;
/// Changes of one route in each round, one way and back again.
const CHANGES: usize = 6;
const IDLE: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(120);

fn measure(bench: &Bench) -> Result<Samples> {
    let mut samples = Samples::default();
    let rounds = bench.plan.rounds.min(ROUNDS_MAX);
    for round in 0..rounds {
        let (up, down) = bare_namespaces(bench)?;
        samples.add("bare", "up_s", up);
        samples.add("bare", "down_s", down);
        wait_calm()?;
        let mut paths = [("vnetd", Offload::Off), ("vnetd-offload", Offload::Kernel)];
        if round % 2 == 1 {
            paths.reverse();
        }
        for (path, offload) in paths {
            one_round(bench, &mut samples, path, offload)?;
            wait_calm()?;
        }
        println!("round {} of {rounds}", round + 1);
    }
    Ok(samples.in_order(["vnetd", "vnetd-offload", "bare"].into_iter()))
}

fn one_round(bench: &Bench, samples: &mut Samples, path: &'static str, offload: Offload) -> Result<()> {
    let folder = bench.folder().join(path);
    let mut lab = idle_lab(&bench.programs, bench, "scale", &folder, offload, &[])?;
    lab.daemon().run()?;
    let pid = lab.daemon().pid()?;
    let empty = resident_bytes(pid)?;
    let topologies = ["None", "Internet"].map(|hop| scale::topology_with_route(NETWORKS, hop));
    let started = Instant::now();
    lab.up(&topologies[0])?.ok()?;
    samples.add(path, "up_s", started.elapsed().as_secs_f64());
    wait_calm()?;
    for change in 1..=CHANGES {
        let started = Instant::now();
        lab.apply(&topologies[change % 2])?.ok()?;
        samples.add(path, "apply_ms", started.elapsed().as_secs_f64() * 1e3);
    }
    samples.add(path, "matrix_s", matrix(&lab)?);
    wait_calm()?;
    let (before, started) = (Usage::read(&[pid])?, Instant::now());
    std::thread::sleep(IDLE);
    let spent = Usage::read(&[pid])? - before;
    let share = spent.carriers_ns as f64 / started.elapsed().as_nanos() as f64;
    samples.add(path, "idle_cpu_percent", share * 100.0);
    let grown = resident_bytes(pid)?.saturating_sub(empty);
    samples.add(path, "idle_kib_per_machine", grown as f64 / 1024.0 / NETWORKS as f64);
    let started = Instant::now();
    lab.down()?;
    samples.add(path, "down_s", started.elapsed().as_secs_f64());
    lab.daemon().stop()?;
    Ok(())
}

/// How long all pairs take; who asks reads the answer as fast as it comes.
fn matrix(lab: &Lab) -> Result<f64> {
    let mut command = lab.daemon().ctl();
    command.env("VNETCTL_LAB", lab.name()).args(["matrix", "tcp/443", "-o", "json"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let started = Instant::now();
    Running::start_logged(&mut command)?.finish(LIMIT)?.ok().context("matrix")?;
    Ok(started.elapsed().as_secs_f64())
}

/// Named namespaces with a persistent TUN in each, made one after another, and their names taken away again: what both took.
fn bare_namespaces(bench: &Bench) -> Result<(f64, f64)> {
    // `ip` has made the folder with the propagation that named namespaces want.
    let _folder = Namespace::new(&bench.prefix, "first")?;
    let names: Vec<String> =
        (0..NETWORKS).map(|number| format!("/run/netns/{}bare{number}", bench.prefix)).collect();
    let makers = names.clone();
    // The thread leaves the host's namespace and ends with that.
    let made = std::thread::spawn(move || -> Result<f64> {
        let started = Instant::now();
        for name in &makers {
            make_bare(name).with_context(|| name.clone())?;
        }
        Ok(started.elapsed().as_secs_f64())
    });
    let outcome = made.join().map_err(|_| anyhow!("the thread that makes namespaces panicked"))?;
    let started = Instant::now();
    for name in &names {
        let _ = umount2(name.as_str(), MntFlags::MNT_DETACH);
        let _ = fs::remove_file(name);
    }
    let (made, gone) = (outcome?, started.elapsed().as_secs_f64());
    ensure!(names.iter().all(|name| !fs::exists(name).unwrap_or(true)), "namespaces stay behind");
    Ok((made, gone))
}

fn make_bare(name: &str) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    fs::File::create(name)?;
    mount(Some("/proc/thread-self/ns/net"), name, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    let device = tun_rs::DeviceBuilder::new()
        .name("eth0")
        // Bare is without setting it up, which takes as long again.
        .enable(false)
        .with(|device| {
            device.offload(true).multi_queue(true).packet_information(false);
        })
        .build_sync()?;
    device.persist()?;
    Ok(())
}
