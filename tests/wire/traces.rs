//! Traces from the caller's context to the handler, as a collector receives them from the real program.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use jobmill::proto::v1::{self, JobState};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::mpsc};
use tonic::{Request, Response, Status, metadata::MetadataValue, transport::server::TcpIncoming};

use crate::support::{Process, Rig, Stage, defaults, job, memory, result, soon, submission};

/// A script that fails once, and then returns the trace context that it was given.
const FLAKY: &str = r#"
[kinds.flaky]
command = ["sh", "-c", 'printf %s "$TRACEPARENT"; exit $((2 - JOBMILL_ATTEMPT))']
max_attempts = 2
retry = { initial_delay = "1ms", max_delay = "1ms" }
"#;
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A fake collector, which forwards what it receives.
struct Collector(mpsc::Sender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.send(request.into_inner()).await.expect("a test that listens");
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// The spans that a collector receives.
struct Collected {
    address: String,
    requests: mpsc::Receiver<ExportTraceServiceRequest>,
}

impl Collected {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (sender, requests) = mpsc::channel(1_000);
        let service = TraceServiceServer::new(Collector(sender));
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        Collected { address, requests }
    }

    /// Returns all received spans in the order of their starts, and the service name of their resource.
    fn spans(&mut self) -> (Vec<Span>, Option<String>) {
        let (mut spans, mut service) = (Vec::new(), None);
        while let Ok(request) = self.requests.try_recv() {
            for from_resource in request.resource_spans {
                for attribute in from_resource.resource.unwrap_or_default().attributes {
                    if attribute.key == "service.name" {
                        service = attribute.value.and_then(|value| value.value).map(text);
                    }
                }
                spans.extend(from_resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        }
        spans.sort_by_key(|span| span.start_time_unix_nano);
        (spans, service)
    }
}

fn text(value: Value) -> String {
    match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        other => format!("{other:?}"),
    }
}

fn attributes(span: &Span) -> BTreeMap<String, String> {
    let known = span.attributes.iter().cloned();
    known.filter_map(|pair| Some((pair.key, text(pair.value?.value?)))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The real program with a kind that fails once.
struct Program {
    _dir: TempDir,
    process: Process,
    rig: Rig,
}

impl Program {
    async fn start(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| -> PathBuf { dir.path().join(name) };
        fs::write(path("jobmill.toml"), FLAKY).unwrap();
        let process = Process::start(&path("jobmill.toml"), &path("data"), arguments).await;
        let rig = Rig::connect(&process.address).await;
        Program { _dir: dir, process, rig }
    }

    /// Submits a job of that kind under a caller's trace context; returns it once it has ended.
    async fn run(&self, traceparent: Option<&str>) -> v1::Job {
        let mut request = Request::new(submission(job("flaky")));
        if let Some(context) = traceparent {
            request.metadata_mut().insert("traceparent", MetadataValue::try_from(context).unwrap());
        }
        let accepted = soon(self.rig.jobs.clone().submit(request)).await.unwrap().into_inner();
        self.rig.ends(accepted.id()).await
    }

    async fn stop(mut self) {
        self.process.signal(Signal::TERM);
        // The drain's 1 s, and a margin for a slow machine.
        let exit = tokio::time::timeout(Duration::from_secs(15), self.process.exit()).await;
        assert!(exit.expect("an end by the drain's deadline").success());
    }
}

#[tokio::test]
async fn one_trace_leads_from_the_caller_through_each_attempt_to_the_command() {
    let mut collected = Collected::start().await;
    let program = Program::start(&["--traces-endpoint", &collected.address]).await;
    let done = program.run(Some(&format!("00-{TRACE}-{CALLER}-01"))).await;
    assert_eq!((done.state(), done.attempt), (JobState::Succeeded, 2));
    program.stop().await;

    let (spans, service) = collected.spans();
    assert_eq!(service.as_deref(), Some("jobmill"));
    let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names.len(), 5, "{names:?}");
    let named = |name: &str| spans.iter().filter(|span| span.name == name).collect::<Vec<_>>();
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE), "{spans:?}");

    let submit = named("submit flaky")[0];
    assert_eq!(hex(&submit.parent_span_id), CALLER);
    assert_eq!(submit.kind(), SpanKind::Producer);
    assert_eq!(attributes(submit)["messaging.message.id"], done.id);
    assert_eq!(done.traceparent, format!("00-{TRACE}-{}-01", hex(&submit.span_id)), "GetJob shows it");

    let (waits, runs) = (named("wait flaky"), named("run flaky"));
    assert_eq!((waits.len(), runs.len()), (2, 2), "one for each attempt");
    for span in waits.iter().chain(&runs) {
        assert_eq!(span.parent_span_id, submit.span_id);
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano, "{span:?}");
        assert_eq!(attributes(span)["messaging.destination.name"], "default");
    }
    for (number, run) in runs.iter().enumerate() {
        assert_eq!(run.kind(), SpanKind::Consumer);
        assert_eq!(attributes(run)["jobmill.attempt"], (number + 1).to_string());
        assert_eq!(waits[number].end_time_unix_nano, run.start_time_unix_nano);
    }
    let failed = runs[0].status.clone().unwrap();
    assert_eq!((failed.code(), &*failed.message), (StatusCode::Error, "handler error"));
    assert_eq!(runs[1].status.clone().unwrap_or_default().code(), StatusCode::Unset);
    let given = String::from_utf8(result(&done).to_vec()).unwrap();
    assert_eq!(
        given,
        format!("00-{TRACE}-{}-01", hex(&runs[1].span_id)),
        "the command goes on from its attempt"
    );
}

