//! The order in which models are loaded: composing models before the ensembles that use them. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// Models to load, and what each waits for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LoadOrder {
    /// Every model, behind all that it depends on.
    pub(super) models: Vec<String>,
    /// Composing models by ensemble; models without any are left out.
    pub(super) dependencies: BTreeMap<String, BTreeSet<String>>,
    /// Models that depend on themselves, with the way around.
    pub(super) circular: BTreeMap<String, String>,
}

/// Orders models and everything that they depend on. `read` gives the composing models of one model.
pub(super) fn order(named: &[String], read: impl FnMut(&str) -> BTreeSet<String>) -> LoadOrder {
    let mut walk = Walk { read, order: LoadOrder::default(), seen: BTreeMap::new(), stack: Vec::new() };
    for name in named {
        walk.visit(name.clone());
        while let Some((model, pending)) = walk.stack.last_mut() {
            if let Some(next) = pending.pop() {
                walk.visit(next);
            } else {
                walk.seen.insert(model.clone(), Seen::Finished);
                walk.order.models.push(model.clone());
                walk.stack.pop();
            }
        }
    }
    walk.order
}

enum Seen {
    /// Its place on the stack.
    Open(usize),
    Finished,
}

/// A depth-first walk. The stack is its own: how deep ensembles nest is up to whoever writes them.
struct Walk<F> {
    read: F,
    order: LoadOrder,
    seen: BTreeMap<String, Seen>,
    /// Models under way, with the dependencies still to visit.
    stack: Vec<(String, Vec<String>)>,
}

impl<F: FnMut(&str) -> BTreeSet<String>> Walk<F> {
    fn visit(&mut self, name: String) {
        match self.seen.get(&name) {
            Some(Seen::Finished) => {}
            Some(Seen::Open(start)) => {
                let circle: Vec<&str> = self.stack.iter().skip(*start).map(|(model, _)| model.as_str()).collect();
                let path = format!("{} -> {name}", circle.join(" -> "));
                for model in circle {
                    self.order.circular.entry(model.to_owned()).or_insert_with(|| path.clone());
                }
            }
            None => {
                let dependencies = (self.read)(&name);
                self.seen.insert(name.clone(), Seen::Open(self.stack.len()));
                self.stack.push((name.clone(), dependencies.iter().rev().cloned().collect()));
                if !dependencies.is_empty() {
                    self.order.dependencies.insert(name, dependencies);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(named: &[&str], edges: &[(&str, &str)]) -> LoadOrder {
        let named: Vec<String> = named.iter().map(|name| (*name).to_owned()).collect();
        order(&named, |model| edges.iter().filter(|(from, _)| *from == model).map(|(_, to)| (*to).to_owned()).collect())
    }

    #[test]
    fn composing_models_come_first_and_once() {
        let order = check(&["top", "a"], &[("top", "mid"), ("top", "a"), ("mid", "a"), ("mid", "b")]);
        assert_eq!(order.models, ["a", "b", "mid", "top"]);
        assert!(order.circular.is_empty());
    }

    #[test]
    fn circles_are_named_and_end() {
        let order = check(&["out", "self"], &[("out", "a"), ("a", "b"), ("b", "c"), ("c", "a"), ("self", "self")]);
        assert_eq!(order.models, ["c", "b", "a", "out", "self"]);
        assert_eq!(order.circular.get("b").map(String::as_str), Some("a -> b -> c -> a"));
        assert_eq!(order.circular.get("self").map(String::as_str), Some("self -> self"));
        assert!(!order.circular.contains_key("out"));
    }

    #[test]
    fn a_long_chain_needs_no_deep_stack() {
        let order = order(&["0".to_owned()], |model| {
            let next = model.parse::<u32>().unwrap() + 1;
            (next <= 50_000).then(|| next.to_string()).into_iter().collect()
        });
        assert_eq!(order.models.len(), 50_001);
        assert_eq!(order.models.last().map(String::as_str), Some("0"));
    }
}
