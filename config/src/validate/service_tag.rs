//! Service tags and service endpoints: that they exist, and that they have prefixes.

use super::{Check, Owners};
use crate::{
    diagnostic::{Finding, nearest},
    limit::TAG_ROUTES,
    model::{RouteTable, SERVICE_ENDPOINTS, SERVICE_TAGS, Subnet},
};

/// Azure's service tags that stand for lists of public prefixes; some have a region behind a point.
///
/// Source: learn.microsoft.com, "Virtual network service tags", available service tags.
const AZURE_TAGS: &[&str] = &[
    "ActionGroup",
    "ApiManagement",
    "AppConfiguration",
    "ApplicationInsightsAvailability",
    "AppService",
    "AppServiceManagement",
    "AutonomousDevelopmentPlatform",
    "AzureActiveDirectory",
    "AzureActiveDirectoryDomainServices",
    "AzureAdvancedThreatProtection",
    "AzureArcInfrastructure",
    "AzureAttestation",
    "AzureBackup",
    "AzureBotService",
    "AzureCloud",
    "AzureCognitiveSearch",
    "AzureConnectors",
    "AzureContainerAppsService",
    "AzureContainerRegistry",
    "AzureCosmosDB",
    "AzureDatabricks",
    "AzureDataExplorerManagement",
    "AzureDataLake",
    "AzureDevSpaces",
    "AzureDeviceUpdate",
    "AzureDevOps",
    "AzureDigitalTwins",
    "AzureEventGrid",
    "AzureFrontDoor",
    "AzureHealthcareAPIs",
    "AzureInformationProtection",
    "AzureIoTHub",
    "AzureKeyVault",
    "AzureLoadTestingInstanceManagement",
    "AzureMachineLearning",
    "AzureMachineLearningInference",
    "AzureManagedGrafana",
    "AzureMonitor",
    "AzureOpenDatasets",
    "AzureResourceManager",
    "AzureSentinel",
    "AzureSignalR",
    "AzureSiteRecovery",
    "AzureSphere",
    "AzureSpringCloud",
    "AzureStack",
    "AzureTrafficManager",
    "AzureUpdateDelivery",
    "AzureVideoAnalyzerForMedia",
    "AzureWebPubSub",
    "BatchNodeManagement",
    "ChaosStudio",
    "CognitiveServicesFrontend",
    "CognitiveServicesManagement",
    "DataFactory",
    "DataFactoryManagement",
    "Dynamics365BusinessCentral",
    "Dynamics365ForMarketingEmail",
    "EOPExternalPublishedIPs",
    "EventHub",
    "GatewayManager",
    "GenevaActions",
    "GuestAndHybridManagement",
    "HDInsight",
    "KustoAnalytics",
    "LogicApps",
    "LogicAppsManagement",
    "M365ManagementActivityApi",
    "Marketplace",
    "MicrosoftAzureFluidRelay",
    "MicrosoftCloudAppSecurity",
    "MicrosoftContainerRegistry",
    "MicrosoftDefenderForEndpoint",
    "MicrosoftPurviewPolicyDistribution",
    "OneDsAnalytics",
    "OneDsCollector",
    "PowerBI",
    "PowerPlatformInfra",
    "PowerPlatformPlex",
    "PowerQueryOnline",
    "SCCservice",
    "Scuba",
    "SerialConsole",
    "ServiceBus",
    "ServiceFabric",
    "Sql",
    "SqlManagement",
    "Storage",
    "StorageMover",
    "StorageSyncService",
    "VideoIndexer",
    "WindowsAdminCenter",
    "WindowsVirtualDesktop",
];

pub(crate) fn check(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    for (name, _) in topology.service_tags.tags() {
        let path = format!("serviceTags.{name}");
        if SERVICE_TAGS.iter().any(|tag| tag.eq_ignore_ascii_case(name)) {
            let finding = Finding::error("built-in-tag", format!("the tag '{name}' is built in"));
            check.at_name(&path, finding.code("ReservedResourceName").help("use another name"));
        }
        let is_word = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '.');
        if !is_word {
            let finding = Finding::error(
                "service-tag-name",
                format!("'{}' cannot name a service tag", super::shown(name)),
            );
            check.at_name(&path, finding.help("use letters, digits and '.', beginning with a letter"));
        }
    }
    for (name, network) in &topology.virtual_networks {
        for (subnet_name, subnet) in &network.subnets {
            endpoints(check, &format!("virtualNetworks.{name}.subnets.{subnet_name}"), subnet);
        }
    }
}

