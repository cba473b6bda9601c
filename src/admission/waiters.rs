//! Submissions that wait for room, in a line for each queue, outside of the channel that all share.

use std::{
    collections::{HashMap, VecDeque},
    hash::{Hash, Hasher},
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use crate::{
    clock::Uptime,
    store::{Offer, batch::QueueFull},
};

/// All waiting submissions together may hold so many bytes.
const BYTES_MAX: u64 = 256 << 20;

/// A call that submits, for as long as its client is there. A stream has many submissions on their way, and waits as one
/// all the same.
#[derive(Debug, Default)]
pub(crate) struct Caller(Arc<()>);

impl Caller {
    /// Names this caller, and tells whether it is still there.
    pub(crate) fn key(&self) -> CallerKey {
        CallerKey(Arc::downgrade(&self.0))
    }
}

/// The name of a caller.
#[derive(Clone, Debug)]
pub(crate) struct CallerKey(Weak<()>);

impl PartialEq for CallerKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }
}

impl Eq for CallerKey {}

impl Hash for CallerKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // An address is not given to another caller while a key has it.
        self.0.as_ptr().hash(state);
    }
}

/// The callers who wait for room in a queue, and how many submissions of each do.
#[derive(Debug, Default)]
pub(crate) struct Callers(Mutex<HashMap<CallerKey, usize>>);

impl Callers {
    /// How many there are, without those who have hung up since.
    pub(crate) fn present(&self) -> usize {
        self.0.lock().keys().filter(|caller| caller.0.strong_count() > 0).count()
    }

    /// Those who have hung up and were not looked for yet included.
    fn len(&self) -> usize {
        self.0.lock().len()
    }

    fn contains(&self, caller: &CallerKey) -> bool {
        self.0.lock().contains_key(caller)
    }

    fn comes(&self, caller: &CallerKey) {
        *self.0.lock().entry(caller.clone()).or_default() += 1;
    }

    fn leaves(&self, caller: &CallerKey) {
        let mut callers = self.0.lock();
        if let Some(times) = callers.get_mut(caller) {
            *times -= 1;
            if *times == 0 {
                callers.remove(caller);
            }
        }
    }
}

/// A submission's place among those that wait for room, from when it is parked until it is answered.
#[derive(Debug)]
pub(crate) struct Seat {
    callers: Arc<Callers>,
    caller: CallerKey,
}

impl Seat {
    fn take(callers: &Arc<Callers>, caller: CallerKey) -> Self {
        callers.comes(&caller);
        Seat { callers: Arc::clone(callers), caller }
    }

    pub(crate) fn caller(&self) -> &CallerKey {
        &self.caller
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.callers.leaves(&self.caller);
    }
}

/// A submission that waits for room.
#[derive(Debug)]
pub(crate) struct Waiter<R> {
    pub(crate) offer: Offer,
    pub(crate) until: Uptime,
    pub(crate) seat: Seat,
    /// What its queue held when it was last refused.
    pub(crate) full: QueueFull,
    pub(crate) reply: R,
}

/// The lines of waiting submissions, first come first served within a queue.
#[derive(Debug)]
pub(crate) struct Waiters<R> {
    lines: HashMap<Arc<str>, VecDeque<Waiter<R>>>,
    bytes: u64,
}

impl<R> Default for Waiters<R> {
    fn default() -> Self {
        Waiters { lines: HashMap::new(), bytes: 0 }
    }
}

