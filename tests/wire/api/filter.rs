//! Filters by several queues and by `done`.

use std::collections::BTreeSet;

use jobmill::proto::v1::{self, JobFilter, JobState, JobView};
use tonic::Code;

use super::list;
use crate::{
    queues::in_queue,
    support::{QUEUE, Rig, Stage, defaults, folder, job, memory, queue, refusal, simple, soon, with_queue},
};

fn of(queues: &[&str], done: Option<bool>) -> JobFilter {
    JobFilter { queues: queues.iter().map(|&queue| queue.to_owned()).collect(), done, ..Default::default() }
}

/// Creates one waiting job and one ended job in each of three queues.
async fn three_queues() -> (Rig, [String; 3], [String; 3]) {
    let settings =
        with_queue(with_queue(with_queue(memory(), QUEUE, queue(0)), "b", queue(0)), "c", queue(0));
    let rig = Rig::start(simple(settings)).await;
    let (mut waiting, mut ended) = (Vec::new(), Vec::new());
    for name in [QUEUE, "b", "c"] {
        waiting.push(rig.submit(in_queue(name, "echo")).await.id);
        ended.push(rig.submit(in_queue(name, "echo")).await.id);
    }
    for id in &ended {
        rig.cancel(id).await.unwrap();
    }
    (rig, waiting.try_into().unwrap(), ended.try_into().unwrap())
}

async fn count(rig: &Rig, filter: JobFilter) -> i64 {
    let request = v1::CountJobsRequest { filter: Some(filter), ..Default::default() };
    let counted = soon(rig.jobs.clone().count_jobs(request)).await.unwrap().into_inner();
    assert!(counted.exact);
    assert_eq!(counted.counts.iter().map(|count| count.count).sum::<i64>(), counted.total);
    counted.total
}

#[tokio::test]
async fn lists_counts_and_watches_agree_on_what_fits() {
    let (rig, waiting, ended) = three_queues().await;
    let [w0, w1, w2] = waiting.each_ref().map(String::as_str);
    let [e0, e1, e2] = ended.each_ref().map(String::as_str);
    let echo = |filter| JobFilter { kinds: vec!["echo".to_owned()], ..filter };
    let cancelled = |filter| JobFilter { states: vec![JobState::Cancelled as i32], ..filter };
    let labelled = |filter| JobFilter { labels: super::entries([("a", "b")]), ..filter };
    let rows: [(JobFilter, &[&str]); 15] = [
        (of(&[], None), &[w0, w1, w2, e0, e1, e2]),
        (of(&["b"], None), &[w1, e1]),
        (of(&["b", "c"], None), &[w1, w2, e1, e2]),
        (of(&["c", "b", "c"], None), &[w1, w2, e1, e2]),
        (of(&["nowhere", "b"], None), &[w1, e1]),
        (of(&["nowhere"], None), &[]),
        (of(&[], Some(true)), &[e0, e1, e2]),
        (of(&[], Some(false)), &[w0, w1, w2]),
        (of(&[QUEUE, "c"], Some(true)), &[e0, e2]),
        (of(&[QUEUE, "c"], Some(false)), &[w0, w2]),
        (echo(of(&["b"], Some(false))), &[w1]),
        (cancelled(of(&["b"], Some(true))), &[e1]),
        (cancelled(of(&["b"], Some(false))), &[]),
        (cancelled(of(&["b", "c"], None)), &[e1, e2]),
        (labelled(of(&["b"], None)), &[]),
    ];
    for (filter, fitting) in rows {
        let fitting: BTreeSet<_> = fitting.iter().copied().collect();
        let listed = list(&rig, filter.clone(), JobView::Basic).await;
        assert_eq!(listed.iter().map(|job| job.id.as_str()).collect::<BTreeSet<_>>(), fitting, "{filter:?}");
        assert!(listed.windows(2).all(|pair| pair[0].id > pair[1].id), "newest first: {filter:?}");
        let watch = v1::WatchStatusRequest { filter: Some(filter.clone()), ..Default::default() };
        let told = rig.watch(watch).await.synced().await;
        assert_eq!(told.iter().map(|job| job.id.as_str()).collect::<BTreeSet<_>>(), fitting, "{filter:?}");
        assert_eq!(count(&rig, filter).await, fitting.len() as i64);
    }
    rig.stop().await;
}

