//! A batch: things that are run together, and the rows that belong to each.

use std::ops::Range;

/// Grouped things and the row range of each, contiguous and in order. It knows nothing of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch<T> {
    members: Vec<Member<T>>,
    rows: usize,
}

/// One member of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member<T> {
    /// The thing itself.
    pub item: T,
    /// Its rows of the batch.
    pub rows: Range<usize>,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self { members: Vec::new(), rows: 0 }
    }
}

impl<T> Batch<T> {
    /// A batch of one thing.
    pub fn single(item: T, rows: usize) -> Self {
        let mut batch = Self::default();
        batch.push(item, rows);
        batch
    }

    /// Appends a thing that has `rows` rows.
    pub fn push(&mut self, item: T, rows: usize) {
        let end = self.rows.saturating_add(rows);
        self.members.push(Member { item, rows: self.rows..end });
        self.rows = end;
    }

    /// Rows of all members together.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The members, in order.
    pub fn members(&self) -> &[Member<T>] {
        &self.members
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Splits the batch in two by a test on the members; the rows of both are counted anew.
    pub fn partition(self, mut keep: impl FnMut(&T) -> bool) -> (Self, Vec<T>) {
        let mut kept = Self::default();
        let mut rest = Vec::new();
        for member in self.members {
            if keep(&member.item) {
                kept.push(member.item, member.rows.len());
            } else {
                rest.push(member.item);
            }
        }
        (kept, rest)
    }
}

impl<T> IntoIterator for Batch<T> {
    type Item = Member<T>;
    type IntoIter = std::vec::IntoIter<Member<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.members.into_iter()
    }
}
