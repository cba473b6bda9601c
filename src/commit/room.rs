//! What becomes of offers: their answers, and the lines of those who wait for room.

use std::{collections::HashMap, sync::Arc};

use super::{
    Stopped, SubmitAnswer,
    committer::Loop,
    pending::{Asker, SubmitReply},
};
use crate::{
    admission::waiters::{CallerKey, Seat, Waiter},
    clock::Uptime,
    store::{Offer, Receipt},
};

/// A few callers are answered at once, more of them from within the runtime.
const ANSWERED_HERE_MAX: usize = 4;

impl Loop {
    pub(super) fn answer_offers(&mut self, offers: Vec<Receipt>, askers: Vec<Asker>, now: Uptime) {
        let mut put_back: HashMap<Arc<str>, Vec<Waiter<SubmitReply>>> = HashMap::new();
        let mut answered = Vec::with_capacity(offers.len());
        for (receipt, asker) in offers.into_iter().zip(askers) {
            let answer = match receipt {
                Receipt::Created { jobs } => {
                    // Where one who waited got in, there may be room for the next one.
                    self.room |= asker.seat.is_some();
                    Ok(SubmitAnswer::Created { jobs })
                }
                Receipt::Seen { first, count } => Ok(SubmitAnswer::Seen { first, count }),
                Receipt::Refused(refusal) => Ok(SubmitAnswer::Refused(refusal)),
                Receipt::Full { offer, full } => match asker.wait {
                    Some(until) if until > now && self.committer.draining.is_cancelled() => {
                        Err(Stopped::Refused)
                    }
                    Some(until) if until > now => {
                        let Asker { queue, caller, seat, reply, .. } = asker;
                        if let Some(seat) = seat {
                            let waiter = Waiter { offer, until, seat, full, reply };
                            put_back.entry(queue).or_default().push(waiter);
                            continue;
                        }
                        // A newcomer stands behind those who were offered room in vain.
                        if let Some(waiters) = put_back.remove(&queue) {
                            self.waiters.put_back(&queue, waiters);
                        }
                        match self.seat(&queue, caller, &offer) {
                            Some(seat) => {
                                self.waiters.park(&queue, Waiter { offer, until, seat, full, reply });
                            }
                            None => answered
                                .push((reply, Ok(SubmitAnswer::Full { full, too_many_waiters: true }))),
                        }
                        continue;
                    }
                    Some(_) | None => Ok(SubmitAnswer::Full { full, too_many_waiters: false }),
                },
            };
            answered.push((asker.reply, answer));
        }
        self.answer_all(answered);
        for (queue, waiters) in put_back {
            self.waiters.put_back(&queue, waiters);
        }
    }

    /// Answers callers. Many of them are answered from within the runtime: there, waking a caller is an entry in a
    /// thread's own queue; from here each would lock the queue that all threads share, and may have to wake one.
    pub(super) fn answer_all(&self, answered: Vec<(SubmitReply, Result<SubmitAnswer, Stopped>)>) {
        let answer = |answered: Vec<(SubmitReply, Result<SubmitAnswer, Stopped>)>| {
            for (reply, answer) in answered {
                let _ = reply.send(answer);
            }
        };
        if answered.len() <= ANSWERED_HERE_MAX {
            answer(answered);
        } else {
            self.answering.spawn_on(async move { answer(answered) }, &self.runtime);
        }
    }

    fn seat(&self, queue: &str, caller: CallerKey, offer: &Offer) -> Option<Seat> {
        let entry = self.committer.queues.get(queue)?;
        let max = entry.info().settings.max_waiters as usize;
        self.waiters.seat(entry.callers(), max, caller, offer)
    }
}
