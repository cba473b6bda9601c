//! The cost of many schedules: their creation, the lateness of jobs that fall on one second, restarts, and the processor
//! time and memory of a server that waits for their instants.

use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use jobmill::{
    clock::{Clock, Timestamp},
    proto::v1::{
        self, JobState, job_queue_client::JobQueueClient, schedule_service_client::ScheduleServiceClient,
    },
};
use prost::Message;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::Streaming;

use super::{
    backlog::{MIB, thousands},
    figures::median,
    latencies::{Latencies, now},
    load::Calls,
    report::{Bounds, Figure},
    server::WORK,
    session::Bench,
    subject::MeasuredServer,
    wire::{LeanWatch, Method, Wire, job},
};

const IN_FLIGHT: usize = 64;
/// Page size of listings.
const PAGE: i32 = 1_000;
/// Time limit for giving the schedules of a round their instant.
const SETTING_TIME: Duration = Duration::from_secs(3);
/// Time limit until the last job of a round has ended.
const FIRING_TIME: Duration = Duration::from_secs(60);
const TIME_ZONE: &str = "Europe/Berlin";
/// The interval of the schedules that fire, so that each has one instant in the near future: the longest allowed, ten
/// years.
const INTERVAL_SECONDS: i64 = 10 * 365 * SECONDS_PER_DAY as i64;
const SECONDS_PER_DAY: u64 = 24 * 60 * 60;
/// The days that every month has.
const DAYS_OF_MONTH: u64 = 28;
/// The time until a server with schedules answers after a crash.
const RESTART_GOAL: Bounds = Bounds::value_at_most(2.0);
/// The lateness of 99 of 100 jobs, in milliseconds.
const LATENESS_GOAL: Bounds = Bounds::value_at_most(250.0);
/// The processor time of a server that has nothing to do for now, in percent of a core.
const IDLE_GOAL: Bounds = Bounds::value_at_most(2.0);

impl Bench {
    /// Measures a server with many schedules.
    pub(super) async fn schedules(&mut self) -> anyhow::Result<()> {
        let schedules = self.sizes.schedules;
        let what = format!("{} schedules", thousands(schedules));
        let full = MeasuredServer::empty(&self.place).await?;
        self.create_schedules(&full, schedules).await?;
        self.firings(&full, &what).await?;
        let empty = MeasuredServer::empty(&self.place).await?;
        let (full, empty) = self.restarts_with_schedules(full, empty, &what).await?;
        self.idle_with_schedules(&full, &empty, &what).await?;
        empty.end().await?;
        let listed = count_schedules(&full.uri).await?;
        ensure!(
            listed == schedules,
            "the server holds {listed} schedules where {schedules} were acknowledged"
        );
        self.memory(full, &what).await
    }

    /// Creates yearly schedules whose instants are spread over the year, except for the present month and the next.
    async fn create_schedules(&mut self, subject: &MeasuredServer, schedules: u64) -> anyhow::Result<()> {
        self.step(format!("creating {schedules} schedules"));
        let present = jiff::Timestamp::from_microsecond(Clock::System.now().as_micros())?;
        let present = u64::try_from(present.to_zoned(jiff::tz::TimeZone::UTC).month())?;
        let calls = Calls { method: Method::CreateSchedule, in_flight: IN_FLIGHT, worth: 1 };
        let begin = now();
        calls
            .make_each(&subject.uri, schedules, move |number| create_body(number, schedules, present))
            .await?;
        let rate = schedules as f64 / begin.elapsed().as_secs_f64();
        let name = format!("CreateSchedule, {IN_FLIGHT} in flight");
        self.figures.push(Figure::new(name, rate, "schedules/s"));
        Ok(())
    }

