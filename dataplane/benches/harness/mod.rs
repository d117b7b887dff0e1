//! Runs bodies in three ways. `cargo bench` times them with criterion. With `VNET_COUNT=list` the executable prints their
//! names, with `VNET_COUNT=NAME` it runs one of them under callgrind, which counts what happens inside [`counted`]: counts
//! repeat on a noisy machine, times don't. `cargo test` runs each a few times, so that none of them rots.

use std::hint::black_box;

use criterion::Criterion;
use libtest_mimic::{Arguments, Trial};

/// Rounds that a count is the sum of.
const COUNTED_ROUNDS: usize = 1_000;
/// Rounds of a test.
const TESTED_ROUNDS: usize = 10;

/// One thing to be measured. A round asserts that it has worked, where that can fail.
pub(crate) struct Body {
    pub(crate) name: &'static str,
    /// Builds what the body works on; only the bodies that are run are built.
    pub(crate) build: fn() -> Box<dyn FnMut()>,
}

/// The boundary of what callgrind counts.
#[inline(never)]
fn counted(body: &mut dyn FnMut()) {
    for _ in 0..COUNTED_ROUNDS {
        body();
    }
    black_box(());
}

/// What an executable's `main` does.
pub(crate) fn main(group: &str, bodies: &'static [Body]) {
    match std::env::var("VNET_COUNT").as_deref() {
        Ok("list") => bodies.iter().for_each(|body| println!("{}", body.name)),
        Ok(name) => count(bodies.iter().find(|body| body.name == name).expect("the name is one of the list")),
        // What cargo adds to the arguments of a benchmark, and not of a test.
        Err(_) if std::env::args().any(|argument| argument == "--bench") => time(group, bodies),
        Err(_) => test(group, bodies),
    }
}

fn count(body: &Body) {
    let mut run = (body.build)();
    for _ in 0..COUNTED_ROUNDS {
        run();
    }
    counted(&mut run);
    println!("{COUNTED_ROUNDS}");
}

fn time(group: &str, bodies: &[Body]) {
    let mut criterion = Criterion::default().configure_from_args();
    for body in bodies {
        let mut run = (body.build)();
        criterion.bench_function(&format!("{group}/{}", body.name), |bencher| bencher.iter(&mut run));
    }
    criterion.final_summary();
}

fn test(group: &str, bodies: &'static [Body]) {
    let trial = |body: &'static Body| {
        Trial::test(format!("{group}/{}", body.name), || {
            let mut run = (body.build)();
            for _ in 0..TESTED_ROUNDS {
                run();
            }
            Ok(())
        })
    };
    libtest_mimic::run(&Arguments::from_args(), bodies.iter().map(trial).collect()).exit();
}