#[tokio::test]
async fn pages_of_several_queues_have_no_gaps_and_no_repeats() {
    let (rig, waiting, ended) = three_queues().await;
    for filter in [of(&["b", "c"], None), of(&[QUEUE, "c"], Some(false)), of(&[], Some(true))] {
        let whole = list(&rig, filter.clone(), JobView::Basic).await;
        let (mut paged, mut page_token) = (Vec::new(), String::new());
        loop {
            let filter = Some(filter.clone());
            let request = v1::ListJobsRequest { filter, page_size: 1, page_token, ..Default::default() };
            let page = soon(rig.jobs.clone().list_jobs(request)).await.unwrap().into_inner();
            paged.extend(page.jobs);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(paged, whole, "{filter:?}");
    }
    assert_eq!(count(&rig, of(&[], None)).await as usize, waiting.len() + ended.len());
    rig.stop().await;
}

#[tokio::test]
async fn a_watch_of_what_has_not_ended_tells_what_leaves_and_the_other_what_comes() {
    let (handler, mut stage) = Stage::new();
    let settings = with_queue(with_queue(memory(), QUEUE, queue(1)), "b", queue(1));
    let rig = Rig::start(simple(settings).handler("stage", defaults(), handler)).await;
    let watch = async |filter: JobFilter| {
        let mut watcher = rig
            .watch(v1::WatchStatusRequest {
                filter: Some(filter),
                detail: v1::WatchDetail::EveryTransition as i32,
                ..Default::default()
            })
            .await;
        watcher.synced().await;
        watcher
    };
    let mut live = watch(of(&[QUEUE, "b"], Some(false))).await;
    let mut done = watch(of(&[QUEUE, "b"], Some(true))).await;
    let mut elsewhere = watch(of(&["b"], None)).await;
    rig.submit(job("stage")).await;
    stage.next().await.succeeds();
    assert_eq!(live.lines(2).await, ["updated 1 RUNNING", "left SUCCEEDED"]);
    assert_eq!(done.line().await, "updated 2 SUCCEEDED");
    rig.submit(in_queue("b", "stage")).await;
    stage.next().await.succeeds();
    assert_eq!(live.lines(2).await, ["updated 1 RUNNING", "left SUCCEEDED"]);
    assert_eq!(done.line().await, "updated 2 SUCCEEDED");
    assert_eq!(elsewhere.lines(2).await, ["updated 1 RUNNING", "updated 2 SUCCEEDED"]);
    rig.stop().await;
}

#[tokio::test]
async fn faults_of_filters_have_their_paths() {
    let (rig, ..) = three_queues().await;
    let invalid = async |filter: JobFilter| {
        let watch = v1::WatchStatusRequest { filter: Some(filter.clone()), ..Default::default() };
        let list = v1::ListJobsRequest { filter: Some(filter.clone()), ..Default::default() };
        let count = v1::CountJobsRequest { filter: Some(filter), ..Default::default() };
        let statuses = [
            soon(rig.jobs.clone().watch_status(watch)).await.unwrap_err(),
            soon(rig.jobs.clone().list_jobs(list)).await.unwrap_err(),
            soon(rig.jobs.clone().count_jobs(count)).await.unwrap_err(),
        ];
        let [first, second, third] = statuses.map(|status| refusal(&status));
        assert_eq!(first.code, Code::InvalidArgument);
        assert_eq!((&first.fields, &first.fields), (&second.fields, &third.fields));
        first.fields
    };
    assert_eq!(invalid(of(&["", "b", "B"], None)).await, ["filter.queues[0]", "filter.queues[2]"]);
    let many: Vec<_> = (0..33).map(|n| format!("q{n}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert_eq!(invalid(of(&many, None)).await, ["filter.queues"]);
    assert_eq!(count(&rig, of(&many[..32], None)).await, 0);
    rig.stop().await;
}

#[tokio::test]
async fn a_token_of_one_filter_is_not_taken_for_another() {
    let (rig, ..) = three_queues().await;
    let given = of(&["b", "c"], Some(false));
    let list = |filter: JobFilter, page_token: String| {
        let request =
            v1::ListJobsRequest { filter: Some(filter), page_size: 1, page_token, ..Default::default() };
        let mut jobs = rig.jobs.clone();
        async move { soon(jobs.list_jobs(request)).await.map(tonic::Response::into_inner) }
    };
    let watch = |filter: JobFilter, resume_token: String| {
        let request = v1::WatchStatusRequest { filter: Some(filter), resume_token, ..Default::default() };
        let mut jobs = rig.jobs.clone();
        async move { soon(jobs.watch_status(request)).await.map(tonic::Response::into_inner) }
    };
    let page_token = list(given.clone(), String::new()).await.unwrap().next_page_token;
    assert_ne!(page_token, "");
    let mut watcher = crate::support::Watcher::new(watch(given.clone(), String::new()).await.unwrap());
    watcher.synced().await;
    for other in [
        of(&["b"], Some(false)),
        of(&["b", "c", QUEUE], Some(false)),
        of(&["b", "c"], Some(true)),
        of(&["b", "c"], None),
        of(&[], Some(false)),
        JobFilter::default(),
    ] {
        let refused = refusal(&list(other.clone(), page_token.clone()).await.unwrap_err());
        assert_eq!(refused.fields, ["page_token"], "{other:?}");
        let refused = refusal(&watch(other.clone(), watcher.token.clone()).await.unwrap_err());
        assert_eq!(refused.fields, ["resume_token"], "{other:?}");
    }
    list(given.clone(), page_token).await.unwrap();
    watch(given, watcher.token.clone()).await.unwrap();
    rig.stop().await;
}

#[tokio::test]
async fn a_token_of_a_filter_holds_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let settings = || with_queue(with_queue(folder(home.path()), QUEUE, queue(0)), "b", queue(0));
    let rig = Rig::start(simple(settings())).await;
    let filter = of(&[QUEUE, "b"], Some(false));
    let ids = rig.submit_batch(vec![job("echo"), in_queue("b", "echo"), job("echo")]).await;
    let watch = |resume_token: String| v1::WatchStatusRequest {
        filter: Some(filter.clone()),
        resume_token,
        ..Default::default()
    };
    let list = |page_token: String| v1::ListJobsRequest {
        filter: Some(filter.clone()),
        page_size: 1,
        page_token,
        ..Default::default()
    };
    let mut watcher = rig.watch(watch(String::new())).await;
    watcher.synced().await;
    let page = soon(rig.jobs.clone().list_jobs(list(String::new()))).await.unwrap().into_inner();
    let token = watcher.token.clone();
    rig.cancel(&ids[1]).await.unwrap();
    rig.stop().await;
    let rig = Rig::start(simple(settings())).await;
    assert_eq!(rig.watch(watch(token)).await.line().await, "left CANCELLED");
    let page = soon(rig.jobs.clone().list_jobs(list(page.next_page_token))).await.unwrap().into_inner();
    assert_eq!(page.jobs.iter().map(|job| &job.id).collect::<Vec<_>>(), [&ids[0]]);
    rig.stop().await;
}

#[tokio::test]
async fn tokens_are_text_that_fits_into_addresses() {
    let (rig, ..) = three_queues().await;
    let plain = |token: &str| {
        let part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        !token.is_empty() && token.bytes().all(part)
    };
    let mut watcher =
        rig.watch(v1::WatchStatusRequest { filter: Some(of(&[], None)), ..Default::default() }).await;
    watcher.synced().await;
    assert!(plain(&watcher.token), "{}", watcher.token);
    let submitted = soon(rig.jobs.clone().submit(crate::support::submission(job("echo")))).await.unwrap();
    assert!(plain(&submitted.get_ref().resume_token), "{submitted:?}");
    rig.stop().await;
}
