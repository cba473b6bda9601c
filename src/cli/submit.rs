//! `jobmill submit`.

use std::{path::PathBuf, time::Duration};

use super::{
    Global, connect, dependencies,
    exit::{Exit, Failure},
    follow::{Ended, ctrl_c, follow},
    json,
    live::{LineTarget, Live},
    payload::{PayloadArgs, explained},
    submit_stream::{self, Stream},
    text,
    ui::Ui,
    unique::UniqueArgs,
    values::{self, WhenFullArg},
};
use jobmill::{
    client::{Client, ClientError, Code, to_wire_duration, to_wire_timestamp},
    clock::Timestamp,
    proto::v1::{
        Dependency, Job, JobSpec, JobView, RetryPolicy, SubmitAndWatchRequest, SubmitOutcome, SubmitRequest,
        SubmitResponse, WatchDetail, WhenFull,
        job_spec::{Deadline, Expiry, Start},
    },
};

/// The arguments of `jobmill submit`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Kind of the job; the server needs a handler for it
    #[arg(required_unless_present = "stream")]
    kind: Option<String>,
    #[command(flatten)]
    payload: PayloadArgs,
    /// Queue of the job
    #[arg(long, value_name = "QUEUE", default_value = "default")]
    queue: String,
    /// A label to find the job by; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = values::entry)]
    labels: Vec<(String, String)>,
    /// Header passed to the handler, such as a tenant; may be repeated
    #[arg(long = "header", value_name = "KEY=VALUE", value_parser = values::entry)]
    headers: Vec<(String, String)>,
    /// Priority from -100 to 100; jobs with a larger one run first. Default: 0
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(-100..=100)
    )]
    priority: Option<i32>,
    /// Largest number of attempts before the job has failed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=1000))]
    max_attempts: Option<i32>,
    /// Time limit of one attempt
    #[arg(long, value_name = "DURATION", value_parser = values::positive_duration)]
    timeout: Option<Duration>,
    /// Do not run the job before this instant (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = values::instant, conflicts_with = "delay")]
    run_at: Option<Timestamp>,
    /// Do not run the job until this time has passed since it was accepted
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    delay: Option<Duration>,
    /// End the job as EXPIRED if no attempt has started within this time after it was accepted
    #[arg(long, value_name = "DURATION", value_parser = values::positive_duration)]
    expires_in: Option<Duration>,
    /// End the job as FAILED if it has not ended within this time after it was accepted, whatever attempts it has left
    #[arg(long, value_name = "DURATION", value_parser = values::positive_duration)]
    deadline: Option<Duration>,
    /// The delays after the first, the second and each further failure; the last one repeats. Default: the kind's
    #[arg(long, value_name = "DURATION,…", value_parser = values::duration, value_delimiter = ',')]
    retry_delays: Vec<Duration>,
    /// How often the handler may ask to be run later
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=1_000_000))]
    max_snoozes: Option<i32>,
    /// How many deaths of the process that runs the job within 72 h end it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=100))]
    max_process_losses: Option<i32>,
    /// Wait for this job: its success, or what follows the colon: unsuccessful, ended. With :optional, go on where that can't
    /// come any more, in place of being cancelled. May be repeated
    #[arg(long, value_name = "ID[:CONDITION]", value_parser = dependencies::dependency)]
    after: Vec<Dependency>,
    /// What the job weighs under a limit: it takes this number of places, or of tokens; may be repeated. Default: 1
    #[arg(long = "weight", value_name = "LIMIT=N", value_parser = values::weight)]
    weights: Vec<(String, i32)>,
    #[command(flatten)]
    unique: UniqueArgs,
    /// Request id, which makes a repeat of this command safe: the same id with the same job gives the same job.
    /// Default: a new one
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    request_id: String,
    /// What to do when the queue is full. Default: the queue's setting
    #[arg(long, value_enum, value_name = "HOW")]
    when_full: Option<WhenFullArg>,
    /// Follow the job to its end, write its result to stdout, and exit with the code for its final state
    #[arg(long)]
    watch: bool,
    /// With --watch: show the lines that the job writes, on stderr
    #[arg(long, requires = "watch")]
    output_lines: bool,
    /// Submit a job for each line of a file, or of standard input (-): a JSON object with the fields of a JobSpec,
    /// `requestId`, and `payloadText` or `payloadJson` for the bytes of `payload`. Writes each id as soon as its job is
    /// stored
    #[arg(
        long,
        value_name = "FILE",
        num_args = 0..=1,
        default_missing_value = "-",
        conflicts_with_all = [
            "kind", "payload", "file", "stdin", "payload_type", "payload_metadata", "labels", "headers", "priority",
            "max_attempts", "timeout", "run_at", "delay", "expires_in", "deadline", "retry_delays", "max_snoozes",
            "max_process_losses", "after", "weights", "unique_key", "request_id", "watch", "output_lines",
        ]
    )]
    stream: Option<PathBuf>,
    /// With --stream: stop at the first line that is not accepted
    #[arg(long, requires = "stream", conflicts_with = "kind")]
    fail_fast: bool,
}

