//! What a decision costs: the walk of a new flow's first packet, and of the answer to it.

#[path = "../../dataplane/benches/harness/mod.rs"]
mod harness;
mod labs;

use std::hint::black_box;
use std::net::IpAddr;

use harness::Body;
use vnet_dataplane::{
    FiveTuple, FunctionId, NewSession, PacketMeta, PortPool, Protocol, SessionRecord, SessionTable, TcpFlags,
    Timeouts,
};
use vnet_fabric::{NoTrace, RuleId, SessionFound, SessionSide, SessionView, Verdict, converge, decide};

fn main() {
    harness::main(
        "fabric",
        &[
            Body { name: "decide-peering", build: || first(labs::Lab::Peering) },
            Body { name: "decide-firewall-10000", build: || first(labs::Lab::Firewall) },
            Body { name: "decide-firewall-10000-answer", build: || answer(labs::Lab::Firewall) },
            Body { name: "decide-nsg-1000", build: || first(labs::Lab::Secured) },
            Body { name: "decide-nsg-1000-answer", build: || answer(labs::Lab::Secured) },
        ],
    );
}

struct Sessions(SessionTable<Vec<SessionRecord>>);

impl SessionView for Sessions {
    fn find(&self, function: FunctionId, tuple: &FiveTuple) -> Option<SessionFound> {
        let found = self.0.find(function, tuple)?;
        let side = match found.side {
            vnet_dataplane::SessionSide::Original => SessionSide::Original,
            vnet_dataplane::SessionSide::Reply => SessionSide::Reply,
        };
        Some(SessionFound { side, original: found.original, reply: found.reply, rule: RuleId(found.rule) })
    }

    fn propose(&self, function: FunctionId, tuple: &FiveTuple, pool: &PortPool<'_>) -> Option<(IpAddr, u16)> {
        self.0.propose(function, tuple, pool)
    }
}

fn tuple(source_port: u16) -> FiveTuple {
    FiveTuple {
        protocol: Protocol::TCP,
        source: "10.1.0.4".parse().expect("an address"),
        destination: "10.2.0.4".parse().expect("an address"),
        source_port,
        destination_port: 443,
    }
}

fn meta(tuple: FiveTuple, flags: u8) -> PacketMeta {
    PacketMeta { tuple, tcp_flags: TcpFlags(flags), icmp: None, embedded: None, ttl: 64, length: 60 }
}

fn sessions() -> Sessions {
    Sessions(SessionTable::open_region(vec![SessionRecord::FREE; 1 << 16], Timeouts::default(), 7, 0))
}

fn first(lab: labs::Lab) -> Box<dyn FnMut()> {
    let snapshot = converge(&lab.topology()).1;
    let from = snapshot.port_by_name("ma/eth0").expect("the lab has it").id;
    let to = snapshot.port_by_name("mb/eth0").expect("the lab has it").id;
    let (sessions, mut number) = (sessions(), 0u16);
    Box::new(move || {
        number = number.wrapping_add(1);
        let packet = meta(tuple(number), TcpFlags::SYN);
        let decision = black_box(decide(&snapshot, &sessions, from, black_box(&packet), &mut NoTrace));
        assert_eq!(decision.verdict, Verdict::Deliver(to));
    })
}

fn answer(lab: labs::Lab) -> Box<dyn FnMut()> {
    let snapshot = converge(&lab.topology()).1;
    let from = snapshot.port_by_name("mb/eth0").expect("the lab has it").id;
    let mut sessions = sessions();
    for port in 0..10_000 {
        let packet = meta(tuple(port), TcpFlags::SYN);
        let asker = snapshot.port_by_name("ma/eth0").expect("the lab has it").id;
        let decision = decide(&snapshot, &sessions, asker, &packet, &mut NoTrace);
        for open in &decision.opens {
            let (function, tuple, rule) = (open.function, open.tuple, open.rule.0);
            let new = NewSession { function, tuple, rule, reply: open.reply, idle_minutes: 0 };
            sessions.0.open(&new, packet.tcp_flags, 1).expect("there is room");
        }
    }
    let mut number = 0u16;
    Box::new(move || {
        number = number.wrapping_add(7_919) % 10_000;
        let packet = meta(tuple(number).reversed(), TcpFlags::SYN | TcpFlags::ACK);
        let decision = black_box(decide(&snapshot, &sessions, from, black_box(&packet), &mut NoTrace));
        assert!(matches!(decision.verdict, Verdict::Deliver(_)));
    })
}
