//! The key pairs of a lab's tunnel ends: drawn once, stored with the lab's state, never shown but by `gateway config`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use vnet_fabric::snapshot::{Snapshot, TunnelPeer, TunnelSpec};
use vnet_gateway::{ConnectionMode, PORT, PresharedKey, PrivateKey, TunnelConfig, TunnelKeys};
use vnet_router::TunnelSetup;
use zeroize::{Zeroize, Zeroizing};

/// An empty packet after this many seconds without one: it keeps translations on the way open and tells a peer that
/// went from one that is silent. Oftener where a peer counts as dead sooner.
const KEEPALIVE_S: u16 = 25;

/// Private keys in base64, by tunnel end.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Keys(BTreeMap<String, String>);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

impl Keys {
    /// The key of this end, drawn if it has none yet.
    pub(super) fn of(&mut self, end: &str) -> PrivateKey {
        if let Some(key) = self.get(end) {
            return key;
        }
        let bytes = Zeroizing::new(rand::random::<[u8; 32]>());
        let key = PrivateKey::from_bytes(*bytes);
        self.0.insert(end.to_owned(), key.to_base64().to_string());
        key
    }

    /// The key of this end, if it has one.
    pub(super) fn get(&self, end: &str) -> Option<PrivateKey> {
        self.0.get(end).and_then(|text| PrivateKey::from_base64(text).ok())
    }

    /// Forgets the keys of ends that the snapshot does not have.
    pub(super) fn retain(&mut self, snapshot: &Snapshot) {
        let names: Vec<String> =
            snapshot.tunnels().flat_map(|spec| [spec.name.to_string(), far_end(snapshot, spec)]).collect();
        self.0.retain(|end, key| {
            let is_known = names.contains(end);
            if !is_known {
                key.zeroize();
            }
            is_known
        });
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.0.values_mut().for_each(Zeroize::zeroize);
    }
}

/// Name of the end that a tunnel end talks to: one of the lab's, or that of a device which the user runs.
pub(super) fn far_end(snapshot: &Snapshot, spec: &TunnelSpec) -> String {
    match &spec.peer {
        TunnelPeer::Tunnel(id) => match snapshot.tunnel(*id) {
            Some(peer) => peer.name.to_string(),
            None => format!("{}/far", spec.name),
        },
        TunnelPeer::External(site) => format!("{site}/{}", spec.name),
        TunnelPeer::Missing => format!("{}/far", spec.name),
    }
}

/// The preshared key of a connection; a connection without a key has none.
pub(super) fn preshared(spec: &TunnelSpec) -> Option<PresharedKey> {
    spec.shared_key.0.as_deref().map(PresharedKey::from_shared_key)
}

/// What the router has to run for the snapshot's tunnels; ends that must not even try have keys, and nothing to run.
pub(super) fn setups(snapshot: &Snapshot, keys: &mut Keys) -> Vec<TunnelSetup> {
    for spec in snapshot.tunnels().filter(|spec| spec.is_held) {
        keys.of(&spec.name);
    }
    snapshot
        .tunnels()
        .filter(|spec| !spec.is_held)
        .map(|spec| {
            let far = keys.of(&far_end(snapshot, spec));
            TunnelSetup {
                local: SocketAddr::new(spec.local, PORT),
                config: TunnelConfig {
                    id: spec.id,
                    keys: TunnelKeys {
                        private_key: keys.of(&spec.name),
                        peer_public_key: far.public_key(),
                        preshared_key: preshared(spec),
                        keepalive_s: KEEPALIVE_S.min(spec.dead_peer_s / 3),
                    },
                    remote: SocketAddr::new(spec.remote, PORT),
                    roaming: spec.roaming,
                    dead_peer_s: spec.dead_peer_s,
                    mode: if spec.initiates {
                        ConnectionMode::Default
                    } else {
                        ConnectionMode::ResponderOnly
                    },
                },
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "a-secret-that-no-output-shows";

    fn snapshot(key: &str) -> Snapshot {
        let text = include_str!("../../../examples/hub-spoke.yaml");
        let line = text.lines().find(|line| line.contains("sharedKey:")).expect("the example has keys");
        let value = line.split("sharedKey:").nth(1).unwrap().trim().split([',', '}']).next().unwrap();
        let text = text.replacen(&format!("sharedKey: {value}"), &format!("sharedKey: {key}"), 1);
        let loaded = vnet_config::load_with(&text, "test.yaml", &vnet_config::Attachments::default())
            .expect("the file is accepted");
        vnet_fabric::converge(&loaded.topology).1
    }

    #[test]
    fn both_ends_of_a_tunnel_know_each_other() {
        let (snapshot, mut keys) = (snapshot(SECRET), Keys::default());
        let setups = setups(&snapshot, &mut keys);
        assert!(!setups.is_empty());
        for (setup, spec) in setups.iter().zip(snapshot.tunnels()) {
            let TunnelPeer::Tunnel(peer) = spec.peer else { continue };
            let other = setups.iter().find(|other| other.config.id == peer).expect("the peer is set up too");
            assert_eq!(setup.config.keys.peer_public_key, other.config.keys.private_key.public_key());
            assert_eq!(setup.config.remote, other.local);
        }
        assert_eq!(super::setups(&snapshot, &mut keys), setups, "keys are drawn once");
        keys.retain(&Snapshot::default());
        assert!(keys.0.is_empty());
    }

    #[test]
    fn another_shared_key_changes_its_tunnel_alone() {
        let mut keys = Keys::default();
        let before = setups(&snapshot("one"), &mut keys);
        let after = setups(&snapshot("two"), &mut keys);
        let changed = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        assert!(changed > 0 && changed < before.len(), "{changed} of {} tunnel ends", before.len());
    }

    #[test]
    fn nothing_prints_a_key() {
        let (snapshot, mut keys) = (snapshot(SECRET), Keys::default());
        let setups = setups(&snapshot, &mut keys);
        let printed = format!("{snapshot:?} {setups:?} {keys:?}");
        assert!(!printed.contains(SECRET));
        for key in keys.0.values() {
            assert!(!printed.contains(key.as_str()));
        }
    }
}
