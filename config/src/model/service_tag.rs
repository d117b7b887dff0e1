//! Service tags and service endpoints: names for lists of public prefixes.

use std::{borrow::Cow, collections::BTreeMap};

use indexmap::IndexMap;
use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::json;

use super::{
    Topology,
    scalar::{AddressSpec, FileSource},
};

/// What service tags stand for: by tag its prefixes, and `file`, Microsoft's published list.
///
/// Of the published list, tags that the topology does not use are forgotten after loading.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceTags {
    file: Option<FileSource>,
    written: IndexMap<String, Vec<IpNet>>,
    published: BTreeMap<String, Vec<IpNet>>,
    /// Name of each tag by its name in small letters: Azure ignores case.
    names: BTreeMap<String, String>,
}

impl ServiceTags {
    /// The prefixes of `tag`, whose case does not count. `None`: the topology has none for it. Built-in tags
    /// ([`super::SERVICE_TAGS`]) are never here.
    #[must_use]
    pub fn prefixes(&self, tag: &str) -> Option<&[IpNet]> {
        let name = self.names.get(&tag.to_lowercase())?;
        self.written.get(name).or_else(|| self.published.get(name)).map(Vec::as_slice)
    }

    /// Every tag that has prefixes here, in its own spelling.
    pub fn tags(&self) -> impl Iterator<Item = (&str, &[IpNet])> {
        self.names.values().filter_map(|name| Some((name.as_str(), self.prefixes(name)?)))
    }

    /// The published list that the topology names.
    #[must_use]
    pub fn file(&self) -> Option<&FileSource> {
        self.file.as_ref()
    }

    /// Whether both took the same of their published lists.
    pub(crate) fn has_same_published(&self, other: &Self) -> bool {
        self.published == other.published
    }

    /// Takes the tags of a published list that `is_used` selects. What the topology writes out itself stands before it.
    ///
    /// # Errors
    /// What is wrong with the list, for a person.
    pub(crate) fn read(&mut self, bytes: &[u8], is_used: impl Fn(&str) -> bool) -> Result<(), String> {
        let list: Published = serde_json::from_slice(bytes).map_err(|error| {
            format!("it is not Microsoft's list of service tags (values[].name and values[].properties.addressPrefixes): {error}")
        })?;
        for value in list.values.into_iter().filter(|value| is_used(&value.name)) {
            // The list is not the user's: what it writes with host bits is taken as the network that it is in.
            let prefix = |text: &String| {
                let net: Option<IpNet> = text.parse().ok();
                net.map(|net| net.trunc())
                    .ok_or_else(|| format!("the tag '{}' has '{text}', which is no prefix", value.name))
            };
            let prefixes: Vec<IpNet> =
                value.properties.address_prefixes.iter().map(prefix).collect::<Result<_, _>>()?;
            if self.written.keys().any(|name| name.eq_ignore_ascii_case(&value.name)) {
                continue;
            }
            self.names.insert(value.name.to_lowercase(), value.name.clone());
            self.published.insert(value.name, prefixes);
        }
        Ok(())
    }

    /// What was taken of the published list, in its own form.
    pub(crate) fn published_json(&self) -> Vec<u8> {
        let values: Vec<_> = self
            .published
            .iter()
            .map(|(name, prefixes)| json!({"name": name, "properties": {"addressPrefixes": prefixes}}))
            .collect();
        json!({ "values": values }).to_string().into_bytes()
    }
}

/// Microsoft's published list, as far as it is read.
#[derive(Deserialize)]
struct Published {
    values: Vec<PublishedTag>,
}

#[derive(Deserialize)]
struct PublishedTag {
    name: String,
    properties: PublishedProperties,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PublishedProperties {
    #[serde(default)]
    address_prefixes: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct ServiceTagsForm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<FileSource>,
    #[serde(flatten)]
    tags: IndexMap<String, Vec<IpNet>>,
}

impl Serialize for ServiceTags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ServiceTagsForm { file: self.file.clone(), tags: self.written.clone() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ServiceTags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ServiceTagsForm { file, tags } = ServiceTagsForm::deserialize(deserializer)?;
        let names: BTreeMap<String, String> =
            tags.keys().map(|name| (name.to_lowercase(), name.clone())).collect();
        if let Some(net) = tags.values().flatten().find(|net| net.trunc() != **net) {
            return Err(D::Error::custom(format!("'{net}' has host bits set")));
        }
        Ok(Self { file, written: tags, published: BTreeMap::new(), names })
    }
}

impl JsonSchema for ServiceTags {
    fn schema_name() -> Cow<'static, str> {
        "ServiceTags".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "description": "What service tags stand for: by tag its prefixes. VirtualNetwork, Internet, AzureLoadBalancer and the AzurePlatform tags are built in.",
            "properties": {
                "file": {
                    "type": "string",
                    "format": "path",
                    "description": "Microsoft's published list of service tags (JSON); what is written here stands before it."
                }
            },
            "additionalProperties": {
                "type": "array",
                "items": {"type": "string", "format": "cidr"}
            }
        })
    }
}

/// A service endpoint of a subnet. Short form: the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-short" = "service"))]
pub struct ServiceEndpoint {
    /// The service, such as `Microsoft.Storage`.
    pub service: String,
    /// Regions whose prefixes are meant; every region of the service where none is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locations: Vec<String>,
}

