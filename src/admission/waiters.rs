//! Submissions that wait for room, in a line for each queue, outside of the channel that all share.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crate::{clock::Timestamp, store::Offer};

/// All waiting submissions together may hold so many bytes.
const BYTES_MAX: u64 = 256 << 20;

/// Whoever submits: a call. A stream has many submissions on their way, and waits as one all the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Caller(pub(crate) u64);

/// A submission that waits for room.
#[derive(Debug)]
pub(crate) struct Waiter<R> {
    pub(crate) offer: Offer,
    pub(crate) until: Timestamp,
    pub(crate) caller: Caller,
    pub(crate) reply: R,
}

/// The lines of waiting submissions, first come first served within a queue.
#[derive(Debug)]
pub(crate) struct Waiters<R> {
    lines: HashMap<Arc<str>, Line<R>>,
    bytes: u64,
}

/// A line, and how often each caller stands in it.
#[derive(Debug)]
struct Line<R> {
    waiters: VecDeque<Waiter<R>>,
    callers: HashMap<Caller, usize>,
}

impl<R> Default for Line<R> {
    fn default() -> Self {
        Line { waiters: VecDeque::new(), callers: HashMap::new() }
    }
}

impl<R> Line<R> {
    fn comes(&mut self, caller: Caller) {
        *self.callers.entry(caller).or_default() += 1;
    }

    fn goes(&mut self, caller: Caller) {
        if let Some(times) = self.callers.get_mut(&caller) {
            *times -= 1;
            if *times == 0 {
                self.callers.remove(&caller);
            }
        }
    }
}

impl<R> Default for Waiters<R> {
    fn default() -> Self {
        Waiters { lines: HashMap::new(), bytes: 0 }
    }
}

impl<R> Waiters<R> {
    /// How many callers wait for room in the queue.
    pub(crate) fn len(&self, queue: &str) -> usize {
        self.lines.get(queue).map_or(0, |line| line.callers.len())
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

    /// Puts a submission at the end of its queue's line, or gives it back where too many callers wait.
    pub(crate) fn park(&mut self, queue: &Arc<str>, max: usize, waiter: Waiter<R>) -> Result<(), Waiter<R>> {
        let bytes = bytes(&waiter.offer);
        let line = self.lines.entry(Arc::clone(queue)).or_default();
        let too_many = line.callers.len() >= max && !line.callers.contains_key(&waiter.caller);
        if too_many || self.bytes + bytes > BYTES_MAX {
            if line.waiters.is_empty() {
                self.lines.remove(queue);
            }
            return Err(waiter);
        }
        self.bytes += bytes;
        line.comes(waiter.caller);
        line.waiters.push_back(waiter);
        Ok(())
    }

    /// Takes the first ones of a line.
    pub(crate) fn take(&mut self, queue: &str, max: usize) -> Vec<Waiter<R>> {
        let Some(line) = self.lines.get_mut(queue) else {
            return Vec::new();
        };
        let taken: Vec<_> = line.waiters.drain(..max.min(line.waiters.len())).collect();
        taken.iter().for_each(|waiter| line.goes(waiter.caller));
        if line.waiters.is_empty() {
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
            line.comes(waiter.caller);
            line.waiters.push_front(waiter);
        }
    }

    /// Takes out those for whom `over` says that it is over.
    pub(crate) fn remove(&mut self, mut over: impl FnMut(&Waiter<R>) -> bool) -> Vec<(Arc<str>, Waiter<R>)> {
        let mut removed = Vec::new();
        self.lines.retain(|queue, line| {
            let mut index = 0;
            while let Some(waiter) = line.waiters.get(index) {
                if over(waiter) {
                    if let Some(waiter) = line.waiters.remove(index) {
                        self.bytes -= bytes(&waiter.offer);
                        line.goes(waiter.caller);
                        removed.push((Arc::clone(queue), waiter));
                    }
                } else {
                    index += 1;
                }
            }
            !line.waiters.is_empty()
        });
        removed
    }

    /// When the first one's patience ends.
    pub(crate) fn next_until(&self) -> Option<Timestamp> {
        self.lines.values().flat_map(|line| &line.waiters).map(|waiter| waiter.until).min()
    }
}

fn bytes(offer: &Offer) -> u64 {
    offer.jobs.iter().map(crate::store::NewJob::bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(name: u32, until: i64) -> Waiter<u32> {
        let offer = Offer { request: None, jobs: Vec::new(), behind_waiters: false };
        let caller = Caller(name.into());
        Waiter { offer, until: Timestamp::from_micros(until), caller, reply: name }
    }

    fn names(waiters: &[Waiter<u32>]) -> Vec<u32> {
        waiters.iter().map(|waiter| waiter.reply).collect()
    }

    #[test]
    fn the_line_keeps_its_order_when_some_go_back() {
        let (mut waiters, queue) = (Waiters::default(), Arc::from("mail"));
        for name in 1..=4 {
            waiters.park(&queue, 10, waiter(name, 0)).unwrap();
        }
        let taken = waiters.take("mail", 3);
        assert_eq!(names(&taken), [1, 2, 3]);
        waiters.put_back(&queue, taken.into_iter().skip(1).collect());
        assert_eq!(names(&waiters.take("mail", 10)), [2, 3, 4]);
        assert!(waiters.is_empty());
    }

    #[test]
    fn a_line_that_is_too_long_gives_back_the_newcomer() {
        let (mut waiters, queue) = (Waiters::default(), Arc::from("mail"));
        waiters.park(&queue, 1, waiter(1, 0)).unwrap();
        assert_eq!(waiters.park(&queue, 1, waiter(2, 0)).unwrap_err().reply, 2);
        assert_eq!(waiters.len("mail"), 1);
    }

    #[test]
    fn a_stream_waits_as_one_caller_however_many_of_its_items_wait() {
        let (mut waiters, queue) = (Waiters::default(), Arc::from("mail"));
        for name in 1..=3 {
            waiters.park(&queue, 2, Waiter { caller: Caller(7), ..waiter(name, 0) }).unwrap();
        }
        waiters.park(&queue, 2, waiter(4, 0)).unwrap();
        assert_eq!(waiters.len("mail"), 2);
        assert_eq!(waiters.park(&queue, 2, waiter(5, 0)).unwrap_err().reply, 5);
        let taken = waiters.take("mail", 2);
        assert_eq!(waiters.len("mail"), 2, "one of the stream's is still there");
        waiters.put_back(&queue, taken);
        waiters.remove(|waiter| waiter.caller == Caller(7));
        assert_eq!(waiters.len("mail"), 1);
    }

    #[test]
    fn those_whose_patience_ends_leave_and_the_next_end_is_known() {
        let (mut waiters, queue) = (Waiters::default(), Arc::from("mail"));
        for (name, until) in [(1, 30), (2, 10), (3, 20)] {
            waiters.park(&queue, 10, waiter(name, until)).unwrap();
        }
        assert_eq!(waiters.next_until(), Some(Timestamp::from_micros(10)));
        let now = Timestamp::from_micros(20);
        let gone = waiters.remove(|waiter| waiter.until <= now);
        assert_eq!(gone.iter().map(|(_, waiter)| waiter.reply).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(waiters.next_until(), Some(Timestamp::from_micros(30)));
    }
}
