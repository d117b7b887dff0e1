//! What holds the fabric to Azure's behaviour: a plain reference model, worked examples as data, and a
//! generator of random topologies for property tests.
//!
//! The model is written apart from `vnet-fabric`: it reads the topology file's structure by itself, scans
//! linearly and caches nothing. Where the two disagree, one of them misreads Azure.
#![forbid(unsafe_code)]

pub mod accept;
pub mod agreement;
pub mod fabric;
pub mod generate;
pub mod golden;
pub mod model;
pub mod mutants;
pub mod simulation;
pub mod subject;
