//! `cargo xtask demo`: the hub-and-spoke example, from one command.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use nix::unistd::Uid;
use serde_json::Value;
use vnet_integration::binaries::{self, Binaries, workspace};
use vnet_integration::process;

use crate::command::run;

/// What `cargo xtask demo` takes.
#[derive(Args)]
pub(crate) struct DemoArguments {
    /// Leave the lab up at the end
    #[arg(long)]
    keep: bool,
}

const LIMIT: Duration = Duration::from_secs(120);

/// A path whose speed is shown: its name, who sends, who receives, what is measured.
const SPEEDS: &[(&str, &str, &str, &str)] = &[
    ("peering", "batch", "dns", "tcp/5201"),
    ("firewall", "web", "db", "tcp/443"),
    ("VPN", "pc", "dns", "tcp/5201"),
];

/// Brings the example up, proves it, shows it, takes it down.
///
/// # Errors
/// Not root, the build fails, or the lab does not come up.
pub(crate) fn show(arguments: &DemoArguments) -> Result<bool> {
    ensure!(
        Uid::effective().is_root(),
        "a lab is made of network namespaces: run `cargo xtask demo` as root (sudo -E env PATH=$PATH cargo xtask demo)"
    );
    ensure!(Path::new("/dev/net/tun").exists(), "there is no /dev/net/tun here: modprobe tun");
    println!("==> building in release mode");
    let programs = binaries::build(true)?;
    let demo = Demo::new(programs)?;
    let outcome = demo.play();
    if arguments.keep && outcome.is_ok() {
        demo.say_what_to_try();
        return outcome;
    }
    println!("\n==> vnetctl down");
    // What it says of a lab that never came up is of no interest.
    let down = run(demo.ctl().args(["down"]), LIMIT);
    let outcome = outcome?;
    Ok(down? && outcome)
}

struct Demo {
    programs: Binaries,
    folder: PathBuf,
    lab: String,
}

impl Demo {
    fn new(programs: Binaries) -> Result<Demo> {
        let release = programs.vnetd.parent().context("the programs lie in no folder")?;
        let folder = release.join("demo");
        fs::create_dir_all(&folder)?;
        Ok(Demo { folder, programs, lab: "hub-spoke".to_owned() })
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("vnetd.sock")
    }

    fn ctl(&self) -> Command {
        let mut command = Command::new(&self.programs.vnetctl);
        command.env("VNETD_SOCKET", self.socket()).env("VNETCTL_LAB", &self.lab);
        command
    }

