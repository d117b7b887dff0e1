//! The HTTP API over a Unix socket.

pub mod backend;
pub mod error;

pub use backend::{Answer, Backend, ExecFailure, Execution};
pub use error::ApiError;
