//! The job of an instant.

use super::{
    super::{
        AdmissionError, CallerId, NewJob, NotAdmitted, Offer, Origin, ReplySlot, decision::Decision, offers::NotOffered,
    },
    ScheduleBook,
    turn::Turn,
};
use crate::{
    clock::{Timestamp, Uptime},
    job::{
        AtLeastOne, INSTANT_LABEL, JobDraft, JobId, RESERVED_PREFIX, RequestId, SCHEDULE_HEADERS, SCHEDULE_LABEL,
        ScheduleOrigin, ScheduledBy,
    },
    settings::ScheduleInfo,
};

impl Decision<'_> {
    /// Offers the job of an instant. Otherwise returns why it is not accepted now.
    pub(super) fn offer_instant(
        &mut self,
        turn: &mut Turn,
        instant: Timestamp,
        origin: ScheduleOrigin,
    ) -> Result<JobId, Option<String>> {
        let seat = turn.seat.take();
        let mut offer = self.schedule_offer(&turn.info, instant, origin, None);
        offer.seat = seat;
        let bytes = offer.bytes();
        match self.offer_of_schedule(offer, turn.space) {
            Ok(job) => {
                self.spend(bytes);
                Ok(job)
            }
            Err(NotOffered { why, waits: true }) => {
                turn.is_parked = true;
                Err(Some(why))
            }
            Err(NotOffered { why, waits: false }) => {
                turn.seat = seat;
                turn.is_blocked = true;
                Err(Some(why))
            }
        }
    }

    /// Creates the offer of a schedule's job.
    pub(super) fn schedule_offer(
        &self,
        info: &ScheduleInfo,
        instant: Timestamp,
        origin: ScheduleOrigin,
        request: Option<(&str, RequestId)>,
    ) -> Offer {
        let id = request.map_or_else(|| request_id(info, instant, origin), |(id, _)| id.to_owned());
        let job = self.engine.schedules.job_of(info, instant, origin, &id);
        let obstacle = self.obstacle_of(&info.settings.job);
        Offer {
            request: request.map(|(_, request)| request),
            schedule: Some(info.id),
            ..Offer::new(
                None,
                AtLeastOne::one(job),
                CallerId::SCHEDULES,
                Some(Uptime::MAX),
                ReplySlot::unheard(),
            )
            .with_obstacle(obstacle)
        }
    }

    /// Returns why a schedule's job can't be admitted, apart from room.
    pub(super) fn obstacle_of(&self, job: &JobDraft) -> Option<NotAdmitted> {
        let engine = &self.engine;
        let kinds = &engine.schedules.kinds;
        let queue = engine.queues.find(&job.queue);
        let error = AdmissionError::of_draft(
            job,
            queue.as_ref().map(|queue| &queue.settings),
            kinds.get(&job.kind),
            || engine.workers.serves(&engine.names, &job.kind),
            || engine.workers.kinds().listed_with(kinds.keys().map(String::as_str)),
        )?;
        Some(NotAdmitted { error: error.into(), index: None })
    }
}

impl ScheduleBook {
    /// Creates the job of an instant, with the present defaults of its kind.
    fn job_of(&self, info: &ScheduleInfo, instant: Timestamp, origin: ScheduleOrigin, request_id: &str) -> NewJob {
        let mut draft = info.settings.job.clone();
        draft.labels.insert(SCHEDULE_LABEL.to_owned(), info.name.to_string());
        draft.labels.insert(INSTANT_LABEL.to_owned(), instant.to_string());
        let [name, time, way] = SCHEDULE_HEADERS.map(str::to_owned);
        draft.headers.insert(name, info.name.to_string());
        draft.headers.insert(time, instant.to_string());
        draft.headers.insert(way, origin.as_str().to_owned());
        let defaults = self.kinds.get(&draft.kind).cloned().unwrap_or_default();
        let (queue, kind) = (draft.queue.as_str().into(), draft.kind.as_str().into());
        let from = Origin { request_id, traceparent: "", tracestate: "" };
        let mut job = NewJob::complete(draft, queue, kind, &defaults, from);
        job.extras.get_or_insert_default().schedule = Some(Box::new(ScheduledBy {
            id: info.id,
            name: info.name.to_string(),
            instant,
            origin,
        }));
        job
    }
}

/// Returns the request id of an instant's job, which names the schedule and the instant.
fn request_id(info: &ScheduleInfo, instant: Timestamp, origin: ScheduleOrigin) -> String {
    format!("{RESERVED_PREFIX}{}/{}/{}/{instant}", origin.as_str(), info.name, info.id)
}
