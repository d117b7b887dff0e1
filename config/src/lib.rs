//! The topology file: its types, parsing with positions, validation, differences and JSON Schema.
#![forbid(unsafe_code)]

mod diagnostic;
mod load;
pub mod model;
pub mod sku;
mod source;
mod structure;
mod validate;

pub use diagnostic::{DIAGNOSTICS_MAX, Diagnostic, Diagnostics, Severity};
pub use load::{
    ATTACHED_BYTES_MAX, Attachments, Disk, Externals, Loaded, load, load_file, load_with, read_text,
};
pub use model::Topology;
pub use source::{DEPTH_MAX, NODES_MAX, TEXT_BYTES_MAX};
