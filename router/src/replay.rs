//! Carries out what was decided, action by action. A packet of a plain flow passes here without a lock, an allocation
//! or a look at the clock.

use vnet_dataplane::{
    Action, Headers, IpVersion, Nanos, Offload, Reason, VNET_HEADER_LEN, fragment, rewrite,
};

use crate::answers::Answer;
use crate::core::{Core, Packet};
use crate::departures::{Stages, Way};
use crate::output::Output;

impl Core {
    /// Carries out `actions` on a packet.
    pub(crate) fn replay(
        &mut self,
        packet: &mut Packet<'_>,
        actions: &[Action],
        now: Nanos,
        out: &mut impl Output,
    ) {
        self.replay_behind(Stages::default(), packet, actions, now, out);
    }

    /// Carries out `actions` on a packet that passes `stages` before.
    fn replay_behind(
        &mut self,
        mut stages: Stages,
        packet: &mut Packet<'_>,
        actions: &[Action],
        now: Nanos,
        out: &mut impl Output,
    ) {
        for (index, action) in actions.iter().enumerate() {
            match *action {
                Action::Count(counter) => self.ledger.count(counter, packet.packets, packet.bytes),
                Action::DecrementTtl { answer_from } => {
                    let Packet { frame, headers, .. } = packet;
                    if !rewrite::decrement_ttl(&mut frame[VNET_HEADER_LEN..], headers) {
                        self.lose(packet, Reason::TtlExceeded, now);
                        if let Some(hop) = answer_from {
                            self.answer(packet, hop, Answer::TimeExceeded, now, out);
                        }
                        return;
                    }
                }
                Action::RewriteSource { .. }
                | Action::RewriteDestination { .. }
                | Action::ClampMss { .. } => {
                    let checksum = packet.offload.checksum;
                    let Packet { frame, headers, .. } = packet;
                    if let Err(reason) =
                        rewrite::apply(action, &mut frame[VNET_HEADER_LEN..], headers, checksum)
                    {
                        self.lose(packet, reason, now);
                        return;
                    }
                }
                Action::LimitMtu { mtu, answer_from } => {
                    if packet.offload.wire_len_max(&packet.headers) <= usize::from(mtu) {
                        continue;
                    }
                    if packet.headers.version == IpVersion::V6 || packet.headers.dont_fragment {
                        self.lose(packet, Reason::PacketTooBig, now);
                        self.answer(packet, answer_from, Answer::PacketTooBig(mtu), now, out);
                    } else {
                        self.fragment(packet, mtu, stages, &actions[index + 1..], now, out);
                    }
                    return;
                }
                Action::RefuseFragments => {
                    if packet.headers.is_fragment() {
                        self.lose(packet, Reason::ProtocolNotSupported, now);
                        return;
                    }
                }
                Action::Shape(limiter) => {
                    if !stages.shape(limiter) {
                        break;
                    }
                }
                Action::Delay(line) => {
                    if !stages.delay(self.departures.delay_ns(line)) {
                        break;
                    }
                }
                end @ (Action::Seal(_) | Action::Proxy(_) | Action::Deliver(_)) if !stages.is_empty() => {
                    return self.pass(packet, Way::new(&stages, end), now, now, out);
                }
                end @ (Action::Seal(_) | Action::Proxy(_) | Action::Deliver(_) | Action::Drop(_)) => {
                    return self.end(packet, end, now, out);
                }
            }
        }
        // A list without an end, or with too many limiters, is a fault of whoever made it.
        self.lose(packet, Reason::Internal, now);
    }

    /// Drops a packet on its way.
    pub(crate) fn lose(&self, packet: &Packet<'_>, reason: Reason, now: Nanos) {
        self.refuse(packet.ingress, Some(packet.headers.meta.tuple), reason, None, packet.packets, now);
    }

    /// Splits a packet that is too large for the next link (RFC 791), and goes on with the fragments.
    fn fragment(
        &mut self,
        packet: &mut Packet<'_>,
        mtu: u16,
        stages: Stages,
        rest: &[Action],
        now: Nanos,
        out: &mut impl Output,
    ) {
        let ip = &mut packet.frame[VNET_HEADER_LEN..];
        packet.offload.finish_checksum(ip, &packet.headers);
        let (mut pieces, mut bytes) = (0, 0);
        let mut room = std::mem::take(&mut self.scratch);
        let (frame, scratch) = room.split_at_mut(VNET_HEADER_LEN + usize::from(u16::MAX) / 2);
        let ip = &packet.frame[VNET_HEADER_LEN..];
        let outcome = fragment::fragment_ipv4(ip, &packet.headers, usize::from(mtu), scratch, |piece| {
            let Some(frame) = frame.get_mut(..VNET_HEADER_LEN + piece.len()) else { return };
            frame[..VNET_HEADER_LEN].fill(0);
            frame[VNET_HEADER_LEN..].copy_from_slice(piece);
            let Ok(mut headers) = Headers::parse(piece) else { return };
            headers.meta.tuple = packet.headers.meta.tuple;
            let length = piece.len() as u64;
            (pieces, bytes) = (pieces + 1, bytes + length);
            let mut piece = Packet {
                ingress: packet.ingress,
                frame,
                headers,
                offload: Offload::NONE,
                packets: 1,
                bytes: length,
            };
            self.replay_behind(stages.clone(), &mut piece, rest, now, out);
        });
        self.scratch = room;
        match outcome {
            Ok(_) => self
                .ledger
                .made(u64::saturating_sub(pieces, packet.packets), u64::saturating_sub(bytes, packet.bytes)),
            Err(_) => self.lose(packet, Reason::PacketTooBig, now),
        }
    }
}
