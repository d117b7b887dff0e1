//! What the API needs of the engine. The API's tests run against one in memory.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use vnet_analysis::impact::ImpactReport;
use vnet_api::{
    ApplyReport, ApplyRequest, BgpPeerReport, CaptureRequest, ConfigFormat, DoctorReport, DownReport,
    DropReport, ExecRequest, FailRequest, Failover, FlowReport, GatewayReport, GatewayRouteReport,
    LabSummary, LogReport, PeerConfig, PlanReport, ProbeRequest, ProbeResult, Progress, Resource,
    TrafficInterval, TrafficReport, TrafficRequest, ValidateReport,
};
use vnet_config::Topology;
use vnet_fabric::Snapshot;
use vnet_fabric::effective::EffectivePeering;

use super::error::ApiError;
use crate::metrics::LabCounters;

/// The answer of a method of [`Backend`].
pub type Answer<T> = Result<T, ApiError>;

/// Shorthand of the methods' futures: they run on any thread of the runtime.
macro_rules! answers {
    ($type:ty) => { impl Future<Output = Answer<$type>> + Send };
}

/// A running program of `exec`.
#[derive(Debug)]
pub struct Execution {
    /// Its process id on the host.
    pub pid: u32,
    /// Signals to send to its process group. The receiver may be gone when the program has ended.
    pub signals: mpsc::Sender<i32>,
    /// Its exit code; 128 and the signal's number if a signal ended it.
    pub exit: oneshot::Receiver<i32>,
}

/// Why a program did not start.
#[derive(Clone, Debug)]
pub struct ExecFailure {
    /// 127 not found, 126 cannot be run, 125 anything else.
    pub code: i32,
    /// In one sentence.
    pub message: String,
}

/// Labs and everything that the API says of them. Every method that takes `lab` answers `LabNotFound` for a name
/// that does not run. Implementations write these as `async fn`.
pub trait Backend: Send + Sync + 'static {
    /// All labs, by name.
    fn labs(&self) -> answers!(Vec<LabSummary>);

    /// One lab.
    fn lab(&self, lab: &str) -> answers!(LabSummary);

    /// Brings the lab to what the file says and times it in the metrics, or leaves it as it was. `lab` is the name in the request's path; a file
    /// with another name is refused. Sends a step's progress as it goes and does not wait for a reader that is gone.
    fn apply(
        &self,
        lab: &str,
        request: ApplyRequest,
        progress: mpsc::Sender<Progress>,
    ) -> answers!(ApplyReport);

    /// What `apply` would do.
    fn plan(&self, lab: &str, request: ApplyRequest) -> answers!(PlanReport);

    /// What `apply` would do to those who talk: pairs of machines, and the flows that live.
    fn impact(&self, lab: &str, request: ApplyRequest) -> answers!(ImpactReport);

    /// Checks a file as `apply` would, and touches nothing.
    fn validate(&self, request: ApplyRequest) -> answers!(ValidateReport);

    /// Removes one lab and nothing else.
    fn down(&self, lab: &str, progress: mpsc::Sender<Progress>) -> answers!(DownReport);

    /// Removes every lab, and what a crash left of labs that are gone.
    fn down_all(&self, progress: mpsc::Sender<Progress>) -> answers!(DownReport);

    /// The file in force.
    fn topology(&self, lab: &str) -> answers!(Arc<Topology>);

    /// The policy in force.
    fn snapshot(&self, lab: &str) -> answers!(Arc<Snapshot>);

    /// The lab's resources with their state, in the file's order of sections.
    fn resources(&self, lab: &str) -> answers!(Vec<Resource>);

    /// The lab's halves of peerings with their state, in the file's order.
    fn peerings(&self, lab: &str) -> answers!(Vec<EffectivePeering>);

    /// Brings both halves of a connected peering to the present ranges of their networks; answers `local`'s.
    fn sync_peering(&self, lab: &str, local: &str, remote: &str) -> answers!(EffectivePeering);

    /// At most `limit` live flows, busiest first.
    fn flows(&self, lab: &str, limit: usize) -> answers!(FlowReport);

    /// Drops by machine and reason since the lab came up.
    fn drops(&self, lab: &str) -> answers!(DropReport);

    /// Captures packets; the pieces of a pcapng file come until it is whole or the receiver is dropped.
    fn capture(&self, lab: &str, request: CaptureRequest) -> answers!(mpsc::Receiver<Bytes>);

    /// Both ends of each tunnel.
    fn gateway_status(&self, lab: &str) -> answers!(GatewayReport);

    /// Lets an instance of a gateway fail.
    fn gateway_fail(&self, lab: &str, gateway: &str, request: FailRequest) -> answers!(Failover);

    /// What the device at the connection's other end needs; the one answer with a secret in it.
    fn gateway_config(&self, lab: &str, connection: &str, format: ConfigFormat) -> answers!(PeerConfig);

    /// The BGP peers of a gateway; `Conflict` where it does not speak BGP.
    fn bgp_peers(&self, lab: &str, gateway: &str) -> answers!(BgpPeerReport);

    /// What a gateway has learned by BGP, and its own.
    fn learned_routes(&self, lab: &str, gateway: &str) -> answers!(GatewayRouteReport);

    /// What a gateway tells its BGP peers, or one of them.
    fn advertised_routes(
        &self,
        lab: &str,
        gateway: &str,
        peer: Option<IpAddr>,
    ) -> answers!(GatewayRouteReport);

    /// What the VM's `run:` commands printed.
    fn logs(&self, lab: &str, vm: &str) -> answers!(LogReport);

    /// Sends one packet from inside a machine and waits for what becomes of it.
    fn probe(&self, lab: &str, request: ProbeRequest) -> answers!(ProbeResult);

    /// Runs built-in traffic between two machines; sends one interval a second.
    fn traffic(
        &self,
        lab: &str,
        request: TrafficRequest,
        intervals: mpsc::Sender<TrafficInterval>,
    ) -> answers!(TrafficReport);

    /// Whether `vm` is a machine that [`Backend::exec`] can enter.
    fn check_machine(&self, lab: &str, vm: &str) -> answers!(());

    /// Starts a program inside a machine, on the client's standard input, output and error.
    fn exec(
        &self,
        lab: &str,
        vm: &str,
        request: ExecRequest,
        stdio: [OwnedFd; 3],
    ) -> impl Future<Output = Result<Execution, ExecFailure>> + Send;

    /// Looks at the host.
    fn doctor(&self) -> impl Future<Output = DoctorReport> + Send;

    /// The counters of every lab, for a scrape.
    fn counters(&self) -> impl Future<Output = Vec<LabCounters>> + Send;
}