pub(super) async fn run(args: Args, global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    if let Some(path) = args.stream {
        let when_full = args.when_full.map_or(WhenFull::Unspecified, WhenFull::from);
        let stream = Stream { path, queue: args.queue, when_full, fail_fast: args.fail_fast };
        return submit_stream::run(stream, global, ui).await;
    }
    let (watch, output) = (args.watch, args.output_lines);
    let request = request(args)?;
    let client = connect(global).await?;
    if watch {
        let request = SubmitAndWatchRequest {
            job: request.job,
            request_id: request.request_id,
            when_full: request.when_full,
            detail: WatchDetail::Latest.into(),
            output,
            view: JobView::Basic.into(),
            ..Default::default()
        };
        return submit_and_follow(&client, request, ui).await;
    }
    // Text output needs the id only, JSON output the whole job.
    let view = if ui.is_json() { JobView::Basic } else { JobView::Unspecified };
    let request = SubmitRequest { view: view.into(), ..request };
    let answer = client.submit(request).await.map_err(explained)?;
    if ui.is_json() {
        ui.print_json(&json::submission(&answer))?;
    }
    outcome(&answer, ui)?;
    if !ui.is_json() {
        ui.print(&text::escape(answer.id()))?;
    }
    Ok(Exit::Ok)
}

/// Prints a note if the job is not new. Fails if the job was deleted since.
fn outcome(answer: &SubmitResponse, ui: &Ui) -> Result<(), Failure> {
    match answer.outcome() {
        SubmitOutcome::Created | SubmitOutcome::Unspecified => Ok(()),
        SubmitOutcome::Repeated => {
            if !ui.is_json() {
                let id = text::escape(answer.id());
                ui.note(&format!("this request id was used before, for the job {id}"));
            }
            Ok(())
        }
        SubmitOutcome::Existing => {
            if !ui.is_json() {
                let id = text::escape(answer.id());
                ui.note(&format!("no job was submitted: the job {id} holds the unique key"));
            }
            Ok(())
        }
        SubmitOutcome::Replaced => {
            if !ui.is_json() {
                let id = text::escape(answer.id());
                ui.note(&format!(
                    "no job was submitted: the job {id} waits with the unique key, and took over the input"
                ));
            }
            Ok(())
        }
        SubmitOutcome::Gone => {
            let what = format!("this request id was used before, and its job {} was deleted", answer.id());
            Err(Failure::new(Exit::NotFound, what).with_next("Use another --request-id for another job."))
        }
    }
}

