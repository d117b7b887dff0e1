//! A lab's way out by the host's own network: a veth pair between the `internet` namespace and the host's, with
//! translation at both ends, so that no address of the lab is ever seen outside.
//!
//! All of it carries the lab's name: the table `vnet.LAB` in the host's namespace, and the device. What the host did not
//! forward before is taken note of in a table of its own, `vnet_forwarding_DEVICE`, so that the last lab restores it
//! whoever ran in between; both end with the machine, as the setting does.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::error::{HostError, Result};
use super::link::{self, LinkSpec, RouteSpec};
use super::netlink::Netlink;
use super::netns::Netns;
use super::nft::{self, Chain, Condition, Rule};
use super::sysctl;

/// The device in the `internet` namespace.
const INSIDE_DEVICE: &str = "host0";
/// The table in the `internet` namespace, which goes with it.
const INSIDE_TABLE: &str = "vnet";
const TABLE_PREFIX: &str = "vnet.";
const FORWARDING_PREFIX: &str = "vnet_forwarding_";
/// Bytes of a device's name.
const DEVICE_NAME_MAX: usize = 15;
/// Links are /30s of these link-local addresses: no router knows them, and the well-known ones are left out.
const LINKS: (Ipv4Addr, u32) = (Ipv4Addr::new(169, 254, 16, 0), 64 * 128);

/// Destinations that are not the Internet: nothing of a lab may reach the host's own networks.
const PRIVATE: [&str; 7] = [
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "224.0.0.0/3",
];

/// Lets `internet`, the namespace of a lab that stands for the Internet, out by the network of the calling thread's
/// namespace. Idempotent.
///
/// # Errors
/// The host has no IPv4 default route, no nf_tables, or does not let the daemon change them.
pub fn connect(lab: &str, internet: &Netns) -> Result<()> {
    let host = Netns::current()?;
    let mut netlink = Netlink::open()?;
    let exits = link::default_devices(&mut netlink)?;
    if exits.is_empty() {
        return Err(HostError::Invalid(
            "internet.egress is host, and the host has no IPv4 default route by which packets could leave"
                .into(),
        ));
    }
    let device = device_name(lab);
    let known = link::find(&mut netlink, &device)?.is_some();
    let subnet = if known { link_of(&mut netlink, &device)? } else { None };
    let subnet = match subnet {
        Some(subnet) => subnet,
        None => free_link(lab, &link::all_addresses(&mut netlink)?)?,
    };
    link::veth(&host, &device, internet, INSIDE_DEVICE)?;
    link::apply(&mut netlink, &end(&device, subnet, 1, None))?;
    link::apply(&mut Netlink::open_in(internet)?, &end(INSIDE_DEVICE, subnet, 2, Some(1)))?;
    internet.run(|| nft::replace_table(INSIDE_TABLE, &inside_rules()))??;
    let leaves = Rule {
        chain: Chain::Masquerade,
        conditions: vec![Condition::Source(subnet), Condition::LeavesNotBy(device.clone())],
    };
    nft::replace_table(&table_name(lab), &[leaves])?;
    exits.iter().try_for_each(|exit| forward(exit))?;
    sysctl::set(&forwarding_key(&device), "1")
}

/// Takes back what [`connect`] did for a lab, if anything.
///
/// # Errors
/// The kernel refuses.
pub fn disconnect(lab: &str) -> Result<()> {
    link::delete(&mut Netlink::open()?, &device_name(lab))?;
    // Without nf_tables there is nothing to remove.
    let Ok(tables) = nft::tables() else { return Ok(()) };
    let own = table_name(lab);
    if !tables.contains(&own) {
        return Ok(());
    }
    nft::remove_table(&own)?;
    let others = tables.iter().any(|table| *table != own && table.starts_with(TABLE_PREFIX));
    if others {
        return Ok(());
    }
    for table in &tables {
        let Some(device) = table.strip_prefix(FORWARDING_PREFIX) else { continue };
        match sysctl::set(&forwarding_key(device), "0") {
            Err(error) if error.is_missing() => {}
            other => other?,
        }
        nft::remove_table(table)?;
    }
    Ok(())
}

