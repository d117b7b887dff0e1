//! `show`: resources and their state.

use vnet_api::Resource;

use crate::client::query;
use crate::context::{Context, List};
use crate::output::Table;

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// A section of the file, as virtualNetworks or peerings.
    kind: Option<String>,
    /// One resource of it.
    name: Option<String>,
}

impl Show {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        let one = self.name.is_some();
        let query = query([("kind", self.kind), ("name", self.name)]);
        let path = context.lab_path(&format!("/resources{query}")).await?;
        let resources: List<Resource> = context.client.get(&path).await?;
        context.print(&resources, |resources| {
            let mut text = table(&resources.value);
            for resource in resources.value.iter().filter(|_| one) {
                let properties = crate::output::to_yaml(&resource.properties).unwrap_or_default();
                text.push_str(&format!("\n\n{}", properties.trim_end()));
            }
            text
        })?;
        Ok(0)
    }
}

fn table(resources: &[Resource]) -> String {
    let mut table = Table::new(&["Kind", "Name", "Location", "State", "Summary"]);
    for resource in resources {
        let location = resource.location.as_deref().unwrap_or("-");
        table.row([resource.kind.as_str(), &resource.name, location, &resource.state, &resource.summary]);
    }
    table.render("The lab has none.")
}