fn request(args: Args) -> Result<SubmitRequest, Failure> {
    let payload = args.payload.payload()?;
    let start = match (args.run_at, args.delay) {
        (Some(instant), _) => Some(Start::RunTime(to_wire_timestamp(instant))),
        (None, Some(delay)) => Some(Start::Delay(to_wire_duration(delay))),
        (None, None) => None,
    };
    let job = JobSpec {
        queue: args.queue,
        kind: args.kind.unwrap_or_default(),
        payload,
        labels: args.labels.into_iter().collect(),
        headers: args.headers.into_iter().collect(),
        priority: args.priority,
        max_attempts: args.max_attempts.unwrap_or(0),
        retry_policy: (!args.retry_delays.is_empty())
            .then(|| RetryPolicy {
                delays: args.retry_delays.into_iter().map(to_wire_duration).collect(),
                ..RetryPolicy::default()
            })
            .map(Into::into),
        attempt_timeout: args.timeout.map(to_wire_duration),
        start,
        expiry: args.expires_in.map(|time| Expiry::ExpireAfter(to_wire_duration(time))),
        deadline: args.deadline.map(|time| Deadline::DeadlineAfter(to_wire_duration(time))),
        max_snoozes: args.max_snoozes,
        max_process_losses: args.max_process_losses.unwrap_or(0),
        depends_on: args.after,
        unique_key: args.unique.to_wire().map(Into::into),
        weights: args.weights.into_iter().collect(),
    };
    Ok(SubmitRequest {
        job: Some(job),
        request_id: args.request_id,
        when_full: args.when_full.map_or(WhenFull::Unspecified, WhenFull::from).into(),
        ..Default::default()
    })
}

async fn submit_and_follow(
    client: &Client,
    request: SubmitAndWatchRequest,
    ui: &Ui,
) -> Result<Exit, Failure> {
    let mut live = Live::new(ui, LineTarget::Stderr);
    let (answer, mut watch) = client.submit_and_watch(request).await.map_err(explained)?;
    if ui.is_json() {
        ui.print_json(&json::submission(&answer))?;
    }
    outcome(&answer, ui)?;
    if !ui.is_json() && answer.outcome() == SubmitOutcome::Created {
        // The watch may be silent for a long time. The watch of a repeat begins with the job's present state.
        live.note(&format!("job {} was submitted", text::escape(answer.id())));
    }
    let ended = follow(&mut watch, ui, &mut live, ctrl_c()).await;
    live.finish();
    match ended? {
        Ended::Over(fates) => {
            finish(client, answer.id(), ui).await?;
            Ok(fates.exit())
        }
        Ended::Interrupted => {
            let id = text::escape(answer.id());
            ui.note(&format!("detached; the job goes on. Watch it: jobmill watch {id}"));
            Ok(Exit::Interrupted)
        }
    }
}