impl<R> Waiters<R> {
    /// Whether somebody stands in the queue's line.
    pub(crate) fn has_any(&self, queue: &str) -> bool {
        self.lines.contains_key(queue)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The queues in which somebody waits.
    pub(crate) fn queues(&self) -> Vec<Arc<str>> {
        let mut queues: Vec<_> = self.lines.keys().cloned().collect();
        queues.sort_unstable();
        queues
    }

    /// A seat for one more submission of a caller among the `callers` of its queue, unless more than `max` would wait
    /// then, or too many bytes.
    pub(crate) fn seat(
        &self,
        callers: &Arc<Callers>,
        max: usize,
        caller: CallerKey,
        offer: &Offer,
    ) -> Option<Seat> {
        let too_many = callers.len() >= max && !callers.contains(&caller);
        let too_much = self.bytes + bytes(offer) > BYTES_MAX;
        (!too_many && !too_much).then(|| Seat::take(callers, caller))
    }

    /// Puts a submission at the end of its queue's line.
    pub(crate) fn park(&mut self, queue: &Arc<str>, waiter: Waiter<R>) {
        self.bytes += bytes(&waiter.offer);
        self.lines.entry(Arc::clone(queue)).or_default().push_back(waiter);
    }

    /// Takes the first ones of a line. They keep their seats.
    pub(crate) fn take(&mut self, queue: &str, max: usize) -> Vec<Waiter<R>> {
        let Some(line) = self.lines.get_mut(queue) else {
            return Vec::new();
        };
        let taken: Vec<_> = line.drain(..max.min(line.len())).collect();
        if line.is_empty() {
            self.lines.remove(queue);
        }
        self.bytes -= taken.iter().map(|waiter| bytes(&waiter.offer)).sum::<u64>();
        taken
    }

    /// Puts submissions that were taken back to the front of their line, in their order.
    pub(crate) fn put_back(&mut self, queue: &Arc<str>, waiters: Vec<Waiter<R>>) {
        if waiters.is_empty() {
            return;
        }
        self.bytes += waiters.iter().map(|waiter| bytes(&waiter.offer)).sum::<u64>();
        let line = self.lines.entry(Arc::clone(queue)).or_default();
        for waiter in waiters.into_iter().rev() {
            line.push_front(waiter);
        }
    }

    /// Takes out those for whom `over` says that it is over.
    pub(crate) fn remove(&mut self, mut over: impl FnMut(&Waiter<R>) -> bool) -> Vec<Waiter<R>> {
        let mut removed = Vec::new();
        self.lines.retain(|_, line| {
            let mut index = 0;
            while let Some(waiter) = line.get(index) {
                if over(waiter) {
                    removed.extend(line.remove(index));
                } else {
                    index += 1;
                }
            }
            !line.is_empty()
        });
        self.bytes -= removed.iter().map(|waiter| bytes(&waiter.offer)).sum::<u64>();
        removed
    }

    /// When the first one's patience ends.
    pub(crate) fn next_until(&self) -> Option<Uptime> {
        self.lines.values().flatten().map(|waiter| waiter.until).min()
    }
}

fn bytes(offer: &Offer) -> u64 {
    offer.jobs.iter().map(crate::store::NewJob::bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(until: u64) -> Uptime {
        Uptime::new(std::time::Duration::from_micros(until))
    }

    struct Rig {
        waiters: Waiters<u32>,
        queue: Arc<str>,
        callers: Arc<Callers>,
        /// By the name of what they submit.
        calls: HashMap<u32, Caller>,
    }

    impl Rig {
        fn new() -> Self {
            Rig {
                waiters: Waiters::default(),
                queue: Arc::from("mail"),
                callers: Arc::default(),
                calls: HashMap::new(),
            }
        }

        fn park(&mut self, max: usize, name: u32, until: u64) -> Result<(), u32> {
            self.park_as(max, name, name, until)
        }

        fn park_as(&mut self, max: usize, caller: u32, name: u32, until: u64) -> Result<(), u32> {
            let offer = Offer { request: None, jobs: Vec::new(), behind_waiters: false };
            let caller = self.calls.entry(caller).or_default().key();
            let seat = self.waiters.seat(&self.callers, max, caller, &offer).ok_or(name)?;
            let full = QueueFull { queue: "mail".to_owned(), jobs: 1, max_jobs: 1, bytes: 0, max_bytes: 1 };
            let until = at(until);
            self.waiters.park(&self.queue, Waiter { offer, until, seat, full, reply: name });
            Ok(())
        }

        fn take(&mut self, max: usize) -> Vec<Waiter<u32>> {
            self.waiters.take("mail", max)
        }
    }

    fn names(waiters: &[Waiter<u32>]) -> Vec<u32> {
        waiters.iter().map(|waiter| waiter.reply).collect()
    }

    #[test]
    fn the_line_keeps_its_order_when_some_go_back() {
        let mut rig = Rig::new();
        for name in 1..=4 {
            rig.park(10, name, 0).unwrap();
        }
        let taken = rig.take(3);
        assert_eq!(names(&taken), [1, 2, 3]);
        rig.waiters.put_back(&rig.queue, taken.into_iter().skip(1).collect());
        assert_eq!(rig.callers.present(), 3);
        let taken = rig.take(10);
        assert_eq!(names(&taken), [2, 3, 4]);
        assert_eq!(rig.callers.present(), 3, "those who are offered room wait until they have it");
        drop(taken);
        assert!(rig.waiters.is_empty() && rig.callers.len() == 0);
    }

    #[test]
    fn a_line_that_is_too_long_gives_back_the_newcomer() {
        let mut rig = Rig::new();
        rig.park(1, 1, 0).unwrap();
        assert_eq!(rig.park(1, 2, 0), Err(2));
        assert_eq!(rig.callers.present(), 1);
    }

    #[test]
    fn a_stream_waits_as_one_caller_however_many_of_its_items_wait() {
        let mut rig = Rig::new();
        for name in 1..=3 {
            rig.park_as(2, 7, name, 0).unwrap();
        }
        rig.park(2, 4, 0).unwrap();
        assert_eq!(rig.callers.present(), 2);
        assert_eq!(rig.park(2, 5, 0), Err(5));
        let taken = rig.take(2);
        rig.waiters.put_back(&rig.queue, taken.into_iter().skip(1).collect());
        assert_eq!(rig.callers.present(), 2, "two of the stream's are still there");
        let stream = rig.calls[&7].key();
        rig.waiters.remove(|waiter| waiter.seat.caller == stream);
        assert_eq!(rig.callers.present(), 1);
    }

    #[test]
    fn a_caller_who_hangs_up_is_not_counted_any_more() {
        let mut rig = Rig::new();
        for name in 1..=3 {
            rig.park(3, name, 0).unwrap();
        }
        rig.calls.remove(&2);
        assert_eq!(rig.callers.present(), 2);
        assert_eq!(names(&rig.take(10)), [1, 2, 3], "it is let go of when somebody else comes by");
    }

    #[test]
    fn those_whose_patience_ends_leave_and_the_next_end_is_known() {
        let mut rig = Rig::new();
        for (name, until) in [(1, 30), (2, 10), (3, 20)] {
            rig.park(10, name, until).unwrap();
        }
        assert_eq!(rig.waiters.next_until(), Some(at(10)));
        let now = at(20);
        let gone = rig.waiters.remove(|waiter| waiter.until <= now);
        assert_eq!(gone.iter().map(|waiter| waiter.reply).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(rig.waiters.next_until(), Some(at(30)));
    }
}
