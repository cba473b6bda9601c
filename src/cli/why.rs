//! `jobmill why`.

use jobmill::{
    client::from_wire_timestamp,
    clock::Timestamp,
    proto::v1::{Job, JobState, JobView, Pending, PendingReason},
};

use super::{
    Global, connect,
    exit::{Exit, Failure},
    json,
    text::{self, escape},
    ui::Ui,
};

/// The arguments of `jobmill why`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The jobs to explain
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

pub(super) async fn run(args: Args, global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    let client = connect(global).await?;
    for id in &args.ids {
        let job = client.get_job(id, JobView::Basic).await?;
        if ui.is_json() {
            ui.print_json(&json::waits(&job))?;
        } else {
            ui.print(&explained(&job, ui.clock.now()))?;
        }
    }
    Ok(Exit::Ok)
}

/// Returns the job's state, and a line for each reason why it does not run, with what would change that.
fn explained(job: &Job, now: Timestamp) -> String {
    let id = escape(&job.id);
    let mut lines = vec![format!("{id} is {}{}", text::state(job.state), since(job, now))];
    lines.extend(job.pending.iter().map(|pending| reason(job, pending, now)));
    if job.pending.is_empty() {
        lines.extend(without_reason(job));
    }
    lines.join("\n  ") + "\n"
}

/// Returns what the state alone tells: since when the job has it, and the attempt that runs.
fn since(job: &Job, now: Timestamp) -> String {
    let relative = |time: Option<&prost_types::Timestamp>| {
        time.map(|time| text::relative(from_wire_timestamp(time), now)).unwrap_or_default()
    };
    match job.state() {
        JobState::Running | JobState::Cancelling => {
            let started = relative(job.start_time.as_ref());
            let worker = match job.worker.as_str() {
                "" => String::new(),
                worker => format!(" in the worker {}", escape(worker)),
            };
            let (attempt, of) = (job.counted_attempts, job.max_attempts);
            format!(": attempt {attempt} of {of} began {started}{worker}")
        }
        JobState::Succeeded | JobState::Failed | JobState::Cancelled | JobState::Expired => {
            format!(", ended {}", relative(job.end_time.as_ref()))
        }
        JobState::Unspecified
        | JobState::Scheduled
        | JobState::Blocked
        | JobState::Queued
        | JobState::BackingOff => format!(", changed {}", relative(job.update_time.as_ref())),
    }
}

/// Returns what a job without a reason to wait is about, and what can be done.
fn without_reason(job: &Job) -> Option<String> {
    let id = escape(&job.id);
    match job.state() {
        JobState::Running => Some(format!("`jobmill watch {id}` follows it")),
        JobState::Cancelling => Some("its attempt was told to stop, and has not ended yet".to_owned()),
        JobState::Failed | JobState::Cancelled | JobState::Expired => {
            let failure = job.last_failure.as_ref().map(|failure| escape(&failure.message).into_owned());
            let said =
                failure.filter(|said| !said.is_empty()).map(|said| format!("{said}; ")).unwrap_or_default();
            Some(format!("{said}`jobmill retry {id}` runs it again"))
        }
        JobState::Unspecified
        | JobState::Scheduled
        | JobState::Blocked
        | JobState::Queued
        | JobState::BackingOff
        | JobState::Succeeded => None,
    }
}

/// Returns a sentence about a reason, and what would change it.
fn reason(job: &Job, pending: &Pending, now: Timestamp) -> String {
    let (id, subject) = (escape(&job.id), escape(&pending.subject));
    let until = pending.until.as_ref().map(from_wire_timestamp);
    let until = until.map(|until| text::instant(until, now)).unwrap_or_default();
    let jobs: Vec<_> = pending.job_ids.iter().map(|id| escape(id)).collect();
    let jobs = jobs.join(" ");
    match PendingReason::try_from(pending.reason) {
        Ok(PendingReason::RunTime) if job.state() == JobState::BackingOff => {
            let what = if job.snoozed { "its handler put it off" } else { "its last attempt failed" };
            format!("{what}, and it waits until {until}: `jobmill retry {id}` runs it now")
        }
        Ok(PendingReason::RunTime) => {
            format!("its time has not come: it waits until {until}; `jobmill retry {id}` runs it now")
        }
        Ok(PendingReason::UniqueKey) if jobs.is_empty() => {
            format!("its unique key `{subject}` is held: `jobmill key list` shows by whom")
        }
        Ok(PendingReason::UniqueKey) => {
            format!(
                "{jobs} holds its unique key `{subject}`: it follows once that has ended; `jobmill why {jobs}`"
            )
        }
        Ok(PendingReason::Dependency) => {
            let more = if pending.job_ids.len() == 10 { " and others" } else { "" };
            format!("it depends on {subject}, and waits for {jobs}{more}: `jobmill why {jobs}`")
        }
        Ok(PendingReason::QueuePaused) => {
            format!("its queue is paused: `jobmill queue resume {subject}` lets it go on")
        }
        Ok(PendingReason::NoWorkerForKind) => format!(
            "nothing runs the kind `{subject}`: map it to a handler in the configuration file, or start a worker for it \
             (`jobmill workers` lists those that are there)"
        ),
        Ok(PendingReason::NoFreeSlot) => format!(
            "every consumer of its queue is taken, or jobs ahead of it wait, too: `jobmill list --queue {subject} \
             --state running` shows what runs, `jobmill queue update {subject} --consumers N` gives more"
        ),
        Ok(PendingReason::RateLimited) => spent(pending, &until),
        Ok(PendingReason::ConcurrencyLimit) => taken(pending),
        Ok(PendingReason::TooHeavy) => too_heavy(pending),
        Ok(PendingReason::Unspecified) | Err(_) => {
            format!("reason {} of a newer server: {subject} {jobs} {until}", pending.reason)
        }
    }
}

