//! Offers that wait for room, in one waiting line per queue.
//!
//! A line's offers are tried again only once its queue has gained room, and only as far as the room reaches.
//! Disconnected callers and the next deadline are looked up in indexes: nothing scans the lines.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    batch::Offer,
    callers::{CallerId, Departures, Seat},
    refusals::QueueFull,
};
use crate::{clock::Uptime, job::{Participant, ScheduleId}};

/// Byte limit of all waiting offers.
const BYTES_MAX: u64 = 256 << 20;

/// A waiting offer.
#[derive(Debug)]
struct Waiting {
    offer: Offer,
    until: Uptime,
    /// The queue's usage when the offer last found no room.
    full: QueueFull,
}

/// The offers that wait for one queue.
#[derive(Debug, Default)]
struct Waitline {
    /// The offers, by participant in the turns of a fair queue and order.
    waiting: BTreeMap<(Participant, u64), Waiting>,
    /// The participant that had the last turn.
    last: Participant,
    /// The callers with a seat and their number of seats, offers that are being tried included.
    callers: HashMap<CallerId, usize>,
    /// The number of waiting callers, for readers outside the engine.
    count: Arc<AtomicU64>,
}

/// All waiting lines, each first come, first served, or in turns if the queue is fair.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    lines: HashMap<u32, Waitline>,
    deadlines: BTreeSet<(Uptime, Seat)>,
    by_caller: HashMap<CallerId, BTreeSet<Seat>>,
    /// Queues that have gained room, in round-robin order.
    offerable: VecDeque<u32>,
    last_turn: u64,
    bytes: u64,
    departures: Arc<Departures>,
    /// Callers that have disconnected and may still have waiting offers.
    departed: VecDeque<CallerId>,
}

/// Limits of the waiting offers that one batch tries again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    /// Limit of the offers.
    pub(crate) offers: usize,
    /// Limit of their jobs.
    pub(crate) jobs: usize,
    /// Limit of their bytes.
    pub(crate) bytes: u64,
}

impl Waiters {
    /// Returns the registry of callers that have disconnected.
    pub(super) fn departures(&self) -> &Arc<Departures> {
        &self.departures
    }

    /// Returns whether an offer waits in the queue's line.
    pub(super) fn has_any(&self, queue: u32) -> bool {
        self.lines.get(&queue).is_some_and(|line| !line.waiting.is_empty())
    }

    /// Returns whether no offer waits.
    pub(super) fn is_empty(&self) -> bool {
        self.deadlines.is_empty()
    }

    /// Returns whether a queue with waiting offers has gained room.
    pub(super) fn can_offer(&self) -> bool {
        !self.offerable.is_empty()
    }

    /// Returns the earliest deadline of the waiting offers.
    pub(super) fn next_deadline(&self) -> Option<Uptime> {
        self.deadlines.first().map(|(until, _)| *until)
    }

    /// Notes that a queue has gained room.
    pub(super) fn gained_room(&mut self, queue: u32) {
        if self.has_any(queue) && !self.offerable.contains(&queue) {
            self.offerable.push_back(queue);
        }
    }

    /// Notes that every queue may have gained room.
    pub(super) fn all_gained_room(&mut self) {
        let mut queues: Vec<u32> = self.lines.keys().copied().collect();
        queues.sort_unstable();
        for queue in queues {
            self.gained_room(queue);
        }
    }

    /// Puts an offer at the end of a queue's line, or back into its place if it has a seat there. Returns the offer if
    /// the line would then have more than `max` callers, or all lines more bytes than their limit.
    pub(super) fn park(
        &mut self,
        (queue, participant): (u32, Participant),
        count: &Arc<AtomicU64>,
        max: usize,
        until: Uptime,
        mut offer: Offer,
        full: QueueFull,
    ) -> Result<(), Box<(Offer, QueueFull)>> {
        let seat = match offer.seat {
            Some(seat) if seat.queue == queue => seat,
            Some(_) | None => {
                // A different queue lacks room now: the offer goes to the end of that queue's line.
                self.release(&mut offer);
                let line = self.lines.entry(queue).or_default();
                line.count = Arc::clone(count);
                let too_many = line.callers.len() >= max && !line.callers.contains_key(&offer.caller);
                if too_many || self.bytes + offer.bytes() > BYTES_MAX {
                    self.tidy(queue);
                    return Err(Box::new((offer, full)));
                }
                *line.callers.entry(offer.caller).or_default() += 1;
                line.tell();
                self.last_turn += 1;
                Seat { queue, participant, turn: self.last_turn }
            }
        };
        offer.seat = Some(seat);
        self.bytes += offer.bytes();
        self.deadlines.insert((until, seat));
        self.by_caller.entry(offer.caller).or_default().insert(seat);
        let line = self.lines.entry(queue).or_default();
        line.waiting.insert((seat.participant, seat.turn), Waiting { offer, until, full });
        Ok(())
    }

