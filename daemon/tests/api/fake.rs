//! An engine in memory: two machines, one lab.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use tokio::sync::{mpsc, oneshot};
use vnet_analysis::impact::ImpactReport;
use vnet_api::*;
use vnet_config::Topology;
use vnet_fabric::Snapshot;
use vnet_fabric::effective::EffectivePeering;
use vnetd::api::{Answer, ApiError, Backend, ExecFailure, Execution};
use vnetd::metrics::{LabCounters, WorkerCounter};

#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) labs: Mutex<Vec<String>>,
}

impl Fake {
    fn check(&self, lab: &str) -> Answer<()> {
        let labs = self.labs.lock().expect("no test panics while it holds the labs");
        if labs.iter().any(|name| name == lab) { Ok(()) } else { Err(ApiError::lab_not_found(lab)) }
    }
}

fn hub_spoke() -> Topology {
    let text = include_str!("../../../examples/hub-spoke.yaml");
    let mut topology =
        vnet_config::load(text, "hub-spoke.yaml", None).expect("the example is valid").topology;
    topology.name = "hub".into();
    topology
}

fn step(object: &str, state: ProgressState) -> Progress {
    Progress { object: object.into(), state, ms: 1, message: None }
}

fn refused(line: u32) -> ApiError {
    ApiError::refused(vec![Diagnostic {
        severity: Severity::Error,
        code: "VnetAddressSpacesOverlap".into(),
        path: String::new(),
        file: "lab.yaml".into(),
        line,
        column: 3,
        message: "The ranges overlap.".into(),
        remedy: Some("Give one of them another range.".into()),
        source_line: None,
        length: 1,
    }])
}

impl Backend for Fake {
    async fn labs(&self) -> Answer<Vec<LabSummary>> {
        let labs = self.labs.lock().expect("no test panics while it holds the labs");
        Ok(labs.iter().map(|name| LabSummary { name: name.clone(), ..LabSummary::default() }).collect())
    }

    async fn lab(&self, lab: &str) -> Answer<LabSummary> {
        self.check(lab)?;
        Ok(LabSummary { name: lab.into(), ..LabSummary::default() })
    }

    async fn apply(
        &self,
        lab: &str,
        request: ApplyRequest,
        progress: mpsc::Sender<Progress>,
    ) -> Answer<ApplyReport> {
        match request.topology.text.as_str() {
            "refused" => return Err(refused(7)),
            "slow" => tokio::time::sleep(std::time::Duration::from_millis(200)).await,
            _ => {}
        }
        let _ = progress.send(step("virtualMachine web", ProgressState::Created)).await;
        if request.topology.text == "fails late" {
            let _ = progress.send(step("virtualMachine web", ProgressState::RolledBack)).await;
            return Err(ApiError::unavailable("/dev/net/tun is not there."));
        }
        self.labs.lock().expect("no test panics while it holds the labs").push(lab.into());
        Ok(ApplyReport { lab: lab.into(), created: true, ..ApplyReport::default() })
    }

    async fn plan(&self, lab: &str, _: ApplyRequest) -> Answer<PlanReport> {
        Ok(PlanReport { lab: lab.into(), creates: true, ..PlanReport::default() })
    }

    async fn impact(&self, lab: &str, request: ApplyRequest) -> Answer<ImpactReport> {
        self.check(lab)?;
        let TopologyFile { text, origin, .. } = request.topology;
        let loaded = vnet_config::load(&text, &origin, None).map_err(|_| refused(7))?;
        Ok(vnet_analysis::impact::impact_of_files(&hub_spoke(), &loaded.topology))
    }

    async fn validate(&self, request: ApplyRequest) -> Answer<ValidateReport> {
        if request.topology.text == "refused" { Err(refused(7)) } else { Ok(ValidateReport::default()) }
    }

    async fn down(&self, lab: &str, _: mpsc::Sender<Progress>) -> Answer<DownReport> {
        self.check(lab)?;
        self.labs.lock().expect("no test panics while it holds the labs").retain(|name| name != lab);
        Ok(DownReport { labs: vec![lab.into()], ..DownReport::default() })
    }

    async fn down_all(&self, _: mpsc::Sender<Progress>) -> Answer<DownReport> {
        let labs = std::mem::take(&mut *self.labs.lock().expect("no test panics while it holds the labs"));
        Ok(DownReport { labs, leftovers: vec!["vnet.old.web".into()], ms: 0 })
    }

    async fn resources(&self, lab: &str) -> Answer<Vec<Resource>> {
        self.check(lab)?;
        let machine = |name: &str| Resource {
            kind: "virtualMachines".into(),
            name: name.into(),
            location: None,
            state: "Running".into(),
            summary: String::new(),
            properties: serde_json::json!({}),
        };
        Ok(vec![machine("web"), machine("db")])
    }

    async fn topology(&self, lab: &str) -> Answer<Arc<Topology>> {
        self.check(lab)?;
        Ok(Arc::new(hub_spoke()))
    }

    async fn snapshot(&self, lab: &str) -> Answer<Arc<Snapshot>> {
        self.check(lab)?;
        Ok(Arc::new(vnet_fabric::converge(&hub_spoke()).1))
    }

    async fn peerings(&self, lab: &str) -> Answer<Vec<EffectivePeering>> {
        self.check(lab)?;
        let topology = hub_spoke();
        let (state, _) = vnet_fabric::converge(&topology);
        Ok(vnet_fabric::effective::peerings(&topology, &state))
    }

