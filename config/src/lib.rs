//! The topology file: its types, parsing with positions, validation, differences and JSON Schema.
#![forbid(unsafe_code)]

pub mod model;

pub use model::Topology;