/// A tag of Azure, with or without a region or another part behind a point.
fn is_azure_tag(tag: &str) -> bool {
    let service = tag.split('.').next().unwrap_or(tag);
    AZURE_TAGS.iter().any(|known| known.eq_ignore_ascii_case(service))
}

/// Reports a tag that nothing knows, or that has no prefixes. `code`: what Azure answers to the first.
pub(crate) fn tag(check: &mut Check<'_, '_>, at: &str, tag: &str, code: Option<&'static str>) {
    let topology = check.topology;
    let is_built_in = SERVICE_TAGS.iter().any(|known| known.eq_ignore_ascii_case(tag));
    if is_built_in || topology.service_tag_prefixes(tag).is_some_and(|prefixes| !prefixes.is_empty()) {
        return;
    }
    if is_azure_tag(tag) || topology.service_tag_prefixes(tag).is_some() {
        let message = format!("the service tag '{tag}' has no prefixes here and matches nothing");
        let help = format!(
            "add serviceTags: {{{tag}: [PREFIX, ...]}}, or serviceTags: {{file: PATH}} with Microsoft's published list"
        );
        check.at(at, Finding::warning("service-tag-empty", message).help(help));
        return;
    }
    let own: Vec<&str> = topology.service_tags.tags().map(|(name, _)| name).collect();
    let known = SERVICE_TAGS.iter().chain(AZURE_TAGS).copied().chain(own);
    // Azure adds tags: only what looks like a slip is refused.
    let Some(known) = nearest(tag, known) else {
        let message = format!("'{tag}' is no service tag that is known here, and matches nothing");
        let finding = Finding::warning("service-tag-unlisted", message);
        let help = format!("write a prefix, or add serviceTags: {{{tag}: [PREFIX, ...]}}");
        check.at(at, finding.help(help));
        return;
    };
    let mut finding = Finding::error("unknown-service-tag", format!("there is no service tag '{tag}'"));
    finding.code = code;
    check.at(at, finding.help(format!("did you mean '{known}'?")));
}

/// The tags that a route table has as destinations.
pub(crate) fn routes(check: &mut Check<'_, '_>, name: &str, table: &RouteTable) {
    let mut count = 0;
    for (index, route) in table.routes.iter().enumerate() {
        let crate::model::RoutePrefix::Tag(text) = &route.address_prefix else { continue };
        count += 1;
        let at = format!("routeTables.{name}.routes[{index}].addressPrefix");
        if SERVICE_TAGS.iter().any(|known| known.eq_ignore_ascii_case(text)) {
            let finding = Finding::error("route-for-tag", format!("a route cannot be for the tag {text}"));
            check.at(&at, finding.help("write a prefix, or the tag of a service"));
            continue;
        }
        tag(check, &at, text, None);
    }
    check.limit(format_args!("routeTables.{name}.routes"), name, count, &TAG_ROUTES);
}

fn endpoints(check: &mut Check<'_, '_>, path: &str, subnet: &Subnet) {
    let mut services = Owners::new();
    for (index, endpoint) in subnet.service_endpoints.iter().enumerate() {
        let at = format!("{path}.serviceEndpoints[{index}]");
        let service = &endpoint.service;
        if services.take(service.to_lowercase(), || at.clone()).is_some() {
            let finding =
                Finding::error("endpoint-twice", format!("the subnet has an endpoint for {service} already"));
            check.at(&format!("{at}.service"), finding.help("list the locations of both in one entry"));
        }
        if !SERVICE_ENDPOINTS.iter().any(|(known, _)| known.eq_ignore_ascii_case(service)) {
            let message = format!("'{}' has no service endpoint", super::shown(service));
            let known: Vec<&str> = SERVICE_ENDPOINTS.iter().map(|(known, _)| *known).collect();
            let help = match nearest(service, known.iter().copied()) {
                Some(name) => format!("did you mean '{name}'?"),
                None => format!("one of {}", known.join(", ")),
            };
            check.at(&format!("{at}.service"), Finding::error("unknown-service", message).help(help));
            continue;
        }
        for (position, location) in endpoint.locations.iter().enumerate().filter(|(_, name)| *name != "*") {
            super::region::known(check, &format!("{at}.locations[{position}]"), location);
        }
        if check.topology.endpoint_prefixes(endpoint).is_empty() {
            let tags = endpoint.tags().join(", ");
            let message = format!("the endpoint for {service} has no prefixes here and makes no route");
            let help = format!(
                "add serviceTags with prefixes of {tags}, or {{file: PATH}} with Microsoft's published list"
            );
            check.at(&format!("{at}.service"), Finding::warning("service-tag-empty", message).help(help));
        }
    }
}