    /// Measures how late the jobs of schedules are that all have the same instant.
    async fn firings(&mut self, subject: &MeasuredServer, what: &str) -> anyhow::Result<()> {
        let firing = self.sizes.firing;
        for _ in 0..self.pairs {
            self.step(format!("{firing} schedules fire at once"));
            // Opened before the instant, because it begins with the next change.
            let ended = Wire::connect(&subject.uri).await?.watch_successes(WORK).await?;
            let instant = Clock::System.now().after(SETTING_TIME).as_micros().div_euclid(1_000_000) + 1;
            let calls = Calls { method: Method::UpdateSchedule, in_flight: IN_FLIGHT, worth: 1 };
            calls.make_each(&subject.uri, firing, move |number| update_body(number, instant)).await?;
            let left = Timestamp::from_micros(instant * 1_000_000).since(Clock::System.now());
            ensure!(!left.is_zero(), "the schedules fired too early: it took too long to change them");
            let all_ended = timeout(left + FIRING_TIME, until_ended(ended, firing)).await;
            all_ended.context("the jobs of the schedules did not end")??;
        }
        subject.expect(WORK, None, firing * self.pairs as u64).await?;
        let [mut created, mut ended] = lateness(&subject.uri).await?;
        for (latencies, what_of_job, goal) in
            [(&mut created, "creation", Some(LATENESS_GOAL)), (&mut ended, "end", None)]
        {
            for (part, part_name) in [(0.5, "p50"), (0.99, "p99")] {
                let value = latencies.quantile(part).as_secs_f64() * 1e3;
                let firing = thousands(firing);
                let name = format!(
                    "{firing} instants at once, {what}, lateness of the {what_of_job} of the job, {part_name}"
                );
                let figure = Figure::new(name, value, "ms").samples(latencies.count());
                self.figures.push(match goal.filter(|_| part > 0.5) {
                    Some(goal) => figure.bounds(goal),
                    None => figure,
                });
            }
        }
        Ok(())
    }

    /// Measures the time of a killed server from its restart to its first answer, in turns with an empty store.
    async fn restarts_with_schedules(
        &mut self,
        mut full: MeasuredServer,
        mut empty: MeasuredServer,
        what: &str,
    ) -> anyhow::Result<(MeasuredServer, MeasuredServer)> {
        let (mut with_many, mut with_none) = (Vec::new(), Vec::new());
        for _ in 0..self.pairs {
            self.step("restarting".to_owned());
            let (full_again, with_many_took) = full.crashed().await?;
            let (empty_again, with_none_took) = empty.crashed().await?;
            (full, empty) = (full_again, empty_again);
            with_many.push(with_many_took);
            with_none.push(with_none_took);
        }
        self.figures.push(Figure::new("restart after a crash, empty store", median(&with_none), "s"));
        let figure = Figure::new(format!("restart after a crash, {what}"), median(&with_many), "s");
        self.figures.push(figure.bounds(RESTART_GOAL));
        Ok((full, empty))
    }

    /// Measures processor time and memory of a server with schedules while none of them has an instant, and of an empty
    /// one. Both have just been restarted.
    async fn idle_with_schedules(
        &mut self,
        full: &MeasuredServer,
        empty: &MeasuredServer,
        what: &str,
    ) -> anyhow::Result<()> {
        self.step(format!("idle with {what}"));
        let before = full.count(WORK, None).await?;
        let servers = [("empty store", empty), (what, full)];
        let used = || servers.map(|(_, server)| server.process.processor_seconds());
        let (used_before, begin) = (used(), now());
        tokio::time::sleep(self.idle_time()).await;
        let (used_after, seconds) = (used(), begin.elapsed().as_secs_f64());
        ensure!(full.count(WORK, None).await? == before, "a schedule fired while none should");
        for (((what, _), before), after) in servers.into_iter().zip(used_before).zip(used_after) {
            // Absent where the system does not report processor time.
            if let Some(used) = after.zip(before).map(|(after, before)| after - before) {
                let name = format!("processor time of an idle server, {what}");
                let figure = Figure::new(name, used / seconds * 100.0, "% of a core");
                self.figures.push(figure.bounds(IDLE_GOAL));
            }
        }
        for (what, server) in servers {
            if let Some(bytes) = server.process.resident_bytes() {
                let name = format!("resident memory of an idle server, {what}");
                self.figures.push(Figure::new(name, bytes as f64 / MIB, "MiB"));
            }
        }
        Ok(())
    }
}

fn name(number: u64) -> String {
    format!("schedule-{number}")
}

fn create_body(number: u64, schedules: u64, present_month: u64) -> Bytes {
    let spec = v1::ScheduleSpec {
        crons: vec![yearly(number, schedules, present_month)],
        time_zone: TIME_ZONE.to_owned(),
        ..v1::ScheduleSpec::default()
    };
    let schedule = v1::Schedule {
        name: name(number),
        spec: Some(spec),
        job: Some(job(WORK, 0)),
        ..v1::Schedule::default()
    };
    let request =
        v1::CreateScheduleRequest { schedule: Some(schedule), ..v1::CreateScheduleRequest::default() };
    request.encode_to_vec().into()
}

/// Returns a cron expression for one second of a year, other than those of the present month (1 to 12) and the next. All
/// `schedules` numbers together are spread evenly over the rest.
fn yearly(number: u64, schedules: u64, present_month: u64) -> String {
    const MONTHS: u64 = 10;

    let at = number * (MONTHS * DAYS_OF_MONTH * SECONDS_PER_DAY / schedules);
    let (second, minute, hour) = (at % 60, at / 60 % 60, at / 3_600 % 24);
    let day = at / SECONDS_PER_DAY % DAYS_OF_MONTH + 1;
    let months_on = at / SECONDS_PER_DAY / DAYS_OF_MONTH + 2;
    let month = (present_month - 1 + months_on) % 12 + 1;
    format!("{second} {minute} {hour} {day} {month} *")
}

