//! RPCs that read jobs.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tonic::{Request, Response, Status};

use super::{
    caller::Caller,
    convert,
    core::Core,
    errors, outgoing, page_token,
    sizes::ENOUGH_BYTES,
    validate::{Validator, WAIT},
    views::is_large,
};
use crate::{
    clock::Uptime,
    job::{Job, JobFilter, JobId},
    proto::v1,
    store::{Page, Scan, ScanOrder},
    watch::{Detail, IdsWatch, Start},
};

/// Maximum number of jobs that one read of a list call scans.
const SCAN_BUDGET: usize = 10_000;
/// Maximum number of jobs that a list call scans before it returns a short page.
const LIST_BUDGET: usize = 100_000;

impl Core {
    /// Returns one job.
    pub(super) async fn get_job(
        &self,
        call: Request<v1::GetJobRequest>,
    ) -> Result<Response<v1::GetJobResponse>, Status> {
        let caller = Caller::of(&call)?;
        let deadline = self.deadline(&call);
        let body = call.into_inner();
        let mut validator = Validator::new(self.clock.now(), &body.namespace);
        let id = validator.job_id("id", &body.id);
        let view = validator.view("view", body.view, v1::JobView::Full);
        let wait = body.wait.and_then(|wait| validator.duration("wait", &wait, &WAIT)).unwrap_or_default();
        validator.finish()?;
        if !wait.is_zero() {
            self.wait_for_end(&caller, id, wait, deadline).await?;
        }
        let share = self.outgoing.share();
        if is_large(view) {
            share.reserve().await;
        }
        let found = self.read_job(id, view).await?;
        let (job, mut proto) = found.ok_or_else(|| errors::job_not_found(&id))?;
        caller.on_job(&job)?;
        let queue = self.shard.queues.get(job.spec.queue.as_str());
        let (kind, queue_name) = (job.spec.kind.as_str(), job.spec.queue.as_str());
        let runs_here = self.intake.admission.runs(kind) || self.workers.roster.serves(kind, queue_name);
        proto.unique_key = self.key_status(&caller, &job).await?;
        let on_others = self.pending_on_others(&job, &proto.dependencies).await?;
        let on_limits = self.pending_on_limits(&caller, &job).await?;
        let (blocked, now) = ((proto.unique_key.as_ref(), on_others), self.clock.now());
        proto.pending = convert::pending(&job, queue.as_deref(), runs_here, blocked, on_limits, now);
        Ok(outgoing::message(v1::GetJobResponse { job: Some(proto) }, share))
    }

    /// Returns a page of jobs.
    pub(super) async fn list_jobs(
        &self,
        call: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        let caller = Caller::of(&call)?;
        let body = call.into_inner();
        let mut validator = Validator::new(self.clock.now(), &body.namespace);
        let filter = validator.filter(body.filter);
        let page_size = validator.page_size(body.page_size);
        let view = validator.view("view", body.view, v1::JobView::Basic);
        let tag = self.issuer.page_tag(&filter);
        let mut before = None;
        if !body.page_token.is_empty() {
            match page_token::read(&body.page_token, tag) {
                Some(id) => before = Some(id),
                None => validator.fault(
                    "page_token",
                    "is not the next_page_token of a page of this store with this filter: start again without it",
                ),
            }
        }
        validator.finish()?;
        caller.on_filter(&filter)?;
        let share = self.outgoing.share();
        if is_large(view) || page_size > outgoing::FEW_JOBS {
            share.reserve().await;
        }
        let filter = Arc::new(filter);
        let mut jobs: Vec<Arc<Job>> = Vec::new();
        let mut budget = LIST_BUDGET;
        let mut next;
        loop {
            let scan = Scan {
                order: ScanOrder::NewestFirst { before },
                limit: page_size - jobs.len(),
                budget: SCAN_BUDGET,
            };
            let filter = Arc::clone(&filter);
            let page: Page = self.shard.reads.read(move |reader| reader.scan(&filter, scan)).await?;
            jobs.extend(page.jobs);
            next = page.next;
            budget = budget.saturating_sub(SCAN_BUDGET);
            if next.is_none() || jobs.len() >= page_size || budget == 0 {
                break;
            }
            before = next;
        }
        let (jobs, cut_after) = self.page(jobs, view).await?;
        next = cut_after.or(next);
        let next_page_token = next.map(|next| page_token::issue(next, tag)).unwrap_or_default();
        Ok(outgoing::message(v1::ListJobsResponse { jobs, next_page_token }, share))
    }

