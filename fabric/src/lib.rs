//! Azure's policy as a pure function: `control` is the state machine of what is in force, `compile` turns a
//! topology and that state into a [`Snapshot`](snapshot::Snapshot), `decide` judges one packet by it.
#![forbid(unsafe_code)]

pub mod azure_rule;
pub mod compile;
pub mod control;
pub mod decide;
pub mod decision;
pub mod effective;
pub mod path;
pub mod snapshot;
pub mod survey;
pub mod trace;

pub use compile::{compile, converge};
pub use control::{Effect, Event, State};
pub use decide::{decide, decide_into};
pub use decision::{Decision, SessionFound, SessionOpen, SessionSide, SessionView, Verdict};
pub use path::{PathReport, matrix, path};
pub use snapshot::Snapshot;
pub use trace::{Hop, NoTrace, RuleId, RuleRef, Step, Trace};
