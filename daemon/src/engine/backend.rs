//! The engine as the API sees it. Work that blocks (namespaces, probes, locks held by them) runs on threads of its own.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use vnet_analysis::impact::ImpactReport;
use vnet_api::{
    ApplyReport, ApplyRequest, BgpPeerReport, CaptureRequest, Change, ChangeKind, ConfigFormat, DoctorReport,
    DownReport, DropReport, ExecRequest, FailRequest, Failover, FlowReport, GatewayReport,
    GatewayRouteReport, LabSummary, LogReport, PeerConfig, PlanReport, ProbeRequest, ProbeResult, Progress,
    Resource, TrafficInterval, TrafficReport, TrafficRequest, ValidateReport,
};

use vnet_config::model::Topology;
use vnet_fabric::Snapshot;
use vnet_fabric::control::{Effect, PeeringState, State};
use vnet_fabric::effective::{self, EffectivePeering};

use super::capture::Capture;
use super::input::{Former, Input};
use super::lab::{Lab, View};
use super::laps::Laps;
use super::{Engine, bgp, failover, live, probe, resources, run, scrape, traffic};
use crate::api::{Answer, ApiError, Backend, ExecFailure, Execution};
use crate::host::memory;
use crate::metrics::{LabCounters, Metrics};
use crate::worker::monotonic;

/// How long an apply waits in all for the commands that it started: those that change a machine are short, and servers do not
/// end.
const RUN_WAIT_MAX: Duration = Duration::from_secs(2);

/// The engine behind the API.
#[derive(Clone)]
pub struct Service {
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
}

impl Service {
    /// The API's view of `engine`; applies are timed in `metrics`.
    pub fn new(engine: Arc<Engine>, metrics: Arc<Metrics>) -> Service {
        Service { engine, metrics }
    }

    /// Runs work that blocks on a thread where it may.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine) -> T + Send + 'static,
    ) -> Answer<T> {
        let engine = Arc::clone(&self.engine);
        tokio::task::spawn_blocking(move || work(&engine))
            .await
            .map_err(|error| ApiError::internal(format!("the daemon's work failed: {error}")))
    }

    async fn on_lab<T: Send + 'static>(
        &self,
        lab: &str,
        work: impl FnOnce(&Arc<Lab>) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        let lab = self.engine.get(lab)?;
        self.blocking(move |_| work(&lab)).await?
    }
}

/// A report that never waits: a reader that is slow or gone loses lines, not the lab's time.
fn reporter(progress: mpsc::Sender<Progress>) -> impl Fn(Progress) + Sync + Send {
    move |line| {
        let _ = progress.try_send(line);
    }
}

fn load(lab: &str, request: &ApplyRequest, view: Option<&View>) -> Answer<Input> {
    let former = view.map(|view| Former { topology: &view.topology, source: &view.source });
    let input = Input::load_after(request, former).map_err(ApiError::refused)?;
    if input.topology.name != lab {
        let message = format!("The file describes the lab '{}', not '{lab}'.", input.topology.name);
        return Err(ApiError::bad_request(message));
    }
    Ok(input)
}

/// The differences that an apply makes, as the API shows them: one for each resource or property.
fn changes(before: Option<&Arc<Topology>>, input: &Input) -> Vec<Change> {
    let after = &input.topology;
    if let (Some(before), Some((former, entry))) = (before, &input.changed)
        && Arc::ptr_eq(before, former)
    {
        return vnet_config::diff_entry(before, after, entry).into_iter().map(change).collect();
    }
    let empty = serde_json::from_value(serde_json::json!({"name": after.name}));
    let before = match (before, &empty) {
        (Some(before), _) => &**before,
        (None, Ok(empty)) => empty,
        (None, Err(_)) => return Vec::new(),
    };
    vnet_config::diff(before, after).into_iter().map(change).collect()
}

fn change(change: vnet_config::Change) -> Change {
    let parts = [&change.resource, &change.name, &change.property];
    let path: Vec<&str> = parts.into_iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    let detail = match (&change.old, &change.new) {
        (Some(old), Some(new)) => Some(format!("{old} -> {new}")),
        _ => None,
    };
    Change {
        kind: match change.kind {
            vnet_config::ChangeKind::Add => ChangeKind::Create,
            vnet_config::ChangeKind::Remove => ChangeKind::Delete,
            vnet_config::ChangeKind::Update => ChangeKind::Update,
        },
        path: path.join("."),
        details: detail.into_iter().collect(),
    }
}

