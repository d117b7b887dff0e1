//! vnetd: gives an Azure network design on one Linux host real packets.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use vnet_router::RouterOptions;
use vnetd::api::Api;
use vnetd::api::server::{self, Socket};
use vnetd::arguments::{Args, FlowOffload};
use vnetd::engine::{Engine, Options, Service};
use vnetd::host::{doctor, enter, state_dir};
use vnetd::logging::{self, LogControl};
use vnetd::metrics::Metrics;
use vnetd::notify;
use vnetd::offload;
use vnetd::worker::Patience;

/// A lab of a thousand machines is a million small pieces of memory, of which a change of it makes and frees a good part.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How long work that is under way may take when the daemon ends.
const SHUTDOWN_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

fn parse_metrics(text: &str) -> anyhow::Result<Option<SocketAddr>> {
    match text {
        "none" => Ok(None),
        address => {
            address.parse().map(Some).with_context(|| format!("'{address}' is no address with a port"))
        }
    }
}

fn default_workers() -> usize {
    match std::thread::available_parallelism().map_or(1, usize::from) {
        0..=2 => 1,
        cores => (cores - 1).min(8),
    }
}

fn main() -> anyhow::Result<()> {
    enter::run_if_asked();
    let args = Args::parse();
    if args.doctor {
        let state_root = state_dir::default_root(args.state_dir.as_deref());
        let report = doctor::examine(&state_root, parse_metrics(&args.metrics)?);
        println!("{}", serde_json::to_string(&report)?);
        return Ok(());
    }
    // Its memory holds the tunnels' keys: no core of it is written, whatever the host does with cores.
    nix::sys::prctl::set_dumpable(false).context("cannot keep the memory out of cores")?;
    let log = logging::start(args.log_format, &args.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(run(args, log));
    // A measurement can last an hour and nobody waits for it any more.
    runtime.shutdown_timeout(SHUTDOWN_LIMIT);
    outcome
}

async fn run(args: Args, log: LogControl) -> anyhow::Result<()> {
    let metrics_address = parse_metrics(&args.metrics)?;
    let workers = args.workers.map_or_else(default_workers, usize::from);
    let options = Options {
        state_root: state_dir::default_root(args.state_dir.as_deref()),
        workers,
        offloads: args.offloads,
        sessions_max: args.sessions_max,
        patience: Patience {
            spin: std::time::Duration::from_micros(args.spin.into()),
            pause: std::time::Duration::from_micros(args.pause.into()),
        },
        router: RouterOptions {
            flows_max: args.flows_max,
            nic_flows_max: args.nic_flows_max.div_ceil(workers),
            coalesce: args.coalesce,
            datagrams: doctor::takes_datagram_segments(),
            offload: args.offload == FlowOffload::Kernel,
        },
        kernel: match args.offload {
            FlowOffload::Off => Err("--offload off".to_owned()),
            FlowOffload::Kernel => Ok(Arc::new(offload::Kernel::default())),
        },
        metrics: metrics_address,
    };
    let socket = Socket::open(&args.socket)?;
    let engine = Engine::new(options).context("cannot start the engine")?;
    let adopting = Arc::clone(&engine);
    tokio::task::spawn_blocking(move || adopting.adopt_all()).await?;
    let metrics = Arc::new(Metrics::new()?);
    let service = Service::new(Arc::clone(&engine), Arc::clone(&metrics));
    let api = Api::new(Arc::new(service), metrics);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let wait_for_stop = |mut stopped: tokio::sync::watch::Receiver<bool>| async move {
        // The sender lives as long as this function: an error means the same as a stop.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    if let Some(address) = metrics_address
        && let Some(bound) =
            server::serve_metrics(address, api.metrics_router(), wait_for_stop(stopped.clone())).await
    {
        tracing::info!(address = %bound, "metrics are served");
    }
    let serving = tokio::spawn(socket.serve(api.router(), wait_for_stop(stopped)));
    tracing::info!(socket = %args.socket.display(), labs = engine.len(), version = env!("CARGO_PKG_VERSION"), "vnetd is ready");
    notify::ready(&format!("{} labs", engine.len()));
    let watched = Arc::clone(&engine);
    tokio::spawn(notify::watchdog(move || watched.is_alive()));
    wait_for_end(&engine, args.exit_with_last_lab, &log).await?;
    notify::stopping();
    let _ = stop.send(true);
    // Requests that run may take their time, but not for ever: a stream can last as long as its reader.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(3), serving).await;
    tracing::info!(labs = engine.len(), "vnetd ends; its labs stay");
    Ok(())
}

/// Waits for a signal to end, or for the last lab's.
async fn wait_for_end(engine: &Engine, exit_with_last_lab: bool, log: &LogControl) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut reload = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = reload.recv() => {
                notify::reloading();
                reload_log(log);
                notify::ready(&format!("{} labs", engine.len()));
            }
            () = engine.idle.notified(), if exit_with_last_lab => {
                if engine.close_if_empty() {
                    return Ok(());
                }
            }
        }
    }
}

/// Takes the log filter from the file that VNETD_LOG_FILE names, else from VNETD_LOG as it was at the start.
fn reload_log(log: &LogControl) {
    let from_file = std::env::var_os("VNETD_LOG_FILE").map(std::fs::read_to_string);
    let filter = match from_file {
        Some(Ok(text)) => text.trim().to_owned(),
        Some(Err(error)) => {
            tracing::warn!(%error, "the log filter's file cannot be read");
            return;
        }
        None => std::env::var("VNETD_LOG").unwrap_or_else(|_| "info".to_owned()),
    };
    match log.set_filter(&filter) {
        Ok(()) => tracing::info!(%filter, "log filter"),
        Err(error) => tracing::warn!(%filter, %error, "the log filter cannot be read; the former one stays"),
    }
}
