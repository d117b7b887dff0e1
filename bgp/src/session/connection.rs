//! One TCP connection on its way to a session.

use std::net::Ipv4Addr;
use std::time::Duration;

use vnet_dataplane::Nanos;

use super::{ConnectionId, SessionConfig};
use crate::message::{Coding, Frame, Framer, Kind, Notification, Open, Update, refreshed, update};
use crate::types::Family;

/// Hold timer before the peer's OPEN is known (RFC 4271 section 8.2.2 suggests four minutes).
const OPEN_HOLD: Duration = Duration::from_secs(240);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    OpenSent,
    OpenConfirm,
    Established,
}

pub(super) enum Event {
    Opened,
    Established,
    Update(Update),
    Refresh(Family),
    Notification(Notification),
    Nothing,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) incoming: bool,
    pub(super) phase: Phase,
    pub(super) framer: Framer,
    pub(super) hold_at: Option<Nanos>,
    pub(super) peer_router_id: Ipv4Addr,
    pub(super) peer_refreshes: bool,
    pub(super) coding: Option<Coding>,
    hold: Duration,
    keepalive_at: Option<Nanos>,
}

impl Connection {
    pub(super) fn new(id: ConnectionId, incoming: bool, now: Nanos) -> Connection {
        Connection {
            id,
            incoming,
            phase: Phase::OpenSent,
            framer: Framer::default(),
            hold_at: Some(now + OPEN_HOLD),
            peer_router_id: Ipv4Addr::UNSPECIFIED,
            peer_refreshes: false,
            coding: None,
            hold: Duration::ZERO,
            keepalive_at: None,
        }
    }

    pub(super) fn deadline(&self) -> Option<Nanos> {
        self.hold_at.into_iter().chain(self.keepalive_at).min()
    }

    /// Whether a KEEPALIVE is to be sent; the next is then due a third of the hold time later.
    pub(super) fn keepalive_due(&mut self, now: Nanos) -> bool {
        let due = self.keepalive_at.is_some_and(|at| at <= now);
        if due {
            self.keepalive_at = Some(now + self.hold / 3);
        }
        due
    }

    /// What the next whole message means in this phase.
    pub(super) fn next_event(
        &mut self,
        config: &SessionConfig,
        now: Nanos,
    ) -> Result<Option<Event>, Notification> {
        let Some(frame) = self.framer.next_frame()? else { return Ok(None) };
        self.message(&frame, config, now).map(Some)
    }

    fn message(&mut self, frame: &Frame, config: &SessionConfig, now: Nanos) -> Result<Event, Notification> {
        if frame.kind == Kind::Notification {
            return Ok(Event::Notification(Notification::decode(&frame.body)));
        }
        match (self.phase, frame.kind) {
            (Phase::OpenSent, Kind::Open) => {
                self.open(&Open::decode(&frame.body)?, config, now)?;
                Ok(Event::Opened)
            }
            (Phase::OpenConfirm, Kind::Keepalive) => {
                self.phase = Phase::Established;
                self.heard(now);
                Ok(Event::Established)
            }
            (Phase::Established, Kind::Keepalive) => {
                self.heard(now);
                Ok(Event::Nothing)
            }
            (Phase::Established, Kind::Update) => {
                self.heard(now);
                let coding = self.coding.as_ref().expect("an established connection has had its OPEN");
                update::decode(&frame.body, coding).map(Event::Update)
            }
            (Phase::Established, Kind::RouteRefresh) => {
                let family = refreshed(&frame.body).filter(|family| {
                    self.coding.as_ref().is_some_and(|coding| coding.families.contains(family))
                });
                Ok(family.map_or(Event::Nothing, Event::Refresh))
            }
            (phase, kind) => {
                // RFC 6608: the type of what was not expected.
                let subcode = match phase {
                    Phase::OpenSent => 1,
                    Phase::OpenConfirm => 2,
                    Phase::Established => 3,
                };
                Err(Notification::new(5, subcode, &[kind as u8]))
            }
        }
    }

    fn open(&mut self, open: &Open, config: &SessionConfig, now: Nanos) -> Result<(), Notification> {
        if open.asn != config.peer_asn {
            return Err(Notification::new(2, 2, &[]));
        }
        self.phase = Phase::OpenConfirm;
        self.peer_router_id = open.router_id;
        self.peer_refreshes = open.route_refresh;
        let families = config.families.iter().filter(|family| open.families.contains(family));
        self.coding = Some(Coding {
            four_octet: open.four_octet,
            families: families.copied().collect(),
            neighbour: (config.peer_asn != config.local_asn).then_some(config.peer_asn),
        });
        self.hold = Duration::from_secs(u64::from(open.hold_time_s.min(config.hold_time_s)));
        self.heard(now);
        self.keepalive_at = (!self.hold.is_zero()).then(|| now + self.hold / 3);
        Ok(())
    }

    fn heard(&mut self, now: Nanos) {
        self.hold_at = (!self.hold.is_zero()).then(|| now + self.hold);
    }
}
