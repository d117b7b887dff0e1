//! The progress of long work, for people who wait for it.

use std::io::IsTerminal;

use anyhow::anyhow;
use hyper::Method;
use vnet_api::{ApplyEvent, Progress, ProgressState};

use crate::client::Client;
use crate::output::duration;

fn word(state: ProgressState) -> Option<&'static str> {
    match state {
        ProgressState::Started | ProgressState::Unchanged => None,
        ProgressState::Created => Some("created"),
        ProgressState::Updated => Some("updated"),
        ProgressState::Removed => Some("removed"),
        ProgressState::Failed => Some("failed"),
        ProgressState::RolledBack => Some("taken back"),
    }
}

/// One short line for a step, if it is worth one.
fn line(step: &Progress) -> Option<String> {
    let word = word(step.state)?;
    let message = step.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
    Some(format!("  {} {word} ({}){message}", step.object, duration(step.ms)))
}

/// Follows a piece of long work to its end: steps go to standard error where that is a terminal.
pub(crate) async fn follow(
    client: &Client,
    method: Method,
    path: &str,
    body: Option<Vec<u8>>,
) -> anyhow::Result<ApplyEvent> {
    let shown = std::io::stderr().is_terminal();
    let mut end = None;
    client
        .stream(method, path, body, |event| {
            match event {
                ApplyEvent::Progress(step) if shown => {
                    if let Some(line) = line(&step) {
                        crate::output::tell(format_args!("{line}"));
                    }
                }
                ApplyEvent::Progress(_) => {}
                other => end = Some(other),
            }
            Ok(())
        })
        .await?;
    match end {
        Some(ApplyEvent::Error(body)) => Err(anyhow::Error::new(body)),
        Some(end) => Ok(end),
        None => Err(anyhow!("vnetd ended the work without a result; its log says why")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_one_short_line() {
        let step = Progress {
            object: "virtualMachine web".into(),
            state: ProgressState::Created,
            ms: 12,
            message: None,
        };
        assert_eq!(line(&step).as_deref(), Some("  virtualMachine web created (12 ms)"));
        assert_eq!(line(&Progress { state: ProgressState::Unchanged, ..step }), None);
    }
}
