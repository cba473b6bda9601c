//! `jobmill submit`.

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Global, connect,
    exit::{Exit, Failure},
    follow::{Ended, ctrl_c, follow},
    json,
    live::{Lines, Live},
    submit_stream::{self, Stream},
    text,
    ui::Ui,
    values::{self, WhenFullArg},
};
use jobmill::{
    client::{Client, ClientError, Code, to_wire_duration, to_wire_timestamp},
    clock::Timestamp,
    proto::v1::{Job, JobSpec, JobView, SubmitAndWatchRequest, SubmitRequest, WatchDetail, WhenFull},
};

/// What the server takes.
const PAYLOAD_MAX_BYTES: u64 = 1 << 20;
/// More than this does not even fit into a message: the server could not say why it refuses.
const PAYLOAD_READ_MAX_BYTES: u64 = 3 << 20;

/// The arguments of `jobmill submit`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to do: a kind that the server has a handler for
    #[arg(required_unless_present = "stream")]
    kind: Option<String>,
    /// The handler's input as text; see also --file and --stdin
    #[arg(conflicts_with_all = ["file", "stdin"])]
    payload: Option<String>,
    /// Take the handler's input from a file
    #[arg(long, value_name = "PATH", conflicts_with = "stdin")]
    file: Option<PathBuf>,
    /// Take the handler's input from standard input
    #[arg(long)]
    stdin: bool,
    /// The media type of the input
    #[arg(long, value_name = "TYPE", default_value = "", hide_default_value = true)]
    payload_type: String,
    /// The queue
    #[arg(long, value_name = "QUEUE", default_value = "default")]
    queue: String,
    /// A label to find the job by; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = values::label)]
    labels: Vec<(String, String)>,
    /// From -100 to 100; the larger runs first
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(-100..=100)
    )]
    priority: i32,
    /// How many attempts may start before the job has failed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=1000))]
    max_attempts: Option<i32>,
    /// How long one attempt may take
    #[arg(long, value_name = "DURATION", value_parser = values::positive_duration)]
    timeout: Option<Duration>,
    /// Do not run it before this instant (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = values::instant, conflicts_with = "delay")]
    run_at: Option<Timestamp>,
    /// Do not run it before so long from now, by this machine's clock
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    delay: Option<Duration>,
    /// End it as EXPIRED if no attempt has started so long from now, by this machine's clock
    #[arg(long, value_name = "DURATION", value_parser = values::positive_duration)]
    expires_in: Option<Duration>,
    /// Makes a repeat of this command safe: the same id with the same job gives the same job. Default: a new one
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    request_id: String,
    /// What to do when the queue is full. Default: as the queue is set up
    #[arg(long, value_enum, value_name = "HOW")]
    when_full: Option<WhenFullArg>,
    /// Follow the job to its end, write its result to stdout, and exit by its fate
    #[arg(long)]
    watch: bool,
    /// With --watch: show the lines that the job writes, on stderr
    #[arg(long, requires = "watch")]
    output_lines: bool,
    /// Submit a job for each line of a file, or of standard input (-): a JSON object with the fields of a JobSpec,
    /// `requestId`, and `payloadText` or `payloadJson` in place of `payload`. Writes each id as soon as its job is kept
    #[arg(
        long,
        value_name = "FILE",
        num_args = 0..=1,
        default_missing_value = "-",
        conflicts_with_all = [
            "kind", "payload", "file", "stdin", "payload_type", "labels", "priority", "max_attempts", "timeout",
            "run_at", "delay", "expires_in", "request_id", "watch", "output_lines",
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
    let request = request(args, ui.clock.now())?;
    let client = connect(global).await?;
    if watch {
        let request = SubmitAndWatchRequest {
            job: request.job,
            request_id: request.request_id,
            when_full: request.when_full,
            detail: WatchDetail::Latest.into(),
            output,
            view: JobView::Basic.into(),
        };
        return submit_and_follow(&client, request, ui).await;
    }
    let answer = client.submit(request).await.map_err(explained)?;
    let job = answer.job.unwrap_or_default();
    if ui.is_json() {
        ui.print_json(&json::job(&job))?;
    } else {
        if !answer.created {
            ui.note("this request id was used before; that job is");
        }
        ui.print(&text::escape(&job.id))?;
    }
    Ok(Exit::Ok)
}

fn request(args: Args, now: Timestamp) -> Result<SubmitRequest, Failure> {
    let payload = match (args.payload, &args.file) {
        (Some(text), _) => text.into_bytes(),
        (None, Some(path)) => read_file(path)?,
        (None, None) if args.stdin => read(std::io::stdin().lock(), "standard input")?,
        (None, None) => Vec::new(),
    };
    let run_time = args.run_at.or_else(|| args.delay.map(|delay| now.after(delay)));
    let job = JobSpec {
        queue: args.queue,
        kind: args.kind.unwrap_or_default(),
        payload: payload.into(),
        payload_type: args.payload_type,
        labels: args.labels.into_iter().collect(),
        priority: args.priority,
        max_attempts: args.max_attempts.unwrap_or(0),
        retry_policy: None,
        attempt_timeout: args.timeout.map(to_wire_duration),
        run_time: run_time.map(to_wire_timestamp),
        expire_time: args.expires_in.map(|time| to_wire_timestamp(now.after(time))),
    };
    Ok(SubmitRequest {
        job: Some(job),
        request_id: args.request_id,
        when_full: args.when_full.map_or(WhenFull::Unspecified, WhenFull::from).into(),
    })
}

fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path)
        .map_err(|error| Failure::usage(format!("`{name}` can't be read: {error}")))?;
    read(file, &format!("`{name}`"))
}

/// Reads a payload, of which the server has the last word; what no message could hold is refused here.
fn read(from: impl Read, name: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    from.take(PAYLOAD_READ_MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::usage(format!("{name} can't be read: {error}")))?;
    if bytes.len() as u64 > PAYLOAD_READ_MAX_BYTES {
        let size = text::bytes(PAYLOAD_READ_MAX_BYTES);
        return Err(too_large(&format!("{name} has more than {size}")));
    }
    Ok(bytes)
}

fn too_large(what: &str) -> Failure {
    let limit = text::bytes(PAYLOAD_MAX_BYTES);
    Failure::usage(format!("{what}, and a payload may have {limit}"))
        .with_next("Keep large input where the handler can read it, and submit its name.")
}

/// A message over the server's limit is refused by the transport, whose words tell nobody what to do.
fn explained(error: ClientError) -> Failure {
    if let ClientError::Failed { code: Code::OutOfRange | Code::ResourceExhausted, message, .. } = &error
        && message.contains("message")
    {
        return too_large("the job is too large for one message");
    }
    error.into()
}

async fn submit_and_follow(
    client: &Client,
    request: SubmitAndWatchRequest,
    ui: &Ui,
) -> Result<Exit, Failure> {
    let mut live = Live::new(ui, Lines::Stderr);
    let (answer, mut watch) = client.submit_and_watch(request).await.map_err(explained)?;
    let job = answer.job.clone().unwrap_or_default();
    if ui.is_json() {
        ui.print_json(&json::submitted(&answer))?;
    } else {
        live.job(&job)?;
    }
    let ended = follow(&mut watch, ui, &mut live, ctrl_c()).await;
    live.finish();
    match ended {
        Ok(Ended::Over(fates)) => {
            finish(client, &job.id, ui).await?;
            Ok(fates.exit())
        }
        Ok(Ended::Interrupted) => {
            let id = text::escape(&job.id);
            ui.note(&format!("detached; the job goes on. Watch it: jobmill watch {id}"));
            Ok(Exit::Interrupted)
        }
        Err(failure) => {
            ui.note(&format!("job {} was submitted", text::escape(&job.id)));
            Err(failure)
        }
    }
}

/// Writes the result of a job that has ended.
async fn finish(client: &Client, id: &str, ui: &Ui) -> Result<(), Failure> {
    let job = match client.get_job(id, JobView::Full).await {
        Ok(job) => job,
        // Someone deleted it already: its fate is known, its result is gone.
        Err(ClientError::Refused(refusal)) if refusal.code == Code::NotFound => Job::default(),
        Err(error) => return Err(error.into()),
    };
    if ui.is_json() {
        return ui.print_json(&serde_json::json!({ "ended": json::job(&job) }));
    }
    if job.result.is_empty() {
        return Ok(());
    }
    if !ui.stdout_is_terminal {
        return ui.print_raw(&job.result);
    }
    match std::str::from_utf8(&job.result) {
        Ok(result) => ui.print(&text::escape_lines(result)),
        Err(_) => {
            let size = text::bytes(job.result.len() as u64);
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

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn requested(line: &str) -> Result<SubmitRequest, Failure> {
        let words = ["submit"].into_iter().chain(line.split(' '));
        request(Line::try_parse_from(words).unwrap().args, Timestamp::from_micros(1_000_000))
    }

    #[test]
    fn arguments_become_a_request() {
        let request = requested(
            "resize photo.jpg --queue images --label a=b --label c= --priority -5 --max-attempts 3 --timeout 5m \
             --delay 1500ms --expires-in 1h --request-id r --when-full reject --payload-type text/plain",
        )
        .unwrap();
        insta::assert_snapshot!(format!("{request:#?}"), @r#"
        SubmitRequest {
            job: Some(
                JobSpec {
                    queue: "images",
                    kind: "resize",
                    payload: b"photo.jpg",
                    payload_type: "text/plain",
                    labels: {
                        "a": "b",
                        "c": "",
                    },
                    priority: -5,
                    max_attempts: 3,
                    retry_policy: None,
                    attempt_timeout: Some(
                        Duration {
                            seconds: 300,
                            nanos: 0,
                        },
                    ),
                    run_time: Some(
                        Timestamp {
                            seconds: 2,
                            nanos: 500000000,
                        },
                    ),
                    expire_time: Some(
                        Timestamp {
                            seconds: 3601,
                            nanos: 0,
                        },
                    ),
                },
            ),
            request_id: "r",
            when_full: Reject,
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
    fn an_instant_may_be_given_with_its_offset() {
        let request = requested("k --run-at 1970-01-01T02:00:01+02:00").unwrap();
        assert_eq!(request.job.unwrap().run_time.unwrap().seconds, 1);
    }

    #[test]
    fn a_payload_comes_from_a_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"\xff\0").unwrap();
        let request = requested(&format!("k --file {}", file.path().display())).unwrap();
        assert_eq!(request.job.unwrap().payload.as_ref(), b"\xff\0");

        file.as_file().set_len(PAYLOAD_READ_MAX_BYTES + 1).unwrap();
        let failure = requested(&format!("k --file {}", file.path().display())).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.line().unwrap().contains("has more than 3 MiB, and a payload may have 1 MiB."));

        let failure = requested("k --file /no/such/file").unwrap_err();
        assert_eq!(
            failure.line().unwrap(),
            "error: `/no/such/file` can't be read: No such file or directory (os error 2)"
        );
    }
}
