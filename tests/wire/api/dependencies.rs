//! Dependencies over the wire: what is refused, what is shown, and who may depend on what.

use std::fs;

use jobmill::{
    proto::v1::{
        self, Dependency, DependencyCondition, DependencyState, FailureReason, JobState, JobView,
        PendingReason, submit_result::Result as Item,
    },
    serve::Server,
    settings::{Settings, TokenHash},
};
use tonic::{Code, Request, Response, Status};

use super::{list, shelf, submit};
use crate::{
    queues::in_queue,
    schedules::{create, every},
    support::{
        QUEUE, Rig, Stage, defaults, job, memory, queue, refusal, refused_item, simple, soon, submission,
        with_queue,
    },
};

fn after(on: impl IntoIterator<Item = Dependency>) -> v1::JobSpec {
    v1::JobSpec { depends_on: on.into_iter().collect(), ..job("echo") }
}

async fn batch(rig: &Rig, jobs: Vec<v1::JobSpec>) -> Result<Vec<String>, Status> {
    let request = v1::SubmitBatchRequest { jobs, ..Default::default() };
    let answer = soon(rig.jobs.clone().submit_batch(request)).await.map(Response::into_inner)?;
    Ok(answer.jobs.into_iter().map(|job| job.id).collect())
}

fn shown(job: &v1::Job) -> Vec<(&str, DependencyState)> {
    job.dependencies.iter().map(|on| (on.job_id.as_str(), on.state())).collect()
}

#[tokio::test]
async fn a_job_is_shown_with_what_it_waits_for_and_what_became_of_it() {
    let (handler, mut stage) = Stage::new();
    let settings = with_queue(memory(), QUEUE, queue(4));
    let rig = Rig::start(Server::builder(settings).handler("stage", defaults(), handler)).await;
    let good = rig.submit(job("stage")).await.id;
    let good_cue = stage.next().await;
    let bad = rig.submit(job("stage")).await.id;
    let bad_cue = stage.next().await;
    let on = [Dependency::on_job(&good), Dependency::on_job(&bad).when(DependencyCondition::Unsuccessful)];
    let spec = v1::JobSpec { depends_on: on.to_vec(), ..job("stage") };
    let child = rig.submit(spec.clone()).await.id;
    let found = rig.get(&child).await;
    assert_eq!(found.state(), JobState::Blocked);
    assert_eq!(shown(&found), [(&*good, DependencyState::Waiting), (&*bad, DependencyState::Waiting)]);
    let pending = &found.pending[..];
    assert_eq!(
        (pending.len(), pending[0].reason(), &*pending[0].subject),
        (1, PendingReason::Dependency, "2 jobs")
    );
    assert_eq!(pending[0].job_ids, [good.clone(), bad.clone()]);
    let view = JobView::Basic as i32;
    let request = v1::GetJobRequest { id: child.clone(), view, ..Default::default() };
    let basic = soon(rig.jobs.clone().get_job(request)).await.unwrap().into_inner().job.unwrap();
    assert_eq!((&basic.dependencies[..], &basic.pending[..]), (&[][..], pending));
    // The spec that is read can be submitted again.
    let on = found.spec.unwrap().depends_on;
    assert_eq!(on[1], spec.depends_on[1]);
    assert_eq!(on[0], spec.depends_on[0].clone().when(DependencyCondition::Succeeded));
    let basic = list(&rig, v1::JobFilter::default(), JobView::Basic).await;
    assert!(basic.iter().all(|job| job.dependencies.is_empty() && job.pending.is_empty()));
    let full = list(&rig, v1::JobFilter::default(), JobView::Full).await;
    assert_eq!(shown(&full[0]).len(), 2);
    good_cue.succeeds();
    rig.ends(&good).await;
    let found = rig.get(&child).await;
    assert_eq!(shown(&found), [(&*good, DependencyState::Met), (&*bad, DependencyState::Waiting)]);
    assert_eq!((&*found.pending[0].subject, &found.pending[0].job_ids[..]), ("1 job", &[bad.clone()][..]));
    bad_cue.succeeds();
    let ended = rig.ends(&child).await;
    assert_eq!(ended.state(), JobState::Cancelled);
    let failure = ended.last_failure.clone().unwrap();
    assert_eq!((failure.reason(), &failure.parent_id), (FailureReason::Dependency, &bad));
    let message = format!("the job {bad}, which had to be UNSUCCESSFUL, ended as SUCCEEDED");
    assert_eq!((failure.message, failure.retryable), (message, false));
    let states = [(&*good, DependencyState::Met), (&*bad, DependencyState::Impossible)];
    assert_eq!(shown(&rig.get(&child).await), states);
    rig.stop().await;
}

