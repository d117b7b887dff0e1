//! Translation of addresses and ports: by a session that is there, or by a new binding to a pool.

use std::net::IpAddr;

use vnet_dataplane::session::reply_to;
use vnet_dataplane::{Action, FiveTuple, FunctionId, PortPool};

use super::Walk;
use crate::decision::{SessionFound, SessionOpen, SessionSide, SessionView};
use crate::trace::{RuleId, StepKind, Trace};

/// Who translates, as the explanation names it.
#[derive(Clone, Copy)]
pub(super) struct Translator<'a> {
    pub(super) function: FunctionId,
    pub(super) at: &'a str,
    pub(super) rule: RuleId,
    /// The rule that sessions keep: a firewall's is the one that allowed the flow.
    pub(super) session_rule: RuleId,
    /// Minutes after which an idle session goes; 0 where the table's own time holds.
    pub(super) idle_minutes: u8,
}

impl<'a, S: SessionView, T: Trace> Walk<'a, S, T> {
    /// The session of a function that the packet belongs to.
    pub(super) fn session(&self, function: FunctionId) -> Option<SessionFound> {
        self.sessions.find(function, &self.flow())
    }

    /// The session that the packet answers.
    pub(super) fn answered(&self, function: FunctionId) -> Option<SessionFound> {
        self.session(function).filter(|found| found.side == SessionSide::Reply)
    }

    /// A packet that leaves by a session: its source becomes what the other end knows.
    pub(super) fn source_by(&mut self, translator: Translator<'a>, found: &SessionFound) {
        self.pass_by_session(translator.function, found.original);
        let (address, port) = match found.side {
            SessionSide::Original => (found.reply.destination, found.reply.destination_port),
            SessionSide::Reply => (found.original.destination, found.original.destination_port),
        };
        self.rewrite_source(translator, address, port);
    }

    /// A packet that comes in by a session: its destination becomes the one behind the translation.
    pub(super) fn destination_by(&mut self, translator: Translator<'a>, found: &SessionFound) {
        self.pass_by_session(translator.function, found.original);
        let (address, port) = match found.side {
            SessionSide::Original => (found.reply.source, found.reply.source_port),
            SessionSide::Reply => (found.original.source, found.original.source_port),
        };
        self.rewrite_destination(translator, address, port);
    }

    /// A new session that leaves with an address and port of the pool; false where none is free.
    pub(super) fn bind(&mut self, translator: Translator<'a>, pool: &PortPool<'_>) -> bool {
        let tuple = self.tuple;
        let Some((address, port)) = self.sessions.propose(translator.function, &tuple, pool) else {
            return false;
        };
        self.open_translated(translator, Some(reply_to(&tuple, address, port)));
        self.rewrite_source(translator, address, port);
        true
    }

    /// A new session by which an address stands for the source, port for port.
    pub(super) fn stand_for_source(&mut self, translator: Translator<'a>, address: IpAddr) {
        let reply = FiveTuple { destination: address, ..self.tuple.reversed() };
        self.open_translated(translator, Some(reply));
        let port = self.source_port();
        self.rewrite_source(translator, address, port);
    }

    /// A new session by which an address stands for the destination, port for port.
    pub(super) fn stand_for_destination(&mut self, translator: Translator<'a>, address: IpAddr) {
        let reply = FiveTuple { source: address, ..self.tuple.reversed() };
        self.open_translated(translator, Some(reply));
        let port = self.destination_port();
        self.rewrite_destination(translator, address, port);
    }

    fn open_translated(&mut self, translator: Translator<'a>, reply: Option<FiveTuple>) {
        let Translator { function, session_rule, idle_minutes, .. } = translator;
        self.add_session(SessionOpen {
            function,
            tuple: self.tuple,
            reply,
            idle_minutes,
            rule: session_rule,
        });
    }

    /// The port that the source side of the flow has: of an ICMP error, the destination port of what it quotes.
    pub(super) fn source_port(&self) -> u16 {
        self.embedded.map_or(self.tuple.source_port, |quoted| quoted.destination_port)
    }

    pub(super) fn destination_port(&self) -> u16 {
        self.embedded.map_or(self.tuple.destination_port, |quoted| quoted.source_port)
    }

    pub(super) fn rewrite_source(&mut self, translator: Translator<'a>, address: IpAddr, port: u16) {
        let before = (self.flow_source(), self.source_port());
        if before == (address, port) {
            return;
        }
        let changed = (port != before.1).then_some(port);
        self.act(Action::RewriteSource { address, port: changed });
        self.tuple.source = address;
        match &mut self.embedded {
            Some(quoted) => {
                quoted.destination = address;
                set_ports(quoted, None, changed);
            }
            None => set_ports(&mut self.tuple, changed, None),
        }
        let protocol = self.flow().protocol;
        self.note(StepKind::Translate, Some(translator.rule), translator.at, || match changed {
            Some(port) if !protocol.is_icmp() => {
                format!("the source {}:{} becomes {address}:{port}", before.0, before.1)
            }
            _ => format!("the source {} becomes {address}", before.0),
        });
    }

    pub(super) fn rewrite_destination(&mut self, translator: Translator<'a>, address: IpAddr, port: u16) {
        let before = (self.tuple.destination, self.destination_port());
        if before == (address, port) {
            return;
        }
        let changed = (port != before.1).then_some(port);
        self.act(Action::RewriteDestination { address, port: changed });
        self.tuple.destination = address;
        match &mut self.embedded {
            Some(quoted) => {
                quoted.source = address;
                set_ports(quoted, changed, None);
            }
            None => set_ports(&mut self.tuple, None, changed),
        }
        let protocol = self.flow().protocol;
        self.note(StepKind::Translate, Some(translator.rule), translator.at, || match changed {
            Some(port) if !protocol.is_icmp() => {
                format!("the destination {}:{} becomes {address}:{port}", before.0, before.1)
            }
            _ => format!("the destination {} becomes {address}", before.0),
        });
    }

    /// The source of the packet's own direction, as its flow has it: an ICMP error may come from a router on the way.
    pub(super) fn flow_source(&self) -> IpAddr {
        self.embedded.map_or(self.tuple.source, |quoted| quoted.destination)
    }
}

/// An ICMP identifier stands on both sides.
fn set_ports(tuple: &mut FiveTuple, source: Option<u16>, destination: Option<u16>) {
    let either = source.or(destination).filter(|_| tuple.protocol.is_icmp());
    if let Some(port) = source.or(either) {
        tuple.source_port = port;
    }
    if let Some(port) = destination.or(either) {
        tuple.destination_port = port;
    }
}
