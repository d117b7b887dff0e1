//! Topologies that differ from another in one place.

use serde_json::Value;

/// Every place below `value` at which `change` changes something.
pub fn mutants(topology: &Value, change: fn(&str, &mut Value) -> bool) -> Vec<Value> {
    fn visit(value: &mut Value, left: &mut usize, change: fn(&str, &mut Value) -> bool) -> bool {
        let children: Vec<(String, &mut Value)> = match value {
            Value::Object(map) => map.iter_mut().map(|(key, value)| (key.clone(), value)).collect(),
            Value::Array(list) => list.iter_mut().map(|value| (String::new(), value)).collect(),
            _ => return false,
        };
        for (key, child) in children {
            let mut changed = child.clone();
            if change(&key, &mut changed) {
                if *left == 0 {
                    *child = changed;
                    return true;
                }
                *left -= 1;
            }
            if visit(child, left, change) {
                return true;
            }
        }
        false
    }
    let mutant = |index: usize| {
        let (mut mutant, mut left) = (topology.clone(), index);
        visit(&mut mutant, &mut left, change).then_some(mutant)
    };
    (0..).map_while(mutant).collect()
}
