//! Every RPC of the protocol by name, with requests and answers as bytes, for tests that walk all RPCs and fail where a
//! new one has no row.

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use jobmill::proto::{self, v1};
use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorSet};
use tonic::{Code, Status, body::Body, client::GrpcService, codegen::http};

use super::table::{backfill, days, exception, hourly, nothing_limited, second};
use crate::{
    bad_messages::framed,
    queues::in_queue,
    support::{Rig, soon, submission},
};

/// An RPC that the protocol declares.
pub(super) struct Rpc {
    /// The full name, such as `jobmill.v1.JobQueue/Submit`.
    pub(super) name: String,
    request: DescriptorProto,
}

impl Rpc {
    /// Returns its name within its service.
    pub(super) fn short(&self) -> &str {
        self.name.split('/').next_back().unwrap_or_default()
    }

    /// Returns whether its request has a field of this name.
    pub(super) fn has_field(&self, name: &str) -> bool {
        self.request.field.iter().any(|field| field.name() == name)
    }

    /// Returns whether a repeat of a call with the same request id is answered as the first, whenever it comes. The one of
    /// LeaseJobs lasts only as long as the leases of the first call are not received: later they may be over.
    pub(super) fn is_repeatable(&self) -> bool {
        self.has_field("request_id") && self.short() != "LeaseJobs"
    }

    /// Appends a text field to a request; it overrides one that is already there.
    pub(super) fn with_text(&self, mut request: Vec<u8>, field: &str, value: &str) -> Vec<u8> {
        let field = self.request.field.iter().find(|one| one.name() == field).expect("a field");
        let number = u32::try_from(field.number()).expect("the number of a field");
        prost::encoding::string::encode(number, &value.to_owned(), &mut request);
        request
    }
}

/// Returns all RPCs that the protocol declares.
pub(super) fn rpcs() -> Vec<Rpc> {
    let set = FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET).expect("a descriptor");
    let message = |path: &str| {
        let all = set.file.iter().flat_map(|file| {
            file.message_type
                .iter()
                .map(move |message| (format!(".{}.{}", file.package(), message.name()), message))
        });
        let (_, found) = all.into_iter().find(|(own, _)| own == path).expect("the request of a method");
        found.clone()
    };
    let mut rpcs = Vec::new();
    for file in set.file.iter().filter(|file| file.package() == "jobmill.v1") {
        for service in &file.service {
            rpcs.extend(service.method.iter().map(|method| Rpc {
                name: format!("{}.{}/{}", file.package(), service.name(), method.name()),
                request: message(method.input_type()),
            }));
        }
    }
    assert!(rpcs.len() >= 20, "{} RPCs", rpcs.len());
    rpcs
}

/// A metadata entry.
pub(super) type Header<'a> = (&'a str, &'a [u8]);

/// Calls an RPC; returns its first message, or `None` if it ends with OK and without one.
pub(super) async fn call(
    rig: &Rig,
    rpc: &str,
    headers: &[Header<'_>],
    request: &[u8],
) -> Result<Option<Bytes>, Status> {
    let mut head = http::Request::builder()
        .method("POST")
        .uri(format!("http://{}/{rpc}", rig.address()))
        .header("te", "trailers")
        .header("content-type", "application/grpc");
    for (name, value) in headers {
        head = head.header(*name, http::HeaderValue::from_bytes(value).expect("a header"));
    }
    let request = head.body(Body::new(Full::new(framed(false, request)))).unwrap();
    let mut channel = rig.channel.clone();
    soon(async {
        std::future::poll_fn(|context| GrpcService::<Body>::poll_ready(&mut channel, context)).await.unwrap();
        let answer = GrpcService::<Body>::call(&mut channel, request).await;
        let (head, body) = answer.map_err(|error| Status::unknown(error.to_string()))?.into_parts();
        if !head.status.is_success() {
            return Err(Status::unknown(format!("HTTP {}", head.status)));
        }
        match Status::from_header_map(&head.headers) {
            Some(status) if status.code() == Code::Ok => Ok(None),
            Some(status) => Err(status),
            None => first_message(body).await,
        }
    })
    .await
}

async fn first_message(mut body: Body) -> Result<Option<Bytes>, Status> {
    const HEAD: usize = 5;
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) => read.extend_from_slice(&data),
            Err(frame) => {
                let trailers = frame.into_trailers().expect("data or trailers");
                let status = Status::from_header_map(&trailers).expect("a status");
                return if status.code() == Code::Ok { Ok(None) } else { Err(status) };
            }
        }
        // The beginning of the next message may already have arrived.
        let end = if read.len() < HEAD { usize::MAX } else { HEAD + (&read[1..HEAD]).get_u32() as usize };
        if read.len() >= end {
            return Ok(Some(read.freeze().slice(HEAD..end)));
        }
    }
    panic!("no status at the end")
}

