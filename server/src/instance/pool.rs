//! The instances of one model version: the handle on them, and the bounded queue of batches they share.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::batch::{Batch, Member, Origin};
use crate::clock::{self, Timestamp};
use crate::config::Scheduling;
use crate::error::{InferError, LoadError};
use crate::observe::statistics::Stage;
use crate::request::Entry;

use super::device::{Dependent, DeviceHealth, DevicePermit, Devices, Seat};
use super::ready::{Destination, Lapsed, Perishable, ReadyQueue};
use super::{Backend, InstanceSlot, ServedVersion, panic_message, thread};

/// A request that runs alone and has no deadline is served as if it had one this long after its arrival: those with
/// earlier deadlines overtake it, and no stream of them can do so for ever.
const PATIENCE: Duration = Duration::from_secs(1);

/// Called by an instance's thread.
type Hook = Box<dyn Fn() + Send + Sync>;

/// Called by an instance's thread after each batch.
type DoneHook = Box<dyn Fn(&BatchDone) + Send + Sync>;

/// A batch that an instance is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchDone {
    /// How it came about.
    pub origin: Origin,
    /// Rows that were executed; 0 where nobody waited for any of its requests any more.
    pub rows: usize,
    /// When an instance took it.
    pub started_at: Timestamp,
    /// When its last request was answered.
    pub ended_at: Timestamp,
}

/// Handle on the running instances. When the last clone is dropped, the instances finish the batches
/// that are queued and end.
#[derive(Clone)]
pub struct InstancePool {
    handle: Arc<Handle>,
}

/// The last one closes the queue.
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.queue.close();
    }
}

/// What becomes of a batch that was submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// An idle instance has been woken for it.
    Taken,
    /// It waits for an instance, or that for its device.
    Waits,
}

/// What waits for the instances of a pool. It does not keep the instances from ending.
pub struct WaitingBatches(Arc<Shared>);

impl WaitingBatches {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.queue.len() == 0
    }

    /// As [`InstancePool::next_lapse`].
    pub fn next_lapse(&self) -> Option<Timestamp> {
        self.0.queue.next_lapse()
    }

    /// As [`InstancePool::expire`].
    pub fn expire(&self, now: Timestamp) {
        self.0.expire(now);
    }

    /// As [`InstancePool::sweep`].
    pub fn sweep(&self, now: Timestamp) {
        self.0.sweep(now);
    }
}

/// A batch that waits for an instance.
pub(super) struct Ready {
    pub(super) batch: Batch<Entry>,
    /// The turn on the device for which it was formed; without one, the instance sees to that.
    pub(super) permit: Option<DevicePermit>,
}

/// What the handle and the threads share.
pub(super) struct Shared {
    pub(super) served: Arc<ServedVersion>,
    pub(super) queue: ReadyQueue<Ready>,
    /// Whether instances wait for turns on a device.
    has_seats: bool,
    /// The seat of all instances, where batches are formed only when their turn on the device has come.
    pub(super) seat: Option<Seat>,
    /// Whether the device of each instance still works, where it shares one.
    healths: Vec<Option<Arc<DeviceHealth>>>,
    /// Where a request is that waits in the queue: requests that run alone have no other.
    stage: Stage,
    /// Batches submitted and not finished.
    in_flight: AtomicUsize,
    /// Threads that can run batches.
    working: AtomicUsize,
    instances: usize,
    /// Batches that all instances together may have under way.
    places: usize,
    done_hook: OnceLock<DoneHook>,
    failure_hook: OnceLock<Hook>,
    failure: Mutex<Option<String>>,
}