/// What the control state does beyond the file's own differences, or leaves undone.
fn effect_changes(effects: &[Effect]) -> impl Iterator<Item = Change> {
    effects.iter().filter_map(|effect| {
        let ((local, remote), kind, detail) = match effect {
            Effect::PeeringRecreated { local, remote } => (
                (local, remote),
                ChangeKind::Replace,
                "both halves deleted and created anew: one was Disconnected, or they were of another type".to_owned(),
            ),
            Effect::PeeringSynced { local, remote } => {
                ((local, remote), ChangeKind::Update, "both halves synchronised with the changed ranges".to_owned())
            }
            Effect::PeeringDisconnected { local, remote } => {
                let detail = format!("peeringState: Connected -> Disconnected; '{remote}' has no half any more");
                ((local, remote), ChangeKind::Update, detail)
            }
            Effect::PeeringNotInSync { local, remote, level } => {
                let detail = format!(
                    "peeringSyncLevel: {level:?}; the former ranges stay in force until: vnetctl peering sync {local}/{remote}"
                );
                ((local, remote), ChangeKind::Update, detail)
            }
            Effect::Recompile(_) | Effect::StartTunnel { .. } | Effect::StopTunnel { .. } => return None,
        };
        Some(Change { kind, path: format!("virtualNetworks.{local}.peerings.{remote}"), details: vec![detail] })
    })
}

fn summary(lab: &Lab) -> LabSummary {
    let view = lab.view();
    LabSummary {
        name: lab.name.clone(),
        provisioning_state: "Succeeded".to_owned(),
        origin: view.origin.clone(),
        virtual_networks: view.topology.virtual_networks.len(),
        machines: view.machines.len(),
        epoch: lab.snapshot().epoch(),
    }
}

impl Backend for Service {
    async fn labs(&self) -> Answer<Vec<LabSummary>> {
        self.blocking(|engine| engine.all().iter().map(|lab| summary(lab)).collect()).await
    }

    async fn lab(&self, lab: &str) -> Answer<LabSummary> {
        self.on_lab(lab, |lab| Ok(summary(lab))).await
    }

    async fn apply(
        &self,
        lab: &str,
        request: ApplyRequest,
        progress: mpsc::Sender<Progress>,
    ) -> Answer<ApplyReport> {
        let name = lab.to_owned();
        let began = Instant::now();
        let report = self
            .blocking(move |engine| -> Answer<ApplyReport> {
                let mut laps = Laps::begin(&name);
                let view = engine.find(&name).map(|lab| lab.view());
                let input = load(&name, &request, view.as_deref())?;
                laps.lap("read");
                let mut changes = changes(view.as_ref().map(|view| &view.topology), &input);
                laps.lap("compare");
                let warnings = input.findings_quickly();
                laps.lap("look for what is doubtful");
                let is_whole = input.changed.is_none();
                let (created, applied) = engine.apply(input, &reporter(progress))?;
                changes.extend(effect_changes(&applied.effects));
                if let Some(lab) = engine.find(&name)
                    && !lab.begun().wait(Instant::now() + RUN_WAIT_MAX)
                {
                    tracing::debug!(lab = %name, "commands of machines go on after the apply");
                }
                if is_whole {
                    // The file's tree and the former lab were large; nobody waits for this.
                    std::thread::spawn(memory::give_back);
                }
                Ok(ApplyReport {
                    lab: name,
                    created,
                    changes,
                    warnings,
                    ms: began.elapsed().as_millis() as u64,
                })
            })
            .await??;
        self.metrics.applied(&report.lab, began.elapsed().as_secs_f64());
        Ok(report)
    }

    async fn plan(&self, lab: &str, request: ApplyRequest) -> Answer<PlanReport> {
        let name = lab.to_owned();
        self.blocking(move |engine| {
            let view = engine.find(&name).map(|lab| lab.view());
            let input = load(&name, &request, view.as_deref())?;
            let mut report = PlanReport {
                lab: name,
                creates: view.is_none(),
                changes: changes(view.as_ref().map(|view| &view.topology), &input),
                ..PlanReport::default()
            };
            if let Some(view) = view {
                report.refused = input.refusals(&view.state);
                let effects = State::clone(&view.state).step(input.event(), monotonic());
                report.changes.extend(effect_changes(&effects));
            }
            report.warnings = input.findings();
            Ok(report)
        })
        .await?
    }

