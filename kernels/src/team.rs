//! The threads that share the work of one operation.
//!
//! A team belongs to one model instance and is used by one operation at a time. Operations give every member a share of
//! their result that no other member writes to; how the work is cut never changes what is computed for one element, so
//! answers do not depend on the number of threads.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use rayon::ThreadPool;

use crate::aligned::Aligned;
use crate::isa::Isa;

/// One member's part of an operation: the `index`-th of `count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which part, below `count`.
    pub index: usize,
    /// How many parts.
    pub count: usize,
}

impl Share {
    /// The whole of an operation.
    pub const WHOLE: Share = Share { index: 0, count: 1 };

    /// This member's part of `items` things, as even as possible and in order.
    pub fn of(self, items: usize) -> std::ops::Range<usize> {
        let (each, more) = (items / self.count, items % self.count);
        let start = self.index * each + self.index.min(more);
        start..start + each + usize::from(self.index < more)
    }
}

/// A bounded number of threads with their scratch memory. A team of one has no threads: its caller does the work.
#[derive(Debug)]
pub struct Team {
    pool: Option<ThreadPool>,
    scratch: Vec<Mutex<Aligned>>,
    isa: Isa,
}

/// The threads of a team could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {threads} threads for matrix products: {source}")]
pub struct TeamError {
    /// How many were asked for.
    pub threads: usize,
    /// What the operating system said.
    #[source]
    pub source: rayon::ThreadPoolBuildError,
}

impl Team {
    /// A team of so many threads, each with `scratch_bytes` of memory for intermediate results (see the
    /// `scratch_bytes` of the operations). `name` is the beginning of the threads' names.
    ///
    /// # Errors
    /// The system refuses to start the threads.
    pub fn new(name: &str, threads: NonZeroUsize, scratch_bytes: usize) -> Result<Team, TeamError> {
        let threads = threads.get();
        let mut team = Team::single(scratch_bytes);
        if threads > 1 {
            let name = name.to_owned();
            let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = builder.thread_name(move |index| format!("{name}-{index}")).build();
            team.pool = Some(pool.map_err(|source| TeamError { threads, source })?);
            team.scratch = (0..threads).map(|_| Mutex::new(Aligned::zeroed(scratch_bytes))).collect();
        }
        Ok(team)
    }

    /// A team of the calling thread alone.
    pub fn single(scratch_bytes: usize) -> Team {
        Team { pool: None, scratch: vec![Mutex::new(Aligned::zeroed(scratch_bytes))], isa: Isa::detect() }
    }

    /// The same team with other vector instructions, for tests and comparisons.
    ///
    /// # Panics
    /// If the processor does not have them.
    pub fn with_isa(self, isa: Isa) -> Team {
        assert!(isa <= Isa::detect(), "{isa:?} is not available here");
        Team { isa, ..self }
    }

    /// The vector instructions that this team's operations use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Members, at least one.
    pub fn threads(&self) -> usize {
        self.scratch.len()
    }

    /// Calls `part` once per member, at the same time, and returns when all are done. Each gets its share and its
    /// scratch memory, whose content is arbitrary. A panic of a member comes out here once all are done.
    pub fn run(&self, part: impl Fn(Share, &mut Aligned) + Sync) {
        let count = self.threads();
        let call = |index: usize| {
            let mut scratch = self.scratch[index].lock().unwrap_or_else(PoisonError::into_inner);
            part(Share { index, count }, &mut scratch);
        };
        match &self.pool {
            None => call(0),
            Some(pool) => {
                pool.broadcast(|member| call(member.index()));
            }
        }
    }
}
