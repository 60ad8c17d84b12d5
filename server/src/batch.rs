//! A batch: things that are run together, and the rows that belong to each.

use std::ops::Range;

use crate::clock::Timestamp;

/// Grouped things and the row range of each, contiguous and in order. It knows nothing of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch<T> {
    members: Vec<Member<T>>,
    rows: usize,
    /// How it came about.
    pub origin: Origin,
}

/// How a batch came about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Number of the batch within its model, from 1; 0 for one that no scheduler formed.
    pub id: u64,
    /// When it was formed.
    pub formed_at: Timestamp,
    /// Why then.
    pub trigger: Trigger,
    /// Work of all members, in the model's unit.
    pub cost: u64,
}

/// Why a batch was formed when it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// The model does not batch: each request runs on its own.
    #[default]
    Alone,
    /// An instance was idle, and waiting promised nothing.
    Idle,
    /// No further request fits: rows or cost are at their limit.
    Full,
    /// It reached a preferred batch size.
    Preferred,
    /// Its oldest request waited as long as it may.
    Window,
    /// To wait longer would have missed a deadline.
    Deadline,
    /// A request that may not be overtaken cannot join.
    Order,
}

impl Trigger {
    /// Every trigger, in the order of their declaration.
    pub const ALL: [Trigger; 7] =
        [Self::Alone, Self::Idle, Self::Full, Self::Preferred, Self::Window, Self::Deadline, Self::Order];

    /// The word for it in timelines and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Idle => "idle",
            Self::Full => "full",
            Self::Preferred => "preferred",
            Self::Window => "window",
            Self::Deadline => "deadline",
            Self::Order => "order",
        }
    }
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
        Self { members: Vec::new(), rows: 0, origin: Origin::default() }
    }
}

impl<T> Batch<T> {
    /// A batch of one thing.
    pub fn single(item: T, rows: usize) -> Self {
        let mut batch = Self::default();
        batch.push(item, rows);
        batch
    }

    /// An empty batch with room for so many things.
    pub fn with_capacity(members: usize) -> Self {
        Self { members: Vec::with_capacity(members), ..Self::default() }
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
        let mut kept = Self { origin: self.origin, ..Self::default() };
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
