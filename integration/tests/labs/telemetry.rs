//! What the daemon tells its surroundings: metrics, the service manager, logs.

use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use vnet_integration::binaries::workspace;
use vnet_integration::process::{self, Running};
use vnet_integration::suite::Lab;
use vnet_integration::{PATIENCE, Scene, metrics, wait_until};

use crate::{peering, story};

pub(crate) const LABS: &[Lab] = &[
    Lab::new("telemetry::prometheus_scrapes_and_answers", prometheus).needs(&[
        "prometheus",
        "promtool",
        "ping",
    ]),
    Lab::new("telemetry::every_metric_of_the_dashboard_exists", dashboard).needs(&["ping"]),
    Lab::new("telemetry::tells_the_service_manager", service_manager),
    Lab::new("telemetry::keys_are_shown_nowhere", keys_are_shown_nowhere).needs(&["ping"]),
];

/// A port of the loopback that nothing listens on just now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn prometheus(scene: &Scene) -> Result<()> {
    let (metrics_port, server_port) = (free_port()?, free_port()?);
    let daemon = scene.idle_daemon()?.metrics_at(&format!("127.0.0.1:{metrics_port}"));
    daemon.run()?;
    let lab = scene.up_on(daemon, &peering::peered())?;
    lab.expect_ping("a", "10.2.0.4")?;
    lab.expect_drop("RouteNone", || lab.expect_no_ping("a", "10.9.0.4"))?;

    let mut check = Running::start(Command::new("promtool").args(["check", "metrics"]))?;
    check.write(&metrics::get(&lab.daemon().socket(), "/metrics")?)?;
    let lint = check.finish(PATIENCE)?;
    ensure!(lint.success(), "promtool check metrics: {}{}", lint.stdout, lint.stderr);

    let committed = std::fs::read_to_string(workspace().join("deploy/monitoring/prometheus.yml"))?;
    let configuration = committed
        .replace("127.0.0.1:9470", &format!("127.0.0.1:{metrics_port}"))
        .replace("scrape_interval: 5s", "scrape_interval: 200ms");
    ensure!(configuration != committed, "the committed scrape file names the daemon's default port");
    let file = scene.folder().join("prometheus.yml");
    std::fs::write(&file, configuration)?;
    let data = scene.folder().join("prometheus");
    let mut server = Command::new("prometheus");
    server
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", data.display()))
        .arg(format!("--web.listen-address=127.0.0.1:{server_port}"));
    let _server = Running::start(&mut server)?;
    let query = format!("sum(vnet_drops_total{{lab=\"{}\",reason=\"RouteNone\"}}) > 0", lab.name());
    wait_until("Prometheus has the drop", PATIENCE, || {
        let mut ask = Command::new("promtool");
        ask.args(["query", "instant", &format!("http://127.0.0.1:{server_port}"), &query]);
        let answer = process::output(&mut ask, PATIENCE)?.ok()?;
        Ok(answer.stdout.contains("=>"))
    })
}

/// Names that the dashboard uses are names that a daemon with every kind of resource exports.
fn dashboard(scene: &Scene) -> Result<()> {
    let text = std::fs::read_to_string(workspace().join("deploy/monitoring/grafana-dashboard.json"))?;
    let json: serde_json::Value = serde_json::from_str(&text)?;
    let mut names = std::collections::BTreeSet::new();
    for panel in json["panels"].as_array().context("no panels")? {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().context("a target without expression")?;
            let words = expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
            names.extend(words.filter(|word| word.starts_with("vnet_")).map(str::to_owned));
        }
    }
    ensure!(names.len() >= 10, "the dashboard uses {names:?}");
    let lab = scene.up(&story::topology()?)?;
    lab.wait_tunnels()?;
    lab.expect_ping("dns", "10.50.0.4")?;
    lab.expect_no_ping("batch", "10.1.0.4")?;
    let scrape = lab.daemon().metrics()?;
    let missing: Vec<&String> = names.iter().filter(|name| !scrape.contains(name)).collect();
    ensure!(missing.is_empty(), "the daemon exports no {missing:?}");
    Ok(())
}

