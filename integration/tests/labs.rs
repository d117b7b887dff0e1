//! The labs: real namespaces, real programs. One that this machine cannot run shows as ignored, with the reason.

#[path = "labs/bgp.rs"]
mod bgp;
#[path = "labs/change.rs"]
mod change;
#[path = "labs/clients.rs"]
mod clients;
#[path = "labs/egress.rs"]
mod egress;
#[path = "labs/firewall.rs"]
mod firewall;
#[path = "labs/gateways.rs"]
mod gateways;
#[path = "labs/host_egress.rs"]
mod host_egress;
#[path = "labs/image.rs"]
mod image;
#[path = "labs/lifecycle.rs"]
mod lifecycle;
#[path = "labs/live.rs"]
mod live;
#[path = "labs/nsg.rs"]
mod nsg;
#[path = "labs/nva.rs"]
mod nva;
#[path = "labs/offload.rs"]
mod offload;
#[path = "labs/offload_stops.rs"]
mod offload_stops;
#[path = "labs/packaging.rs"]
mod packaging;
#[path = "labs/peering.rs"]
mod peering;
#[path = "labs/peers.rs"]
mod peers;
#[path = "labs/random.rs"]
mod random;
#[path = "labs/routes.rs"]
mod routes;
#[path = "labs/scale.rs"]
mod scale;
#[path = "labs/story.rs"]
mod story;
#[path = "labs/telemetry.rs"]
mod telemetry;
#[path = "labs/timing.rs"]
mod timing;
#[path = "labs/trace.rs"]
mod trace;
#[path = "labs/vpn.rs"]
mod vpn;
#[path = "labs/workers.rs"]
mod workers;

use libtest_mimic::{Arguments, Completion, Trial};
use vnet_integration::host;
use vnet_integration::suite::Lab;

fn main() {
    let mut arguments = Arguments::from_args();
    // Labs mostly wait: a few side by side even on a small machine.
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    arguments.test_threads.get_or_insert(processors.clamp(2, 4));

    let is_nightly = std::env::var_os("VNET_NIGHTLY").is_some();
    let labs: Vec<Lab> = [
        peering::LABS,
        routes::LABS,
        nsg::LABS,
        firewall::LABS,
        egress::LABS,
        host_egress::LABS,
        nva::LABS,
        offload::LABS,
        offload_stops::LABS,
        vpn::LABS,
        gateways::LABS,
        bgp::LABS,
        peers::LABS,
        clients::LABS,
        trace::LABS,
        timing::LABS,
        workers::LABS,
        story::LABS,
        random::LABS,
        live::LABS,
        change::LABS,
        lifecycle::LABS,
        scale::LABS,
        telemetry::LABS,
        packaging::LABS,
        image::LABS,
    ]
    .concat();
    let labs = labs.into_iter().chain(is_nightly.then_some(peers::LONG_LABS).into_iter().flatten().copied());
    if !arguments.list && nix::unistd::Uid::effective().is_root() {
        host::sweep_dead_runs();
    }
    libtest_mimic::run(&arguments, labs.map(trial).collect()).exit();
}

fn trial(lab: Lab) -> Trial {
    Trial::ignorable_test(lab.name, move || match lab.obstacle() {
        Some(obstacle) => Ok(Completion::ignored_with(obstacle)),
        None => lab.run().map(|()| Completion::Completed).map_err(|error| format!("{error:#}").into()),
    })
}