impl InstancePool {
    /// Starts all instances and runs their warmup; returns when every one is ready.
    /// `queue_batches` is how many batches may wait for an instance; before each, an instance waits for its turn on
    /// its device.
    ///
    /// # Errors
    /// The first instance that could not be made or warmed up; those that were are ended again. What a rate limiter
    /// asks for and will never get.
    pub fn start(
        served: Arc<ServedVersion>,
        backend: &Arc<dyn Backend>,
        queue_batches: usize,
        devices: &Devices,
    ) -> Result<Self, LoadError> {
        let slots: Vec<InstanceSlot> = served
            .config
            .instance_groups
            .iter()
            .flat_map(|group| std::iter::repeat_n(group, group.count))
            .enumerate()
            .map(|(ordinal, group)| InstanceSlot { group: group.clone(), ordinal, threads: NonZeroUsize::MIN })
            .collect();
        let seats = devices.seats(&served, backend.as_ref(), &slots)?;
        let places = slots.iter().map(|slot| backend.depth(slot).get()).fold(0, usize::saturating_add);
        let health = |slot: &InstanceSlot| devices.health(&backend.device(slot)?);
        let shared = Arc::new(Shared {
            healths: slots.iter().map(health).collect(),
            places,
            has_seats: seats.iter().any(Option::is_some),
            seat: common_seat(&served, &seats),
            stage: if matches!(served.config.scheduling, Scheduling::Direct(_)) { Stage::Queue } else { Stage::Ready },
            // Whoever was granted a turn finds room, too.
            queue: ReadyQueue::new(slots.len(), queue_batches.max(places)),
            served,
            in_flight: AtomicUsize::new(0),
            working: AtomicUsize::new(slots.len()),
            instances: slots.len(),
            done_hook: OnceLock::new(),
            failure_hook: OnceLock::new(),
            failure: Mutex::new(None),
        });
        // Dropped on the way out of a failed start, it ends the threads that did start.
        let pool = Self { handle: Arc::new(Handle { shared: Arc::clone(&shared) }) };
        shared.healths.iter().flatten().for_each(|health| health.tell(&shared));
        let (ready_sender, ready) = bounded(slots.len());
        for (slot, seat) in slots.into_iter().zip(seats) {
            let threads = seat.as_ref().map_or(slot.threads, Seat::slots);
            let slot = InstanceSlot { threads, ..slot };
            thread::spawn(&shared, slot, Arc::clone(backend), seat, ready_sender.clone())?;
        }
        drop(ready_sender);
        // Every thread reports once; one that died without a word closes the channel.
        for _ in 0..shared.instances {
            ready.recv().unwrap_or_else(|_| {
                Err(LoadError::Panicked {
                    model: shared.served.config.name.to_string(),
                    message: "the instance's thread ended".to_owned(),
                })
            })?;
        }
        Ok(pool)
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// Number of instances.
    pub fn instances(&self) -> usize {
        self.shared().instances
    }

    /// Batches that all instances together may have under way, each of them at least one.
    pub fn places(&self) -> usize {
        self.shared().places
    }

    /// The model version that runs here.
    pub fn served(&self) -> &Arc<ServedVersion> {
        &self.shared().served
    }

    /// Batches submitted and not finished.
    pub fn in_flight(&self) -> usize {
        self.shared().in_flight.load(Ordering::Acquire)
    }

    /// Why no instance works any more, if so.
    pub fn failure(&self) -> Option<String> {
        self.shared().failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The seat on the device that all instances share with other models, where whoever forms the batches asks for
    /// turns: a dynamic batcher, which then forms a batch only when it can run, so that late arrivals join. `None` where
    /// there is no such device, or the instances ask by themselves before they take a batch.
    pub fn seat(&self) -> Option<&Seat> {
        self.shared().seat.as_ref()
    }

    /// Hands a batch to the next free instance. Batches of a model whose requests run alone are served by deadline,
    /// all others in the order in which they come.
    ///
    /// # Errors
    /// The batch comes back where as many wait as may.
    pub fn try_submit(&self, batch: Batch<Entry>) -> Result<(), Batch<Entry>> {
        self.submit(Ready { batch, permit: None }, Destination::Any).map(drop)
    }

    /// As [`InstancePool::try_submit`], and says whether the batch will have to wait.
    ///
    /// # Errors
    /// The batch comes back where as many wait as may.
    pub fn try_place(&self, batch: Batch<Entry>) -> Result<Placement, Batch<Entry>> {
        self.submit(Ready { batch, permit: None }, Destination::Any)
    }

    /// How many batches would be served before one of this request alone that came now; it counts to `most`.
    pub fn count_ahead(&self, entry: &Entry, most: usize) -> usize {
        self.shared().queue.count_before(urgency(entry), most)
    }

    /// What waits for an instance, for who looks after it.
    pub fn waiting_batches(&self) -> WaitingBatches {
        WaitingBatches(Arc::clone(self.shared()))
    }

    /// As [`InstancePool::try_submit`], with a turn from [`InstancePool::seat`]. It ends with the batch.
    ///
    /// # Errors
    /// The batch comes back where as many wait as may; the turn is over.
    pub fn try_submit_with(&self, permit: Option<DevicePermit>, batch: Batch<Entry>) -> Result<(), Batch<Entry>> {
        self.submit(Ready { batch, permit }, Destination::Any).map(drop)
    }

    /// Hands a batch to one instance (numbered from 0) and no other, as a model needs that keeps state by instance.
    /// It is served in turn with the batches that any instance may take.
    ///
    /// # Errors
    /// The batch comes back where as many wait as may (those for other instances count too), or there is no such
    /// instance.
    pub fn try_submit_to(&self, instance: usize, batch: Batch<Entry>) -> Result<(), Batch<Entry>> {
        self.submit(Ready { batch, permit: None }, Destination::Instance(instance)).map(drop)
    }

    fn submit(&self, ready: Ready, destination: Destination) -> Result<Placement, Batch<Entry>> {
        let shared = self.shared();
        let urgency = match shared.served.config.scheduling {
            Scheduling::Direct(_) => ready.batch.members().first().map_or(Timestamp::default(), |first| urgency(&first.item)),
            _ => Timestamp::default(),
        };
        shared.in_flight.fetch_add(1, Ordering::AcqRel);
        let woken = shared.queue.push(ready, urgency, destination).map_err(|ready| {
            shared.in_flight.fetch_sub(1, Ordering::AcqRel);
            ready.batch
        })?;
        // An instance that is woken may still have to wait for its device.
        Ok(if woken && !shared.has_seats { Placement::Taken } else { Placement::Waits })
    }

    /// When the next request lapses that waits for an instance, as far as deadlines say.
    pub fn next_lapse(&self) -> Option<Timestamp> {
        self.shared().queue.next_lapse()
    }

    /// Refuses the requests that wait for an instance and whose time is over, in whichever batch they are; the rest of
    /// a batch stays in its place. Its cost is that of the batches whose time has come.
    pub fn expire(&self, now: Timestamp) {
        self.shared().expire(now);
    }

    /// Refuses the requests that wait for an instance and whose clients have left or whose time is over. It looks at
    /// everything that waits.
    pub fn sweep(&self, now: Timestamp) {
        self.shared().sweep(now);
    }

    /// Batches that wait for an instance.
    pub fn waiting(&self) -> usize {
        self.shared().queue.len()
    }

    /// Takes the model out of readiness for good, because of something else than its instances.
    pub fn fail(&self, reason: &str) {
        self.shared().fail(reason);
    }

    /// Sets what an instance calls after each batch. Only the first call counts.
    pub fn on_done(&self, hook: impl Fn(&BatchDone) + Send + Sync + 'static) {
        let _ = self.shared().done_hook.set(Box::new(hook));
    }

    /// Sets what is called when no instance works any more, at once if that is so already. Only the first call
    /// counts.
    pub fn on_failure(&self, hook: impl Fn() + Send + Sync + 'static) {
        let _ = self.shared().failure_hook.set(Box::new(hook));
        // The last instance may have failed before the hook was there to be called; called twice is harmless.
        if self.failure().is_some() {
            self.shared().failed();
        }
    }
}

/// When a request is to be served at the latest, for the order among those that wait.
fn urgency(entry: &Entry) -> Timestamp {
    let patience = entry.queued_at.plus(PATIENCE);
    entry.deadline.map_or(patience, |deadline| deadline.min(patience))
}

/// The seat of all instances of a dynamic batcher, if they have one and the same.
fn common_seat(served: &ServedVersion, seats: &[Option<Seat>]) -> Option<Seat> {
    let first = seats.first()?.as_ref()?;
    let is_common = seats.iter().all(|seat| seat.as_ref().is_some_and(|seat| seat.is_same(first)));
    (is_common && matches!(served.config.scheduling, Scheduling::Dynamic(_))).then(|| first.clone())
}

/// Takes the requests out of a batch for which `test` holds. Where they have stand-ins, the others keep their rows.
pub(super) fn take_out(batch: Batch<Entry>, test: &mut dyn FnMut(&Entry) -> bool) -> (Batch<Entry>, Vec<Entry>) {
    if batch.members().iter().all(|member| member.item.stand_in.is_none() && !member.item.is_padding()) {
        return batch.partition(|entry| !test(entry));
    }
    let (mut kept, mut taken) = (Batch::default(), Vec::new());
    kept.origin = batch.origin;
    for Member { item: entry, rows } in batch {
        match !entry.is_padding() && test(&entry) {
            false => kept.push(entry, rows.len()),
            true => {
                if let Some(stand_in) = &entry.stand_in {
                    kept.push(Entry::padding(stand_in), rows.len());
                }
                taken.push(entry);
            }
        }
    }
    // Of nothing but padding, nobody would see the answer.
    if kept.members().iter().all(|member| member.item.is_padding()) {
        kept = kept.partition(|_| false).0;
    }
    (kept, taken)
}

impl Perishable for Ready {
    type Part = Entry;

    fn next_lapse(&self) -> Option<Timestamp> {
        self.batch.members().iter().filter_map(|member| member.item.deadline).min()
    }

    fn extract(&mut self, test: &mut dyn FnMut(&Entry) -> bool, parts: &mut Vec<Entry>) {
        if self.batch.members().iter().any(|member| test(&member.item)) {
            let (kept, taken) = take_out(std::mem::take(&mut self.batch), test);
            self.batch = kept;
            parts.extend(taken);
        }
    }

    fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }
}

impl Dependent for Shared {
    fn lost(&self, reason: &str) {
        self.fail(reason);
    }
}

impl Shared {
    /// Whether the device of an instance still works.
    pub(super) fn health(&self, instance: usize) -> Option<&DeviceHealth> {
        self.healths.get(instance)?.as_deref()
    }