    async fn sync_peering(&self, lab: &str, local: &str, remote: &str) -> Answer<EffectivePeering> {
        let name = format!("{local}/{remote}");
        let all = self.peerings(lab).await?;
        all.into_iter().find(|half| half.name == name).ok_or_else(|| ApiError::not_found("peering", &name))
    }

    async fn flows(&self, lab: &str, limit: usize) -> Answer<FlowReport> {
        self.check(lab)?;
        Ok(FlowReport { value: Vec::new(), total: limit })
    }

    async fn drops(&self, lab: &str) -> Answer<DropReport> {
        self.check(lab)?;
        Ok(DropReport::default())
    }

    async fn capture(&self, lab: &str, request: CaptureRequest) -> Answer<mpsc::Receiver<Bytes>> {
        self.check(lab)?;
        let (pieces, file) = mpsc::channel(4);
        for piece in [request.target, format!(" {:?}", request.count)] {
            pieces.try_send(piece.into()).expect("there is room");
        }
        Ok(file)
    }

    async fn gateway_status(&self, lab: &str) -> Answer<GatewayReport> {
        self.check(lab)?;
        Ok(GatewayReport::default())
    }

    async fn gateway_fail(&self, lab: &str, gateway: &str, request: FailRequest) -> Answer<Failover> {
        self.check(lab)?;
        let instance = request.instance.unwrap_or(0);
        Ok(Failover { gateway: gateway.to_owned(), instance, planned: request.planned, interruption_ms: 0 })
    }

    async fn gateway_config(&self, _: &str, connection: &str, format: ConfigFormat) -> Answer<PeerConfig> {
        Ok(PeerConfig { connection: connection.into(), text: format!("{format:?}") })
    }

    async fn bgp_peers(&self, _: &str, _: &str) -> Answer<BgpPeerReport> {
        Ok(BgpPeerReport::default())
    }

    async fn learned_routes(&self, _: &str, _: &str) -> Answer<GatewayRouteReport> {
        Ok(GatewayRouteReport::default())
    }

    async fn advertised_routes(
        &self,
        _: &str,
        gateway: &str,
        peer: Option<IpAddr>,
    ) -> Answer<GatewayRouteReport> {
        let route = GatewayRoute {
            as_path: "65515".into(),
            local_address: "10.0.255.30".parse().expect("an address"),
            network: "10.0.0.0/16".into(),
            next_hop: None,
            origin: gateway.into(),
            source_peer: peer,
            weight: 0,
        };
        Ok(GatewayRouteReport { value: vec![route] })
    }

    async fn logs(&self, _: &str, vm: &str) -> Answer<LogReport> {
        Ok(LogReport { vm: vm.into(), text: "started\n".into() })
    }

    async fn probe(&self, _: &str, request: ProbeRequest) -> Answer<ProbeResult> {
        let source = "10.1.0.4".parse().expect("an address");
        let destination = "10.2.0.4".parse().expect("an address");
        let answered = request.to == "db" && request.service.port == 443;
        Ok(ProbeResult {
            outcome: if answered { ProbeOutcome::Answered } else { ProbeOutcome::Dropped },
            source,
            destination,
            rtt_us: answered.then_some(250),
            reason: (!answered).then(|| "FirewallDeny".to_owned()),
            rule: None,
            rules: Vec::new(),
            via: vec!["fw".into()],
            via_reverse: vec!["fw".into()],
            source_seen_as: None,
            delivered_to: None,
        })
    }

    async fn traffic(
        &self,
        _: &str,
        _: TrafficRequest,
        intervals: mpsc::Sender<TrafficInterval>,
    ) -> Answer<TrafficReport> {
        for at_ms in [1000, 2000] {
            let _ = intervals.send(TrafficInterval { at_ms, bytes: 10, mbps: 0.5 }).await;
        }
        Ok(TrafficReport { bytes: 20, mbps: 0.5, ..TrafficReport::default() })
    }

    async fn check_machine(&self, lab: &str, vm: &str) -> Answer<()> {
        self.check(lab)?;
        if vm == "web" { Ok(()) } else { Err(ApiError::not_found("machine", vm)) }
    }

    async fn exec(
        &self,
        _: &str,
        _: &str,
        request: ExecRequest,
        stdio: [OwnedFd; 3],
    ) -> Result<Execution, ExecFailure> {
        let [stdin, stdout, stderr] = stdio;
        let mut child = tokio::process::Command::new(&request.command[0])
            .args(&request.command[1..])
            .env_clear()
            .envs(&request.environment)
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::from(stdout))
            .stderr(Stdio::from(stderr))
            .spawn()
            .map_err(|error| ExecFailure { code: 127, message: error.to_string() })?;
        let pid = child.id().expect("it has just been started");
        let (signals, mut wanted) = mpsc::channel::<i32>(8);
        let (ended, exit) = oneshot::channel();
        tokio::spawn(async move {
            let status = loop {
                tokio::select! {
                    status = child.wait() => break status.expect("a child of ours can be waited for"),
                    Some(signal) = wanted.recv() => {
                        let signal = nix::sys::signal::Signal::try_from(signal).expect("a signal");
                        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal);
                    }
                }
            };
            let _ = ended.send(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()));
        });
        Ok(Execution { pid, signals, exit })
    }

    async fn doctor(&self) -> DoctorReport {
        DoctorReport::default()
    }

    async fn counters(&self) -> Vec<LabCounters> {
        let worker = WorkerCounter { worker: 0, busy_ns: 0, batches: 3 };
        vec![LabCounters { lab: "hub".into(), workers: vec![worker], ..LabCounters::default() }]
    }
}
