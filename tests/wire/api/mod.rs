//! The meaning of each field of the protocol, one file for each topic.

mod cancel_role;
mod dependencies;
mod etag;
mod filter;
mod headers;
mod keys;
mod large_results;
mod limits;
mod lists;
mod namespace;
mod outcomes;
mod payload;
mod pending;
mod raw;
mod refusals;
mod repeats;
mod require;
mod revision;
mod server_info;
mod spec;
mod table;
mod times;
mod update;
mod verbs;
mod views;
mod wait;
mod watching;

use jobmill::proto::v1::{self, JobView};
use tonic::{Code, Response, Status};

use crate::support::{QUEUE, Rig, memory, queue, refusal, simple, soon, submission, with_queue};

/// Starts a server whose jobs stay queued.
async fn shelf() -> Rig {
    Rig::start(simple(with_queue(memory(), QUEUE, queue(0)))).await
}

async fn submit(rig: &Rig, request: v1::SubmitRequest) -> Result<v1::SubmitResponse, Status> {
    soon(rig.jobs.clone().submit(request)).await.map(Response::into_inner)
}

/// Returns the fields for which a submission is refused.
async fn faults(rig: &Rig, spec: v1::JobSpec) -> Vec<String> {
    let refused = refusal(&submit(rig, submission(spec)).await.expect_err("a fault"));
    assert_eq!((refused.code, refused.reason.as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
    refused.fields
}

/// Returns a list's only page.
async fn list(rig: &Rig, filter: v1::JobFilter, view: JobView) -> Vec<v1::Job> {
    let request = v1::ListJobsRequest { filter: Some(filter), view: view as i32, ..Default::default() };
    let page = soon(rig.jobs.clone().list_jobs(request)).await.unwrap().into_inner();
    assert_eq!(page.next_page_token, "");
    page.jobs
}

fn duration(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

/// Returns a map field of the protocol.
fn entries<'a>(
    entries: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> std::collections::BTreeMap<String, String> {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
