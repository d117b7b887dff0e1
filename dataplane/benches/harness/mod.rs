//! Runs bodies in two ways. By itself the executable times them with criterion. With `VNET_COUNT=list` it prints their
//! names; with `VNET_COUNT=NAME` it runs one of them under callgrind, which counts what happens inside [`counted`].
//! Counts repeat on a noisy machine, times don't.

use std::hint::black_box;

use criterion::Criterion;

/// Rounds that a count is the sum of.
const COUNTED_ROUNDS: usize = 1_000;

/// One thing to be measured.
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
pub(crate) fn main(group: &str, bodies: &[Body]) {
    match std::env::var("VNET_COUNT").as_deref() {
        Ok("list") => bodies.iter().for_each(|body| println!("{}", body.name)),
        Ok(name) => {
            let body = bodies.iter().find(|body| body.name == name).expect("the name is one of the list");
            let mut run = (body.build)();
            for _ in 0..COUNTED_ROUNDS {
                run();
            }
            counted(&mut run);
            println!("{COUNTED_ROUNDS}");
        }
        Err(_) => {
            let mut criterion = Criterion::default().configure_from_args();
            for body in bodies {
                let mut run = (body.build)();
                criterion.bench_function(&format!("{group}/{}", body.name), |bencher| bencher.iter(&mut run));
            }
            criterion.final_summary();
        }
    }
}
