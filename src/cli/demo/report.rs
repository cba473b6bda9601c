//! The report of the demo: what was expected, and what happened.

use std::{fmt::Write, time::Duration};

use serde_json::{Value, json};

use super::{
    files::{FileCheck, Input},
    plan::{DELAY, Role},
};
use crate::cli::{
    describe,
    table::{Table, plain},
    text,
};
use jobmill::{
    client::from_wire_timestamp,
    clock::Timestamp,
    proto::v1::{Job, JobState, Payload},
};

/// The results of the demo.
#[derive(Debug, Default)]
pub(super) struct DemoReport {
    special: Vec<ReportRow>,
    files: u64,
    file_bytes: u64,
    agreed: u64,
    /// Files that changed, were deleted or can't be read, so that the correct checksum is unknown.
    undecided: Vec<String>,
    differences: Vec<String>,
    /// The instant at which the submissions began. The jobs' own times are a little later.
    started: Timestamp,
    /// From the first submission of a file to the last end of one.
    file_time: Duration,
}

#[derive(Debug)]
struct ReportRow {
    title: &'static str,
    expected: String,
    happened: String,
    attempts: i32,
    took: Duration,
    agrees: bool,
}

impl DemoReport {
    pub(super) fn new(started: Timestamp, file_time: Duration) -> Self {
        DemoReport { started, file_time, ..DemoReport::default() }
    }

    /// Compares a special job with what is expected of it.
    pub(super) fn special(&mut self, role: Role, job: Option<&Job>) {
        let mut faults = Vec::new();
        match job {
            None => faults.push("was not seen to its end".to_owned()),
            Some(job) => {
                if job.state != i32::from(role.expected()) {
                    let details = job.last_failure.as_ref().map(describe::failure).unwrap_or_default();
                    faults
                        .push(format!("ended as {} {details}", text::state(job.state)).trim_end().to_owned());
                }
                if job.attempt != role.expected_attempts() {
                    faults.push(format!("took {}", text::counted(job.attempt.max(0) as u64, "attempt")));
                }
                let waited =
                    job.start_time.as_ref().map(from_wire_timestamp).unwrap_or_default().since(self.started);
                if role == Role::Delayed && waited < DELAY {
                    faults.push(format!("started after {}", text::duration(waited)));
                }
            }
        }
        let expected = text::state(role.expected().into());
        self.special.push(ReportRow {
            title: role.title(),
            expected: match role.expected_attempts() {
                1 => expected,
                attempts => format!("{expected} at attempt {attempts}"),
            },
            happened: job.map_or_else(|| "?".to_owned(), |job| text::state(job.state)),
            attempts: job.map_or(0, |job| job.attempt),
            took: job.map(whole_time).unwrap_or_default(),
            agrees: faults.is_empty(),
        });
        self.differences
            .extend(faults.into_iter().map(|fault| format!("the job that {}: {fault}", phrase(role))));
    }

    /// Compares the job of a file with this process's own check of the file.
    pub(super) fn file(&mut self, input: &Input, job: Option<&Job>, checked: &FileCheck) {
        self.files += 1;
        self.file_bytes += input.bytes();
        let name = text::escape(&input.path.display().to_string()).into_owned();
        let Some(job) = job else {
            self.differences.push(format!("{name}: its job was not seen to its end"));
            return;
        };
        let succeeded = job.state == i32::from(JobState::Succeeded);
        match checked {
            FileCheck::Changed => self.undecided.push(format!("{name} changed meanwhile")),
            FileCheck::Unreadable if succeeded => self.undecided.push(format!("{name} went away meanwhile")),
            FileCheck::Unreadable => self.undecided.push(format!("{name} can't be read")),
            FileCheck::Sum(sum) if succeeded && result(job) == sum.as_bytes() => self.agreed += 1,
            FileCheck::Sum(_) if succeeded => {
                self.differences.push(format!("{name}: the job's checksum is another one"));
            }
            FileCheck::Sum(_) => {
                let details = job.last_failure.as_ref().map(describe::failure).unwrap_or_default();
                let state = text::state(job.state);
                self.differences
                    .push(format!("{name}: the job ended as {state} {details}").trim_end().to_owned());
            }
        }
    }

    /// Adds another difference.
    pub(super) fn differs(&mut self, what: impl Into<String>) {
        self.differences.push(what.into());
    }

