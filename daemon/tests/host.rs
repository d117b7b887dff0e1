//! The host layer against the real kernel. Needs root and `/dev/net/tun`; where they are missing each test shows as
//! ignored, with the reason in its name.

use libtest_mimic::{Arguments, Failed, Trial};

#[path = "host/lab.rs"]
mod lab;
#[path = "host/namespaces.rs"]
mod namespaces;
#[path = "host/offload.rs"]
mod offload;
#[path = "host/offload_packets.rs"]
mod offload_packets;
#[path = "host/probes.rs"]
mod probes;
#[path = "host/programs.rs"]
mod programs;
#[path = "host/sweeps.rs"]
mod sweeps;

type Outcome = Result<(), Failed>;

/// A test by its name.
type Case = (&'static str, fn() -> Outcome);

/// A test as the runner shows it: ignored where something is missing for it.
fn trial((name, test): Case, missing: Option<&str>) -> Trial {
    let shown = missing.map_or_else(|| name.to_owned(), |reason| format!("{name} ({reason})"));
    Trial::test(shown, test).with_ignored_flag(missing.is_some())
}

fn main() {
    let mut args = Arguments::from_args();
    // Each test has namespaces of its own; more threads than this only make the machine's clock less even.
    args.test_threads = args.test_threads.or(Some(4));
    let missing = lab::missing();
    let not_built = (!vnetd::offload::is_built()).then_some("needs clang when it is built");
    let general = [namespaces::tests(), probes::tests(), programs::tests(), sweeps::tests()].concat();
    let general = general.into_iter().map(|case| trial(case, missing));
    let offload = offload::tests().into_iter().map(|case| trial(case, missing.or(not_built)));
    libtest_mimic::run(&args, general.chain(offload).collect()).exit();
}