/// Splits the subject of a limit into the limit's name and the value, which is empty if all jobs share one.
fn limit_of(pending: &Pending) -> (&str, &str) {
    // No name has an equals sign, and a value may have some.
    pending.subject.split_once('=').unwrap_or((&pending.subject, ""))
}

/// Returns the command that would allow the job's value more.
fn allow_more(pending: &Pending, rule: &str) -> String {
    match limit_of(pending) {
        (limit, "") => format!(
            "`jobmill limit update {} {rule}` allows more, or the configuration file where that declares the limit",
            escape(limit)
        ),
        (limit, value) => {
            let (limit, value) = (escape(limit), text::word(value));
            format!("`jobmill limit set {limit} {value} {rule}` allows this value more")
        }
    }
}

/// Returns a sentence about a rate that is spent or paused.
fn spent(pending: &Pending, until: &str) -> String {
    let (limit, subject) = (escape(limit_of(pending).0), escape(&pending.subject));
    let why = match until {
        "" => format!("the limit `{subject}` is paused, or jobs ahead of it wait for its rate, too"),
        until => format!(
            "the rate of the limit `{subject}` is spent: it waits until {until}, or longer where others are first"
        ),
    };
    format!("{why}; `jobmill limit values {limit}` shows more, {}", allow_more(pending, "--rate COUNT/TIME"))
}

/// Returns a sentence about a limit whose places are taken, or that is paused.
fn taken(pending: &Pending) -> String {
    let (limit, subject) = (escape(limit_of(pending).0), escape(&pending.subject));
    let more = allow_more(pending, "--max-running N");
    let jobs: Vec<_> = pending.job_ids.iter().map(|id| escape(id)).collect();
    if jobs.is_empty() {
        return format!(
            "the limit `{subject}` is paused, or jobs ahead of it wait for its places, too; `jobmill limit values {limit}` \
             shows more, {more}"
        );
    }
    let others = if jobs.len() == 10 { " and others" } else { "" };
    format!(
        "the places of the limit `{subject}` are taken by {}{others}: it starts once enough of them have ended; {more}",
        jobs.join(" ")
    )
}