    pub(super) fn all_well(&self) -> bool {
        self.differences.is_empty()
    }

    fn jobs_per_second(&self) -> f64 {
        if self.file_time.is_zero() { 0.0 } else { self.files as f64 / self.file_time.as_secs_f64() }
    }

    /// Formats the report for people.
    pub(super) fn render(&self, colour: bool) -> String {
        let mut table =
            Table::new(["JOB", "EXPECTED", "HAPPENED", "ATTEMPTS", "TOOK", ""], colour).numbers([3, 4]);
        let verdict = |agrees| if agrees { "as expected" } else { "NOT as expected" };
        if self.files > 0 {
            let undecided = self.undecided.len() as u64;
            let happened = match undecided {
                0 => format!("{} agree", self.agreed),
                _ => format!("{} agree, {undecided} can't be judged", self.agreed),
            };
            table.row([
                plain(text::counted(self.files, "checksum")),
                plain("the same as computed here"),
                plain(happened),
                plain(""),
                plain(text::duration(self.file_time)),
                plain(verdict(self.agreed + undecided == self.files)),
            ]);
        }
        for line in &self.special {
            table.row([
                plain(line.title),
                plain(line.expected.as_str()),
                plain(line.happened.as_str()),
                plain(line.attempts.to_string()),
                plain(text::duration(line.took)),
                plain(verdict(line.agrees)),
            ]);
        }
        let mut page = table.render();
        page.push('\n');
        // Writing to a string can't fail.
        if self.files > 0 {
            let size = text::bytes(self.file_bytes);
            let rate = self.jobs_per_second();
            let _ = writeln!(page, "\n{size} in files, {rate:.0} jobs a second, each a process of its own");
        }
        for undecided in &self.undecided {
            let _ = writeln!(page, "note: {undecided}");
        }
        for difference in &self.differences {
            let _ = writeln!(page, "DIFFERS: {difference}");
        }
        page
    }

    /// Formats the report as JSON, for programs.
    pub(super) fn json(&self) -> Value {
        let special: Vec<_> = self
            .special
            .iter()
            .map(|line| {
                json!({
                    "job": line.title,
                    "expected": line.expected,
                    "happened": line.happened,
                    "attempts": line.attempts,
                    "seconds": line.took.as_secs_f64(),
                    "asExpected": line.agrees,
                })
            })
            .collect();
        json!({
            "allWell": self.all_well(),
            "files": self.files,
            "fileBytes": self.file_bytes,
            "checksumsAgreed": self.agreed,
            "undecided": self.undecided,
            "jobs": special,
            "jobsPerSecond": self.jobs_per_second(),
            "seconds": self.file_time.as_secs_f64(),
            "differences": self.differences,
        })
    }
}

/// Returns the job's title as a clause.
fn phrase(role: Role) -> &'static str {
    match role {
        Role::File(_) => "computes a checksum",
        Role::Flaky => "fails twice and then succeeds",
        Role::Cancelled => "is cancelled while it runs",
        Role::Delayed => "starts 2 s later",
    }
}

fn result(job: &Job) -> &[u8] {
    job.result.as_ref().map_or(&[], Payload::bytes)
}

