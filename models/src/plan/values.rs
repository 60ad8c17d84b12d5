//! The numbers of a result, wherever they lie.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// Numbers of a result: in memory of their own, or in memory that is lent and given back when they are dropped.
#[derive(Clone)]
pub struct Values(Inner);

#[derive(Clone)]
enum Inner {
    Owned(Vec<f32>),
    Lent { owner: Arc<dyn AsRef<[f32]> + Send + Sync>, range: Range<usize> },
}

impl Values {
    /// The part `range` of what `owner` holds.
    ///
    /// # Panics
    /// If it lies outside.
    pub fn lent(owner: Arc<dyn AsRef<[f32]> + Send + Sync>, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= (*owner).as_ref().len(), "a part lies outside its numbers");
        Values(Inner::Lent { owner, range })
    }
}

impl Deref for Values {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.0 {
            Inner::Owned(values) => values,
            Inner::Lent { owner, range } => &(**owner).as_ref()[range.clone()],
        }
    }
}

impl From<Vec<f32>> for Values {
    fn from(values: Vec<f32>) -> Self {
        Values(Inner::Owned(values))
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl PartialEq for Values {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counted(Vec<f32>, #[expect(dead_code, reason = "counts owners")] Arc<()>);

    impl AsRef<[f32]> for Counted {
        fn as_ref(&self) -> &[f32] {
            &self.0
        }
    }

    #[test]
    fn lent_numbers_go_back_with_their_last_part() {
        let alive = Arc::new(());
        let owner = Arc::new(Counted(vec![1.0, 2.0, 3.0], Arc::clone(&alive)));
        let parts = [Values::lent(owner.clone(), 0..1), Values::lent(owner, 1..3)];
        assert_eq!((&parts[0][..], &parts[1][..]), (&[1.0][..], &[2.0, 3.0][..]));
        let [first, second] = parts;
        drop(first);
        assert_eq!(Arc::strong_count(&alive), 2);
        assert_eq!(second, Values::from(vec![2.0, 3.0]));
        drop(second);
        assert_eq!(Arc::strong_count(&alive), 1);
    }
}
