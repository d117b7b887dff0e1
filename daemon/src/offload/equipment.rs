//! What a NIC has so that the kernel can carry its flows: a cable to the lab's hidden namespace, and programs on it.
//!
//! A cable is a veth pair. One end is in the machine's namespace, numbered as the NIC and [`CABLE_OFFSET`]; the other is in
//! the fabric's, numbered as the NIC's port and [`CABLE_OFFSET`]. So the programs find one by the other without a table,
//! and what a former daemon has laid can be told without a record of it. The NIC itself stays what it is: programs see it
//! receive what arrives over the cable.

use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption,
};
use vnet_dataplane::PortId;

use super::program::{self, Programs};
use crate::host::error::{HostError, Result};
use crate::host::link;
use crate::host::netlink::Netlink;
use crate::host::netns::{self, Netns, NetnsName};
use crate::host::sysctl;

/// What a cable's number is above its NIC's, and above its port's.
const CABLE_OFFSET: u32 = 0x1_0000;
/// What a cable's name is before its NIC's.
const CABLE_PREFIX: &str = "cable-";
/// A cable's queue takes what a device of the machine can send.
const CABLE_MTU: u32 = 65_535;
/// After the filters that a machine's user may have: what those keep out does not reach the programs.
const FILTER_PRIORITY: u32 = 0xc000;
/// linux/if_ether.h.
const ETH_P_ALL: u16 = 3;

/// The interface of the fabric's namespace that leads to `port`.
pub(super) fn target_of(port: PortId) -> u32 {
    CABLE_OFFSET + port.0
}

/// The port that an interface of the fabric's namespace leads to.
pub(super) fn port_of(target: u32) -> Option<PortId> {
    target.checked_sub(CABLE_OFFSET).map(PortId)
}

/// A name for both ends of a cable: what it is for, and within the kernel's fifteen octets.
fn cable_of(device: &str) -> String {
    format!("{CABLE_PREFIX}{device}")
}

/// The hidden namespace in which a lab's cables meet.
#[derive(Debug)]
pub(super) struct Fabric {
    ns: Netns,
}

impl Fabric {
    /// Makes the namespace, or opens the one that is there.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub(super) fn open(lab: &str) -> Result<Fabric> {
        let name = NetnsName::new(lab, netns::FABRIC)?;
        // Nothing in it has an address, or says anything of its own accord.
        let quiet = |_: &Netns| match sysctl::set("net/ipv6/conf/default/disable_ipv6", "1") {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        };
        let (ns, ()) = netns::create_with(&name, quiet)?;
        Ok(Fabric { ns })
    }

    /// Lays the cable of the NIC `device` in `ns`, which is `port`, and attaches the programs. What is there already is kept.
    ///
    /// # Errors
    /// The device is missing, one of the numbers is taken, or the kernel refuses.
    pub(super) fn equip(&self, programs: &Programs, port: PortId, ns: &Netns, device: &str) -> Result<()> {
        ns.run(|| {
            let mut near = Netlink::open()?;
            let mut far = Netlink::open_in(&self.ns)?;
            let nic = link::find(&mut near, device)?.ok_or_else(|| missing(device))?.index;
            let (cable, target) = (nic + CABLE_OFFSET, target_of(port));
            let (cable_name, target_name) = (cable_of(device), format!("nic{}", port.0));
            let near_end = link::find(&mut near, &cable_name)?.map(|state| state.index);
            let far_end = link::find(&mut far, &target_name)?.map(|state| state.index);
            if (near_end, far_end) != (Some(cable), Some(target)) {
                link::delete(&mut near, &cable_name)?;
                link::delete(&mut far, &target_name)?;
                self.lay(&mut near, (&cable_name, cable), (&target_name, target))?;
            }
            silence(&cable_name)?;
            bring_up(&mut near, &cable_name, cable)?;
            bring_up(&mut far, &target_name, target)?;
            attach_to_cable(&self.ns, target, &programs.fabric_ingress)?;
            attach_to_cable(ns, cable, &programs.nic_ingress)?;
            attach(&mut near, nic, Side::Egress, &programs.nic_egress, port.0)
        })?
    }

    /// Takes a NIC's cable away. The program that stays on the NIC finds no entry any more.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub(super) fn unequip(&self, port: PortId) -> Result<()> {
        let mut netlink = Netlink::open_in(&self.ns)?;
        link::delete(&mut netlink, &format!("nic{}", port.0))
    }

    fn lay(&self, near: &mut Netlink, cable: (&str, u32), target: (&str, u32)) -> Result<()> {
        let mut peer = end(target.0, target.1);
        peer.attributes.push(LinkAttribute::NetNsFd(self.ns.as_fd().as_raw_fd()));
        let mut message = end(cable.0, cable.1);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        let message = RouteNetlinkMessage::NewLink(message);
        near.request("lay cable", cable.0, message, NLM_F_CREATE | NLM_F_EXCL)
    }
}

fn end(name: &str, index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message.attributes.push(LinkAttribute::Mtu(CABLE_MTU));
    message
}

fn missing(device: &str) -> HostError {
    HostError::Mismatch { object: format!("device {device}"), detail: "it is missing".into() }
}

/// Keeps the kernel of the thread's namespace from giving the cable addresses and multicast groups.
fn silence(device: &str) -> Result<()> {
    match sysctl::set(&format!("net/ipv6/conf/{device}/disable_ipv6"), "1") {
        Err(error) if error.is_missing() => Ok(()),
        other => other,
    }
}