    async fn impact(&self, lab: &str, request: ApplyRequest) -> Answer<ImpactReport> {
        let name = lab.to_owned();
        self.on_lab(lab, move |lab| Ok(live::impact(lab, &load(&name, &request, None)?))).await
    }

    async fn validate(&self, request: ApplyRequest) -> Answer<ValidateReport> {
        self.blocking(move |_| {
            let input = Input::load(&request).map_err(ApiError::refused)?;
            Ok(ValidateReport { lab: input.topology.name.clone(), warnings: input.findings() })
        })
        .await?
    }

    async fn down(&self, lab: &str, progress: mpsc::Sender<Progress>) -> Answer<DownReport> {
        let name = lab.to_owned();
        let began = Instant::now();
        let removed = name.clone();
        self.blocking(move |engine| engine.down(&name, &reporter(progress))).await??;
        self.metrics.forget(&removed);
        let ms = began.elapsed().as_millis() as u64;
        Ok(DownReport { labs: vec![removed], leftovers: Vec::new(), ms })
    }

    async fn down_all(&self, progress: mpsc::Sender<Progress>) -> Answer<DownReport> {
        let began = Instant::now();
        let mut report = self
            .blocking(move |engine| -> Answer<DownReport> {
                let report = reporter(progress);
                let names: Vec<String> = engine.labs().running.keys().cloned().collect();
                // One that cannot be removed does not keep the others.
                let outcomes: Vec<Answer<()>> = names.iter().map(|name| engine.down(name, &report)).collect();
                outcomes.into_iter().collect::<Answer<()>>()?;
                let leftovers = engine.sweep()?;
                Ok(DownReport { labs: names, leftovers, ms: 0 })
            })
            .await??;
        report.labs.iter().for_each(|lab| self.metrics.forget(lab));
        report.ms = began.elapsed().as_millis() as u64;
        Ok(report)
    }

    async fn topology(&self, lab: &str) -> Answer<Arc<Topology>> {
        self.on_lab(lab, |lab| Ok(Arc::clone(&lab.view().topology))).await
    }

    async fn snapshot(&self, lab: &str) -> Answer<Arc<Snapshot>> {
        Ok(self.engine.get(lab)?.snapshot())
    }

    async fn resources(&self, lab: &str) -> Answer<Vec<Resource>> {
        self.on_lab(lab, |lab| Ok(resources::all(lab))).await
    }

    async fn peerings(&self, lab: &str) -> Answer<Vec<EffectivePeering>> {
        self.on_lab(lab, |lab| {
            let view = lab.view();
            Ok(effective::peerings(&view.topology, &view.state))
        })
        .await
    }

    async fn sync_peering(&self, lab: &str, local: &str, remote: &str) -> Answer<EffectivePeering> {
        let (local, remote) = (local.to_owned(), remote.to_owned());
        self.on_lab(lab, move |lab| {
            let find = || {
                let (view, name) = (lab.view(), format!("{local}/{remote}"));
                let all = effective::peerings(&view.topology, &view.state);
                let found = all.iter().find(|half| half.name == name).cloned();
                found.ok_or_else(|| ApiError::not_among("peering", &name, all.iter().map(|half| &half.name)))
            };
            let state = find()?.peering_state;
            if state != PeeringState::Connected {
                let message = format!(
                    "The peering '{local}/{remote}' is {state:?}: only a connected one is in sync or not."
                );
                return Err(ApiError::conflict(message));
            }
            lab.sync_peering(&local, &remote)?;
            find()
        })
        .await
    }

    async fn flows(&self, lab: &str, limit: usize) -> Answer<FlowReport> {
        self.on_lab(lab, move |lab| Ok(live::flows(lab, limit))).await
    }

    async fn drops(&self, lab: &str) -> Answer<DropReport> {
        self.on_lab(lab, |lab| Ok(live::drops(lab))).await
    }