/// The objects that valid requests refer to: a queue that was created over the API, with jobs that stay queued.
pub(super) struct Fixtures {
    pub(super) queue: String,
    /// A queue without jobs.
    pub(super) empty: String,
    /// The name of a queue that does not exist yet.
    pub(super) new: String,
    pub(super) waiting: String,
    pub(super) cancelled: String,
    /// Unique keys that waiting jobs of the kind `echo` hold.
    pub(super) keys: [String; 2],
}

/// Returns settings of a queue without consumers.
pub(super) fn no_consumers() -> v1::QueueSettings {
    v1::QueueSettings { consumers: Some(0), ..v1::QueueSettings::default() }
}

impl Fixtures {
    pub(super) async fn set_up(rig: &Rig, queue: &str) -> Self {
        Fixtures::set_up_by(rig, &[], queue).await
    }

    /// Sets up the objects as a caller with these headers.
    pub(super) async fn set_up_by(rig: &Rig, by: &[Header<'_>], queue: &str) -> Self {
        let (queue, empty) = (queue.to_owned(), format!("{queue}-empty"));
        for name in [&queue, &empty] {
            let settings = Some(no_consumers());
            let request = v1::CreateQueueRequest { name: name.clone(), settings, ..Default::default() };
            ask::<v1::CreateQueueResponse>(rig, by, "QueueService/CreateQueue", &request).await;
        }
        let submit = async || {
            let request = submission(in_queue(&queue, "echo"));
            ask::<v1::SubmitResponse>(rig, by, "JobQueue/Submit", &request).await.id().to_owned()
        };
        let (waiting, cancelled) = (submit().await, submit().await);
        let request = v1::CancelJobRequest { id: cancelled.clone(), ..Default::default() };
        ask::<v1::CancelJobResponse>(rig, by, "JobQueue/CancelJob", &request).await;
        let keys = ["a", "b"].map(|key| format!("{queue}-{key}"));
        for key in &keys {
            let unique_key = Some(v1::UniqueKey { key: key.clone(), ..Default::default() }.into());
            let request = submission(v1::JobSpec { unique_key, ..in_queue(&queue, "echo") });
            ask::<v1::SubmitResponse>(rig, by, "JobQueue/Submit", &request).await;
        }
        // A worker by the name of the queue, which waits for no jobs.
        let request = v1::LeaseJobsRequest {
            instance: queue.clone(),
            process: "process".to_owned(),
            kinds: vec![KIND.to_owned()],
            ..Default::default()
        };
        ask::<v1::LeaseJobsResponse>(rig, by, "WorkerService/LeaseJobs", &request).await;
        for name in [queue.clone(), second(&queue)] {
            let schedule = Some(hourly(&name, &queue, 1));
            let request = v1::CreateScheduleRequest { schedule, ..Default::default() };
            ask::<v1::CreateScheduleResponse>(rig, by, "ScheduleService/CreateSchedule", &request).await;
            // Paused, so that no job comes of it, and a backfill does not begin.
            let request = v1::PauseScheduleRequest::from(&name);
            ask::<v1::PauseScheduleResponse>(rig, by, "ScheduleService/PauseSchedule", &request).await;
            let request = v1::CreateCalendarRequest { calendar: Some(days(&name, 1)), ..Default::default() };
            ask::<v1::CreateCalendarResponse>(rig, by, "ScheduleService/CreateCalendar", &request).await;
            let limit = Some(nothing_limited(&name, 1));
            let request = v1::CreateLimitRequest { limit, ..Default::default() };
            ask::<v1::CreateLimitResponse>(rig, by, "LimitService/CreateLimit", &request).await;
            let request = exception(&name, "old", 1);
            ask::<v1::SetLimitOverrideResponse>(rig, by, "LimitService/SetLimitOverride", &request).await;
        }
        let request = backfill(&second(&queue));
        ask::<v1::BackfillScheduleResponse>(rig, by, "ScheduleService/BackfillSchedule", &request).await;
        let new = format!("{queue}-new");
        Fixtures { queue, empty, new, waiting, cancelled, keys }
    }
}

/// The kind of the workers of these tests.
pub(super) const KIND: &str = "remote";

/// Returns the hello of a worker with one pool.
pub(super) fn hello(instance: &str) -> v1::Hello {
    v1::Hello {
        instance: instance.to_owned(),
        process: "process".to_owned(),
        pools: vec![v1::WorkerPool { kinds: vec![KIND.to_owned()], ..Default::default() }],
        ..Default::default()
    }
}

/// Returns a worker's first message.
pub(super) fn greeting(hello: v1::Hello) -> Vec<u8> {
    let frame = v1::WorkerFrame { frame: Some(v1::worker_frame::Frame::Hello(hello)) };
    v1::WorkRequest { frames: vec![frame] }.encode_to_vec()
}

/// Calls an RPC that must succeed; returns its answer.
async fn ask<A: Message + Default>(rig: &Rig, by: &[Header<'_>], rpc: &str, request: &impl Message) -> A {
    let answer = call(rig, &format!("jobmill.v1.{rpc}"), by, &request.encode_to_vec()).await;
    let answer = answer.unwrap_or_else(|status| panic!("{rpc}: {status:?}"));
    A::decode(answer.expect("an answer")).expect("an answer")
}

/// The state that calls can change: jobs by id with revision and state; queues, schedules, calendars and limits by name
/// with etag, the backfills of schedules and the overrides of limits; unique keys with their holders.
pub(super) type State = (Vec<(String, i64, i32)>, Vec<(String, String)>, Vec<(String, String)>);

/// Reads the state that calls can change.
pub(super) async fn state(rig: &Rig) -> State {
    state_for(rig, &[]).await
}

/// Reads the state as a caller with these headers.
pub(super) async fn state_for(rig: &Rig, by: &[Header<'_>]) -> State {
    let (mut jobs, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListJobsRequest { page_size: 1_000, page_token, ..Default::default() };
        let page: v1::ListJobsResponse = ask(rig, by, "JobQueue/ListJobs", &request).await;
        jobs.extend(page.jobs.into_iter().map(|job| (job.id, job.revision, job.state)));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let request = v1::ListQueuesRequest { page_size: 1_000, ..Default::default() };
    let page: v1::ListQueuesResponse = ask(rig, by, "QueueService/ListQueues", &request).await;
    assert_eq!(page.next_page_token, "");
    let mut tags: Vec<_> = page.queues.into_iter().map(|queue| (queue.name, queue.etag)).collect();
    let request = v1::ListSchedulesRequest { page_size: 1_000, ..Default::default() };
    let page: v1::ListSchedulesResponse = ask(rig, by, "ScheduleService/ListSchedules", &request).await;
    assert_eq!(page.next_page_token, "");
    tags.extend(page.schedules.into_iter().map(|schedule| {
        let backfill = schedule.status.and_then(|status| status.backfill);
        (schedule.name, format!("{} {backfill:?}", schedule.etag))
    }));
    let request = v1::ListCalendarsRequest { page_size: 1_000, ..Default::default() };
    let page: v1::ListCalendarsResponse = ask(rig, by, "ScheduleService/ListCalendars", &request).await;
    tags.extend(page.calendars.into_iter().map(|calendar| (calendar.name, calendar.etag)));
    let request = v1::ListLimitsRequest { page_size: 1_000, ..Default::default() };
    let page: v1::ListLimitsResponse = ask(rig, by, "LimitService/ListLimits", &request).await;
    for v1::Limit { name: limit, etag, .. } in page.limits {
        let request =
            v1::ListLimitValuesRequest { limit: limit.clone(), only_overridden: true, ..Default::default() };
        let page: v1::ListLimitValuesResponse = ask(rig, by, "LimitService/ListLimitValues", &request).await;
        tags.push((limit, format!("{etag} {:?}", page.values)));
    }
    let request = v1::ListUniqueKeysRequest { page_size: 1_000, ..Default::default() };
    let keys: v1::ListUniqueKeysResponse = ask(rig, by, "JobQueue/ListUniqueKeys", &request).await;
    assert_eq!(keys.next_page_token, "");
    let keys = keys.keys.into_iter().map(|key| (key.key, key.holder_id)).collect();
    (jobs, tags, keys)
}
