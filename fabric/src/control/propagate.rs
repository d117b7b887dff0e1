//! What gateways of the lab learn of each other by BGP, once every session stands and nothing moves any more: what a daemon's
//! speakers come to. Devices that a user runs tell nothing here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::LearnedRoute;
use crate::snapshot::Snapshot;
use crate::snapshot::bgp::{BgpPeer, BgpSpeaker};

/// One way to a prefix, as a speaker has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Path {
    as_path: Vec<u32>,
    peer: IpAddr,
    internal: bool,
}

type Table = BTreeMap<IpNet, Vec<Path>>;

/// The routes of each gateway. Rounds go on until nothing changes: a path is as long as the number of its gateways at most.
pub(super) fn settled(snapshot: &Snapshot) -> BTreeMap<String, Arc<Vec<LearnedRoute>>> {
    let speakers: Vec<&BgpSpeaker> = snapshot.bgp_speakers().collect();
    let mut tables = vec![Table::new(); speakers.len()];
    for _ in 0..=speakers.len() {
        let next: Vec<Table> =
            speakers.iter().map(|speaker| hear(snapshot, speaker, &speakers, &tables)).collect();
        if next == tables {
            break;
        }
        tables = next;
    }
    let mut learned: BTreeMap<String, Vec<LearnedRoute>> = BTreeMap::new();
    for (speaker, table) in speakers.iter().zip(&tables) {
        let routes = learned.entry(speaker.gateway.to_string()).or_default();
        for (prefix, paths) in table {
            for path in paths {
                let way = speaker.peer(path.peer).and_then(|peer| peer.way.as_ref());
                routes.extend(way.map(|way| LearnedRoute {
                    prefix: *prefix,
                    connection: way.connection.to_string(),
                    tunnel: way.tunnel.to_string(),
                    peer: path.peer,
                    as_path: path.as_path.clone(),
                }));
            }
        }
    }
    learned.into_iter().map(|(gateway, routes)| (gateway, Arc::new(routes))).collect()
}

/// What a speaker chooses of all that its peers have chosen the round before.
fn hear(snapshot: &Snapshot, speaker: &BgpSpeaker, speakers: &[&BgpSpeaker], tables: &[Table]) -> Table {
    let mut heard = Table::new();
    for peer in speaker.peers.iter().filter(|peer| stands(snapshot, peer)) {
        let other = speakers.iter().zip(tables).find_map(|(other, table)| {
            let back = other.peer(peer.local).filter(|back| back.local == peer.address)?;
            stands(snapshot, back).then_some((*other, back, table))
        });
        let Some((other, back, table)) = other else { continue };
        for (prefix, as_path) in told(other, back, table) {
            if speaker.takes(&prefix) && !as_path.contains(&speaker.asn) {
                let path = Path { as_path, peer: peer.address, internal: peer.way.is_none() };
                heard.entry(prefix).or_default().push(path);
            }
        }
    }
    for paths in heard.values_mut() {
        let key = |path: &Path| (path.as_path.len(), path.internal);
        let best = paths.iter().map(key).min();
        paths.retain(|path| Some(key(path)) == best);
        paths.sort_by_key(|path| path.peer);
    }
    // The own routes win.
    heard.retain(|prefix, _| !speaker.originated.iter().any(|own| own.prefix == *prefix));
    heard
}

fn stands(snapshot: &Snapshot, peer: &BgpPeer) -> bool {
    peer.way.as_ref().is_none_or(|way| {
        snapshot
            .tunnels()
            .find(|tunnel| tunnel.name == way.tunnel)
            .is_some_and(|tunnel| tunnel.status.carries())
    })
}

/// What a speaker tells a peer: prefix and path.
fn told(speaker: &BgpSpeaker, peer: &BgpPeer, table: &Table) -> Vec<(IpNet, Vec<u32>)> {
    let own = speaker.originated.iter().filter(|own| speaker.tells_own(peer, &own.prefix));
    let mut told: Vec<(IpNet, Vec<u32>)> = own.map(|own| (own.prefix, vec![speaker.asn])).collect();
    for (prefix, paths) in table {
        // The first of equal ones is told, and not back to where it came from.
        let Some(path) = paths.first().filter(|path| path.peer != peer.address) else { continue };
        match peer.way {
            None if !path.internal => told.push((*prefix, path.as_path.clone())),
            Some(_) if speaker.passes_on(peer, prefix) => {
                told.push((*prefix, [&[speaker.asn], path.as_path.as_slice()].concat()));
            }
            _ => {}
        }
    }
    told
}
