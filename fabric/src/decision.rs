//! What a decision is made of: the contract between `decide` and those that act on it.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use vnet_dataplane::session::reply_to;
use vnet_dataplane::{ActionList, FiveTuple, FunctionId, PortId, PortPool, Reason, TunnelId};

use crate::trace::RuleId;

/// At most this many stateful functions lie on one folded way: two NSG points, two firewalls and two translations.
pub const FUNCTIONS_MAX: usize = 6;

/// Where a decision ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To the device behind a port.
    Deliver(PortId),
    /// Into a tunnel; what opens it at the other end is a new flow.
    Seal(TunnelId),
    /// Dropped, for exactly one reason.
    Drop(Reason),
}

/// The judgement on one packet, and by extension on the flow that it belongs to.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Where it ends.
    pub verdict: Verdict,
    /// The rule, route or check that made the verdict.
    pub decided_by: Option<RuleId>,
    /// The same as `verdict`, with everything that happens on the way; the last action is terminal.
    pub actions: ActionList,
    /// Sessions to open, if the verdict is not Drop.
    pub opens: ArrayVec<SessionOpen, FUNCTIONS_MAX>,
    /// Sessions that let the packet pass, each with the tuple as the function saw it, in the packet's own direction:
    /// the flow keeps them alive.
    pub passed: ArrayVec<(FunctionId, FiveTuple), FUNCTIONS_MAX>,
    /// Sessions that a rule change has ended (a firewall's; an NSG's never are).
    pub revoked: ArrayVec<(FunctionId, FiveTuple), FUNCTIONS_MAX>,
    /// NSG and firewall rules, defaults included, that this packet met as the first of its flow: one hit each.
    pub hits: ArrayVec<RuleId, { 2 * FUNCTIONS_MAX }>,
}

impl Decision {
    /// Of nothing yet.
    pub const fn new() -> Decision {
        Decision {
            verdict: Verdict::Drop(Reason::Internal),
            decided_by: None,
            actions: ActionList::new_const(),
            opens: ArrayVec::new_const(),
            passed: ArrayVec::new_const(),
            revoked: ArrayVec::new_const(),
            hits: ArrayVec::new_const(),
        }
    }

    pub(crate) fn clear(&mut self) {
        let Decision { verdict, decided_by, actions, opens, passed, revoked, hits } = self;
        (*verdict, *decided_by) = (Verdict::Drop(Reason::Internal), None);
        actions.clear();
        opens.clear();
        passed.clear();
        revoked.clear();
        hits.clear();
    }
}

impl Default for Decision {
    fn default() -> Decision {
        Decision::new()
    }
}

/// A session to be opened in a stateful function's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOpen {
    /// Whose session.
    pub function: FunctionId,
    /// The tuple as the function saw it, in the direction of the first packet.
    pub tuple: FiveTuple,
    /// For a translated session, the tuple with which replies arrive; none where it is `tuple` reversed.
    pub reply: Option<FiveTuple>,
    /// Minutes after which it goes when it is established and idle; 0 where the table's own time holds.
    pub idle_minutes: u8,
    /// The rule that allowed it.
    pub rule: RuleId,
}

impl SessionOpen {
    /// A session without translation, with the table's own timeouts.
    pub fn new(function: FunctionId, tuple: FiveTuple, rule: RuleId) -> SessionOpen {
        SessionOpen { function, tuple, reply: None, idle_minutes: 0, rule }
    }

    /// The tuple with which replies arrive.
    pub fn reply(&self) -> FiveTuple {
        self.reply.unwrap_or(self.tuple.reversed())
    }
}

/// Which way a packet runs in the session that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionSide {
    /// As the first packet did.
    Original,
    /// Against it.
    Reply,
}

/// A session that a packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionFound {
    /// The packet's direction in it.
    pub side: SessionSide,
    /// The tuple of the first packet.
    pub original: FiveTuple,
    /// The tuple of replies as they arrive: the original reversed, unless the session is translated.
    pub reply: FiveTuple,
    /// The rule that allowed it.
    pub rule: RuleId,
}

/// Read access to the sessions of all stateful functions. `decide` never writes: it says in the
/// [`Decision`] what to open.
pub trait SessionView {
    /// The session of `function` that a packet with this tuple belongs to, in either direction.
    fn find(&self, function: FunctionId, tuple: &FiveTuple) -> Option<SessionFound>;

    /// An address and port of the pool that a session of `function` beginning with `tuple` may leave with: towards its
    /// destination no other session of the function has them. `None` where every port is in use.
    fn propose(&self, function: FunctionId, tuple: &FiveTuple, pool: &PortPool<'_>) -> Option<(IpAddr, u16)>;
}

/// No session anywhere, as for a prediction of a first packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSessions;

impl SessionView for NoSessions {
    fn find(&self, _function: FunctionId, _tuple: &FiveTuple) -> Option<SessionFound> {
        None
    }

    fn propose(
        &self,
        _function: FunctionId,
        tuple: &FiveTuple,
        pool: &PortPool<'_>,
    ) -> Option<(IpAddr, u16)> {
        pool.in_order(tuple, 0).map(|address| (address, pool.first_port)).next()
    }
}

/// The sessions that earlier decisions would have opened: how a prediction asks for the reply.
impl SessionView for Vec<SessionOpen> {
    fn find(&self, function: FunctionId, tuple: &FiveTuple) -> Option<SessionFound> {
        self.iter().filter(|open| open.function == function).find_map(|open| {
            let side = if open.tuple == *tuple {
                SessionSide::Original
            } else if open.reply() == *tuple {
                SessionSide::Reply
            } else {
                return None;
            };
            Some(SessionFound { side, original: open.tuple, reply: open.reply(), rule: open.rule })
        })
    }

    /// The first one that is free.
    fn propose(&self, function: FunctionId, tuple: &FiveTuple, pool: &PortPool<'_>) -> Option<(IpAddr, u16)> {
        pool.in_order(tuple, 0)
            .flat_map(|address| (pool.first_port..=pool.last_port).map(move |port| (address, port)))
            .find(|(address, port)| self.find(function, &reply_to(tuple, *address, *port)).is_none())
    }
}