    /// Takes the offers for which there is room now, the first of each line in turn. They keep their seats. `fits`
    /// returns whether a queue has room for an offer in addition to the offers for which it was called before.
    pub(super) fn offer_again(
        &mut self,
        allowance: Allowance,
        mut fits: impl FnMut(u32, &Offer) -> bool,
    ) -> Vec<Offer> {
        let mut left = allowance;
        let mut offered = Vec::new();
        while left.offers > 0
            && let Some(queue) = self.offerable.pop_front()
        {
            let Some(((participant, turn), first)) = self.lines.get(&queue).and_then(Waitline::next) else { continue };
            let (jobs, bytes) = (first.offer.jobs.count(), first.offer.bytes());
            if jobs > left.jobs || bytes > left.bytes {
                // An offer larger than the allowance is taken alone.
                let alone = offered.is_empty() && left.offers == allowance.offers;
                if !alone {
                    self.offerable.push_front(queue);
                    break;
                }
            }
            if first.offer.ask.is_gone() || fits(queue, &first.offer) {
                let seat = Seat { queue, participant: *participant, turn: *turn };
                if let Some(line) = self.lines.get_mut(&queue) {
                    line.last = seat.participant;
                }
                offered.extend(self.take(seat).map(|waiting| waiting.offer));
                left.offers -= 1;
                left.jobs = left.jobs.saturating_sub(jobs);
                left.bytes = left.bytes.saturating_sub(bytes);
                self.offerable.push_back(queue);
            }
        }
        offered
    }

    /// Takes an offer out of its line. The offer keeps its seat.
    fn take(&mut self, seat: Seat) -> Option<Waiting> {
        let line = self.lines.get_mut(&seat.queue)?;
        let waiting = line.waiting.remove(&(seat.participant, seat.turn))?;
        self.deadlines.remove(&(waiting.until, seat));
        self.bytes -= waiting.offer.bytes();
        if let Some(seats) = self.by_caller.get_mut(&waiting.offer.caller) {
            seats.remove(&seat);
            if seats.is_empty() {
                self.by_caller.remove(&waiting.offer.caller);
            }
        }
        Some(waiting)
    }

    /// Frees the seat of an answered offer.
    pub(super) fn release(&mut self, offer: &mut Offer) {
        let Some(seat) = offer.seat.take() else { return };
        self.free(seat, offer.caller);
    }

    /// Frees a caller's seat in a waiting line.
    pub(super) fn free(&mut self, seat: Seat, caller: CallerId) {
        if let Some(line) = self.lines.get_mut(&seat.queue)
            && let Some(seats) = line.callers.get_mut(&caller)
        {
            *seats -= 1;
            if *seats == 0 {
                line.callers.remove(&caller);
                line.tell();
            }
        }
        self.tidy(seat.queue);
        // The room goes to the next offer in the line.
        self.gained_room(seat.queue);
    }

    fn tidy(&mut self, queue: u32) {
        if self.lines.get(&queue).is_some_and(|line| line.waiting.is_empty() && line.callers.is_empty()) {
            self.lines.remove(&queue);
        }
    }

    /// Returns whether offers are left whose callers have disconnected or whose deadline has passed.
    pub(super) fn has_leaving(&self, now: Uptime) -> bool {
        !self.departed.is_empty() || self.next_deadline().is_some_and(|until| until <= now)
    }

    /// Removes at most `max` offers of disconnected callers, and returns how many.
    pub(super) fn remove_departed(&mut self, max: usize) -> usize {
        self.departed.extend(self.departures.take());
        let mut removed = 0;
        while removed < max
            && let Some(caller) = self.departed.front()
        {
            match self.by_caller.get(caller).and_then(|seats| seats.first().copied()) {
                Some(seat) => {
                    self.remove(seat);
                    removed += 1;
                }
                None => {
                    self.departed.pop_front();
                }
            }
        }
        removed
    }

    /// Removes at most `max` offers whose deadline has passed, and returns them.
    pub(super) fn remove_late(&mut self, now: Uptime, max: usize) -> Vec<(Offer, QueueFull)> {
        let mut late = Vec::new();
        while late.len() < max
            && let Some((until, seat)) = self.deadlines.first().copied()
            && until <= now
        {
            late.extend(self.remove(seat));
        }
        late
    }