/// Returns a sentence about a job that no place of a limit would be enough for.
fn too_heavy(pending: &Pending) -> String {
    let (limit, subject) = (escape(limit_of(pending).0), escape(&pending.subject));
    format!(
        "it weighs more than the limit `{subject}` allows since it was changed, and so can't start: `jobmill limit values \
         {limit}` shows what is allowed, {}; or cancel it, and submit it with less weight",
        allow_more(pending, "…")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use jobmill::proto::v1::Failure;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

    fn at(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos: 0 })
    }

    fn job(state: JobState, reasons: &[(PendingReason, &str)]) -> Job {
        let reason = |(reason, subject): &(PendingReason, &str)| Pending {
            reason: (*reason).into(),
            subject: (*subject).to_owned(),
            until: (*reason == PendingReason::RunTime).then(|| at(1_090)).flatten(),
            ..Pending::default()
        };
        Job {
            id: "06g3".into(),
            state: state.into(),
            update_time: at(940),
            pending: reasons.iter().map(reason).collect(),
            ..Job::default()
        }
    }

    #[test]
    fn each_reason_is_a_sentence_with_what_would_change_it() {
        let mut follows = job(JobState::Blocked, &[(PendingReason::UniqueKey, "order-7")]);
        follows.pending[0].job_ids = vec!["06g2".into()];
        let mut depends = job(JobState::Blocked, &[(PendingReason::Dependency, "2 jobs")]);
        depends.pending[0].job_ids = vec!["06g1".into(), "06g2".into()];
        let mut held = job(JobState::Queued, &[(PendingReason::ConcurrencyLimit, "gpu")]);
        held.pending[0].job_ids = vec!["06g1".into(), "06g2".into()];
        let mut spent = job(JobState::Queued, &[(PendingReason::RateLimited, "calls")]);
        spent.pending[0].until = at(1_090);
        let jobs = [
            job(JobState::Scheduled, &[(PendingReason::RunTime, "")]),
            job(JobState::BackingOff, &[(PendingReason::RunTime, "")]),
            Job { snoozed: true, ..job(JobState::BackingOff, &[(PendingReason::RunTime, "")]) },
            follows,
            job(JobState::Blocked, &[(PendingReason::UniqueKey, "k\u{1b}[2J")]),
            depends,
            job(
                JobState::Queued,
                &[(PendingReason::QueuePaused, "mail"), (PendingReason::NoWorkerForKind, "thumb")],
            ),
            job(JobState::Queued, &[(PendingReason::NoFreeSlot, "mail")]),
            job(
                JobState::Queued,
                &[(PendingReason::ConcurrencyLimit, "tenants=a b'c"), (PendingReason::TooHeavy, "gpu")],
            ),
            held,
            spent,
            job(JobState::Queued, &[(PendingReason::RateLimited, "calls=42")]),
        ];
        let text: String = jobs.iter().map(|job| explained(job, NOW)).collect();
        insta::assert_snapshot!(text, @r"
        06g3 is SCHEDULED, changed 1m ago
          its time has not come: it waits until 1970-01-01T00:18:10Z (in 1m 30s); `jobmill retry 06g3` runs it now
        06g3 is BACKING_OFF, changed 1m ago
          its last attempt failed, and it waits until 1970-01-01T00:18:10Z (in 1m 30s): `jobmill retry 06g3` runs it now
        06g3 is BACKING_OFF, changed 1m ago
          its handler put it off, and it waits until 1970-01-01T00:18:10Z (in 1m 30s): `jobmill retry 06g3` runs it now
        06g3 is BLOCKED, changed 1m ago
          06g2 holds its unique key `order-7`: it follows once that has ended; `jobmill why 06g2`
        06g3 is BLOCKED, changed 1m ago
          its unique key `k\x1b[2J` is held: `jobmill key list` shows by whom
        06g3 is BLOCKED, changed 1m ago
          it depends on 2 jobs, and waits for 06g1 06g2: `jobmill why 06g1 06g2`
        06g3 is QUEUED, changed 1m ago
          its queue is paused: `jobmill queue resume mail` lets it go on
          nothing runs the kind `thumb`: map it to a handler in the configuration file, or start a worker for it (`jobmill workers` lists those that are there)
        06g3 is QUEUED, changed 1m ago
          every consumer of its queue is taken, or jobs ahead of it wait, too: `jobmill list --queue mail --state running` shows what runs, `jobmill queue update mail --consumers N` gives more
        06g3 is QUEUED, changed 1m ago
          the limit `tenants=a b'c` is paused, or jobs ahead of it wait for its places, too; `jobmill limit values tenants` shows more, `jobmill limit set tenants 'a b'\''c' --max-running N` allows this value more
          it weighs more than the limit `gpu` allows since it was changed, and so can't start: `jobmill limit values gpu` shows what is allowed, `jobmill limit update gpu …` allows more, or the configuration file where that declares the limit; or cancel it, and submit it with less weight
        06g3 is QUEUED, changed 1m ago
          the places of the limit `gpu` are taken by 06g1 06g2: it starts once enough of them have ended; `jobmill limit update gpu --max-running N` allows more, or the configuration file where that declares the limit
        06g3 is QUEUED, changed 1m ago
          the rate of the limit `calls` is spent: it waits until 1970-01-01T00:18:10Z (in 1m 30s), or longer where others are first; `jobmill limit values calls` shows more, `jobmill limit update calls --rate COUNT/TIME` allows more, or the configuration file where that declares the limit
        06g3 is QUEUED, changed 1m ago
          the limit `calls=42` is paused, or jobs ahead of it wait for its rate, too; `jobmill limit values calls` shows more, `jobmill limit set calls 42 --rate COUNT/TIME` allows this value more
        ");
    }

    #[test]
    fn a_job_that_does_not_wait_is_told_by_its_state() {
        let running = Job {
            start_time: at(970),
            counted_attempts: 2,
            max_attempts: 5,
            worker: "printer".into(),
            ..job(JobState::Running, &[])
        };
        let ended = |state| Job { end_time: at(400), done: true, ..job(state, &[]) };
        let last_failure = Some(Failure { message: "no ink".into(), ..Failure::default() });
        let jobs = [
            running.clone(),
            Job { counted_attempts: 1, state: JobState::Cancelling.into(), ..running },
            ended(JobState::Succeeded),
            Job { last_failure, ..ended(JobState::Failed) },
            ended(JobState::Expired),
        ];
        let text: String = jobs.iter().map(|job| explained(job, NOW)).collect();
        insta::assert_snapshot!(text, @"
        06g3 is RUNNING: attempt 2 of 5 began 30s ago in the worker printer
          `jobmill watch 06g3` follows it
        06g3 is CANCELLING: attempt 1 of 5 began 30s ago in the worker printer
          its attempt was told to stop, and has not ended yet
        06g3 is SUCCEEDED, ended 10m ago
        06g3 is FAILED, ended 10m ago
          no ink; `jobmill retry 06g3` runs it again
        06g3 is EXPIRED, ended 10m ago
          `jobmill retry 06g3` runs it again
        ");
    }

    #[test]
    fn a_reason_of_a_newer_server_is_not_hidden() {
        let mut later = job(JobState::Queued, &[(PendingReason::NoFreeSlot, "tenant")]);
        later.pending[0].reason = 99;
        assert!(explained(&later, NOW).contains("reason 99 of a newer server: tenant"));
    }
}
