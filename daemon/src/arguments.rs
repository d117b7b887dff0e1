//! The daemon's command line.

use std::path::PathBuf;

use clap::Parser;

use crate::api::server;
use crate::io::tun::Offloads;
use crate::logging::LogFormat;

/// Where plain flows may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FlowOffload {
    /// In the kernel, where that is possible.
    Kernel,
    /// In the daemon.
    Off,
}

/// The daemon that runs labs: a virtual router whose ports are network namespaces.
///
/// Labs outlive it: started again with the same options it takes them over, with their connections.
#[derive(Debug, Parser)]
#[command(name = "vnetd", version)]
pub struct Args {
    /// Where vnetctl finds the daemon.
    #[arg(long, env = "VNETD_SOCKET", value_name = "PATH", default_value_os_t = server::default_socket())]
    pub socket: PathBuf,
    /// Where labs' state lies. Default: $STATE_DIRECTORY, /var/lib/vnetd for root, else below $XDG_STATE_HOME.
    #[arg(long, env = "VNETD_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where metrics are served, or `none`.
    #[arg(long, env = "VNETD_METRICS", value_name = "ADDRESS", default_value = "127.0.0.1:9470")]
    pub metrics: String,
    /// Worker threads of each lab. Default: one on two cores or fewer, else all cores but one, at most eight.
    #[arg(long, env = "VNETD_WORKERS", value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub workers: Option<u8>,
    /// Offloads of the machines' devices, separated by commas: all, none, or some of csum, tso4, tso6, uso.
    #[arg(long, env = "VNETD_OFFLOADS", value_name = "LIST", default_value = "all", value_parser = parse_offloads)]
    pub offloads: Offloads,
    /// Where flows run that only need to be delivered: `kernel` lets an eBPF program carry them once they are decided,
    /// where the host can do that; `off` keeps every packet in the daemon.
    #[arg(long, env = "VNETD_OFFLOAD", value_enum, value_name = "WHERE", default_value_t = FlowOffload::Kernel)]
    pub offload: FlowOffload,
    /// Join neighbours of a flow into super-packets: what a tunnel opened, and small packets of one batch.
    #[arg(long, env = "VNETD_COALESCE", value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub coalesce: bool,
    /// Microseconds for which a worker looks for the next packet before it sleeps, where packets come one after the other;
    /// 0 lets it sleep at once, also between delayed packets that leave one after the other.
    #[arg(long, env = "VNETD_SPIN", value_name = "US", default_value_t = 50, value_parser = clap::value_parser!(u16).range(..=1000))]
    pub spin: u16,
    /// Microseconds for which a worker leaves its devices alone after a batch of a flood of small packets, so that more of them
    /// come at once and their readers have the processor meanwhile; 0 lets it go on at once.
    #[arg(long, env = "VNETD_PAUSE", value_name = "US", default_value_t = 100, value_parser = clap::value_parser!(u16).range(..=1000))]
    pub pause: u16,
    /// Most flows, one for each direction, that a worker holds.
    #[arg(long, env = "VNETD_FLOWS_MAX", value_name = "N", default_value_t = 1 << 20)]
    pub flows_max: usize,
    /// Most flows that enter by one NIC, as many as Azure holds for one; the workers share them.
    #[arg(long, env = "VNETD_NIC_FLOWS_MAX", value_name = "N", default_value_t = vnet_router::NIC_FLOWS_MAX)]
    pub nic_flows_max: usize,
    /// Most sessions that a lab's NSGs and firewalls hold together.
    #[arg(long, env = "VNETD_SESSIONS_MAX", value_name = "N", default_value_t = 1 << 17)]
    pub sessions_max: usize,
    /// How the log is written.
    #[arg(long, env = "VNETD_LOG_FORMAT", value_enum, default_value_t = LogFormat::Auto)]
    pub log_format: LogFormat,
    /// What is logged, as `info` or `vnetd=debug`. SIGHUP reads $VNETD_LOG_FILE, if set, for a new one.
    #[arg(long, env = "VNETD_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// End when the last lab is gone.
    #[arg(long, env = "VNETD_EXIT_WITH_LAST_LAB")]
    pub exit_with_last_lab: bool,
    /// Look at the host, print what it lacks as JSON, and end.
    #[arg(long)]
    pub doctor: bool,
}

fn parse_offloads(text: &str) -> Result<Offloads, String> {
    let mut offloads = match text {
        "all" => return Ok(Offloads::ALL),
        _ => Offloads::NONE,
    };
    for name in text.split(',').filter(|name| *name != "none") {
        match name {
            "csum" => offloads.csum = true,
            "tso4" => offloads.tso4 = true,
            "tso6" => offloads.tso6 = true,
            "uso" => offloads.uso = true,
            _ => {
                return Err(format!(
                    "'{name}' is no offload: write all, none, or some of csum, tso4, tso6, uso"
                ));
            }
        }
    }
    Ok(offloads)
}
