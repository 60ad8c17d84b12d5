//! The account of what memory is taken for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What memory is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemoryKind {
    /// Parameters of a model, on the device.
    Weights,
    /// Activations of a lane, on the device.
    Arena,
    /// Scratch memory of a lane's products, on the device.
    Workspace,
    /// Recorded launches, on the device.
    Graphs,
    /// Anything else on the device.
    Other,
    /// Memory of the host that the device copies from and to.
    Pinned,
}

impl MemoryKind {
    /// Its name, as in tables and metrics.
    pub fn name(self) -> &'static str {
        match self {
            MemoryKind::Weights => "weights",
            MemoryKind::Arena => "arena",
            MemoryKind::Workspace => "workspace",
            MemoryKind::Graphs => "graphs",
            MemoryKind::Other => "other",
            MemoryKind::Pinned => "pinned",
        }
    }

    /// Whether it lies on the device.
    pub fn is_on_device(self) -> bool {
        self != MemoryKind::Pinned
    }
}

/// Who takes memory, and for what.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag {
    /// Who, for example a model and its version; empty for nobody in particular.
    pub owner: Arc<str>,
    /// For what.
    pub kind: MemoryKind,
}

impl Tag {
    /// Memory of `owner`.
    pub fn new(owner: &str, kind: MemoryKind) -> Self {
        Tag { owner: Arc::from(owner), kind }
    }

    /// Memory of nobody in particular.
    pub(super) fn anonymous() -> Self {
        Tag::new("", MemoryKind::Other)
    }
}

/// A line of a [`Ledger`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerLine {
    /// Who takes it, and for what.
    pub tag: Tag,
    /// How much, as it was asked for.
    pub bytes: usize,
}

/// The account of a device: bytes by owner and kind, of everything that is taken and not yet given back.
#[derive(Debug, Default)]
pub struct Ledger {
    bytes: Mutex<BTreeMap<Tag, usize>>,
}

impl Ledger {
    /// Notes `bytes` for as long as the charge lives. [`super::Buffer`] and pinned memory do it themselves; for memory that the
    /// driver takes on its own, such as that of graphs, whoever measures it does.
    pub fn charge(self: &Arc<Self>, tag: &Tag, bytes: usize) -> Charge {
        let mut lines = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        *lines.entry(tag.clone()).or_default() += bytes;
        Charge { ledger: Arc::clone(self), tag: tag.clone(), bytes }
    }

    /// All lines, sorted by owner and kind.
    pub fn snapshot(&self) -> Vec<LedgerLine> {
        let lines = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|(tag, bytes)| LedgerLine { tag: tag.clone(), bytes: *bytes }).collect()
    }

    /// What is taken on the device by all together.
    pub fn device_bytes(&self) -> usize {
        let lines = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|(tag, _)| tag.kind.is_on_device()).map(|(_, bytes)| bytes).sum()
    }

    /// What one owner has taken on the device.
    pub fn owner_bytes(&self, owner: &str) -> usize {
        let lines = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|(tag, _)| &*tag.owner == owner && tag.kind.is_on_device()).map(|(_, bytes)| bytes).sum()
    }
}

/// An entry of a [`Ledger`], which ends when it is dropped.
#[derive(Debug)]
pub struct Charge {
    ledger: Arc<Ledger>,
    tag: Tag,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut lines = self.ledger.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = lines.get_mut(&self.tag) {
            *bytes -= self.bytes;
            if *bytes == 0 {
                lines.remove(&self.tag);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_add_up_and_end() {
        let ledger = Arc::new(Ledger::default());
        let (weights, arena) = (Tag::new("m/1", MemoryKind::Weights), Tag::new("m/1", MemoryKind::Arena));
        let first = ledger.charge(&weights, 100);
        let second = ledger.charge(&weights, 20);
        let third = ledger.charge(&arena, 3);
        let pinned = ledger.charge(&Tag::new("m/1", MemoryKind::Pinned), 5_000);
        let other = ledger.charge(&Tag::new("n/1", MemoryKind::Weights), 7);
        assert_eq!((ledger.owner_bytes("m/1"), ledger.device_bytes(), ledger.snapshot().len()), (123, 130, 4));
        drop(first);
        assert_eq!(ledger.snapshot()[0], LedgerLine { tag: weights, bytes: 20 });
        drop((second, third, pinned));
        assert_eq!((ledger.owner_bytes("m/1"), ledger.snapshot().len()), (0, 1));
        drop(other);
        assert_eq!(ledger.snapshot(), []);
    }
}
