//! The way to a destination, as traceroute finds it: ICMP echo requests with few hops each.

use std::net::IpAddr;
use std::time::Duration;

use super::{Deadline, Echo, Outcome};
use crate::host::error::{Context, Result};
use crate::host::netns::Netns;

/// One line of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// How many hops the request had, from 1.
    pub hops: u8,
    /// Who answered; none where nobody did.
    pub by: Option<IpAddr>,
    /// When the answer came.
    pub after: Option<Duration>,
    /// The answer was the destination's own.
    pub is_destination: bool,
}

/// Traces the way from inside `ns`. All requests leave at once, so that hops that never answer cost one deadline together;
/// each is a flow of its own. The list ends with the destination, or at `hops_max`.
///
/// # Errors
/// Where no socket or thread can be made, or the kernel fails.
pub fn trace(
    ns: &Netns,
    source: Option<IpAddr>,
    destination: IpAddr,
    hops_max: u8,
    deadline: &Deadline,
) -> Result<Vec<Hop>> {
    let mut lines = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for hops in 1..=hops_max {
            let thread = std::thread::Builder::new()
                .name("trace".into())
                .spawn_scoped(scope, move || probe(ns, source, destination, hops, deadline))
                .on("start", "a thread")?;
            threads.push(thread);
        }
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Result<Vec<_>>>()
    })?;
    if let Some(end) = lines.iter().position(|hop| hop.is_destination) {
        lines.truncate(end + 1);
    }
    Ok(lines)
}

fn probe(
    ns: &Netns,
    source: Option<IpAddr>,
    destination: IpAddr,
    hops: u8,
    deadline: &Deadline,
) -> Result<Hop> {
    let silent = Hop { hops, by: None, after: None, is_destination: false };
    let Ok(echo) = Echo::open(ns, source, destination)? else { return Ok(silent) };
    echo.set_hops_max(hops)?;
    Ok(match echo.send(u16::from(hops), 32, deadline)?.outcome {
        Outcome::Answered(rtt) => {
            Hop { by: Some(destination), after: Some(rtt), is_destination: true, ..silent }
        }
        Outcome::TtlExceeded { by, after } => Hop { by: Some(by), after: Some(after), ..silent },
        Outcome::Unreachable { by, .. } | Outcome::TooBig { by, .. } => Hop { by, ..silent },
        _ => silent,
    })
}