    async fn capture(&self, lab: &str, request: CaptureRequest) -> Answer<mpsc::Receiver<Bytes>> {
        let capture = self.on_lab(lab, move |lab| Capture::begin(Arc::clone(lab), request)).await?;
        let (pieces, file) = mpsc::channel(16);
        std::thread::Builder::new()
            .name("capture".into())
            .spawn(move || capture.run(&pieces))
            .map_err(|error| ApiError::internal(format!("no thread for the capture: {error}")))?;
        Ok(file)
    }

    async fn gateway_status(&self, lab: &str) -> Answer<GatewayReport> {
        self.on_lab(lab, |lab| Ok(live::gateways(lab))).await
    }

    async fn gateway_fail(&self, lab: &str, gateway: &str, request: FailRequest) -> Answer<Failover> {
        let gateway = gateway.to_owned();
        self.on_lab(lab, move |lab| failover::fail(lab, &gateway, &request)).await
    }

    async fn gateway_config(&self, lab: &str, connection: &str, format: ConfigFormat) -> Answer<PeerConfig> {
        let connection = connection.to_owned();
        self.on_lab(lab, move |lab| {
            live::peer_config(lab, &connection, format).ok_or_else(|| {
                let view = lab.view();
                let known = view.topology.connections.keys().chain(view.topology.vpn_clients.keys());
                ApiError::not_among("connection or client", &connection, known)
            })
        })
        .await
    }

    async fn bgp_peers(&self, lab: &str, gateway: &str) -> Answer<BgpPeerReport> {
        let gateway = gateway.to_owned();
        self.on_lab(lab, move |lab| bgp::peers(lab, &gateway)).await
    }

    async fn learned_routes(&self, lab: &str, gateway: &str) -> Answer<GatewayRouteReport> {
        let gateway = gateway.to_owned();
        self.on_lab(lab, move |lab| bgp::learned(lab, &gateway)).await
    }

    async fn advertised_routes(
        &self,
        lab: &str,
        gateway: &str,
        peer: Option<IpAddr>,
    ) -> Answer<GatewayRouteReport> {
        let gateway = gateway.to_owned();
        self.on_lab(lab, move |lab| bgp::advertised(lab, &gateway, peer)).await
    }

    async fn logs(&self, lab: &str, vm: &str) -> Answer<LogReport> {
        let vm = vm.to_owned();
        self.on_lab(lab, move |lab| run::logs(lab, &vm)).await
    }

    async fn probe(&self, lab: &str, request: ProbeRequest) -> Answer<ProbeResult> {
        self.on_lab(lab, move |lab| probe::probe(lab, &request)).await
    }

    async fn traffic(
        &self,
        lab: &str,
        request: TrafficRequest,
        intervals: mpsc::Sender<TrafficInterval>,
    ) -> Answer<TrafficReport> {
        self.on_lab(lab, move |lab| traffic::traffic(lab, &request, &intervals)).await
    }

    async fn check_machine(&self, lab: &str, vm: &str) -> Answer<()> {
        let vm = vm.to_owned();
        self.on_lab(lab, move |lab| run::check(lab, &vm)).await
    }

    async fn exec(
        &self,
        lab: &str,
        vm: &str,
        request: ExecRequest,
        stdio: [OwnedFd; 3],
    ) -> Result<Execution, ExecFailure> {
        let own_failure = |message: String| ExecFailure { code: 125, message };
        let lab = self.engine.get(lab).map_err(|error| own_failure(error.to_string()))?;
        let vm = vm.to_owned();
        let (started, ready) = oneshot::channel();
        // The thread waits for the program's end: it is one for each running program.
        std::thread::Builder::new()
            .name("exec".into())
            .spawn(move || run::execute(&lab, &vm, request, stdio, started))
            .map_err(|error| own_failure(format!("no thread for the program: {error}")))?;
        ready.await.map_err(|_| own_failure("the program was lost while it started".to_owned()))?
    }

    async fn doctor(&self) -> DoctorReport {
        let options = self.engine.options.clone();
        self.blocking(move |_| crate::host::doctor::examine(&options.state_root, options.metrics))
            .await
            .unwrap_or_default()
    }

    async fn counters(&self) -> Vec<LabCounters> {
        let labs = self.engine.all();
        self.blocking(move |_| labs.iter().map(|lab| scrape::counters(lab)).collect())
            .await
            .unwrap_or_default()
    }
}