#[tokio::test]
async fn a_job_that_waits_for_many_names_ten() {
    let rig = shelf().await;
    let mut jobs = vec![job("echo"); 12];
    jobs.push(after((0..12).map(Dependency::on_index)));
    let ids = batch(&rig, jobs).await.unwrap();
    let found = rig.get(&ids[12]).await;
    assert_eq!((&*found.pending[0].subject, &found.pending[0].job_ids[..]), ("12 jobs", &ids[..10]));
    rig.stop().await;
}

#[tokio::test]
async fn what_can_never_be_is_refused_with_its_field() {
    let rig = shelf().await;
    let one = rig.submit(job("echo")).await.id;
    let on = Dependency::on_job(&one);
    let before = super::raw::state(&rig).await;
    let strange = Dependency { condition: 9, ..on.clone() };
    let cases = [
        (vec![Dependency::default()], "job.depends_on[0]", "names no job"),
        (vec![on.clone(), Dependency::on_job("?")], "job.depends_on[1].job_id", "is not a job id"),
        (vec![on.clone(), on.clone().optional()], "job.depends_on[1]", "names the same job"),
        (vec![Dependency::on_index(0)], "job.depends_on[0]", "which only SubmitBatch knows"),
        (vec![Dependency::on_index(-1)], "job.depends_on[0].batch_index", "is -1"),
        (vec![strange], "job.depends_on[0].condition", "9 is no value"),
    ];
    for (depends_on, field, said) in cases {
        let status = submit(&rig, submission(after(depends_on.clone()))).await.unwrap_err();
        let refused = refusal(&status);
        assert_eq!((refused.code, &refused.fields[..]), (Code::InvalidArgument, &[field.to_owned()][..]));
        assert!(status.message().contains(said), "{}", status.message());
        // The same in a stream.
        let item = v1::SubmitItem { job: Some(after(depends_on)), ..Default::default() };
        assert_eq!(item_error(&rig, None, item).await.0, field);
    }
    for (jobs, field, said) in [
        (vec![job("echo"), after([Dependency::on_index(1)])], "jobs[1].depends_on[0]", "is the job itself"),
        (
            vec![job("echo"), after([Dependency::on_index(2)])],
            "jobs[1].depends_on[0]",
            "it must be from 0 to 1",
        ),
    ] {
        let status = batch(&rig, jobs).await.unwrap_err();
        assert_eq!(refusal(&status).fields, [field]);
        assert!(status.message().contains(said), "{}", status.message());
    }
    let cycle = vec![after([Dependency::on_index(1)]), after([Dependency::on_index(0)])];
    let status = batch(&rig, cycle).await.unwrap_err();
    let refused = refusal(&status);
    assert_eq!((refused.code, &*refused.reason), (Code::FailedPrecondition, "DEPENDENCY_CYCLE"));
    assert_eq!(refused.metadata["path"], "jobs[0] jobs[1]");
    assert_eq!(super::raw::state(&rig).await, before);
    rig.cancel(&one).await.unwrap();
    soon(rig.jobs.clone().delete_job(v1::DeleteJobRequest { id: one.clone(), ..Default::default() }))
        .await
        .unwrap();
    let status = batch(&rig, vec![job("echo"), after([on])]).await.unwrap_err();
    let refused = refusal(&status);
    assert_eq!((refused.code, &*refused.reason), (Code::NotFound, "DEPENDENCY_NOT_FOUND"));
    assert_eq!((&*refused.metadata["job_id"], &*refused.metadata["field"]), (&*one, "jobs[1].depends_on[0]"));
    rig.stop().await;
}

#[tokio::test]
async fn a_job_and_a_call_have_as_many_dependencies_as_are_told_and_no_more() {
    let rig = shelf().await;
    let (of_job, of_call) = (rig.limit("dependencies").await, rig.limit("call_dependencies").await);
    let mut parents = batch(&rig, vec![job("echo"); of_job]).await.unwrap();
    let whole = after(parents.iter().map(Dependency::on_job));
    submit(&rig, submission(whole.clone())).await.unwrap();
    parents.push(rig.submit(job("echo")).await.id);
    let status = submit(&rig, submission(after(parents.iter().map(Dependency::on_job)))).await.unwrap_err();
    assert_eq!(refusal(&status).fields, ["job.depends_on"]);
    assert!(status.message().contains("has 1001 entries; at most 1000 are allowed"), "{}", status.message());
    let jobs = vec![whole; of_call / of_job];
    batch(&rig, jobs.clone()).await.unwrap();
    let more = jobs.into_iter().chain([after([Dependency::on_job(&parents[0])])]).collect();
    let status = batch(&rig, more).await.unwrap_err();
    assert_eq!(refusal(&status).fields, ["jobs"]);
    assert!(status.message().contains("have 10001 dependencies"), "{}", status.message());
    rig.stop().await;
}

