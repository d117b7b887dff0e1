//! The kernel's half of labs, opened or put out of use.

use std::sync::Arc;

use crate::offload::{self, Offload};
use crate::worker::{KernelFlows, KernelHost};

/// This host's kernel.
#[derive(Clone, Copy, Debug)]
pub struct HostKernel;

impl KernelHost for HostKernel {
    fn open(&self, lab: &str) -> Result<Arc<dyn KernelFlows>, String> {
        match Offload::open(lab, rand::random()) {
            Ok(opened) => Ok(Arc::new(opened)),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Ends what a former daemon's kernel half still carries of a lab that this one runs without: its programs stay at the
/// machines' devices, but find no entry any more.
pub(super) fn put_out_of_use(lab: &str) {
    let pinned = offload::pinned_labs().is_ok_and(|labs| labs.iter().any(|pinned| pinned == lab));
    if !pinned {
        return;
    }
    match Offload::open(lab, rand::random()) {
        Ok(former) => former.remove(),
        Err(error) => tracing::error!(%lab, %error, "the kernel may still carry flows of this lab"),
    }
}
