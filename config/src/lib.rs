//! The topology file: its types, parsing with positions, validation, differences and JSON Schema.
//!
//! A file's way: `source` makes a tree in which every value has its place, `structure` checks it along
//! the schema that [`model`] generates and expands short forms, serde decodes it into a [`Topology`], and `validate`
//! refuses what Azure would refuse. All that is wrong with a file is reported at once, in [`Diagnostics`].
#![forbid(unsafe_code)]

mod change;
mod diagnostic;
mod diff;
mod docs;
pub mod ipsec;
mod limit;
mod load;
pub mod model;
mod pending;
mod positions;
mod public_ip;
pub mod regions;
mod reload;
mod schema;
pub mod sku;
mod source;
mod source_map;
mod structure;
mod validate;

pub use change::refused_changes;
pub use diagnostic::{DIAGNOSTICS_MAX, Diagnostic, Diagnostics, Finding, Severity};
pub use diff::{Change, ChangeKind, diff, diff_entry};
pub use docs::topology_markdown;
pub use limit::{LIMITS, Limit};
pub use load::{
    ATTACHED_BYTES_MAX, Attachments, Disk, Externals, Loaded, SERVICE_TAGS_BYTES_MAX, load, load_ahead,
    load_file, load_in_place, load_with, read_text,
};
pub use model::Topology;
pub use pending::{PENDING, Pending};
pub use reload::{ChangedEntry, Section, load_after};
pub use schema::schema;
pub use source::{DEPTH_MAX, NODES_MAX, TEXT_BYTES_MAX};
pub use source_map::SourceMap;
