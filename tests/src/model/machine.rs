//! Virtual machines and private endpoints as the topology file writes them.

use std::net::IpAddr;

use serde::Deserialize;

/// A virtual machine, or a private endpoint.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "VmForm")]
pub struct Vm {
    /// Its interfaces; the first is the primary one.
    pub nics: Vec<Nic>,
    /// It is a private endpoint: it answers, and its subnet says whether groups guard it.
    pub is_private_endpoint: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VmForm {
    #[serde(default)]
    network_interfaces: Vec<Nic>,
    subnet: Option<String>,
    #[serde(rename = "privateIPAddress")]
    address: Option<IpAddr>,
    #[serde(default, rename = "privateIPAddresses")]
    addresses: Vec<IpAddr>,
    #[serde(default, rename = "enableIPForwarding")]
    forwarding: bool,
    network_security_group: Option<String>,
    #[serde(default)]
    application_security_groups: Vec<String>,
    #[serde(rename = "publicIPAddress")]
    public: Option<IpAddr>,
    #[serde(default = "yes")]
    enable_accelerated_networking: bool,
    #[serde(default)]
    disable_tcp_state_tracking: bool,
}

impl From<VmForm> for Vm {
    fn from(form: VmForm) -> Vm {
        let mut nics = form.network_interfaces;
        if let Some(subnet) = form.subnet {
            nics.push(Nic {
                subnet,
                addresses: form.address.into_iter().chain(form.addresses).collect(),
                forwarding: form.forwarding,
                nsg: form.network_security_group,
                groups: Vec::new(),
                publics: Vec::new(),
                public: form.public,
                address: None,
                enable_accelerated_networking: form.enable_accelerated_networking,
                disable_tcp_state_tracking: form.disable_tcp_state_tracking,
            });
        }
        for nic in &mut nics {
            nic.groups.extend(form.application_security_groups.iter().cloned());
            let one = nic.address.take();
            nic.addresses.extend(one);
            let one = nic.public.take();
            nic.publics.extend(one);
        }
        Vm { nics, is_private_endpoint: false }
    }
}

fn yes() -> bool {
    true
}

/// A network interface.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Nic {
    /// `VNET/SUBNET`.
    pub subnet: String,
    /// Its own addresses; after [`super::Lab::read`] one of each family of the subnet at least.
    #[serde(default, rename = "privateIPAddresses")]
    pub addresses: Vec<IpAddr>,
    #[serde(default, rename = "privateIPAddress")]
    address: Option<IpAddr>,
    /// `enableIPForwarding`.
    #[serde(default, rename = "enableIPForwarding")]
    pub forwarding: bool,
    /// Name of its network security group.
    #[serde(default, rename = "networkSecurityGroup")]
    pub nsg: Option<String>,
    /// Application security groups.
    #[serde(default, rename = "applicationSecurityGroups")]
    pub groups: Vec<String>,
    /// Public addresses.
    #[serde(default, rename = "publicIPAddresses")]
    pub publics: Vec<IpAddr>,
    #[serde(default, rename = "publicIPAddress")]
    public: Option<IpAddr>,
    /// Needed for VNet encryption.
    #[serde(default = "yes")]
    pub enable_accelerated_networking: bool,
    /// Groups remember no TCP flow here.
    #[serde(default)]
    pub disable_tcp_state_tracking: bool,
}

impl Nic {
    /// The two halves of `VNET/SUBNET`.
    pub fn place(&self) -> (&str, &str) {
        self.subnet.split_once('/').expect("a NIC's subnet is VNET/SUBNET: validation has passed")
    }

    /// The public address of a family.
    pub fn public(&self, v4: bool) -> Option<IpAddr> {
        self.publics.iter().copied().find(|address| address.is_ipv4() == v4)
    }
}

/// `privateEndpoints.NAME`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrivateEndpoint {
    subnet: String,
    #[serde(rename = "privateIPAddress")]
    address: Option<IpAddr>,
}

impl PrivateEndpoint {
    /// The machine that stands for it.
    pub fn as_machine(&self) -> Vm {
        let nic = Nic {
            subnet: self.subnet.clone(),
            addresses: self.address.into_iter().collect(),
            address: None,
            forwarding: false,
            nsg: None,
            groups: Vec::new(),
            publics: Vec::new(),
            public: None,
            enable_accelerated_networking: true,
            disable_tcp_state_tracking: false,
        };
        Vm { nics: vec![nic], is_private_endpoint: true }
    }
}