/// Why this host cannot let labs out, if it cannot.
pub fn obstacle() -> Option<String> {
    let attempt = || -> Result<bool> {
        nft::tables()?;
        Ok(!link::default_devices(&mut Netlink::open()?)?.is_empty())
    };
    match attempt() {
        Ok(true) => None,
        Ok(false) => Some("the host has no IPv4 default route".to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

/// Labs that have a way out by this host.
///
/// # Errors
/// A kernel without nf_tables, or without the right to read them.
pub fn labs() -> Result<Vec<String>> {
    let tables = nft::tables()?;
    Ok(tables.iter().filter_map(|table| table.strip_prefix(TABLE_PREFIX)).map(str::to_owned).collect())
}

fn table_name(lab: &str) -> String {
    format!("{TABLE_PREFIX}{lab}")
}

fn device_name(lab: &str) -> String {
    let plain = format!("v-{lab}");
    if plain.len() <= DEVICE_NAME_MAX { plain } else { format!("v-{:013x}", hash(lab) >> 12) }
}

/// FNV-1a.
fn hash(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn forwarding_key(device: &str) -> String {
    format!("net/ipv4/conf/{device}/forwarding")
}

/// Lets answers that come in by a device be passed on, and takes note where they were not before.
fn forward(device: &str) -> Result<()> {
    let key = forwarding_key(device);
    if sysctl::get(&key)? != "0" {
        return Ok(());
    }
    nft::replace_table(&format!("{FORWARDING_PREFIX}{device}"), &[])?;
    sysctl::set(&key, "1")
}

/// What leaves the lab has the link's address; what is not for the Internet does not leave.
fn inside_rules() -> Vec<Rule> {
    let leaves = || Condition::LeavesBy(INSIDE_DEVICE.to_owned());
    let private = PRIVATE.iter().filter_map(|prefix| prefix.parse().ok());
    let mut rules: Vec<Rule> = private
        .map(|prefix| Rule {
            chain: Chain::Forward,
            conditions: vec![leaves(), Condition::Destination(prefix)],
        })
        .collect();
    rules.push(Rule { chain: Chain::Masquerade, conditions: vec![leaves()] });
    rules
}

/// One end of the link: the `own`-th address of its subnet, and the default route by the `gateway`-th.
fn end(device: &str, subnet: Ipv4Net, own: u32, gateway: Option<u32>) -> LinkSpec {
    let address = |number: u32| Ipv4Addr::from_bits(subnet.network().to_bits() + number);
    let [default, _] = RouteSpec::defaults();
    LinkSpec {
        name: device.to_owned(),
        mtu: Some(1500),
        addresses: Ipv4Net::new(address(own), subnet.prefix_len()).map(IpNet::V4).into_iter().collect(),
        routes: gateway
            .map(|number| RouteSpec { gateway: Some(IpAddr::V4(address(number))), ..default })
            .into_iter()
            .collect(),
    }
}

/// The subnet of a link that is there already.
fn link_of(netlink: &mut Netlink, device: &str) -> Result<Option<Ipv4Net>> {
    let Some(state) = link::find(netlink, device)? else { return Ok(None) };
    let own = link::all_addresses(netlink)?.into_iter().find(|(index, _)| *index == state.index);
    Ok(match own {
        Some((_, IpNet::V4(net))) => Some(net.trunc()),
        _ => None,
    })
}

/// A subnet that nothing on the host has: the search begins at a place that the lab's name chooses.
fn free_link(lab: &str, taken: &[(u32, IpNet)]) -> Result<Ipv4Net> {
    let (first, count) = LINKS;
    let start = (hash(lab) % u64::from(count)) as u32;
    let overlaps = |subnet: &Ipv4Net| {
        taken.iter().any(|(_, net)| match net {
            IpNet::V4(net) => net.trunc().contains(subnet) || subnet.contains(net),
            IpNet::V6(_) => false,
        })
    };
    (0..count)
        .map(|step| first.to_bits() + 4 * ((start + step) % count))
        .filter_map(|bits| Ipv4Net::new(Ipv4Addr::from_bits(bits), 30).ok())
        .find(|subnet| !overlaps(subnet))
        .ok_or_else(|| {
            HostError::Invalid("the host uses every link-local subnet that a lab's way out could have".into())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_carry_the_labs_name() {
        assert_eq!(device_name("hub-spoke"), "v-hub-spoke");
        let long = device_name("a-lab-with-a-very-long-n");
        assert!(long.len() <= DEVICE_NAME_MAX && long.starts_with("v-"));
        assert_ne!(long, device_name("a-lab-with-a-very-long-m"));
    }

    #[test]
    fn a_link_is_free_and_link_local() {
        let first = free_link("hub", &[]).unwrap();
        assert_eq!(first.prefix_len(), 30);
        assert!(first.network().is_link_local());
        assert!(first.network().octets()[2] < 169, "the metadata address stays out");
        let next = free_link("hub", &[(1, IpNet::V4(first))]).unwrap();
        assert_ne!(first, next);
        let all = "169.254.0.0/16".parse().unwrap();
        assert!(free_link("hub", &[(1, all)]).is_err());
    }

    #[test]
    fn private_destinations_stay_inside() {
        let rules = inside_rules();
        assert_eq!(rules.len(), PRIVATE.len() + 1);
        assert_eq!(rules.iter().filter(|rule| rule.chain == Chain::Masquerade).count(), 1);
    }
}