fn bring_up(netlink: &mut Netlink, name: &str, index: u32) -> Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up | LinkFlags::Noarp;
    message.header.change_mask = LinkFlags::Up | LinkFlags::Noarp;
    netlink.request("bring up", name, RouteNetlinkMessage::SetLink(message), 0)
}

/// Has a program take what comes out of a cable.
fn attach_to_cable(ns: &Netns, index: u32, program: &(impl AsRawFd + Sync)) -> Result<()> {
    if !ns.run(|| program::attach_to_ingress(index, program))?? {
        attach(&mut Netlink::open_in(ns)?, index, Side::Ingress, program, 0)?;
    }
    Ok(())
}

/// Attaches the programs where they belong, to devices that go with a namespace nobody else sees.
///
/// # Errors
/// What the kernel refuses.
pub(super) fn try_out(programs: &Programs) -> Result<()> {
    netns::apart(|ns| {
        let mut netlink = Netlink::open()?;
        link::veth(ns, "near", ns, "far")?;
        let index = |netlink: &mut Netlink, name: &str| {
            Ok::<u32, HostError>(link::find(netlink, name)?.ok_or_else(|| missing(name))?.index)
        };
        let (near, far) = (index(&mut netlink, "near")?, index(&mut netlink, "far")?);
        attach(&mut netlink, near, Side::Egress, &programs.nic_egress, 1)?;
        attach_to_cable(ns, near, &programs.nic_ingress)?;
        attach_to_cable(ns, far, &programs.fabric_ingress)
    })
}

#[derive(Clone, Copy)]
enum Side {
    Ingress,
    Egress,
}

/// Has a program look at what passes a device on one side, in place of a former one of ours. `class` is what it finds as its class.
fn attach(netlink: &mut Netlink, index: u32, side: Side, program: &impl AsRawFd, class: u32) -> Result<()> {
    let object = format!("device {index}");
    let mut qdisc = TcMessage::with_index(index as i32);
    qdisc.header.handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
    qdisc.header.parent = TcHandle::CLSACT;
    qdisc.attributes.push(TcAttribute::Kind("clsact".into()));
    let message = RouteNetlinkMessage::NewQueueDiscipline(qdisc);
    match netlink.request("add clsact to", &object, message, NLM_F_CREATE | NLM_F_EXCL) {
        Err(error) if error.errno() == Some(libc::EEXIST) => {}
        other => other?,
    }
    let mut filter = filter_of(index, side);
    filter.attributes.push(TcAttribute::Kind("bpf".into()));
    filter.attributes.push(TcAttribute::Options(vec![
        TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd() as u32)),
        TcOption::Bpf(TcFilterBpfOption::ProgName("vnetd".into())),
        TcOption::Bpf(TcFilterBpfOption::ClassId(TcHandle::from(class))),
        TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
    ]));
    netlink.request(
        "attach a program to",
        &object,
        RouteNetlinkMessage::NewTrafficFilter(filter),
        NLM_F_CREATE,
    )
}

/// The place of our filter at a device.
fn filter_of(index: u32, side: Side) -> TcMessage {
    let minor = match side {
        Side::Ingress => TcHandle::MIN_INGRESS,
        Side::Egress => TcHandle::MIN_EGRESS,
    };
    let mut filter = TcMessage::default();
    filter.header = TcHeader {
        index: index as i32,
        handle: TcHandle::from(1),
        parent: TcHandle { major: TcHandle::CLSACT.major, minor },
        info: FILTER_PRIORITY << 16 | u32::from(ETH_P_ALL.to_be()),
        ..TcHeader::default()
    };
    filter
}

/// Takes the programs off a lab's NICs, with their cables. A machine where that fails does not keep the others.
///
/// # Errors
/// The first thing that failed: a name without a namespace behind it, as a crash leaves it, or the kernel refused.
pub(super) fn strip(lab: &str) -> Result<()> {
    let names = netns::list(Some(lab))?;
    let mut outcome = Ok(());
    for name in names.iter().filter(|name| name.vm() != netns::FABRIC) {
        outcome = outcome.and(strip_machine(name));
    }
    outcome
}

fn strip_machine(name: &NetnsName) -> Result<()> {
    let mut netlink = Netlink::open_in(&Netns::open(name)?)?;
    for (index, cable) in cables(&mut netlink)? {
        let message = RouteNetlinkMessage::DelTrafficFilter(filter_of(index - CABLE_OFFSET, Side::Egress));
        match netlink.request("take the program off the NIC of", &cable, message, 0) {
            Err(error) if error.is_missing() => {}
            other => other?,
        }
        link::delete(&mut netlink, &cable)?;
    }
    Ok(())
}

/// Number and name of each cable of a machine.
fn cables(netlink: &mut Netlink) -> Result<Vec<(u32, String)>> {
    let answers = netlink.dump("list", "devices", RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let cable = |answer: RouteNetlinkMessage| {
        let RouteNetlinkMessage::NewLink(link) = answer else { return None };
        let name = link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        })?;
        let is_ours = link.header.index > CABLE_OFFSET && name.starts_with(CABLE_PREFIX);
        is_ours.then_some((link.header.index, name))
    };
    Ok(answers.into_iter().filter_map(cable).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_interfaces_lead_to_each_other() {
        assert_eq!(port_of(target_of(PortId(3))), Some(PortId(3)));
        assert_eq!(port_of(2), None);
    }

    #[test]
    fn names_of_cables_fit() {
        assert!(cable_of("eth15").len() <= 15);
    }
}