/// Writes the result of a job that has ended.
async fn finish(client: &Client, id: &str, ui: &Ui) -> Result<(), Failure> {
    let job = match client.get_job(id, JobView::Full).await {
        Ok(job) => job,
        // The job was deleted already: its final state is known, its result is gone.
        Err(ClientError::Refused(refusal)) if refusal.code == Code::NotFound => Job::default(),
        Err(error) => return Err(error.into()),
    };
    if ui.is_json() {
        return ui.print_json(&serde_json::json!({ "ended": json::job(&job) }));
    }
    let result = job.result.unwrap_or_default();
    let bytes = result.bytes();
    if bytes.is_empty() {
        return Ok(());
    }
    if !ui.stdout_is_terminal {
        return ui.print_raw(bytes);
    }
    match std::str::from_utf8(bytes) {
        Ok(result) => ui.print(&text::escape_lines(result)),
        Err(_) => {
            let size = text::bytes(bytes.len() as u64);
            ui.note(&format!("the result is not text ({size}); redirect stdout to have it"));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use clap::Parser;

    use super::*;
    use crate::cli::payload::PAYLOAD_READ_MAX_BYTES;
    use crate::cli::ui::Format;
    use jobmill::proto::v1::{Payload, Submitted};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn requested(line: &str) -> Result<SubmitRequest, Failure> {
        let words = ["submit"].into_iter().chain(line.split(' '));
        request(Line::try_parse_from(words).unwrap().args)
    }

    #[test]
    fn arguments_become_a_request() {
        let request = requested(
            "resize photo.jpg --queue images --label a=b --label c= --priority -5 --max-attempts 3 --timeout 5m \
             --delay 1500ms --expires-in 1h --request-id r --when-full reject --payload-type text/plain \
             --payload-metadata key=7 --header tenant=acme --header locale=de --weight gpu=4",
        )
        .unwrap();
        insta::assert_snapshot!(format!("{request:#?}"), @r#"
        SubmitRequest {
            job: Some(
                JobSpec {
                    queue: "images",
                    kind: "resize",
                    payload: Some(
                        Payload {
                            media_type: "text/plain",
                            metadata: {
                                "key": "7",
                            },
                            size_bytes: 0,
                            body: Some(
                                Text(
                                    "photo.jpg",
                                ),
                            ),
                        },
                    ),
                    labels: {
                        "a": "b",
                        "c": "",
                    },
                    headers: {
                        "locale": "de",
                        "tenant": "acme",
                    },
                    priority: Some(
                        -5,
                    ),
                    max_attempts: 3,
                    retry_policy: None,
                    attempt_timeout: Some(
                        Duration {
                            seconds: 300,
                            nanos: 0,
                        },
                    ),
                    max_snoozes: None,
                    max_process_losses: 0,
                    unique_key: None,
                    depends_on: [],
                    weights: {
                        "gpu": 4,
                    },
                    start: Some(
                        Delay(
                            Duration {
                                seconds: 1,
                                nanos: 500000000,
                            },
                        ),
                    ),
                    expiry: Some(
                        ExpireAfter(
                            Duration {
                                seconds: 3600,
                                nanos: 0,
                            },
                        ),
                    ),
                    deadline: None,
                },
            ),
            request_id: "r",
            when_full: Reject,
            view: Unspecified,
            namespace: "",
        }
        "#);
    }

    #[test]
    fn defaults_are_left_to_the_server() {
        let request = requested("k").unwrap();
        let job = JobSpec { queue: "default".into(), kind: "k".into(), ..Default::default() };
        assert_eq!(request, SubmitRequest { job: Some(job), ..Default::default() });
    }

    #[test]
    fn a_payload_without_bytes_may_have_a_type() {
        let payload = requested("k --payload-type a/b").unwrap().job.unwrap().payload;
        assert_eq!(payload, Some(Payload::default().with_type("a/b")));
        let payload = requested("k --payload-metadata a=b").unwrap().job.unwrap().payload.unwrap();
        assert_eq!(payload.metadata, [("a".to_owned(), "b".to_owned())].into());
    }

    #[test]
    fn a_job_that_is_gone_is_not_found() {
        let ui = Ui::new(Format::Text, true);
        let answer = |outcome: SubmitOutcome| SubmitResponse {
            submitted: Some(Submitted { id: "1\u{1b}".into(), outcome: outcome.into() }),
            ..Default::default()
        };
        for known in [SubmitOutcome::Created, SubmitOutcome::Repeated, SubmitOutcome::Unspecified] {
            outcome(&answer(known), &ui).unwrap();
        }
        let failure = outcome(&answer(SubmitOutcome::Gone), &ui).unwrap_err();
        assert_eq!(failure.exit(), Exit::NotFound);
        assert_eq!(
            failure.line().unwrap(),
            "error: this request id was used before, and its job 1\\x1b was deleted. Use another --request-id for \
             another job."
        );
    }

    #[test]
    fn an_instant_may_be_given_with_its_offset() {
        let request = requested("k --run-at 1970-01-01T02:00:01+02:00").unwrap();
        let run_time = prost_types::Timestamp { seconds: 1, nanos: 0 };
        assert_eq!(request.job.unwrap().start, Some(Start::RunTime(run_time)));
    }

    #[test]
    fn a_payload_comes_from_a_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"\xff\0").unwrap();
        let request = requested(&format!("k --file {}", file.path().display())).unwrap();
        assert_eq!(request.job.unwrap().payload, Some(Payload::of(b"\xff\0".to_vec())));

        file.as_file().set_len(PAYLOAD_READ_MAX_BYTES + 1).unwrap();
        let failure = requested(&format!("k --file {}", file.path().display())).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.line().unwrap().contains("has more than 3 MiB; the limit of a payload is 1 MiB."));

        let failure = requested("k --file /no/such/file").unwrap_err();
        assert_eq!(
            failure.line().unwrap(),
            "error: `/no/such/file` can't be read: No such file or directory (os error 2)"
        );
    }
}
