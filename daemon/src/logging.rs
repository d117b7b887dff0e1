//! Structured logs: text for people, JSON for machines, journald under systemd.

use std::io::IsTerminal;
use std::str::FromStr;

use tracing::Subscriber;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

/// Where the log goes, and how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Journald where standard error leads there, else text.
    Auto,
    /// One line for people, on standard error.
    Text,
    /// One JSON object a line, on standard error.
    Json,
    /// The journal's own protocol, with fields.
    Journald,
}

/// Handle to change the filter while the daemon runs.
pub struct LogControl {
    filter: Box<dyn Fn(EnvFilter) -> anyhow::Result<()> + Send + Sync>,
}

impl LogControl {
    /// Puts a new filter into force, in the syntax of `RUST_LOG`.
    ///
    /// # Errors
    /// A filter that cannot be read; the old one stays.
    pub fn set_filter(&self, directives: &str) -> anyhow::Result<()> {
        (self.filter)(EnvFilter::from_str(directives)?)
    }
}

/// Whether standard error leads to the journal, as systemd says by `JOURNAL_STREAM=DEVICE:INODE`.
fn stderr_is_journal(journal_stream: Option<&str>) -> bool {
    let Some((device, inode)) = journal_stream.and_then(|stream| stream.split_once(':')) else {
        return false;
    };
    let Ok(stat) = nix::sys::stat::fstat(std::io::stderr()) else { return false };
    device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino)
}

fn layer<S>(format: LogFormat) -> anyhow::Result<Box<dyn Layer<S> + Send + Sync>>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let plain = || {
        tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
    };
    Ok(match format {
        LogFormat::Json => plain().json().flatten_event(true).boxed(),
        LogFormat::Journald => tracing_journald::layer()?.with_syslog_identifier("vnetd".into()).boxed(),
        LogFormat::Auto if stderr_is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref()) => {
            tracing_journald::layer()?.with_syslog_identifier("vnetd".into()).boxed()
        }
        LogFormat::Auto | LogFormat::Text => plain().with_target(false).boxed(),
    })
}

/// Starts logging for the whole process.
///
/// # Errors
/// A filter that cannot be read, a journal that is not there, or logging that was started before.
pub fn start(format: LogFormat, directives: &str) -> anyhow::Result<LogControl> {
    let (filter, handle) = reload::Layer::new(EnvFilter::from_str(directives)?);
    tracing_subscriber::registry().with(layer(format)?.with_filter(filter)).try_init()?;
    Ok(LogControl { filter: Box::new(move |filter| Ok(handle.reload(filter)?)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_journal_by_device_and_inode() {
        let stat = nix::sys::stat::fstat(std::io::stderr()).expect("standard error is open");
        assert!(stderr_is_journal(Some(&format!("{}:{}", stat.st_dev, stat.st_ino))));
        assert!(!stderr_is_journal(Some(&format!("{}:{}", stat.st_dev, stat.st_ino + 1))));
        assert!(!stderr_is_journal(Some("nonsense")));
        assert!(!stderr_is_journal(None));
    }

    #[test]
    fn a_filter_is_checked_and_changed() {
        let control = start(LogFormat::Json, "info").expect("nothing else logs in this test process");
        assert!(!tracing::enabled!(tracing::Level::DEBUG));
        control.set_filter("debug").expect("a level is a filter");
        assert!(tracing::enabled!(tracing::Level::DEBUG));
        assert!(control.set_filter("vnetd=loud").is_err());
        assert!(tracing::enabled!(tracing::Level::DEBUG));
        assert!(start(LogFormat::Text, "info").is_err());
    }
}