/// Returns an UpdateSchedule that makes an instant, in seconds since 1970, the next one of a schedule.
fn update_body(number: u64, instant: i64) -> Bytes {
    let spec = v1::ScheduleSpec {
        every: Some(prost_types::Duration { seconds: INTERVAL_SECONDS, nanos: 0 }),
        start_time: Some(prost_types::Timestamp { seconds: instant, nanos: 0 }),
        ..v1::ScheduleSpec::default()
    };
    let schedule = v1::Schedule {
        name: name(number),
        etag: "*".to_owned(),
        spec: Some(spec),
        ..v1::Schedule::default()
    };
    let request = v1::UpdateScheduleRequest {
        schedule: Some(schedule),
        update_mask: Some(prost_types::FieldMask { paths: vec!["spec".to_owned()] }),
        ..v1::UpdateScheduleRequest::default()
    };
    request.encode_to_vec().into()
}

/// Returns once a watch has shown the end of this number of jobs.
async fn until_ended(mut messages: Streaming<LeanWatch>, jobs: u64) -> anyhow::Result<()> {
    let mut ended = 0;
    while ended < jobs {
        let message = messages.next().await.context("the watch ended by itself")??;
        let shown = message.events.into_iter().filter_map(|event| event.updated?.job);
        ended += shown.filter(|job| job.done).count() as u64;
    }
    Ok(())
}

/// Returns the times from the instant of each job until its creation, and until its end.
async fn lateness(uri: &str) -> anyhow::Result<[Latencies; 2]> {
    let mut client = JobQueueClient::connect(uri.to_owned()).await?;
    let [mut created, mut ended] = [(); 2].map(|()| Latencies::default());
    let mut page_token = String::new();
    loop {
        let filter = v1::JobFilter {
            queues: vec![WORK.to_owned()],
            states: vec![JobState::Succeeded as i32],
            ..v1::JobFilter::default()
        };
        let request = v1::ListJobsRequest {
            filter: Some(filter),
            page_size: PAGE,
            page_token,
            ..v1::ListJobsRequest::default()
        };
        let page = client.list_jobs(request).await?.into_inner();
        for job in page.jobs {
            let instant =
                job.schedule.and_then(|schedule| schedule.time).context("a job without an instant")?;
            for (latencies, time) in [(&mut created, job.create_time), (&mut ended, job.end_time)] {
                latencies.push(between(instant, time.context("a job without a time")?)?);
            }
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok([created, ended]);
        }
    }
}

/// Returns the time from an instant to a later one.
fn between(from: prost_types::Timestamp, to: prost_types::Timestamp) -> anyhow::Result<Duration> {
    let nanos =
        |time: prost_types::Timestamp| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    let nanos = u64::try_from(nanos(to) - nanos(from)).context("a job was created before its instant")?;
    Ok(Duration::from_nanos(nanos))
}

/// Returns the number of schedules that a server lists.
async fn count_schedules(uri: &str) -> anyhow::Result<u64> {
    let mut client = ScheduleServiceClient::connect(uri.to_owned()).await?;
    let (mut count, mut page_token) = (0, String::new());
    loop {
        let request =
            v1::ListSchedulesRequest { page_size: PAGE, page_token, ..v1::ListSchedulesRequest::default() };
        let page = client.list_schedules(request).await?.into_inner();
        count += page.schedules.len() as u64;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yearly_schedules_leave_out_the_present_month_and_the_next() {
        assert_eq!(yearly(0, 100_000, 11), "0 0 0 1 1 *");
        assert_eq!(yearly(1, 100_000, 11), "1 4 0 1 1 *");
        let months = |present| {
            let month = |number| yearly(number, 1_000, present).split(' ').nth(4).map(str::to_owned);
            (0..1_000).filter_map(month).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(months(12).len(), 10);
        assert!(!months(12).contains("12") && !months(12).contains("1"));
        assert!(!months(3).contains("3") && !months(3).contains("4"));
    }

    #[test]
    fn a_lateness_is_never_negative() {
        let at = |seconds, nanos| prost_types::Timestamp { seconds, nanos };
        assert_eq!(between(at(1, 900_000_000), at(2, 100_000_000)).unwrap(), Duration::from_millis(200));
        assert!(between(at(2, 0), at(1, 999_999_999)).is_err());
    }
}
