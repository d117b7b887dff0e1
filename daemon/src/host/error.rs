//! What went wrong between the daemon and the kernel.

use std::fmt::Display;
use std::io;

/// A failed operation on the host, with what was being done and to what.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A system call or a file operation failed.
    #[error("cannot {action} {object}: {source}")]
    Io {
        /// What was attempted, as a verb phrase: `create namespace`.
        action: &'static str,
        /// The thing it was attempted on.
        object: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused a netlink request.
    #[error("the kernel refused to {action} {object}: {source}")]
    Netlink {
        /// What was asked for: `add address`.
        action: &'static str,
        /// The thing it was asked for.
        object: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel's answer could not be read.
    #[error("the kernel's answer to {action} could not be read: {detail}")]
    Protocol {
        /// What was asked for.
        action: &'static str,
        /// What was wrong with the answer.
        detail: String,
    },
    /// A device or namespace is not in the state that the daemon asked for.
    #[error("{object} is not as asked for: {detail}")]
    Mismatch {
        /// The device or namespace.
        object: String,
        /// Found and wanted.
        detail: String,
    },
    /// A value that the caller passed can't be used.
    #[error("{0}")]
    Invalid(String),
    /// Another process holds what only one may hold.
    #[error("{object} is in use by another process{}", .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    Busy {
        /// The thing that is held.
        object: String,
        /// The holder, where it is known.
        pid: Option<u32>,
    },
    /// Something did not happen within its time.
    #[error("{what} took longer than {limit_ms} ms")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long it was waited for, in milliseconds.
        limit_ms: u64,
    },
}

/// The result of an operation on the host.
pub type Result<T> = std::result::Result<T, HostError>;

impl HostError {
    /// The kernel's error number, where there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } | Self::Netlink { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Whether the daemon lacked the right to do it.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self.errno(), Some(libc::EPERM | libc::EACCES))
    }

    /// Whether the operation failed because the thing is not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::ENOENT | libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENXIO)
        )
    }
}

/// Adds to a kernel error what was being done when it came.
pub(crate) trait Context<T> {
    /// Names the action and its object.
    fn on(self, action: &'static str, object: impl Display) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn on(self, action: &'static str, object: impl Display) -> Result<T> {
        self.map_err(|error| HostError::Io { action, object: object.to_string(), source: error.into() })
    }
}
