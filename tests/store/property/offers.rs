//! Offers: which are created, and what their repeats are answered.

use jobmill::{
    engine::OfferRefusal,
    job::{JobId, State, SubmitOutcome},
};

use super::{
    batch::Gathered,
    ledger::{Ledger, Violation, promise},
};
use crate::store::batch::{Applied, Receipt};

impl Ledger {
    /// Takes in the answers to the offers of a batch.
    pub(super) fn hear_offers(&mut self, gathered: &Gathered, applied: &Applied) -> Result<(), Violation> {
        promise!(applied.offers.len() == gathered.offers.len(), "an offer has no answer");
        for (offered, receipt) in gathered.offers.iter().zip(&applied.offers) {
            let known = offered.request.and_then(|request| self.requests.get(&request.key).cloned());
            let alive = |ids: &[JobId]| ids.iter().any(|id| self.jobs.contains_key(id));
            match receipt {
                Receipt::Created { jobs } => {
                    promise!(jobs.len() == offered.jobs.len(), "an offer was created in part");
                    for job in jobs {
                        let kept = self.jobs.get(&job.id).is_some_and(|known| known.revision == job.revision);
                        promise!(kept, "{} was acknowledged and is not in the feed", job.id);
                    }
                    let ids: Vec<_> = jobs.iter().map(|job| job.id).collect();
                    let twice = known.is_some_and(|(_, ids)| alive(&ids));
                    promise!(!twice, "a request was done twice: {ids:?}");
                    self.hear_edges(&offered.jobs, &ids);
                    if let Some(request) = offered.request {
                        self.requests.insert(request.key, (request, ids));
                    }
                }
                Receipt::Met { jobs } => {
                    promise!(jobs.len() == offered.jobs.len(), "an offer was created in part");
                    for (one, new) in jobs.iter().zip(&offered.jobs) {
                        let created = one.outcome == SubmitOutcome::Created;
                        let known = self.jobs.get(&one.id).filter(|known| known.key == new.key_hash());
                        let is_live = known.is_some_and(|known| !known.state.is_done());
                        let shown = one.job.as_ref().map(|job| job.revision);
                        promise!(
                            shown == known.map(|known| known.revision) || known.is_none(),
                            "{one:?} is shown as it is not: {known:?}"
                        );
                        promise!(created || new.unique().is_some(), "{one:?} met no key");
                        // A key that is held by time is of a job that has ended. New jobs may have ended at once.
                        let is_replaced = one.outcome == SubmitOutcome::Replaced;
                        // The new input may have expired already.
                        let has_expired = known.is_some_and(|known| known.state == State::Expired);
                        let may_end = !is_replaced || has_expired;
                        promise!(is_live || may_end, "{one:?} took over the input and has ended: {known:?}");
                    }
                    let ids: Vec<_> = jobs.iter().map(|one| one.id).collect();
                    let twice = known.is_some_and(|(_, ids)| alive(&ids));
                    promise!(!twice, "a request was done twice: {ids:?}");
                    if let Some(request) = offered.request {
                        self.requests.insert(request.key, (request, ids));
                    }
                }
                Receipt::Seen { first, count } => {
                    let Some((request, ids)) = known else {
                        return Err("an unknown request was seen".into());
                    };
                    promise!(Some(request) == offered.request, "another request was taken for {request:?}");
                    promise!(ids.first() == Some(&first.id), "a repeat got {} of {ids:?}", first.id);
                    promise!(ids.len() == *count as usize, "a repeat got {count} of {ids:?}");
                }
                Receipt::Refused(OfferRefusal::RequestMismatch) => {
                    let same =
                        known.is_some_and(|(request, ids)| Some(request) == offered.request && alive(&ids));
                    promise!(!same, "a true repeat was refused: {:?}", offered.request);
                }
                Receipt::Gone { .. } => {
                    let first = known.and_then(|(_, ids)| ids.first().copied());
                    promise!(first.is_some_and(|id| !self.jobs.contains_key(&id)), "{first:?} is there");
                }
                Receipt::Waits => return Err("an offer waits that was not to".into()),
                Receipt::Refused(refusal) => {
                    let is_weight = matches!(
                        refusal,
                        OfferRefusal::WeightOfUnknownLimit { .. } | OfferRefusal::TooHeavy { .. }
                    );
                    let same =
                        known.is_some_and(|(request, ids)| Some(request) == offered.request && alive(&ids));
                    promise!(!is_weight || !same, "a true repeat was refused: {refusal:?}");
                    self.check_weights(offered, refusal)?;
                }
                Receipt::Full(_) => {}
            }
        }
        Ok(())
    }
}