#[tokio::test]
async fn callers_decide_what_is_recorded_and_their_contexts_are_handed_on() {
    let mut collected = Collected::start().await;
    let program = Program::start(&["--traces-endpoint", &collected.address]).await;
    let unsampled = format!("00-{TRACE}-{CALLER}-00");
    let quiet = program.run(Some(&unsampled)).await;
    assert_eq!((&quiet.traceparent, result(&quiet)), (&unsampled, unsampled.as_bytes()));
    let own = program.run(Some("not a context")).await;
    program.stop().await;

    let (spans, _) = collected.spans();
    assert_eq!(spans.len(), 5, "those of the job whose caller has no context");
    let trace = hex(&spans[0].trace_id);
    assert!(trace != TRACE && own.traceparent.contains(&trace), "{}", own.traceparent);
    let roots: Vec<_> = spans.iter().filter(|span| span.parent_span_id.is_empty()).collect();
    assert_eq!(roots.len(), 1);
}

#[tokio::test]
async fn a_collector_that_does_not_answer_holds_nothing_up() {
    // Connections are accepted in the kernel's backlog, and never answered.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    for endpoint in [&*endpoint, "http://127.0.0.1:1"] {
        let program = Program::start(&["--traces-endpoint", endpoint, "--drain-timeout", "1s"]).await;
        for _ in 0..10 {
            assert_eq!(program.run(None).await.state(), JobState::Succeeded);
        }
        program.stop().await;
    }
}

#[tokio::test]
async fn without_a_collector_a_context_reaches_the_handler_as_it_came() {
    let (handler, mut stage) = Stage::new();
    let builder = jobmill::serve::Server::builder(memory()).handler("held", defaults(), handler);
    let rig = Rig::start(builder).await;
    let context = format!("00-{TRACE}-{CALLER}-01");
    for (sent, given) in [(Some(&*context), Some(&*context)), (Some("00-nothing"), None), (None, None)] {
        let submission = v1::SubmitRequest { view: v1::JobView::Basic as i32, ..submission(job("held")) };
        let mut request = Request::new(submission);
        if let Some(sent) = sent {
            request.metadata_mut().insert("traceparent", MetadataValue::try_from(sent).unwrap());
        }
        let accepted = soon(rig.jobs.clone().submit(request)).await.unwrap().into_inner().job.unwrap();
        let cue = stage.next().await;
        assert_eq!(cue.attempt.traceparent(), given);
        assert_eq!(accepted.traceparent, given.unwrap_or_default());
        cue.succeeds();
    }
}

#[tokio::test]
async fn a_trace_state_that_comes_in_several_lines_is_one_list() {
    let (handler, mut stage) = Stage::new();
    let builder = jobmill::serve::Server::builder(memory()).handler("held", defaults(), handler);
    let rig = Rig::start(builder).await;
    for (lines, given) in [
        (vec!["vendor=1".to_owned(), "other=2".to_owned()], "vendor=1,other=2"),
        (vec![format!("a={}", "b".repeat(300)), format!("c={}", "d".repeat(300))], ""),
    ] {
        let mut request = Request::new(submission(job("held")));
        let context = format!("00-{TRACE}-{CALLER}-01");
        request.metadata_mut().insert("traceparent", MetadataValue::try_from(context).unwrap());
        for line in lines {
            request.metadata_mut().append("tracestate", MetadataValue::try_from(line).unwrap());
        }
        let accepted = soon(rig.jobs.clone().submit(request)).await.unwrap().into_inner();
        let cue = stage.next().await;
        assert_eq!(cue.attempt.tracestate().unwrap_or_default(), given);
        assert_eq!(rig.get(accepted.id()).await.tracestate, given);
        cue.succeeds();
    }
}

#[tokio::test]
async fn a_trace_state_goes_with_its_context_up_to_512_bytes_and_not_without_one() {
    let (handler, mut stage) = Stage::new();
    let builder = jobmill::serve::Server::builder(memory()).handler("held", defaults(), handler);
    let rig = Rig::start(builder).await;
    let context = format!("00-{TRACE}-{CALLER}-01");
    let (longest, too_long) = (format!("a={}", "b".repeat(510)), format!("a={}", "b".repeat(511)));
    for (parent, state, given) in [
        (Some(&*context), Some("vendor=1,other=2"), "vendor=1,other=2"),
        (Some(&*context), Some(&*longest), &longest),
        (Some(&*context), Some(&*too_long), ""),
        (Some(&*context), None, ""),
        (Some("00-nothing"), Some("vendor=1"), ""),
        (None, Some("vendor=1"), ""),
    ] {
        let mut request = Request::new(submission(job("held")));
        for (name, value) in [("traceparent", parent), ("tracestate", state)] {
            if let Some(value) = value {
                request.metadata_mut().insert(name, MetadataValue::try_from(value).unwrap());
            }
        }
        let accepted = soon(rig.jobs.clone().submit(request)).await.unwrap().into_inner();
        let cue = stage.next().await;
        assert_eq!(cue.attempt.tracestate().unwrap_or_default(), given, "{parent:?} {state:?}");
        assert_eq!(rig.get(accepted.id()).await.tracestate, given, "{parent:?} {state:?}");
        cue.succeeds();
    }
}
