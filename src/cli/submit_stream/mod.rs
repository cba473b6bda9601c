//! `jobmill submit --stream`: a job for each line of a file.

mod line;

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt::Write,
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use futures_util::FutureExt;
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Global, connect,
    exit::{Exit, Failure},
    follow::ctrl_c,
    live::style,
    text,
    ui::Ui,
};
use jobmill::{
    client::{Code, ItemResult, Refusal, SubmitResults, SubmitSender},
    proto::v1::{SubmitItem, SubmitOutcome, Submitted, WhenFull},
};

/// Byte limit of a line. A line with the largest payload is shorter, however much of it is escaped.
const LINE_MAX_BYTES: u64 = 8 << 20;
/// Capacity of the channel of lines that are read ahead.
const LINES_AHEAD: usize = 64;
/// Bytes of output that are gathered before they are written.
const OUTPUT_ENOUGH_BYTES: usize = 32 << 10;

/// The options of `submit --stream`.
pub(super) struct Stream {
    /// A file, or `-` for standard input.
    pub(super) path: std::path::PathBuf,
    /// The queue of lines that name none.
    pub(super) queue: String,
    pub(super) when_full: WhenFull,
    /// Whether to stop at the first line that is not accepted.
    pub(super) fail_fast: bool,
}

/// A line that was read.
struct ReadLine {
    place: LinePosition,
    item: Result<SubmitItem, line::Fault>,
}

/// The position of a line.
#[derive(Clone, Copy)]
struct LinePosition {
    /// The number of the line, from 1.
    line: u64,
    /// The number of bytes up to the end of the line.
    end: u64,
}

pub(super) async fn run(stream: Stream, global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    let (source, bytes) = open(&stream.path)?;
    let client = connect(global).await?;
    let (lines, read) = mpsc::channel(LINES_AHEAD);
    let queue = stream.queue;
    let reading = tokio::task::spawn_blocking(move || read_lines(source, &queue, &lines));

    let show = RefCell::new(ResultOutput::new(ui, bytes));
    let places = RefCell::new(VecDeque::new());
    let stop = CancellationToken::new();
    let stop_early = || {
        if stream.fail_fast {
            stop.cancel();
        }
    };
    let (sender, results) = client.submit_stream(stream.when_full);
    let noter = show.borrow().noter();
    let results = results.on_break(move |error| noter(&format!("{error}; reconnecting")));
    let ended = {
        let give = give(sender, read, &places, &show, &stop, &stop_early);
        let take = take(results, &places, &show, &stop_early);
        tokio::select! {
            done = async { tokio::try_join!(give, take) } => done.map(|_| false),
            () = ctrl_c() => Ok(true),
        }
    };
    let mut show = show.into_inner();
    show.finish();
    let left = places.into_inner();
    if let Some(first) = left.front() {
        ui.note(&format!(
            "{} lines have no answer, from line {} on; whether they were accepted is not known",
            left.len(),
            first.line
        ));
    }
    show.summary();
    if ended? {
        return Ok(Exit::Interrupted);
    }
    // After --fail-fast, the reader may still wait for standard input.
    if !stop.is_cancelled()
        && let Ok(Err(error)) = reading.await
    {
        let name = stream.path.display();
        return Err(Failure::usage(format!("`{name}` can't be read any further: {error}")));
    }
    Ok(show.exit())
}

/// Opens the input. Also returns its length, if known.
fn open(path: &Path) -> Result<(Box<dyn BufRead + Send>, Option<u64>), Failure> {
    if path == Path::new("-") {
        return Ok((Box::new(BufReader::new(std::io::stdin())), None));
    }
    let fault = |error| Failure::usage(format!("`{}` can't be read: {error}", path.display()));
    let file = File::open(path).map_err(fault)?;
    let metadata = file.metadata().map_err(fault)?;
    Ok((Box::new(BufReader::new(file)), metadata.is_file().then_some(metadata.len())))
}

/// Reads lines until the input ends, or the receiver of the lines is dropped.
fn read_lines(
    mut source: impl BufRead,
    queue: &str,
    lines: &mpsc::Sender<ReadLine>,
) -> Result<(), std::io::Error> {
    let mut bytes = Vec::new();
    let mut place = LinePosition { line: 0, end: 0 };
    loop {
        bytes.clear();
        let read = source.by_ref().take(LINE_MAX_BYTES).read_until(b'\n', &mut bytes)? as u64;
        if read == 0 {
            return Ok(());
        }
        place = LinePosition { line: place.line + 1, end: place.end + read };
        let item = if read == LINE_MAX_BYTES && !bytes.ends_with(b"\n") {
            place.end += source.skip_until(b'\n')? as u64;
            let limit = text::bytes(LINE_MAX_BYTES);
            Err(line::Fault { column: None, message: format!("the line is longer than {limit}") })
        } else if bytes.trim_ascii().is_empty() {
            continue;
        } else {
            line::parse(bytes.trim_ascii_end(), queue)
        };
        if lines.blocking_send(ReadLine { place, item }).is_err() {
            return Ok(());
        }
    }
}

