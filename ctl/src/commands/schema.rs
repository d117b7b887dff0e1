//! `schema`: the topology file's JSON Schema.

use crate::context::{Context, say};
use crate::output::{Format, to_yaml};

#[derive(Debug, clap::Args)]
pub(crate) struct Schema {}

impl Schema {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<u8> {
        let schema = vnet_config::schema();
        say(&match context.format {
            Format::Yaml => to_yaml(&schema)?,
            Format::Table | Format::Json => serde_json::to_string_pretty(&schema)?,
        })?;
        Ok(0)
    }
}
