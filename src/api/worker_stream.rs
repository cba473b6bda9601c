//! The stream of a remote worker.
//!
//! All of it is one stream that the connection polls. A worker that does not read is not heard either: neither its
//! heartbeats nor its reports are taken, and its leases end in time. So a worker can't be deaf and look healthy.

use std::{pin::Pin, sync::Arc, time::Duration};

use prost::Message;
use tokio_stream::Stream;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::{Request, Status, Streaming};

use super::{
    caller::Caller,
    convert,
    core::Core,
    errors,
    outgoing::Share,
    sizes::ENOUGH_BYTES,
    validate::Validator,
    validate_worker::{self, HelloDraft},
    worker_frames::{self, frame},
};
use crate::{
    engine::{ControlRefusal, WorkerHello},
    job::worker_limits::FRAMES_MAX,
    proto::v1::{self, server_frame::Frame, worker_frame::Frame as Said},
    timeouts,
    workers::{CREDITS_MAX, WorkerEvent, WorkerReport, WorkerSession},
};

/// Time limit for a worker's hello.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Number of missing pings after which a worker counts as gone.
const SILENT_PINGS: u32 = 3;
/// Time after which a worker may call again when the server stops.
const COME_BACK_IN: Duration = Duration::from_secs(1);
/// Time limit for a worker's last reports when the server stops.
const CLOSING_MAX: Duration = Duration::from_millis(1_500);
/// Size of an assignment above which it counts against the budget of large responses.
const LARGE_BYTES: usize = 32 << 10;

/// Returns the response stream of a call.
pub(super) fn start(
    core: Core,
    caller: Arc<Caller>,
    call: Request<Streaming<v1::WorkRequest>>,
    share: Arc<Share>,
) -> impl Stream<Item = Result<v1::WorkResponse, Status>> + Send + use<> {
    let requests = call.into_inner();
    let stream = WorkerStream {
        caller,
        requests,
        share,
        session: None,
        timer: timer(HELLO_WITHIN),
        silent_pings: 0,
        frames: Vec::new(),
        events: Vec::new().into_iter(),
        phase: Phase::Open,
        unanswered: 0,
        _open: core.workers.roster.stream_token(),
        core,
    };
    futures_util::stream::unfold(stream, |mut stream| async {
        let response = stream.next().await?;
        Some((response, stream))
    })
}

struct WorkerStream {
    core: Core,
    caller: Arc<Caller>,
    requests: Streaming<v1::WorkRequest>,
    share: Arc<Share>,
    /// Absent before the hello.
    session: Option<WorkerSession>,
    /// The end of the present wait. Time in which this process is paused does not count.
    timer: Timer,
    /// Number of pings that should have come since the latest message.
    silent_pings: u32,
    /// Frames to send with the next response.
    frames: Vec<v1::ServerFrame>,
    /// Events that are not converted yet.
    events: std::vec::IntoIter<WorkerEvent>,
    phase: Phase,
    /// Number of final reports whose answers the committer has not given yet.
    unanswered: usize,
    /// The server's end waits for the stream.
    _open: TaskTrackerToken,
}

type Timer = Pin<Box<dyn Future<Output = ()> + Send>>;

fn timer(duration: Duration) -> Timer {
    Box::pin(timeouts::active(duration))
}

enum Phase {
    Open,
    /// The worker was told that the stream ends in a short time.
    Closing,
    /// The worker sends no more; what it has reported is still answered for a short time.
    HalfClosed,
    /// The stream ends with this.
    Ending(Result<(), Status>),
    Over,
}

impl WorkerStream {
    async fn next(&mut self) -> Option<Result<v1::WorkResponse, Status>> {
        loop {
            if let Err(status) = self.convert_events().await {
                self.phase = Phase::Ending(Err(status));
            }
            if !self.frames.is_empty() {
                self.caller.written().await;
                return Some(Ok(v1::WorkResponse { frames: std::mem::take(&mut self.frames) }));
            }
            if matches!(self.phase, Phase::HalfClosed) && self.unanswered == 0 {
                self.phase = Phase::Ending(Ok(()));
            }
            if matches!(self.phase, Phase::Ending(_) | Phase::Over) {
                self.session = None;
                self.caller.written().await;
                return match std::mem::replace(&mut self.phase, Phase::Over) {
                    Phase::Ending(Err(status)) => Some(Err(status)),
                    Phase::Ending(Ok(()))
                    | Phase::Open
                    | Phase::Closing
                    | Phase::HalfClosed
                    | Phase::Over => None,
                };
            }
            self.advance().await;
        }
    }

