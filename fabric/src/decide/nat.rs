//! NAT rules at a tunnel's end: sources of packets in a rule's direction, and destinations of packets against it.

use vnet_dataplane::{Protocol, Reason};

use super::translate::Translator;
use super::{Next, Walk};
use crate::azure_rule::AzureRule;
use crate::decision::{SessionSide, SessionView};
use crate::snapshot::nat::{NatKind, NatPool, NatRule, image};
use crate::trace::Trace;

impl<'a, S: SessionView, T: Trace> Walk<'a, S, T> {
    /// Gives the source its external address, by the first rule that holds for it. A drop where a dynamic one has none.
    pub(super) fn nat_source(&mut self, rules: &'a [NatRule], at: &'a str) -> Option<Next> {
        for rule in rules {
            let (address, port) = (self.flow_source(), self.source_port());
            match &rule.kind {
                NatKind::Static(pairs) => {
                    let pair = pairs.iter().find(|pair| pair.internal.holds(address, port));
                    if let Some(pair) = pair {
                        let (address, port) = image(&pair.internal, &pair.external, address, port);
                        self.rewrite_source(translator(rule, None, at), address, port);
                        return None;
                    }
                }
                NatKind::Dynamic { function, internal, pools } => {
                    if internal.iter().any(|range| range.holds(address, port)) {
                        return self.bind_source(translator(rule, Some(*function), at), pools);
                    }
                }
            }
        }
        None
    }

    /// By the session that is there, or by a new one.
    fn bind_source(&mut self, translator: Translator<'a>, pools: &[NatPool]) -> Option<Next> {
        if let Some(found) =
            self.session(translator.function).filter(|found| found.side == SessionSide::Original)
        {
            self.source_by(translator, &found);
            return None;
        }
        let tuple = self.tuple;
        if self.embedded.is_some() || tuple.protocol == Protocol::TCP && !self.packet.opens() {
            return Some(self.drop(Reason::AsymmetricReturn, translator.rule, translator.at, || {
                format!("the rule has no session for {tuple}, which opens none")
            }));
        }
        if !self.has_ports() && !tuple.protocol.is_icmp() {
            let protocol = tuple.protocol;
            return Some(self.drop(Reason::ProtocolNotSupported, translator.rule, translator.at, || {
                format!("the rule translates by ports, which {protocol} lacks")
            }));
        }
        let own_family = pools.iter().filter(|pool| pool.net.addr().is_ipv4() == tuple.source.is_ipv4());
        for pool in own_family {
            if self.bind(translator, &pool.ports()) {
                return None;
            }
        }
        Some(self.drop(Reason::SnatPortsExhausted, translator.rule, translator.at, || {
            format!("the rule has no port left towards {}", tuple.destination)
        }))
    }

    /// Gives the destination its internal address back. A drop where it is a dynamic rule's and the packet answers no session.
    pub(super) fn nat_destination(&mut self, rules: &'a [NatRule], at: &'a str) -> Option<Next> {
        let mut unanswered = None;
        for rule in rules {
            let (address, port) = (self.tuple.destination, self.destination_port());
            match &rule.kind {
                NatKind::Static(pairs) => {
                    let pair = pairs.iter().find(|pair| pair.external.holds(address, port));
                    if let Some(pair) = pair {
                        let (address, port) = image(&pair.external, &pair.internal, address, port);
                        self.rewrite_destination(translator(rule, None, at), address, port);
                        return None;
                    }
                }
                NatKind::Dynamic { function, pools, .. } => {
                    if pools.iter().any(|pool| pool.net.contains(&address)) {
                        let translator = translator(rule, Some(*function), at);
                        if let Some(found) = self.answered(*function) {
                            self.destination_by(translator, &found);
                            return None;
                        }
                        unanswered = Some(translator.rule);
                    }
                }
            }
        }
        let tuple = self.tuple;
        unanswered.map(|rule| {
            self.drop(Reason::AsymmetricReturn, rule, at, || {
                format!("{tuple} answers no session of the dynamic rule: they begin on its internal side")
            })
        })
    }

    /// Whether the traffic selectors of a tunnel let a packet between these two pass.
    pub(super) fn check_selectors(
        &mut self,
        tunnel: &'a crate::snapshot::network::Tunnel,
        at: &str,
        (local, remote): (std::net::IpAddr, std::net::IpAddr),
    ) -> Option<Next> {
        let selectors = tunnel.selectors.as_ref().filter(|selectors| !selectors.carry(local, remote))?;
        let pairs = selectors.0.len();
        let rule = self.snapshot.check(AzureRule::VpnSelectors);
        Some(self.drop(Reason::PrefixNotAllowed, rule, at, || {
            let among = if pairs == 1 {
                "the traffic selector".to_owned()
            } else {
                format!("any of the {pairs} traffic selectors")
            };
            format!("{local} <-> {remote} is not of {among} of connection {}", tunnel.spec.connection)
        }))
    }
}

/// A static rule has no function: it opens no session.
fn translator<'a>(
    rule: &'a NatRule,
    function: Option<vnet_dataplane::FunctionId>,
    at: &'a str,
) -> Translator<'a> {
    let function = function.unwrap_or(vnet_dataplane::FunctionId(u32::MAX));
    Translator { function, at, rule: rule.rule, session_rule: rule.rule, idle_minutes: 0 }
}