#[tokio::test]
async fn a_stream_and_a_schedule_say_what_they_can() {
    let rig = shelf().await;
    let parent = rig.submit(job("echo")).await.id;
    let item = v1::SubmitItem { job: Some(after([Dependency::on_job(&parent)])), ..Default::default() };
    let request = v1::SubmitStreamRequest { items: vec![item], ..Default::default() };
    let mut stream =
        soon(rig.jobs.clone().submit_stream(tokio_stream::iter([request]))).await.unwrap().into_inner();
    let mut results = Vec::new();
    while let Some(message) = soon(stream.message()).await.unwrap() {
        results.extend(message.results);
    }
    let Some(Item::Submitted(submitted)) = &results[0].result else { panic!("{results:?}") };
    assert_eq!(rig.get(&submitted.id).await.state(), JobState::Blocked);
    let schedule = v1::Schedule { job: Some(after([Dependency::on_job(&parent)])), ..every("hourly", 3_600) };
    let status = create(&rig, schedule).await.unwrap_err();
    assert_eq!(refusal(&status).fields, ["schedule.job.depends_on"]);
    rig.stop().await;
}

#[tokio::test]
async fn a_graph_has_the_jobs_in_both_directions() {
    let rig = shelf().await;
    let on = |index| after([Dependency::on_index(index)]);
    // A line of four, a job beside the second, and one that has nothing to do with them.
    let ids = batch(&rig, vec![job("echo"), on(0), on(1), on(2), on(0), job("echo")]).await.unwrap();
    let graph = async |id: &str, max_jobs| {
        let request = v1::GetJobGraphRequest { id: id.to_owned(), max_jobs, ..Default::default() };
        soon(rig.jobs.clone().get_job_graph(request)).await.map(Response::into_inner)
    };
    let shown = |graph: &v1::GetJobGraphResponse| {
        let index = |id: &str| ids.iter().position(|known| known == id).unwrap();
        let edge =
            |edge: &v1::JobEdge| (index(&edge.child_id), index(&edge.dependency.as_ref().unwrap().job_id));
        let jobs = graph.jobs.iter().map(|job| index(&job.id)).collect::<Vec<_>>();
        (jobs, graph.edges.iter().map(edge).collect::<Vec<_>>(), graph.truncated)
    };
    let middle = graph(&ids[2], 0).await.unwrap();
    assert_eq!(shown(&middle), (vec![0, 1, 2, 3], vec![(1, 0), (2, 1), (3, 2)], false));
    assert_eq!(middle.edges[0].dependency.as_ref().unwrap().state(), DependencyState::Waiting);
    let first = graph(&ids[0], 0).await.unwrap();
    assert_eq!(shown(&first).0, [0, 1, 2, 3, 4]);
    assert_eq!(shown(&graph(&ids[5], 0).await.unwrap()), (vec![5], vec![], false));
    let cut = graph(&ids[0], 3).await.unwrap();
    assert_eq!(shown(&cut), (vec![0, 1, 4], vec![(1, 0), (4, 0)], true));
    for max_jobs in [-1, 1_001] {
        assert_eq!(refusal(&graph(&ids[0], max_jobs).await.unwrap_err()).fields, ["max_jobs"]);
    }
    // A parent that is deleted leaves its edges.
    let request = v1::DeleteJobRequest { id: ids[0].clone(), force: true, ..Default::default() };
    soon(rig.jobs.clone().delete_job(request)).await.unwrap();
    let left = shown(&graph(&ids[1], 0).await.unwrap());
    assert_eq!((left.0, left.2), (vec![1, 2, 3], false));
    assert!(left.1.contains(&(1, 0)));
    assert_eq!(refusal(&graph(&ids[0], 0).await.unwrap_err()).reason, "JOB_NOT_FOUND");
    rig.stop().await;
}

#[tokio::test]
async fn a_parent_is_deleted_only_by_force() {
    let rig = shelf().await;
    let ids = batch(&rig, vec![job("echo"), after([Dependency::on_index(0)])]).await.unwrap();
    let refused = refusal(&rig.delete(&ids[0]).await.unwrap_err());
    assert_eq!((refused.code, &*refused.reason), (Code::FailedPrecondition, "HAS_DEPENDENTS"));
    assert_eq!((&refused.metadata["job_id"], &refused.metadata["child_id"]), (&ids[0], &ids[1]));
    let request = v1::PurgeQueueRequest { name: QUEUE.to_owned(), ..Default::default() };
    let purged = soon(rig.queues.clone().purge_queue(request)).await.unwrap().into_inner();
    assert_eq!((purged.deleted_jobs, purged.skipped_jobs), (2, 0), "with its child it goes");
    let ids = batch(&rig, vec![job("echo"), after([Dependency::on_index(0)])]).await.unwrap();
    let request = v1::DeleteJobRequest { id: ids[0].clone(), force: true, ..Default::default() };
    soon(rig.jobs.clone().delete_job(request)).await.unwrap();
    assert_eq!(rig.get(&ids[1]).await.state(), JobState::Cancelled);
    rig.stop().await;
}

