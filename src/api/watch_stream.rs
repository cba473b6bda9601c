//! Watches as response streams. A stream is polled: messages that a slow client does not read are not prepared.

use std::{collections::HashSet, sync::Arc};

use tokio_stream::Stream;
use tonic::Status;

use super::{
    caller::Caller,
    convert,
    core::Core,
    errors,
    outgoing::{FEW_JOBS, Share},
    sizes::ENOUGH_BYTES,
    validate::Validator,
    views::is_large,
};
use crate::{
    job::{Job, JobFilter, JobId},
    proto::v1,
    watch::{Detail, FilterWatch, IdsWatch, InvalidToken, Start, WatchError, WatchEvent, WatchMessage},
};

/// A validated request to watch jobs.
pub(super) enum WatchRequest {
    Ids {
        ids: Vec<JobId>,
        /// Ids of jobs that the caller may not read.
        hidden: HashSet<JobId>,
        detail: Detail,
        output: bool,
        start: Start,
    },
    Filter {
        filter: JobFilter,
        detail: Detail,
        start: Start,
        resync: bool,
    },
}

enum Watch {
    Ids(Box<IdsWatch>),
    Filter(Box<FilterWatch>),
}

impl Watch {
    async fn next(&mut self) -> Option<Result<WatchMessage, WatchError>> {
        match self {
            Watch::Ids(watch) => watch.next().await,
            Watch::Filter(watch) => watch.next().await,
        }
    }
}

/// Validates a WatchStatus request.
pub(super) fn request(
    core: &Core,
    mut validator: Validator,
    body: v1::WatchStatusRequest,
) -> Result<WatchRequest, Status> {
    let detail = validator.detail(body.detail);
    let start: v1::WatchStart = validator.known("start", body.start);
    let resync = match validator.known("resync", body.resync) {
        v1::WatchResync::Unspecified | v1::WatchResync::Snapshot => true,
        v1::WatchResync::Fail => false,
    };
    if body.ids.is_empty() == body.filter.is_none() {
        let message = "name either ids or a filter; an empty filter watches all jobs";
        validator.fault(if body.ids.is_empty() { "ids" } else { "filter" }, message);
    }
    if body.output && body.ids.is_empty() {
        validator.fault("output", "output lines come only with ids");
    }
    if start == v1::WatchStart::Now && !body.ids.is_empty() {
        validator.fault(
            "start",
            "NOW is for filters: with ids, a job that has already ended would never be reported",
        );
    }
    let ids = validator.job_ids("ids", &body.ids);
    let filter = validator.filter(body.filter);
    let watched = if body.ids.is_empty() { FilterWatch::watched(&filter) } else { IdsWatch::watched(&ids) };
    let mut too_old = false;
    let token = match core.issuer.read(&body.resume_token, watched) {
        _ if body.resume_token.is_empty() => None,
        Ok(token) => Some(token),
        Err(InvalidToken::OtherHistory) => {
            too_old = true;
            None
        }
        Err(error @ (InvalidToken::Garbage | InvalidToken::OtherStore | InvalidToken::OtherWatch)) => {
            validator.fault("resume_token", error.to_string());
            None
        }
    };
    validator.finish()?;
    if too_old && !resync {
        return Err(errors::resume_token_too_old(InvalidToken::OtherHistory));
    }
    let start = match (token, start) {
        _ if too_old => Start::Resync,
        (Some(token), _) => Start::Resume(token),
        (None, v1::WatchStart::Now) => Start::Now,
        (None, v1::WatchStart::Unspecified | v1::WatchStart::Snapshot) => Start::Snapshot,
    };
    if !ids.is_empty() {
        let hidden = HashSet::new();
        return Ok(WatchRequest::Ids { ids, hidden, detail, output: body.output, start });
    }
    Ok(WatchRequest::Filter { filter, detail, start, resync })
}

