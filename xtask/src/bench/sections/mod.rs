//! The sections, each measurable by itself.

mod connections;
mod flows;
mod paths;
mod scale;
mod timing;

use anyhow::Result;

use super::lab::BenchLab;
use super::samples::Samples;
use super::section::Section;

/// All of them, in the order in which they run.
pub(crate) const SECTIONS: &[&Section] = &[
    &paths::PEERING,
    &paths::FIREWALL,
    &paths::NSG,
    &connections::CONNECTIONS,
    &timing::SHAPER,
    &timing::DELAY,
    &flows::FLOWS,
    &scale::SCALE,
    &paths::VPN,
];

/// Takes out the figures of labs that the kernel was to carry and did not: this host cannot.
fn without_idle_offload(mut samples: Samples, labs: &[(&'static str, BenchLab)]) -> Result<Samples> {
    for (path, lab) in labs {
        if !lab.runs_as_told()? {
            println!("{path}: the kernel carried none of its packets ('vnetctl doctor' says why); left out");
            samples.forget(path);
        }
    }
    Ok(samples)
}