fn whole_time(job: &Job) -> Duration {
    let created = job.create_time.as_ref().map(from_wire_timestamp);
    let ended = job.end_time.as_ref().map(from_wire_timestamp);
    created.zip(ended).map(|(created, ended)| ended.since(created)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cli::{demo::files::InputFiles, describe::tests::at};
    use jobmill::client::to_wire_timestamp;

    fn job(state: JobState, attempt: i32, start_millis: i64) -> Job {
        Job {
            state: state.into(),
            attempt,
            done: true,
            create_time: Some(to_wire_timestamp(at(0))),
            start_time: Some(to_wire_timestamp(at(start_millis))),
            end_time: Some(to_wire_timestamp(at(start_millis + 12))),
            ..Default::default()
        }
    }

    fn inputs() -> Vec<Input> {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            fs::write(folder.path().join(name), "1234").unwrap();
        }
        InputFiles::under(folder.path()).unwrap().files
    }

    #[test]
    fn a_demo_where_all_goes_well() {
        let mut report = DemoReport::new(at(0), Duration::from_millis(20));
        for input in inputs() {
            let done = Job { result: Some(Payload::of("abc")), ..job(JobState::Succeeded, 1, 0) };
            report.file(&input, Some(&done), &FileCheck::Sum("abc".into()));
        }
        report.special(Role::Flaky, Some(&job(JobState::Succeeded, 3, 900)));
        report.special(Role::Cancelled, Some(&job(JobState::Cancelled, 1, 5)));
        report.special(Role::Delayed, Some(&job(JobState::Succeeded, 1, 2_003)));
        assert!(report.all_well());
        insta::assert_snapshot!(report.render(false), @r"
        JOB                         EXPECTED                   HAPPENED   ATTEMPTS   TOOK
        2 checksums                 the same as computed here  2 agree               20ms  as expected
        fails twice, then succeeds  SUCCEEDED at attempt 3     SUCCEEDED         3  912ms  as expected
        cancelled while it runs     CANCELLED                  CANCELLED         1   17ms  as expected
        starts 2 s later            SUCCEEDED                  SUCCEEDED         1     2s  as expected

        8 bytes in files, 100 jobs a second, each a process of its own
        ");
        insta::assert_snapshot!(report.json().to_string(), @r#"
        {"allWell":true,"checksumsAgreed":2,"differences":[],"fileBytes":8,"files":2,"jobs":[{"asExpected":true,"attempts":3,"expected":"SUCCEEDED at attempt 3","happened":"SUCCEEDED","job":"fails twice, then succeeds","seconds":0.912},{"asExpected":true,"attempts":1,"expected":"CANCELLED","happened":"CANCELLED","job":"cancelled while it runs","seconds":0.017},{"asExpected":true,"attempts":1,"expected":"SUCCEEDED","happened":"SUCCEEDED","job":"starts 2 s later","seconds":2.015}],"jobsPerSecond":100.0,"seconds":0.02,"undecided":[]}
        "#);
    }

    #[test]
    fn whatever_differs_is_told() {
        let mut report = DemoReport::new(at(0), Duration::ZERO);
        report.special(Role::Flaky, Some(&job(JobState::Failed, 2, 900)));
        report.special(Role::Cancelled, Some(&job(JobState::Succeeded, 1, 5)));
        report.special(Role::Delayed, Some(&job(JobState::Succeeded, 1, 1_500)));
        report.special(Role::Delayed, None);
        report.differs("the server did not drain");
        assert!(!report.all_well());
        insta::assert_snapshot!(report.render(false), @r"
        JOB                         EXPECTED                HAPPENED   ATTEMPTS   TOOK
        fails twice, then succeeds  SUCCEEDED at attempt 3  FAILED            2  912ms  NOT as expected
        cancelled while it runs     CANCELLED               SUCCEEDED         1   17ms  NOT as expected
        starts 2 s later            SUCCEEDED               SUCCEEDED         1   1.5s  NOT as expected
        starts 2 s later            SUCCEEDED               ?                 0    0ms  NOT as expected
        DIFFERS: the job that fails twice and then succeeds: ended as FAILED
        DIFFERS: the job that fails twice and then succeeds: took 2 attempts
        DIFFERS: the job that is cancelled while it runs: ended as SUCCEEDED
        DIFFERS: the job that starts 2 s later: started after 1.5s
        DIFFERS: the job that starts 2 s later: was not seen to its end
        DIFFERS: the server did not drain
        ");
    }

    #[test]
    fn files_are_judged_only_where_the_truth_is_known() {
        let input = &inputs()[0];
        let done = Job { result: Some(Payload::of("abc")), ..job(JobState::Succeeded, 1, 0) };
        let failed = job(JobState::Failed, 1, 0);
        let sum = || FileCheck::Sum("abc".into());
        let other = || FileCheck::Sum("other".into());
        for (job, checked, well, undecided) in [
            (Some(&done), sum(), true, 0),
            (Some(&done), other(), false, 0),
            (Some(&failed), sum(), false, 0),
            (None, sum(), false, 0),
            (Some(&done), FileCheck::Changed, true, 1),
            (Some(&failed), FileCheck::Unreadable, true, 1),
            (Some(&done), FileCheck::Unreadable, true, 1),
        ] {
            let mut report = DemoReport::new(at(0), Duration::ZERO);
            report.file(input, job, &checked);
            assert_eq!((report.all_well(), report.undecided.len()), (well, undecided), "{job:?} {checked:?}");
        }
    }
}