    /// Waits until there is something to say, or a message was read.
    async fn advance(&mut self) {
        let reads = !matches!(self.phase, Phase::HalfClosed);
        let told = async {
            match &self.session {
                Some(session) => session.told().await,
                None => std::future::pending().await,
            }
        };
        let message = tokio::select! {
            biased;
            () = self.core.draining.cancelled(), if matches!(self.phase, Phase::Open) => return self.close(),
            () = told => return,
            message = self.requests.message(), if reads => message,
            () = &mut self.timer => return self.time_is_up(),
        };
        match message {
            Ok(Some(message)) => {
                self.silent_pings = 0;
                if let Err(status) = self.take(message).await {
                    self.phase = Phase::Ending(Err(status));
                }
            }
            Ok(None) => {
                if let Some(session) = &self.session {
                    session.void();
                }
                self.phase = Phase::HalfClosed;
                self.timer = timer(CLOSING_MAX);
            }
            Err(status) => self.phase = Phase::Ending(Err(status)),
        }
    }

    /// Tells the worker that the server stops. Its reports are answered for a short time.
    fn close(&mut self) {
        self.frames.push(frame(Frame::Closing(v1::WorkClosing {
            reason: "the server is stopping".to_owned(),
            come_back_in: Some(convert::duration(COME_BACK_IN)),
        })));
        self.phase = Phase::Closing;
        self.timer = timer(CLOSING_MAX);
    }

    fn time_is_up(&mut self) {
        let is_greeted = self.session.is_some();
        if is_greeted && matches!(self.phase, Phase::Open) && self.silent_pings + 1 < SILENT_PINGS {
            self.silent_pings += 1;
            self.timer = timer(self.core.workers.settings().ping_every);
            return;
        }
        let silent = |what: &str| {
            let instance = self.session.as_ref().map_or("", |session| session.entry.process.instance());
            Err(errors::worker_silent(instance, what))
        };
        self.phase = Phase::Ending(match (&self.phase, &self.session) {
            (Phase::Open, None) => silent("hello within 10 s"),
            (Phase::Open, Some(_)) => silent("frame for three times `ping_every`"),
            _ => Ok(()),
        });
    }

    /// Processes a message.
    async fn take(&mut self, message: v1::WorkRequest) -> Result<(), Status> {
        self.caller.recheck()?;
        if message.frames.len() > FRAMES_MAX {
            let problem = format!("has {} entries; at most {FRAMES_MAX} are allowed", message.frames.len());
            return Err(Validator::new(self.core.clock.now(), "").failed("frames", problem));
        }
        for (index, said) in message.frames.into_iter().enumerate() {
            let Some(said) = said.frame else { continue };
            let fault = |field: &str, problem: String| {
                Err(Validator::new(self.core.clock.now(), "")
                    .failed(format_args!("frames[{index}].{field}"), problem))
            };
            match (said, &self.session) {
                (Said::Hello(hello), None) => self.hello(hello).await?,
                (Said::Hello(_), Some(_)) => return fault("hello", "comes only once".to_owned()),
                (_, None) => return fault("hello", "must be the first frame".to_owned()),
                (Said::Credit(credit), Some(session)) => {
                    let Some(pool) = session.pool(&credit.pool) else {
                        return fault("credit.pool", "names no pool of the hello".to_owned());
                    };
                    let granted = u32::try_from(credit.count)
                        .ok()
                        .filter(|count| (1..=CREDITS_MAX).contains(&i64::from(*count)));
                    let Some(count) = granted else {
                        return fault(
                            "credit.count",
                            format!("is {}; it must be from 1 to 10,000", credit.count),
                        );
                    };
                    if let Err(has) = session.credit(pool, count) {
                        let problem = format!("is {count}, and {has} are unused; at most 10,000 are allowed");
                        return fault("credit.count", problem);
                    }
                }
                (Said::Report(report), Some(session)) => {
                    let (lease, report) = validate_worker::report(self.core.clock.now(), report);
                    let notice = match report {
                        Ok((lease, report)) => {
                            let is_output = matches!(report, WorkerReport::Output(_));
                            let notice = session.report(lease, report).await;
                            self.unanswered += usize::from(notice.is_none());
                            let notice = notice.filter(|_| !is_output);
                            notice.map(|notice| worker_frames::notice(lease.0, lease.1, &notice))
                        }
                        Err(status) => Some(worker_frames::refused(lease, &status)),
                    };
                    self.frames.extend(notice.map(|notice| frame(Frame::Notice(notice))));
                }
                (Said::Draining(v1::Draining {}), Some(session)) => session.drain(),
                (Said::Ping(v1::Ping { number }), Some(_)) => {
                    self.frames.push(frame(Frame::Pong(v1::Pong { number })));
                }
            }
        }
        Ok(())
    }