    /// A daemon that ends with its last lab, as the one that `vnetctl up` starts; with state of its own.
    fn start_daemon(&self) -> Result<()> {
        use std::os::unix::process::CommandExt;
        let log = fs::File::create(self.folder.join("vnetd.log"))?;
        let mut child = Command::new(&self.programs.vnetd)
            .arg("--socket")
            .arg(self.socket())
            .arg("--state-dir")
            .arg(self.folder.join("state"))
            .arg("--exit-with-last-lab")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()?;
        let deadline = Instant::now() + vnet_integration::PATIENCE;
        while vnet_integration::metrics::get(&self.socket(), "/metrics").is_err() {
            if child.try_wait()?.is_some() || Instant::now() > deadline {
                let _ = child.kill();
                bail!("vnetd does not start:\n{}", fs::read_to_string(self.folder.join("vnetd.log"))?);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn json(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = self.ctl();
        command.args(arguments).args(["-o", "json"]);
        let output = process::output(&mut command, LIMIT)?;
        output.json().with_context(|| output.stderr.clone())
    }

    fn play(&self) -> Result<bool> {
        self.start_daemon()?;
        let example = workspace().join("examples/hub-spoke.yaml");
        println!("==> vnetctl up examples/hub-spoke.yaml");
        let began = Instant::now();
        let mut up = self.ctl();
        ensure!(run(up.arg("up").arg(&example), LIMIT)?, "the lab does not come up");
        println!("up in {} ms", began.elapsed().as_millis());

        println!("\n==> vnetctl test: each expectation of the file, with real packets");
        let report = self.json(&["test"])?;
        let results = report["results"].as_array().context("vnetctl test prints no results")?.clone();
        let passed = proved(&results);
        println!("\nWho reaches whom, and by which way\n{}", reachability(&results));
        println!("\nWho does not, and why\n{}", denials(&results));
        println!("\n==> measuring round trip and throughput of the three kinds of path");
        println!("{}", self.speeds()?);
        Ok(passed)
    }

    fn speeds(&self) -> Result<Table> {
        let mut table =
            table(&["path", "from", "to", "by", "round trip (median)", "round trip (99 %)", "throughput"]);
        for (name, from, to, service) in SPEEDS {
            let ping = self.json(&["ping", from, to, service, "--count", "200", "--interval-ms", "5"])?;
            let traffic = self.json(&["traffic", from, to, service, "--duration", "3"])?;
            let rtt = |field: &str| {
                ping.pointer(&format!("/summary/rtt/{field}"))
                    .and_then(Value::as_f64)
                    .map_or_else(|| "-".to_owned(), |us| format!("{us:.0} us"))
            };
            let rate = traffic["mbps"].as_f64().unwrap_or(0.0);
            table.add_row(vec![
                (*name).to_owned(),
                (*from).to_owned(),
                (*to).to_owned(),
                way(&traffic["via"]),
                rtt("p50Us"),
                rtt("p99Us"),
                if rate >= 1000.0 { format!("{:.2} Gb/s", rate / 1000.0) } else { format!("{rate:.0} Mb/s") },
            ]);
        }
        Ok(table)
    }

    fn say_what_to_try(&self) {
        println!("\nThe lab stays up. Try:");
        println!("  export VNETD_SOCKET={}", self.socket().display());
        let ctl = self.programs.vnetctl.display();
        for line in [
            "exec web -- ping -c1 10.0.2.4",
            "path batch web icmp",
            "path web db tcp/443 --probe",
            "effective-routes web",
            "matrix",
            "drops",
            "gateway status",
            "down",
        ] {
            println!("  {ctl} {line}");
        }
        println!("  curl 127.0.0.1:9470/metrics");
    }
}

/// Prints a line for each expectation; whether all hold.
fn proved(results: &[Value]) -> bool {
    let mut good = true;
    for result in results {
        let passed = result["outcome"] == "pass";
        good &= passed;
        println!("{} {}", if passed { "[PASS]" } else { "[FAIL]" }, text(&result["title"]));
        for message in result["messages"].as_array().into_iter().flatten() {
            println!("       {}", text(message));
        }
    }
    good && !results.is_empty()
}

fn reachability(results: &[Value]) -> Table {
    let mut table = table(&["from -> to", "by", "back by", "round trip"]);
    for result in results {
        let probe = &result["probe"];
        if probe["outcome"] == "answered" {
            let rtt = probe["rttUs"].as_f64().map_or_else(|| "-".to_owned(), |us| format!("{us:.0} us"));
            table.add_row([pair(result), way(&probe["via"]), way(&probe["viaReverse"]), rtt]);
        }
    }
    table
}

fn denials(results: &[Value]) -> Table {
    let mut table = table(&["from -> to", "reason", "decided by"]);
    for result in results {
        let probe = &result["probe"];
        if probe.is_object() && probe["outcome"] != "answered" {
            table.add_row([pair(result), text(&probe["reason"]), text(&probe["rule"])]);
        }
    }
    table
}

/// `web -> db tcp/443` of `web -> db tcp/443 allow via fw`.
fn pair(result: &Value) -> String {
    let title = text(&result["title"]);
    title.split_whitespace().take(4).collect::<Vec<_>>().join(" ")
}

fn way(via: &Value) -> String {
    let names: Vec<String> = via.as_array().into_iter().flatten().map(text).collect();
    if names.is_empty() { "direct".to_owned() } else { names.join(", ") }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header);
    table
}