fn service_manager(scene: &Scene) -> Result<()> {
    let path = scene.folder().join("notify.sock");
    let socket = UnixDatagram::bind(&path)?;
    let daemon = scene.idle_daemon()?;
    let mut command = daemon.command();
    // A watchdog of one second wants a sign of life at least twice in it.
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000000");
    let running = Running::start(&mut command)?;
    expect_message(&socket, "READY=1")?;
    ensure!(metrics::get(&daemon.socket(), "/metrics").is_ok(), "ready means that the socket answers");
    // One of a few: others may use the machine, too.
    let signs = (0..5).map(|_| expect_message(&socket, "WATCHDOG=1")).collect::<Result<Vec<_>>>()?;
    let least = signs.windows(2).map(|two| two[1] - two[0]).min().unwrap_or(Duration::MAX);
    ensure!(least < Duration::from_millis(600), "{least:?} between two signs of life");
    running.signal(Signal::SIGHUP);
    expect_message(&socket, "RELOADING=1")?;
    expect_message(&socket, "READY=1")?;
    running.signal(Signal::SIGTERM);
    expect_message(&socket, "STOPPING=1")?;
    running.finish(PATIENCE)?.ok()?;
    Ok(())
}

/// Waits for a message that has this line; when it came.
fn expect_message(socket: &UnixDatagram, line: &str) -> Result<Instant> {
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        socket.set_read_timeout(Some(left))?;
        let Ok(length) = socket.recv(&mut buffer) else { bail!("the daemon did not say {line}") };
        if String::from_utf8_lossy(&buffer[..length]).lines().any(|said| said == line) {
            return Ok(Instant::now());
        }
    }
}

/// The private and preshared keys in a configuration for wg.
fn keys_of(config: &str) -> Vec<String> {
    let secret = |line: &&str| line.starts_with("PrivateKey") || line.starts_with("PresharedKey");
    let value = |line: &str| line.split_once(" = ").map(|(_, key)| key.trim().to_owned());
    config.lines().filter(secret).filter_map(value).collect()
}

fn keys_are_shown_nowhere(scene: &Scene) -> Result<()> {
    const KEY: &str = "0f9d-a-key-that-no-log-may-show";
    let folder = scene.folder().join("cores");
    std::fs::create_dir(&folder)?;
    let with_cores = format!("ulimit -c unlimited; cd {}; exec \"$@\"", folder.display());
    let daemon = scene.idle_daemon()?.env("VNETD_LOG", "trace").wrapped_in(&["sh", "-c", &with_cores, "sh"]);
    daemon.run()?;
    let lab = scene.up_on(daemon, &crate::vpn::TOPOLOGY.replace("site-key", KEY))?;
    lab.wait_tunnels()?;
    lab.expect_ping("pc", "10.0.2.4")?;
    let mut keys = vec![KEY.to_owned()];
    for connection in ["hub-to-hq", "hub-to-west", "west-to-hub"] {
        keys.extend(keys_of(&lab.ctl(&["gateway", "config", connection, "--format", "wg"])?.ok()?.stdout));
    }
    ensure!(keys.len() == 7, "each configuration has two keys");
    let mut told = vec![lab.daemon().log(), metrics::get(&lab.daemon().socket(), "/metrics")?];
    for verb in [&["show"][..], &["gateway", "status"], &["flows"], &["drops"], &["effective-routes", "dns"]]
    {
        told.push(lab.json(verb)?.to_string());
    }
    told.push(lab.path("pc", "dns", "icmp")?.to_string());
    for text in told {
        ensure!(!keys.iter().any(|key| text.contains(key)), "a key is shown: {text}");
    }

    lab.daemon().signal(Signal::SIGABRT);
    wait_until("the daemon ends", PATIENCE, || Ok(!lab.daemon().is_alive()))?;
    let cores: Vec<_> = std::fs::read_dir(&folder)?.collect::<Result<_, _>>()?;
    ensure!(cores.is_empty(), "a core was written: {cores:?}");
    lab.daemon().run()
}