/// Service endpoints and the service tags that hold their prefixes.
///
/// Source: learn.microsoft.com, "Virtual Network service endpoints" and "Virtual network service tags".
pub const SERVICE_ENDPOINTS: &[(&str, &str)] = &[
    ("Microsoft.AzureActiveDirectory", "AzureActiveDirectory"),
    ("Microsoft.AzureCosmosDB", "AzureCosmosDB"),
    ("Microsoft.CognitiveServices", "CognitiveServicesManagement"),
    ("Microsoft.ContainerRegistry", "AzureContainerRegistry"),
    ("Microsoft.EventHub", "EventHub"),
    ("Microsoft.KeyVault", "AzureKeyVault"),
    ("Microsoft.ServiceBus", "ServiceBus"),
    ("Microsoft.Sql", "Sql"),
    ("Microsoft.Storage", "Storage"),
    ("Microsoft.Storage.Global", "Storage"),
    ("Microsoft.Web", "AppService"),
];

/// Regions that service tags call by another name.
const TAG_REGIONS: &[(&str, &str)] = &[
    ("francecentral", "centralfrance"),
    ("francesouth", "southfrance"),
    ("germanynorth", "germanyn"),
    ("germanywestcentral", "germanywc"),
    ("norwayeast", "norwaye"),
    ("norwaywest", "norwayw"),
    ("switzerlandnorth", "switzerlandn"),
    ("switzerlandwest", "switzerlandw"),
];

impl ServiceEndpoint {
    /// The service tag that holds the service's prefixes in every region.
    #[must_use]
    pub fn tag(&self) -> &str {
        SERVICE_ENDPOINTS
            .iter()
            .find(|(service, _)| service.eq_ignore_ascii_case(&self.service))
            .map_or_else(|| self.service.strip_prefix("Microsoft.").unwrap_or(&self.service), |(_, tag)| tag)
    }

    /// The tags whose prefixes the endpoint means: one for each region, or the service's own.
    #[must_use]
    pub fn tags(&self) -> Vec<String> {
        let tag = self.tag();
        if self.locations.is_empty() || self.locations.iter().any(|location| location == "*") {
            return vec![tag.to_owned()];
        }
        self.locations.iter().map(|location| format!("{tag}.{location}")).collect()
    }
}

impl Topology {
    /// The prefixes of a service tag that is not built in, by its name or, for a regional tag, by the region's usual name.
    #[must_use]
    pub fn service_tag_prefixes(&self, tag: &str) -> Option<&[IpNet]> {
        self.service_tags.prefixes(tag).or_else(|| {
            let (service, region) = tag.rsplit_once('.')?;
            let (_, other) = TAG_REGIONS.iter().find(|(name, _)| name.eq_ignore_ascii_case(region))?;
            self.service_tags.prefixes(&format!("{service}.{other}"))
        })
    }

    /// The prefixes that a service endpoint's routes are for, each once; empty where the topology has none for it.
    #[must_use]
    pub fn endpoint_prefixes(&self, endpoint: &ServiceEndpoint) -> Vec<IpNet> {
        let mut prefixes: Vec<IpNet> = endpoint
            .tags()
            .iter()
            .filter_map(|tag| self.service_tag_prefixes(tag))
            .flatten()
            .copied()
            .collect();
        prefixes.sort();
        prefixes.dedup();
        prefixes
    }

    /// The service tags that rules, routes and service endpoints name, in small letters.
    pub(crate) fn used_tags(&self) -> std::collections::HashSet<String> {
        let rules = self.network_security_groups.values().flat_map(|group| &group.security_rules);
        let rules = rules
            .flat_map(|rule| rule.source_address_prefixes.iter().chain(&rule.destination_address_prefixes));
        let groups = self.firewall_policies.values().flat_map(|policy| &policy.rule_collection_groups);
        let firewall =
            groups.flat_map(|group| &group.rule_collections).flat_map(|collection| &collection.rules);
        let firewall = firewall.flat_map(|rule| match rule {
            super::FirewallRule::NetworkRule(rule) => {
                rule.source_addresses.iter().chain(&rule.destination_addresses)
            }
            _ => [].iter().chain(&[]),
        });
        let specs = rules.chain(firewall).filter_map(|spec| match spec {
            AddressSpec::Tag(tag) => Some(tag.clone()),
            _ => None,
        });
        let routes = self.route_tables.values().flat_map(|table| &table.routes);
        let routes = routes.filter_map(|route| match &route.address_prefix {
            super::RoutePrefix::Tag(tag) => Some(tag.clone()),
            super::RoutePrefix::Prefix(_) => None,
        });
        let subnets = self.virtual_networks.values().flat_map(|network| network.subnets.values());
        let endpoints = subnets.flat_map(|subnet| &subnet.service_endpoints).flat_map(ServiceEndpoint::tags);
        let mut used: std::collections::HashSet<String> =
            specs.chain(routes).chain(endpoints).map(|tag| tag.to_lowercase()).collect();
        let renamed: Vec<String> = used
            .iter()
            .filter_map(|tag| {
                let (service, region) = tag.rsplit_once('.')?;
                let (_, other) = TAG_REGIONS.iter().find(|(name, _)| *name == region)?;
                Some(format!("{service}.{other}"))
            })
            .collect();
        used.extend(renamed);
        used
    }
}
