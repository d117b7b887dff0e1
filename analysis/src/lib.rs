//! Questions about a whole design: what is doubtful in it, who can reach whom by which packets, what a change would do,
//! and how it compares with what Azure itself says.
//!
//! Everything here asks the fabric; nothing here makes a verdict of its own.
#![forbid(unsafe_code)]

pub mod compare;
pub mod conformance;
pub mod flow_log;
pub mod impact;
pub mod lint;
pub mod search;
pub mod space;
