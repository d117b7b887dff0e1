//! Sessions that a prediction meets: those that stand already, and those that its own packets have opened.

use std::collections::HashMap;
use std::net::IpAddr;

use vnet_dataplane::session::reply_to;
use vnet_dataplane::{FiveTuple, FunctionId, PortPool};

use crate::decision::{SessionFound, SessionOpen, SessionSide, SessionView};

/// The sessions of all stateful functions at one moment, as data: what a router knows of the flows that live.
#[derive(Clone, Debug, Default)]
pub struct StandingSessions(HashMap<(FunctionId, FiveTuple), SessionOpen>);

impl FromIterator<SessionOpen> for StandingSessions {
    fn from_iter<I: IntoIterator<Item = SessionOpen>>(sessions: I) -> StandingSessions {
        let both = |open: SessionOpen| {
            [open.tuple, open.reply()].map(|tuple| ((open.function, tuple), open)).into_iter()
        };
        StandingSessions(sessions.into_iter().flat_map(both).collect())
    }
}

/// The side of a packet with this tuple in a session, if it belongs to it.
fn found(open: &SessionOpen, tuple: &FiveTuple) -> Option<SessionFound> {
    let reply = open.reply();
    let side = if open.tuple == *tuple {
        SessionSide::Original
    } else if reply == *tuple {
        SessionSide::Reply
    } else {
        return None;
    };
    Some(SessionFound { side, original: open.tuple, reply, rule: open.rule })
}

/// What one prediction knows.
#[derive(Debug, Default)]
pub(super) struct Known<'s> {
    standing: Option<&'s StandingSessions>,
    opened: Vec<SessionOpen>,
}

impl<'s> Known<'s> {
    pub(super) fn new(standing: &'s StandingSessions) -> Known<'s> {
        Known { standing: Some(standing), opened: Vec::new() }
    }

    /// Takes note of a session that a packet of the prediction has opened.
    pub(super) fn open(&mut self, open: SessionOpen) {
        self.opened.push(open);
    }
}

impl SessionView for Known<'_> {
    fn find(&self, function: FunctionId, tuple: &FiveTuple) -> Option<SessionFound> {
        let own = self.opened.iter().filter(|open| open.function == function);
        own.into_iter().find_map(|open| found(open, tuple)).or_else(|| {
            let standing = self.standing?.0.get(&(function, *tuple))?;
            found(standing, tuple)
        })
    }

    /// The first one that is free.
    fn propose(&self, function: FunctionId, tuple: &FiveTuple, pool: &PortPool<'_>) -> Option<(IpAddr, u16)> {
        pool.in_order(tuple, 0)
            .flat_map(|address| (pool.first_port..=pool.last_port).map(move |port| (address, port)))
            .find(|(address, port)| self.find(function, &reply_to(tuple, *address, *port)).is_none())
    }
}