    /// Counts the jobs in each state.
    pub(super) async fn count_jobs(
        &self,
        call: Request<v1::CountJobsRequest>,
    ) -> Result<Response<v1::CountJobsResponse>, Status> {
        let caller = Caller::of(&call)?;
        let body = call.into_inner();
        let mut validator = Validator::new(self.clock.now(), &body.namespace);
        let filter = validator.filter(body.filter);
        validator.finish()?;
        caller.on_filter(&filter)?;
        let (counts, exact) = if filter.is_tallied() {
            let tallies = self.shard.reads.read(|reader| reader.tallies()).await?;
            let fitting = tallies.iter().filter(|tally| {
                filter.matches_state(tally.state)
                    && filter.matches_queue(tally.queue.as_str())
                    && (filter.kinds.is_empty()
                        || filter.kinds.iter().any(|kind| kind == tally.kind.as_str()))
            });
            (convert::state_counts(fitting), true)
        } else {
            self.count_by_looking(filter).await?
        };
        let total = counts.iter().map(|count| count.count).sum();
        Ok(Response::new(v1::CountJobsResponse { counts, total, exact }))
    }

    /// Converts the jobs of a page. If they do not fit into a message, the page is cut and the id of its last job is
    /// returned.
    async fn page(
        &self,
        jobs: Vec<Arc<Job>>,
        view: v1::JobView,
    ) -> Result<(Vec<v1::Job>, Option<JobId>), Status> {
        let (mut page, mut bytes, mut last) = (Vec::with_capacity(jobs.len()), 0, None);
        for job in jobs {
            let id = job.id;
            let proto = if is_large(view) {
                // A job that has been deleted meanwhile is left out.
                self.read_job(id, view).await?.map(|(_, shown)| shown)
            } else {
                Some(convert::job(&job))
            };
            let job_bytes = proto.as_ref().map_or(0, prost::Message::encoded_len);
            if bytes + job_bytes > ENOUGH_BYTES && last.is_some() {
                return Ok((page, last));
            }
            bytes += job_bytes;
            page.extend(proto);
            last = Some(id);
        }
        Ok((page, None))
    }

    /// Waits until a job has ended, `wait` or the deadline has passed, or the server shuts down. Costs as much as a
    /// watcher.
    async fn wait_for_end(
        &self,
        caller: &Caller,
        id: JobId,
        wait: Duration,
        deadline: Option<Uptime>,
    ) -> Result<(), Status> {
        let job = self.shard.reads.read(move |reader| reader.job(id)).await?;
        let job = job.ok_or_else(|| errors::job_not_found(&id))?;
        caller.on_job(&job)?;
        let now = self.clock.uptime();
        let until = deadline.map_or(now.after(wait), |deadline| deadline.min(now.after(wait)));
        let (reads, issuer) = (self.shard.reads.clone(), Arc::clone(&self.issuer));
        let mut watch = IdsWatch::new(
            &self.shard.hub,
            reads,
            issuer,
            &[id],
            HashSet::new(),
            Detail::Latest,
            false,
            Start::Snapshot,
        );
        // A watch by ids ends once the job has ended. An error means that the server shuts down.
        let ended = async { while let Some(Ok(_)) = watch.next().await {} };
        tokio::select! {
            () = ended => {}
            () = self.clock.sleep_until(until) => {}
        }
        caller.recheck()
    }

    /// Counts jobs by a filter that the tallies can't answer: scans the jobs, newest first, up to a limit.
    async fn count_by_looking(&self, filter: JobFilter) -> Result<(Vec<v1::StateCount>, bool), Status> {
        let filter = Arc::new(filter);
        let mut counts = BTreeMap::new();
        let (mut before, mut budget) = (None, LIST_BUDGET);
        while budget > 0 {
            let scan =
                Scan { order: ScanOrder::NewestFirst { before }, limit: SCAN_BUDGET, budget: SCAN_BUDGET };
            let filter = Arc::clone(&filter);
            let page = self.shard.reads.read(move |reader| reader.scan(&filter, scan)).await?;
            for job in &page.jobs {
                *counts.entry(job.state.name()).or_insert(0) += 1;
            }
            budget = budget.saturating_sub(SCAN_BUDGET);
            before = page.next;
            if before.is_none() {
                return Ok((convert::counts_by_state(counts), true));
            }
        }
        Ok((convert::counts_by_state(counts), false))
    }
}
