//! The threads that share the work of one operation.
//!
//! A team belongs to one model instance and is used by one operation at a time. Operations give every member a share of
//! their result that no other member writes to; how the work is cut never changes what is computed for one element, so
//! answers do not depend on the number of threads.
//!
//! A thread that has slept takes 5 to 20 microseconds to wake up, about as long as one of the smaller operations takes. Two
//! things keep that rare: what runs within [`Team::enter`] finds the threads still looking for work after the previous
//! operation (2.5 microseconds), and operations on few numbers are left to the thread that calls them.

#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::ops::Range;
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
    pub fn of(self, items: usize) -> Range<usize> {
        let (each, more) = (items / self.count, items % self.count);
        let start = self.index * each + self.index.min(more);
        start..start + each + usize::from(self.index < more)
    }
}

/// Operations that touch fewer numbers than this take less time than waking a thread. Tests share small ones too.
const LEAST_SHARED: usize = if cfg!(test) { 1 } else { 32 * 1024 };

/// A bounded number of threads with their scratch memory. A team of one has no threads: its caller does the work.
#[derive(Debug)]
pub struct Team {
    pool: Option<ThreadPool>,
    scratch: Vec<Mutex<Aligned>>,
    isa: Isa,
}

/// The threads of a team could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {threads} threads for numeric operations: {source}")]
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

    /// Calls `work` on a thread of the team, in which operations start sooner: they need not wake that thread, and the others
    /// stay awake from one operation to the next. A team of one has no threads and calls it here.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            None => work(),
            Some(pool) => pool.install(work),
        }
    }

    /// Calls `part` once per member, at the same time, and returns when all are done. Each gets its share and its
    /// scratch memory, whose content is arbitrary. A panic of a member comes out here once all are done. A `part` must not
    /// use the team itself: it would wait for its own scratch memory.
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

    /// Cuts the rows of `output: [rows, n]` among the members: `part` gets a range of rows and these rows to write. It is
    /// called once, here, if the operation touches only `numbers` numbers and these are few.
    pub(crate) fn rows(&self, output: &mut [f32], n: usize, numbers: usize, part: impl Fn(Range<usize>, &mut [f32]) + Sync) {
        /// The beginning of the output, for all members.
        struct Start(*mut f32);
        // SAFETY: members write to different parts of what it points to.
        unsafe impl Sync for Start {}
        impl Start {
            /// # Safety
            /// The range lies inside the output, and nobody else uses that part of it.
            #[allow(clippy::mut_from_ref)]
            unsafe fn part(&self, range: Range<usize>) -> &mut [f32] {
                // SAFETY: as of this function.
                unsafe { std::slice::from_raw_parts_mut(self.0.add(range.start), range.len()) }
            }
        }
        let rows = output.len() / n;
        assert_eq!(output.len(), rows * n, "the output does not consist of whole rows");
        if self.pool.is_none() || numbers < LEAST_SHARED {
            return part(0..rows, output);
        }
        let start = Start(output.as_mut_ptr());
        self.run(|share, _| {
            let own = share.of(rows);
            // SAFETY: shares of different members do not overlap and end at `rows`, so these are `own.len() * n` numbers
            // inside the output, which is borrowed until `run` returns, and no other member has them.
            let output = unsafe { start.part(own.start * n..own.end * n) };
            part(own, output);
        });
    }
}

#[cfg(test)]
impl Team {
    /// Teams of one and of three threads with every instruction set, for the tests of operations.
    pub(crate) fn all() -> &'static [Team] {
        static ALL: std::sync::OnceLock<Vec<Team>> = std::sync::OnceLock::new();
        ALL.get_or_init(|| {
            let threads = [NonZeroUsize::MIN, NonZeroUsize::MIN.saturating_add(2)];
            let teams = Isa::available().flat_map(|isa| threads.map(|threads| (isa, threads)));
            teams.map(|(isa, threads)| Team::new("test", threads, 0).expect("threads start").with_isa(isa)).collect()
        })
    }
}