    pub(super) fn fail(&self, reason: &str) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
        self.failed();
    }

    fn failed(&self) {
        if let Some(hook) = self.failure_hook.get() {
            self.contain("reporting a failure", hook);
        }
    }

    /// Calls what others have put here, on a thread that must outlive whatever that does: those who take the answers
    /// run on it too (an ensemble goes on with its graph).
    pub(super) fn contain(&self, what: &str, call: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
            let message = panic_message(panic.as_ref());
            tracing::error!(model = %self.served.config.name, version = self.served.version, panic = message, "{what} panicked");
        }
    }

    /// An instance will run nothing any more; whether it was the last.
    pub(super) fn retire(&self) -> bool {
        self.working.fetch_sub(1, Ordering::AcqRel) == 1
    }

    pub(super) fn batch_done(&self, done: &BatchDone) {
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
        if let Some(hook) = self.done_hook.get() {
            self.contain("reporting a batch", || hook(done));
        }
    }

    /// These requests have left their model's queue.
    pub(super) fn leave_queue<'a>(&self, entries: impl IntoIterator<Item = &'a Entry>) {
        // Neighbors are mostly of one level, so this is one step for most batches.
        let mut same: Option<(usize, u64)> = None;
        for entry in entries.into_iter().filter(|entry| !entry.is_padding()) {
            same = match same {
                Some((level, requests)) if level == entry.level => Some((level, requests + 1)),
                other => {
                    other.into_iter().for_each(|(level, requests)| self.served.statistics.leave_queue(level, requests));
                    Some((entry.level, 1))
                }
            };
        }
        same.into_iter().for_each(|(level, requests)| self.served.statistics.leave_queue(level, requests));
    }

    /// Answers requests of which [`Entry::lapsed`] says that they must not run.
    pub(super) fn refuse(&self, entries: Vec<Entry>, now: Timestamp) {
        for entry in entries {
            let error = entry.lapsed(now).unwrap_or(InferError::Cancelled);
            self.contain("refusing a request", || self.served.statistics.refuse(entry, error, self.stage, now));
        }
    }

    fn expire(&self, now: Timestamp) {
        self.take_out(self.queue.expire(now, &mut |entry| entry.lapsed(now).is_some()), now);
    }

    fn sweep(&self, now: Timestamp) {
        self.take_out(self.queue.sweep(&mut |entry| entry.lapsed(now).is_some()), now);
    }

    fn take_out(&self, lapsed: Lapsed<Ready>, now: Timestamp) {
        self.leave_queue(&lapsed.parts);
        self.refuse(lapsed.parts, now);
        for Ready { batch, permit } in lapsed.emptied {
            drop(permit);
            self.batch_done(&BatchDone { origin: batch.origin, rows: 0, started_at: now, ended_at: clock::now() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Cancellation, Delivery, Responder, ResponseSink, ValidRequest};

    struct Nobody;

    impl ResponseSink for Nobody {
        fn deliver(&mut self, _: Delivery) {}
    }

    /// A batch of these requests, of which those without a name are padding.
    fn batch(names: &[&str], stand_in: Option<&Arc<ValidRequest>>) -> Batch<Entry> {
        let mut batch = Batch::default();
        for name in names {
            let entry = match (*name, stand_in) {
                ("", Some(padding)) => Entry::padding(padding),
                _ => Entry {
                    request: ValidRequest::empty(name),
                    responder: Responder::new(Box::new(Nobody), Cancellation::default()),
                    queued_at: Timestamp::default(),
                    level: 1,
                    deadline: None,
                    delayed_from: None,
                    stand_in: stand_in.cloned(),
                },
            };
            batch.push(entry, 1);
        }
        batch
    }

    fn left(batch: &Batch<Entry>) -> Vec<(&str, usize)> {
        batch.members().iter().map(|member| (member.item.request.id.as_str(), member.rows.start)).collect()
    }

    #[test]
    fn who_has_a_stand_in_leaves_the_others_their_rows() {
        let stand_in = Arc::new(ValidRequest::empty("padding"));
        let (kept, taken) = take_out(batch(&["a", "b", "", "c"], Some(&stand_in)), &mut |entry| entry.request.id == "b");
        assert_eq!(left(&kept), [("a", 0), ("padding", 1), ("padding", 2), ("c", 3)]);
        assert_eq!(taken.iter().map(|entry| entry.request.id.as_str()).collect::<Vec<_>>(), ["b"]);
        assert_eq!(kept.members().iter().map(|member| member.item.is_padding()).collect::<Vec<_>>(), [false, true, true, false]);
    }

    #[test]
    fn who_has_none_makes_room_and_padding_alone_does_not_run() {
        let (kept, taken) = take_out(batch(&["a", "b", "c"], None), &mut |entry| entry.request.id == "b");
        assert_eq!((left(&kept), taken.len()), (vec![("a", 0), ("c", 1)], 1));
        let stand_in = Arc::new(ValidRequest::empty("padding"));
        let (kept, taken) = take_out(batch(&["a", "", "b"], Some(&stand_in)), &mut |_| true);
        assert_eq!((kept.is_empty(), taken.len()), (true, 2));
    }
}