#[tokio::test]
async fn a_repeat_is_known_by_its_dependencies_too() {
    let rig = shelf().await;
    let parent = rig.submit(job("echo")).await.id;
    let request = |spec| v1::SubmitRequest { request_id: "r".to_owned(), ..submission(spec) };
    let said = after([Dependency::on_job(&parent)]);
    let first = submit(&rig, request(said.clone())).await.unwrap();
    let again = submit(&rig, request(said)).await.unwrap();
    assert_eq!((again.id(), again.outcome()), (first.id(), v1::SubmitOutcome::Repeated));
    for other in [job("echo"), after([Dependency::on_job(&parent).optional()])] {
        let status = submit(&rig, request(other)).await.unwrap_err();
        assert_eq!(refusal(&status).reason, "REQUEST_ID_REUSED");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_caller_depends_only_on_jobs_that_it_may_read() {
    let dir = tempfile::tempdir().unwrap();
    let entry = |name: &str, roles: &str, queues: &str| {
        let hash = TokenHash::of(name);
        format!("[tokens.{name}]\nhash = 'sha256:{hash}'\nroles = [{roles}]\nqueues = ['{queues}']\n")
    };
    let tokens = dir.path().join("tokens.toml");
    fs::write(&tokens, [entry("boss", "'admin'", "*"), entry("few", "'submit', 'read'", QUEUE)].concat())
        .unwrap();
    let settings = with_queue(with_queue(memory(), QUEUE, queue(0)), "secret", queue(0));
    let rig = Rig::start(simple(Settings { tokens: Some(tokens), ..settings })).await;
    let hidden =
        soon(rig.jobs.clone().submit(as_token("boss", submission(in_queue("secret", "echo"))))).await;
    let hidden = hidden.unwrap().into_inner().id().to_owned();
    let spec = || after([Dependency::on_job(&hidden)]);
    let status = soon(rig.jobs.clone().submit(as_token("few", submission(spec())))).await.unwrap_err();
    assert_eq!(refusal(&status).reason, "DEPENDENCY_NOT_FOUND");
    let jobs = vec![job("echo"), spec()];
    let request = as_token("few", v1::SubmitBatchRequest { jobs, ..Default::default() });
    let status = soon(rig.jobs.clone().submit_batch(request)).await.unwrap_err();
    assert_eq!(refusal(&status).metadata["field"], "jobs[1].depends_on[0]");
    // Behind more of its own than one read looks at.
    let request = v1::SubmitBatchRequest { jobs: vec![job("echo"); 120], ..Default::default() };
    let own = soon(rig.jobs.clone().submit_batch(as_token("few", request))).await.unwrap().into_inner().jobs;
    let on = own.iter().map(|job| &job.id).chain([&hidden]).map(Dependency::on_job);
    let request = as_token("few", submission(after(on)));
    let status = soon(rig.jobs.clone().submit(request)).await.unwrap_err();
    assert_eq!(refusal(&status).metadata["field"], "job.depends_on[120]");
    let item = v1::SubmitItem { job: Some(spec()), ..Default::default() };
    let (_, reason) = item_error(&rig, Some("few"), item).await;
    assert_eq!(reason, "DEPENDENCY_NOT_FOUND");
    soon(rig.jobs.clone().submit(as_token("boss", submission(spec())))).await.unwrap();
    rig.stop().await;
}

fn as_token<T>(token: &str, request: T) -> Request<T> {
    let mut request = Request::new(request);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

/// Submits an item of a stream; returns the first field of its error, and the reason.
async fn item_error(rig: &Rig, token: Option<&str>, item: v1::SubmitItem) -> (String, String) {
    let items = tokio_stream::iter([v1::SubmitStreamRequest { items: vec![item], ..Default::default() }]);
    let request = match token {
        Some(token) => as_token(token, items),
        None => Request::new(items),
    };
    let mut stream = soon(rig.jobs.clone().submit_stream(request)).await.unwrap().into_inner();
    while let Some(message) = soon(stream.message()).await.unwrap() {
        if let Some(Item::Error(error)) = message.results.first().and_then(|result| result.result.clone()) {
            refused_item(&error);
            let field = error.field_violations.first().map(|violation| violation.field.clone());
            return (field.unwrap_or_default(), error.reason);
        }
    }
    panic!("the item was accepted")
}
