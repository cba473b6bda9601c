//! The change of a waiting job's input, in place.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    client_input::When,
    payload::PayloadInfo,
    record::{Job, Spec},
    schedule::SCHEDULE_HEADERS,
};
use crate::clock::Timestamp;

/// New input for a job that has never started. Absent parts stay as they are.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct JobUpdate {
    /// The payload, with its description.
    pub payload: Option<(Bytes, PayloadInfo)>,
    /// The headers.
    pub headers: Option<BTreeMap<String, String>>,
    /// The priority; `Some(None)` is the default.
    pub priority: Option<Option<i8>>,
    /// The start time; `Some(None)` is at once. A relative one counts from the change.
    pub start: Option<Option<When>>,
    /// The expiry; `Some(None)` is never. A relative one counts from the change.
    pub expiry: Option<Option<When>>,
}

impl JobUpdate {
    /// Returns the job's spec after the change.
    #[must_use]
    pub fn applied(&self, before: &Spec, now: Timestamp) -> Spec {
        let mut spec = before.clone();
        let mut extras = spec.extras.take().unwrap_or_default();
        let mut payload_bytes = before.payload_bytes();
        if let Some((payload, info)) = &self.payload {
            payload_bytes = payload.len() as u64;
            extras.payload.clone_from(info);
        }
        if let Some(headers) = &self.headers {
            let of_schedule = extras.schedule.is_some();
            // Those that name the job's schedule and instant are the server's own.
            extras.headers.retain(|name, _| of_schedule && SCHEDULE_HEADERS.contains(&name.as_str()));
            extras.headers.extend(headers.clone());
        }
        if let Some(priority) = self.priority {
            spec.priority = priority.unwrap_or_default();
            extras.said.priority = priority == Some(0);
        }
        if let Some(start) = self.start {
            extras.said.start = start;
        }
        if let Some(expiry) = self.expiry {
            spec.expires = expiry.map(|expiry| expiry.instant(now));
            extras.said.expiry = expiry;
        }
        spec.bytes = Job::FIXED_BYTES + payload_bytes + extras.bytes();
        spec.extras = (!extras.is_empty()).then_some(extras);
        spec
    }

    /// Returns the new start time, if the change has one: `Some(None)` is at once.
    #[must_use]
    pub fn start(&self, now: Timestamp) -> Option<Option<Timestamp>> {
        self.start.map(|start| start.map(|start| start.instant(now)))
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::job::{Extras, Name, RetryPolicy, ScheduleId, ScheduleOrigin, ScheduledBy};

    fn spec() -> Spec {
        let headers = BTreeMap::from([("tenant".to_owned(), "x".to_owned())]);
        let extras = Extras { headers, ..Extras::default() };
        Spec {
            queue: Name::new(1, "mail"),
            kind: Name::new(2, "send"),
            priority: 3,
            retry: RetryPolicy::DEFAULT,
            attempt_timeout: Duration::from_secs(1),
            bytes: Job::FIXED_BYTES + 10 + extras.bytes(),
            created: Timestamp::from_micros(5),
            expires: None,
            extras: Some(Box::new(extras)),
        }
    }

    #[test]
    fn an_empty_update_changes_nothing() {
        assert_eq!(JobUpdate::default().applied(&spec(), Timestamp::from_micros(9)), spec());
    }

    #[test]
    fn headers_that_name_the_schedule_stay() {
        let mut spec = spec();
        let extras = spec.extras.as_mut().unwrap();
        let by = ScheduledBy {
            id: ScheduleId::from_raw(1),
            name: "report".to_owned(),
            instant: Timestamp::from_micros(5),
            origin: ScheduleOrigin::Scheduled,
        };
        extras.schedule = Some(Box::new(by));
        extras.headers.insert(SCHEDULE_HEADERS[0].to_owned(), "report".to_owned());
        let headers = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let update = JobUpdate { headers: Some(headers), ..JobUpdate::default() };
        let after = update.applied(&spec, Timestamp::from_micros(9)).extras.unwrap();
        let names: Vec<_> = after.headers.keys().map(String::as_str).collect();
        assert_eq!(names, ["a", SCHEDULE_HEADERS[0]]);
    }

    #[test]
    fn parts_that_are_given_replace_the_old_ones_and_bytes_are_counted_anew() {
        let now = Timestamp::from_micros(1_000);
        let minute = When::After(Duration::from_secs(60));
        let update = JobUpdate {
            payload: Some((Bytes::from_static(b"abc"), PayloadInfo::typed("text/plain"))),
            headers: Some(BTreeMap::new()),
            priority: Some(Some(0)),
            start: Some(Some(minute)),
            expiry: Some(Some(minute)),
        };
        let after = update.applied(&spec(), now);
        assert_eq!((after.priority, after.payload_bytes(), after.bytes), (0, 3, Job::FIXED_BYTES + 3));
        assert_eq!(after.expires, Some(now.after(Duration::from_secs(60))), "relative to the change");
        let extras = after.extras.clone().unwrap();
        assert_eq!(
            (extras.said.start, extras.said.expiry, extras.said.priority),
            (Some(minute), Some(minute), true)
        );
        let none =
            JobUpdate { priority: Some(None), start: Some(None), expiry: Some(None), ..JobUpdate::default() };
        let after = Arc::new(none.applied(&after, now));
        assert_eq!((after.priority, after.expires), (0, None));
        assert_eq!(after.extras.as_ref().unwrap().said, Default::default());
    }
}
