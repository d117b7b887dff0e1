//! What Azure would refuse, and what this product cannot run.

use crate::{diagnostic::Reporter, model::Topology, structure::Positions};

pub(crate) fn validate(_topology: &Topology, _positions: &Positions, _reporter: &mut Reporter<'_>) {}