/// Sends the lines that were read to the stream of submissions.
async fn give(
    sender: SubmitSender,
    mut read: mpsc::Receiver<ReadLine>,
    places: &RefCell<VecDeque<LinePosition>>,
    show: &RefCell<ResultOutput<'_>>,
    stop: &CancellationToken,
    stop_early: &impl Fn(),
) -> Result<(), Failure> {
    loop {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            next = read.recv() => next,
        };
        let Some(ReadLine { place, item }) = next else { return Ok(()) };
        match item {
            Ok(item) => {
                places.borrow_mut().push_back(place);
                if sender.send(item).await.is_err() {
                    // The results give the reason.
                    return Ok(());
                }
            }
            Err(fault) => {
                show.borrow_mut().fault(place, &fault);
                stop_early();
            }
        }
    }
}

/// Receives the results. Output that is ready is written at once, and in one piece.
async fn take(
    mut results: SubmitResults,
    places: &RefCell<VecDeque<LinePosition>>,
    show: &RefCell<ResultOutput<'_>>,
    stop_early: &impl Fn(),
) -> Result<(), Failure> {
    loop {
        let next = match results.next().now_or_never() {
            Some(next) => next,
            None => {
                show.borrow_mut().flush()?;
                results.next().await
            }
        };
        let Some(item) = next.transpose()? else { break };
        let place = places.borrow_mut().pop_front().unwrap_or(LinePosition { line: 0, end: 0 });
        if item.result.is_err() {
            stop_early();
        }
        show.borrow_mut().result(place, item)?;
    }
    show.borrow_mut().flush()
}

/// The output for the results of the lines.
struct ResultOutput<'u> {
    ui: &'u Ui,
    bar: Option<ProgressBar>,
    /// Output that is not yet written to stdout.
    output: String,
    /// Whether the reader of stdout has closed it. The jobs are submitted all the same.
    output_closed: bool,
    accepted: u64,
    /// Lines whose jobs were accepted before, and deleted since.
    gone: u64,
    /// Lines that were refused, including those that are no valid jobs.
    refused: u64,
    /// Number of bytes of input up to the end of the last line with a result.
    end: u64,
}

impl<'u> ResultOutput<'u> {
    fn new(ui: &'u Ui, bytes: Option<u64>) -> Self {
        let bar = ui.bars.then(|| {
            let target = ProgressDrawTarget::stderr();
            let bar = ProgressBar::with_draw_target(bytes, target);
            bar.set_style(style(match bytes {
                Some(_) => "{bar:30.cyan/dim} {percent:>3}%  {msg}",
                None => "{spinner} {msg}",
            }));
            bar
        });
        ResultOutput {
            ui,
            bar,
            output: String::new(),
            output_closed: false,
            accepted: 0,
            gone: 0,
            refused: 0,
            end: 0,
        }
    }

    fn result(&mut self, place: LinePosition, item: ItemResult) -> Result<(), Failure> {
        self.end = place.end;
        match item.result {
            Ok(submitted) => self.submitted(place, &submitted, &item.request_id),
            Err(refusal) => {
                self.refused += 1;
                self.note(&format!("line {}: {}", place.line, text::escape(&refusal.message)));
                if self.ui.is_json() {
                    self.write(&json!({
                        "line": place.line,
                        "requestId": item.request_id,
                        "refused": refused(&refusal),
                    }));
                }
            }
        }
        if self.output.len() > OUTPUT_ENOUGH_BYTES { self.flush() } else { Ok(()) }
    }

    fn submitted(&mut self, place: LinePosition, submitted: &Submitted, request_id: &str) {
        let is_gone = submitted.outcome() == SubmitOutcome::Gone;
        if is_gone {
            self.gone += 1;
            let id = text::escape(&submitted.id);
            self.note(&format!("line {}: its job {id} was accepted before, and deleted since", place.line));
        } else {
            self.accepted += 1;
        }
        if self.ui.is_json() {
            self.write(&json!({
                "line": place.line,
                "id": submitted.id,
                "outcome": super::json::outcome(submitted.outcome),
                "requestId": request_id,
            }));
        } else if !is_gone {
            self.output.push_str(&text::escape(&submitted.id));
            self.output.push('\n');
        }
    }

    /// Reports a line that is no valid job.
    fn fault(&mut self, place: LinePosition, fault: &line::Fault) {
        self.refused += 1;
        let column = fault.column.map(|column| format!(", column {column}")).unwrap_or_default();
        self.note(&format!("line {}{column}: {}", place.line, text::escape(&fault.message)));
        if self.ui.is_json() {
            let mut refused = json!({ "reason": "INVALID_LINE", "message": fault.message });
            if let Some(column) = fault.column {
                refused["column"] = column.into();
            }
            self.write(&json!({ "line": place.line, "refused": refused }));
        }
    }

    fn write(&mut self, value: &Value) {
        self.output.push_str(&value.to_string());
        self.output.push('\n');
    }

