//! What each operation is called in a report.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::clock::Stamp;

/// Names of components and of their operations; shared by who enqueues and who executes.
#[derive(Debug, Default)]
pub(crate) struct Names(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    texts: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32>,
    /// By component: its name, and by clock - 1 the number of its operation's name.
    components: Vec<(Arc<str>, Vec<u32>)>,
}

impl Names {
    /// A component's name, before its first operation.
    pub(crate) fn component(&self, component: u16, name: &str) {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = usize::from(component);
        while tables.components.len() <= index {
            tables.components.push((Arc::from(""), Vec::new()));
        }
        tables.components[index].0 = Arc::from(name);
    }

    /// An operation's name.
    pub(crate) fn operation(&self, stamp: Stamp, name: &str) {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = match tables.numbers.get(name) {
            Some(number) => *number,
            None => {
                let number = tables.texts.len() as u32;
                let text: Arc<str> = Arc::from(name);
                tables.texts.push(Arc::clone(&text));
                tables.numbers.insert(text, number);
                number
            }
        };
        let operations = &mut tables.components[usize::from(stamp.component)].1;
        let index = stamp.clock as usize - 1;
        if operations.len() <= index {
            operations.resize(index + 1, number);
        }
        operations[index] = number;
    }

    /// An operation as a report calls it.
    pub(crate) fn describe(&self, stamp: Stamp) -> String {
        let tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((component, operations)) = tables.components.get(usize::from(stamp.component)) else {
            return "an unknown operation".to_owned();
        };
        let name = operations.get((stamp.clock as usize).wrapping_sub(1)).and_then(|number| tables.texts.get(*number as usize));
        format!("{} ({component}, operation {})", name.map_or("an unnamed operation", |name| name), stamp.clock)
    }
}
