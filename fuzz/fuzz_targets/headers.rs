//! Any frame is parsed, edited, cut and answered, or found malformed; what comes of a sound packet is sound.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vnet_dataplane::{Action, ChecksumState, Headers, IcmpError, Offload, VnetHeader, fragment, gso, icmp, rewrite};

const EDITS: [Action; 4] = [
    Action::RewriteSource { address: std::net::IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1)), port: Some(1_024) },
    Action::RewriteDestination { address: std::net::IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), port: Some(1_025) },
    Action::ClampMss { ipv4: 1_360, ipv6: 1_340 },
    Action::DecrementTtl { answer_from: None },
];

fuzz_target!(|frame: &[u8]| {
    let Ok((vnet, packet)) = VnetHeader::read(frame) else { return };
    let Ok(mut headers) = Headers::parse(packet) else { return };
    assert!(headers.len() <= packet.len(), "a packet is longer than what came");
    let Ok(mut offload) = Offload::read(&vnet, &headers) else { return };
    let mut packet = packet[..headers.len()].to_vec();
    let mut room = vec![0; 70_000];

    for error in [IcmpError::TimeExceeded, IcmpError::PacketTooBig { mtu: 1_400 }] {
        let from = headers.tuple().destination;
        if let Some(length) = icmp::build_error(error, from, &packet, &headers, &mut room) {
            Headers::parse(&room[..length]).expect("an error that is sent is sound");
        }
    }
    for edit in &EDITS {
        if rewrite::apply(edit, &mut packet, &mut headers, offload.checksum).is_err() {
            return;
        }
    }
    let again = Headers::parse(&packet).expect("an edited packet is as sound as before");
    assert_eq!(again.len(), headers.len(), "an edit changed the length");
    assert_eq!(again.tuple(), headers.tuple(), "an edit and the headers tell different tuples");

    gso::for_each_segment(&packet, &headers, offload, &mut room, |segment| {
        Headers::parse(segment).expect("a segment is sound");
    });
    if offload.gso.is_none() {
        offload.finish_checksum(&mut packet, &headers);
        assert!(offload.checksum == ChecksumState::Complete, "a completed checksum is not complete");
        let mut whole = 0;
        let cut = fragment::fragment_ipv4(&packet, &headers, 576, &mut room, |piece| {
            whole += 1;
            Headers::parse(piece).expect("a fragment is sound");
        });
        assert!(cut.is_err() || cut == Ok(whole), "fragments were miscounted");
    }
});