    async fn hello(&mut self, hello: v1::Hello) -> Result<(), Status> {
        let mut validator = Validator::new(self.core.clock.now(), &hello.namespace);
        let draft = validator.hello(hello);
        validator.finish()?;
        for queue in draft.about.pools.iter().flat_map(|pool| &pool.queues) {
            self.caller.on_queue(queue)?;
        }
        let entry = self.caller.begin(None);
        let opened = self.register(draft).await;
        entry.end(&opened, |instance| vec![instance.clone()]);
        opened.map(|_| ())
    }

    async fn register(&mut self, draft: HelloDraft) -> Result<String, Status> {
        let core = &self.core;
        let kinds = draft.kinds();
        let HelloDraft { instance, process, mut about, leases } = draft;
        about.address = self.caller.peer.as_ref().map_or_else(String::new, |peer| peer.address.to_string());
        let hello = WorkerHello {
            subject: self.caller.owner(),
            instance: instance.clone(),
            process,
            kinds,
            leases: Some(leases.clone()),
        };
        let deadline = core.clock.uptime().after(HELLO_WITHIN);
        let registered = core.workers.register(hello, deadline).await?;
        let permitted = self.caller.workable_queues();
        let (session, said) = core.workers.open_stream(&registered, &leases, about, permitted.as_ref());
        let settings = core.workers.settings();
        let welcome = v1::Welcome {
            heartbeat_every: Some(convert::duration(settings.heartbeat_every())),
            ping_every: Some(convert::duration(settings.ping_every)),
            lease_time: Some(convert::duration(settings.lease)),
            leases: said
                .iter()
                .map(|(id, lease, notice)| worker_frames::notice(*id, *lease, notice))
                .collect(),
        };
        self.frames.push(frame(Frame::Welcome(welcome)));
        self.session = Some(session);
        self.timer = timer(settings.ping_every);
        Ok(instance)
    }

    /// Converts events to frames, as many as fit into a message.
    async fn convert_events(&mut self) -> Result<(), Status> {
        let Some(session) = &self.session else { return Ok(()) };
        let mut bytes = 0;
        loop {
            let Some(event) = self.events.next() else {
                self.events = session.events().into_iter();
                match self.events.len() {
                    0 => return Ok(()),
                    _ => continue,
                }
            };
            match event {
                WorkerEvent::Assigned(pool, claim) => {
                    // A worker whose token was revoked gets no more payloads, though it is silent.
                    self.caller.recheck()?;
                    if claim.job.spec.bytes > LARGE_BYTES as u64 {
                        self.share.reserve().await;
                    }
                    let pool = session.pool_name(pool);
                    let job = (&*claim.job, claim.lease);
                    let assignment = worker_frames::assignment(&self.core, job, claim.payload, pool).await?;
                    bytes += assignment.encoded_len();
                    self.frames.push(frame(Frame::Assignment(assignment)));
                }
                WorkerEvent::Answer(answer) => {
                    self.unanswered = self.unanswered.saturating_sub(usize::from(answer.is_final));
                    let notice = worker_frames::answer(&answer);
                    self.frames.extend(notice.map(|notice| frame(Frame::Notice(notice))));
                    bytes += 64;
                }
                WorkerEvent::Stop(id, lease, cause, grace) => {
                    let notice = worker_frames::stop_notice(id, lease, cause, grace);
                    self.frames.push(frame(Frame::Notice(notice)));
                }
                WorkerEvent::Lost(id, lease) => {
                    self.frames.push(frame(Frame::Notice(worker_frames::lost(id, lease))));
                }
                WorkerEvent::Drain(within) => {
                    self.frames
                        .push(frame(Frame::Drain(v1::Drain { within: Some(convert::duration(within)) })));
                }
                WorkerEvent::Superseded => {
                    let instance = session.entry.process.instance().to_owned();
                    return Err(ControlRefusal::WorkerSuperseded(instance).into());
                }
                WorkerEvent::Replaced => {
                    return Err(errors::worker_replaced(session.entry.process.instance()));
                }
            }
            if bytes > ENOUGH_BYTES {
                return Ok(());
            }
        }
    }
}
