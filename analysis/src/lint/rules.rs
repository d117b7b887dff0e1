//! Security rules that never decide.

use std::collections::BTreeMap;

use vnet_fabric::snapshot::HitKind;
use vnet_fabric::snapshot::rules::{Rule, RuleSet};

use super::design::{Design, listed};
use super::{Found, SHADOWED_NSG_RULE};
use crate::space::{Cube, covered, cubes};

/// Boxes of one rule beyond this number are not looked into.
const CUBES_MAX: usize = 4096;
/// Cuts beyond this number are not made: the question stays open, and nothing is said.
const STEPS_MAX: usize = 200_000;

/// A rule's name: group, and name in the group.
type Name = (String, String);

pub(super) fn look(design: &Design<'_>, found: &mut Vec<Found>) {
    // Tags stand for different addresses at different places: a rule is idle when it is so at every place.
    let mut idle: BTreeMap<Name, Option<Vec<String>>> = BTreeMap::new();
    for group in design.snapshot.security_groups() {
        for set in [group.inbound, group.outbound] {
            for (rule, by) in shadowed(design, set) {
                let entry = idle.entry((group.name.to_owned(), rule)).or_insert_with(|| by.clone());
                if by.is_none() {
                    *entry = None;
                }
            }
        }
    }
    for (name, group) in &design.topology.network_security_groups {
        for (index, rule) in group.security_rules.iter().enumerate() {
            let Some(Some(by)) = idle.get(&(name.clone(), rule.name.clone())) else { continue };
            let by: Vec<String> = by.iter().map(|rule| format!("'{rule}'")).collect();
            found.push(Found {
                lint: SHADOWED_NSG_RULE,
                path: format!("networkSecurityGroups.{name}.securityRules[{index}]"),
                message: format!(
                    "the rule '{}' never decides: {} {} every packet that it is for",
                    rule.name,
                    listed(&by),
                    if by.len() == 1 { "matches" } else { "match" }
                ),
                help: "give it a smaller priority, narrow what stands before it, or remove it".to_owned(),
            });
        }
    }
}

/// The user's rules of a set, each with those that leave it nothing, if so.
fn shadowed(design: &Design<'_>, set: &RuleSet) -> Vec<(String, Option<Vec<String>>)> {
    let spaces: Vec<Option<Vec<Cube>>> = set.rules().iter().map(|rule| cubes(rule, CUBES_MAX)).collect();
    let mut out = Vec::new();
    for (index, rule) in set.rules().iter().enumerate() {
        let Some(name) = user_rule(design, rule) else { continue };
        let by = spaces[index].as_ref().and_then(|own| {
            let earlier: Vec<usize> = (0..index)
                .filter(|other| spaces[*other].as_ref().is_some_and(|space| meets(space, own)))
                .collect();
            let hides = |rules: &[usize]| {
                let covers: Vec<Cube> =
                    rules.iter().filter_map(|other| spaces[*other].as_deref()).flatten().copied().collect();
                covered(own, &covers, STEPS_MAX) == Some(true)
            };
            // A rule that matches nothing, as for an empty tag, is not hidden by others.
            let hidden = !own.is_empty() && hides(&earlier);
            let needed = |rule: &usize| user_rule(design, &set.rules()[*rule]);
            hidden.then(|| needed_of(earlier, hides).iter().filter_map(needed).collect())
        });
        out.push((name, by));
    }
    out
}

/// Of rules that hide another together those that it takes: one alone where one does, else none that can be left out.
fn needed_of(mut rules: Vec<usize>, hides: impl Fn(&[usize]) -> bool) -> Vec<usize> {
    if let Some(alone) = rules.iter().find(|rule| hides(&[**rule])) {
        return vec![*alone];
    }
    // The later rule is left out first, so that what stands first keeps its name in the finding.
    for index in (0..rules.len()).rev() {
        let rule = rules.remove(index);
        if !hides(&rules) {
            rules.insert(index, rule);
        }
    }
    rules
}

fn meets(a: &[Cube], b: &[Cube]) -> bool {
    a.iter().any(|a| b.iter().any(|b| a.meet(b).is_some()))
}

/// The name of a rule that a user wrote.
fn user_rule(design: &Design<'_>, rule: &Rule) -> Option<String> {
    match design.snapshot.rule(rule.id)?.hits.as_ref()? {
        HitKind::Nsg { rule, .. } => rule.strip_prefix("securityRules/").map(str::to_owned),
        HitKind::Firewall { .. } => None,
    }
}