    /// Writes the gathered output, and updates the progress bar.
    fn flush(&mut self) -> Result<(), Failure> {
        if let Some(bar) = &self.bar {
            bar.set_position(self.end);
            bar.set_message(self.counts());
        }
        let output = std::mem::take(&mut self.output);
        if output.is_empty() || self.output_closed {
            return Ok(());
        }
        let printed = match &self.bar {
            Some(bar) => bar.suspend(|| self.ui.print(&output)),
            None => self.ui.print(&output),
        };
        match printed {
            Err(Failure::OutputClosed) => {
                self.output_closed = true;
                Ok(())
            }
            printed => printed,
        }
    }

    fn note(&self, note: &str) {
        self.noter()(note);
    }

    /// Returns a function that writes notes beside the progress bar, for use elsewhere.
    fn noter(&self) -> impl Fn(&str) + Send + use<> {
        let (ui, bar) = (self.ui.clone(), self.bar.clone());
        move |note| match &bar {
            Some(bar) => bar.suspend(|| ui.note(note)),
            None => ui.note(note),
        }
    }

    fn counts(&self) -> String {
        let mut counts = format!("{} accepted", self.accepted);
        for (count, what) in [(self.gone, "gone"), (self.refused, "refused")] {
            if count > 0 {
                // Writing to a string can't fail.
                let _ = write!(counts, ", {count} {what}");
            }
        }
        counts
    }

    /// Returns the exit code. Refused lines take precedence over jobs that are gone.
    fn exit(&self) -> Exit {
        match (self.refused, self.gone) {
            (0, 0) => Exit::Ok,
            (0, 1..) => Exit::NotFound,
            (1.., _) => Exit::Refused,
        }
    }

    /// Writes the remaining output, and removes the progress bar.
    fn finish(&mut self) {
        // Output is left only after Ctrl-C or another failure, which decides the exit code.
        let _ = self.flush();
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn summary(&self) {
        if !self.ui.is_json() {
            self.ui.note(&self.counts());
        }
    }
}

fn refused(refusal: &Refusal) -> Value {
    let fields: Vec<_> = refusal
        .fields
        .iter()
        .map(|fault| json!({ "field": fault.field, "description": fault.description }))
        .collect();
    let mut value = json!({
        "code": code(refusal.code),
        "reason": refusal.reason,
        "message": refusal.message,
    });
    if !fields.is_empty() {
        value["fieldViolations"] = fields.into();
    }
    if !refusal.metadata.is_empty() {
        value["metadata"] = json!(refusal.metadata);
    }
    value
}

/// Returns a code's name in the protocol, such as `INVALID_ARGUMENT`.
fn code(code: Code) -> String {
    let mut name = String::new();
    for c in format!("{code:?}").chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ui::Format;
    use jobmill::proto::v1::ErrorReason;

    fn item(result: Result<SubmitOutcome, Refusal>) -> ItemResult {
        let result = result.map(|outcome| Submitted { id: "1".into(), outcome: outcome.into() });
        ItemResult { request_id: "r".into(), result }
    }

    fn full() -> Refusal {
        let mut refusal = Refusal::new(Code::ResourceExhausted, ErrorReason::QueueFull, "the queue is full");
        refusal.metadata.insert("queue".to_owned(), "q".to_owned());
        refusal
    }

    #[test]
    fn each_result_is_told_and_the_worst_decides_the_exit_code() {
        let json = Ui::new(Format::Json, true);
        let mut show = ResultOutput::new(&json, None);
        let results = [
            (Ok(SubmitOutcome::Created), Exit::Ok),
            (Ok(SubmitOutcome::Repeated), Exit::Ok),
            (Ok(SubmitOutcome::Gone), Exit::NotFound),
            (Err(full()), Exit::Refused),
            (Ok(SubmitOutcome::Gone), Exit::Refused),
        ];
        for (line, (result, exit)) in results.into_iter().enumerate() {
            show.result(LinePosition { line: line as u64, end: 0 }, item(result)).unwrap();
            assert_eq!(show.exit(), exit, "after line {line}");
        }
        insta::assert_snapshot!(show.output, @r#"
        {"id":"1","line":0,"outcome":"SUBMIT_OUTCOME_CREATED","requestId":"r"}
        {"id":"1","line":1,"outcome":"SUBMIT_OUTCOME_REPEATED","requestId":"r"}
        {"id":"1","line":2,"outcome":"SUBMIT_OUTCOME_GONE","requestId":"r"}
        {"line":3,"refused":{"code":"RESOURCE_EXHAUSTED","message":"the queue is full","metadata":{"queue":"q"},"reason":"QUEUE_FULL"},"requestId":"r"}
        {"id":"1","line":4,"outcome":"SUBMIT_OUTCOME_GONE","requestId":"r"}
        "#);
        assert_eq!(show.counts(), "2 accepted, 2 gone, 1 refused");
    }

    #[test]
    fn people_get_the_ids_of_the_jobs_that_are_there() {
        let text = Ui::new(Format::Text, true);
        let mut show = ResultOutput::new(&text, None);
        for outcome in [SubmitOutcome::Created, SubmitOutcome::Gone, SubmitOutcome::Repeated] {
            show.result(LinePosition { line: 1, end: 0 }, item(Ok(outcome))).unwrap();
        }
        assert_eq!(show.output, "1\n1\n");
    }
}
