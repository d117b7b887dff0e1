//! Azure's regions, as data.

use std::sync::OnceLock;

/// Region names and display names, a line each. Source: learn.microsoft.com, "Azure regions list".
const LIST: &str = include_str!("../data/azure-regions.csv");

/// A region of Azure's public cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its name, such as `eastus`.
    pub name: &'static str,
    /// How the portal writes it, such as `East US`.
    pub display_name: &'static str,
}

/// The regions of Azure's public cloud, by name.
#[must_use]
pub fn regions() -> &'static [Region] {
    static REGIONS: OnceLock<Vec<Region>> = OnceLock::new();
    REGIONS.get_or_init(|| {
        let rows = LIST.lines().skip(1).filter_map(|line| line.split_once(','));
        rows.map(|(name, display_name)| Region { name, display_name }).collect()
    })
}

/// The region that a file calls `name`: by name or display name, whose case does not count.
#[must_use]
pub fn region(name: &str) -> Option<&'static Region> {
    regions().iter().find(|region| {
        region.name.eq_ignore_ascii_case(name) || region.display_name.eq_ignore_ascii_case(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_region() {
        assert_eq!(regions().len() + 1, LIST.lines().count());
        assert!(regions().iter().all(|region| {
            !region.name.is_empty()
                && region.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        }));
        assert_eq!(region("East US").map(|region| region.name), Some("eastus"));
        assert_eq!(region("eastus9"), None);
    }
}