/// Restricts a validated request to the jobs that its caller may read.
pub(super) async fn authorize(
    core: &Core,
    caller: &Caller,
    request: &mut WatchRequest,
) -> Result<(), Status> {
    match request {
        WatchRequest::Filter { filter, .. } => caller.on_filter(filter),
        WatchRequest::Ids { .. } if caller.sees_all() => Ok(()),
        WatchRequest::Ids { ids, hidden, .. } => {
            let asked = ids.clone();
            let (jobs, _) = core.shard.reads.read(move |reader| reader.jobs(&asked)).await?;
            // A job that does not exist is hidden, too, as it may be created later in a queue of another user.
            let sees = |job: Option<Job>| job.is_some_and(|job| caller.sees(&job));
            hidden.extend(ids.iter().copied().zip(jobs).filter_map(|(id, job)| (!sees(job)).then_some(id)));
            Ok(())
        }
    }
}

/// Returns the stream of a watch, which ends when its caller's token is no longer valid. Large messages are prepared
/// only once `share` has budget.
pub(super) fn start(
    core: &Core,
    caller: Arc<Caller>,
    request: WatchRequest,
    view: v1::JobView,
    share: Arc<Share>,
) -> impl Stream<Item = Result<v1::WatchStatusResponse, Status>> + Send + use<> {
    let issuer = Arc::clone(&core.issuer);
    let reads = core.shard.reads.clone();
    let watch =
        match request {
            WatchRequest::Ids { ids, hidden, detail, output, start } => {
                let watch =
                    IdsWatch::new(&core.shard.hub, reads, issuer, &ids, hidden, detail, output, start);
                Watch::Ids(Box::new(watch))
            }
            WatchRequest::Filter { filter, detail, start, resync } => Watch::Filter(Box::new(
                FilterWatch::new(&core.shard.hub, reads, issuer, filter, detail, start, resync),
            )),
        };
    let core = core.clone();
    futures_util::stream::unfold(
        (watch, None, (core, caller, share), false),
        move |(mut watch, mut rest, by, over): (_, Option<WatchMessage>, _, _)| async move {
            if over {
                return None;
            }
            let (core, caller, share) = &by;
            let message = match rest.take() {
                Some(rest) => Ok(rest),
                None => watch.next().await?,
            };
            let response = match (message, caller.recheck()) {
                (Ok(message), Ok(())) => {
                    if is_large(view) || message.events.len() > FEW_JOBS {
                        share.reserve().await;
                    }
                    respond(core, message, view).await
                }
                (Ok(_), Err(status)) => {
                    caller.written().await;
                    Err(status)
                }
                (Err(error), _) => Err(error.into()),
            };
            Some(match response {
                Ok((response, rest)) => (Ok(response), (watch, rest, by, false)),
                Err(status) => (Err(status), (watch, None, by, true)),
            })
        },
    )
}

/// Converts a message to a response, and returns the rest of its events if they do not fit. Only the last response of a
/// message has a resume token. The rest is completed only when its turn comes, so a client that stops reading costs one
/// response.
async fn respond(
    core: &Core,
    mut message: WatchMessage,
    view: v1::JobView,
) -> Result<(v1::WatchStatusResponse, Option<WatchMessage>), Status> {
    let (mut events, mut bytes) = (Vec::with_capacity(message.events.len()), 0);
    for event in &message.events {
        let mut proto = convert::event(event);
        complete(core, event, &mut proto, view).await?;
        bytes += prost::Message::encoded_len(&proto);
        if bytes > ENOUGH_BYTES && !events.is_empty() {
            message.events.drain(..events.len());
            return Ok((v1::WatchStatusResponse { events, resume_token: String::new() }, Some(message)));
        }
        events.push(proto);
    }
    Ok((v1::WatchStatusResponse { events, resume_token: message.token }, None))
}

/// Adds the fields that a view has beyond JOB_VIEW_BASIC to an event's job. The event itself stays as of its change.
async fn complete(
    core: &Core,
    event: &WatchEvent,
    proto: &mut v1::WatchEvent,
    view: v1::JobView,
) -> Result<(), Status> {
    use v1::watch_event::Event;

    let (WatchEvent::Snapshot(job) | WatchEvent::Updated { job, .. }) = event else {
        return Ok(());
    };
    let shown = match &mut proto.event {
        Some(Event::Snapshot(shown)) => Some(shown),
        Some(Event::Updated(updated)) => updated.job.as_mut(),
        Some(_) | None => None,
    };
    match shown {
        Some(shown) => core.complete(shown, job.id, view).await,
        None => Ok(()),
    }
}