    /// Removes the offers of a schedule.
    pub(super) fn remove_schedule(&mut self, schedule: ScheduleId) {
        let seats = self.by_caller.get(&CallerId::SCHEDULES).into_iter().flatten().copied();
        let of_schedule = |seat: &Seat| {
            let waiting = self.lines.get(&seat.queue).and_then(|line| line.waiting.get(&(seat.participant, seat.turn)));
            waiting.is_some_and(|waiting| waiting.offer.schedule == Some(schedule))
        };
        let strays: Vec<Seat> = seats.filter(of_schedule).collect();
        for seat in strays {
            self.remove(seat);
        }
    }

    fn remove(&mut self, seat: Seat) -> Option<(Offer, QueueFull)> {
        let Waiting { mut offer, full, .. } = self.take(seat)?;
        self.release(&mut offer);
        Some((offer, full))
    }
}

impl Waitline {
    /// Returns the offer whose turn it is.
    fn next(&self) -> Option<(&(Participant, u64), &Waiting)> {
        let behind = (Bound::Excluded((self.last, u64::MAX)), Bound::Unbounded);
        self.waiting.range(behind).next().or_else(|| self.waiting.first_key_value())
    }

    fn tell(&self) {
        self.count.store(self.callers.len() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        engine::{NewJob, OfferError, ReplySlot, Submitted},
        job::{AtLeastOne, RetryPolicy},
    };

    const ALL: Allowance = Allowance { offers: 100, jobs: 1_000, bytes: 1 << 20 };

    type Answer = tokio::sync::oneshot::Receiver<Result<Submitted, OfferError>>;

    #[derive(Default)]
    struct Rig {
        waiters: Waiters,
        count: Arc<AtomicU64>,
        /// By the priority of the submitted job, which serves as its name.
        answers: HashMap<i8, Answer>,
    }

    fn at(seconds: u64) -> Uptime {
        Uptime::new(Duration::from_secs(seconds))
    }

    fn full() -> QueueFull {
        QueueFull { queue: "mail".to_owned(), jobs: 1, max_jobs: 1, bytes: 0, max_bytes: 1 }
    }

    impl Rig {
        fn offer(&mut self, name: i8, caller: u64) -> Offer {
            let (ask, answer) = ReplySlot::new(Uptime::MAX);
            self.answers.insert(name, answer);
            let job = NewJob {
                queue: "mail".into(),
                kind: "send".into(),
                priority: name,
                max_attempts: 1,
                retry: RetryPolicy::DEFAULT,
                attempt_timeout: Duration::from_secs(1),
                run_time: None,
                expires: None,
                deadline: None,
                extras: None,
                depends_on: Vec::new(),
                payload: bytes::Bytes::new(),
            };
            Offer::new(None, AtLeastOne::one(job), CallerId::new(caller), None, ask)
        }

        fn park_as(&mut self, queue: u32, max: usize, caller: u64, name: i8) -> Result<(), i8> {
            self.park_in((queue, Participant::NONE), max, caller, name)
        }

        fn park_in(
            &mut self,
            queue: (u32, Participant),
            max: usize,
            caller: u64,
            name: i8,
        ) -> Result<(), i8> {
            let offer = self.offer(name, caller);
            let until = at(100 - name as u64);
            let parked = self.waiters.park(queue, &self.count, max, until, offer, full());
            parked.map_err(|refused| refused.0.jobs.first.priority)
        }

        fn park(&mut self, name: i8) {
            self.park_as(1, 100, name as u64, name).unwrap();
        }

        fn callers(&self) -> u64 {
            self.count.load(Ordering::Relaxed)
        }
    }

    fn names(offers: &[Offer]) -> Vec<i8> {
        offers.iter().map(|offer| offer.jobs.first.priority).collect()
    }

    #[test]
    fn a_line_is_offered_again_only_once_its_queue_has_room_and_as_far_as_that_reaches() {
        let mut rig = Rig::default();
        (1..=4).for_each(|name| rig.park(name));
        let mut asked = 0;
        rig.waiters.gained_room(2);
        assert!(!rig.waiters.can_offer(), "room in another queue is none here");
        rig.waiters.gained_room(1);
        let offered = rig.waiters.offer_again(ALL, |_, _| {
            asked += 1;
            asked <= 2
        });
        assert_eq!((names(&offered), asked), (vec![1, 2], 3));
        assert!(!rig.waiters.can_offer(), "until it gains more");
        assert_eq!(rig.callers(), 4, "those that are offered room wait until they have it");
    }

    #[test]
    fn what_is_offered_in_vain_goes_back_into_its_place() {
        let mut rig = Rig::default();
        (1..=3).for_each(|name| rig.park(name));
        rig.waiters.gained_room(1);
        let mut offered = rig.waiters.offer_again(Allowance { offers: 2, ..ALL }, |_, _| true);
        let (second, mut first) = (offered.pop().unwrap(), offered.pop().unwrap());
        rig.waiters.release(&mut first);
        rig.waiters.park((1, Participant::NONE), &rig.count, 1, at(50), second, full()).unwrap();
        let offered = rig.waiters.offer_again(ALL, |_, _| true);
        assert_eq!((names(&offered), rig.callers()), (vec![2, 3], 2));
    }

    #[test]
    fn queues_with_room_take_turns_and_a_batch_has_a_limit() {
        let mut rig = Rig::default();
        for name in 1..=6 {
            rig.park_as(u32::from(name > 3), 100, name as u64, name).unwrap();
        }
        rig.waiters.all_gained_room();
        let offered = rig.waiters.offer_again(Allowance { offers: 3, ..ALL }, |_, _| true);
        assert_eq!(names(&offered), [1, 4, 2]);
        let offered = rig.waiters.offer_again(Allowance { jobs: 2, ..ALL }, |_, _| true);
        assert_eq!(names(&offered), [5, 3]);
        let offered = rig.waiters.offer_again(Allowance { jobs: 0, ..ALL }, |_, _| true);
        assert_eq!(names(&offered), [6], "even what is larger than a batch gets its turn");
    }

    #[test]
    fn participants_take_turns_whatever_their_numbers() {
        let mut rig = Rig::default();
        for (name, participant) in [(1, 5), (2, 5), (3, 5), (4, -8), (5, 9)] {
            rig.park_in((1, Participant(participant)), 100, name as u64, name).unwrap();
        }
        rig.waiters.gained_room(1);
        let offered = rig.waiters.offer_again(Allowance { offers: 2, ..ALL }, |_, _| true);
        assert_eq!(names(&offered), [1, 5]);
        assert_eq!(names(&rig.waiters.offer_again(ALL, |_, _| true)), [4, 2, 3], "the turns go on");
    }

    #[test]
    fn a_stream_waits_as_one_caller_and_a_line_has_a_limit_of_callers() {
        let mut rig = Rig::default();
        for name in 1..=3 {
            rig.park_as(1, 2, 7, name).unwrap();
        }
        rig.park_as(1, 2, 4, 4).unwrap();
        assert_eq!((rig.park_as(1, 2, 5, 5), rig.callers()), (Err(5), 2));
        rig.waiters.gained_room(1);
        let mut offered = rig.waiters.offer_again(Allowance { offers: 2, ..ALL }, |_, _| true);
        offered.iter_mut().for_each(|offer| rig.waiters.release(offer));
        assert_eq!(rig.callers(), 2, "one of the stream's is still there");
    }

    #[test]
    fn callers_that_leave_are_removed_wherever_they_stand() {
        let mut rig = Rig::default();
        let departures = Arc::clone(rig.waiters.departures());
        let mut calls: Vec<_> = (0..5).map(|_| departures.caller()).collect();
        for (call, name) in calls.iter().zip(1..) {
            rig.park_as(1, 100, call.id().number(), name).unwrap();
        }
        calls.retain(|call| call.id().number() % 2 == 1);
        assert_eq!(rig.waiters.remove_departed(1), 1);
        assert!(rig.waiters.has_leaving(at(0)), "the rest is left for the next batch");
        assert_eq!((rig.callers(), rig.waiters.remove_departed(100), rig.callers()), (4, 1, 3));
        assert!(!rig.waiters.has_leaving(at(0)));
        rig.waiters.gained_room(1);
        assert_eq!(names(&rig.waiters.offer_again(ALL, |_, _| true)), [1, 3, 5]);
        assert!(rig.waiters.is_empty() && rig.waiters.by_caller.is_empty());
        calls.pop().unwrap().disarm();
        assert_eq!(departures.take(), [], "one that has its answers need not be looked for");
    }

    #[test]
    fn those_that_stop_to_wait_leave_and_the_next_deadline_is_known() {
        let mut rig = Rig::default();
        (1..=3).for_each(|name| rig.park(name));
        assert_eq!(rig.waiters.next_deadline(), Some(at(97)));
        let mut late = rig.waiters.remove_late(at(98), 1);
        assert!(rig.waiters.has_leaving(at(98)), "the rest is left for the next batch");
        late.extend(rig.waiters.remove_late(at(98), 100));
        assert!(!rig.waiters.has_leaving(at(98)));
        assert_eq!(late.iter().map(|(offer, _)| offer.jobs.first.priority).collect::<Vec<_>>(), [3, 2]);
        assert_eq!((rig.waiters.next_deadline(), rig.callers()), (Some(at(99)), 1));
        rig.waiters.remove_late(Uptime::MAX, 100);
        assert!(rig.waiters.lines.is_empty() && rig.waiters.bytes == 0);
    }
}
