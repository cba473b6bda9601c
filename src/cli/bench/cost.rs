//! The cost of a job: flushes, bytes written, and processor time of the server.

use std::{
    fmt,
    fs::File,
    io::{Seek, Write},
};

use jobmill::{
    job::Position,
    store::sqlite::{Mark, MarkFile},
};

use super::{
    end_to_end::{BY_BATCHES, BY_CALLS},
    figures::submits,
    latencies::{Latencies, now},
    paced::{self, PACE},
    report::Figure,
    server::{INTAKE, WORK},
    session::Bench,
    subject::MeasuredServer,
    wire::submit_body,
};

/// Number of writes of the mark, and number of these writes for each flush that is measured beside them.
const MARKS: i64 = 10_000;
const MARKS_TO_A_FLUSH: i64 = 50;

#[derive(Clone, Copy)]
enum Load {
    Submit,
    ByCalls,
    ByBatches,
    Paced,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Load::Submit => write!(f, "Submit, 64 in flight"),
            Load::ByCalls => write!(f, "end to end, by 64 calls in flight"),
            Load::ByBatches => write!(f, "end to end, by batches of 1,000"),
            Load::Paced => write!(f, "SubmitAndWatch, {PACE} a second"),
        }
    }
}

/// Resources that a server has used so far.
struct Used {
    flushes: u64,
    written_bytes: Option<u64>,
    processor_seconds: Option<f64>,
}

impl Bench {
    /// Measures the cost of a job under each load.
    pub(super) async fn cost(&mut self) -> anyhow::Result<()> {
        for load in [Load::Submit, Load::ByCalls, Load::ByBatches, Load::Paced] {
            let mut subject = MeasuredServer::empty(&self.place).await?;
            self.step(format!("cost of a job: {load}"));
            let before = used(&mut subject).await?;
            let jobs = self.cause(load, &subject).await? as f64;
            let after = used(&mut subject).await?;
            subject.end().await?;

            let name = |what| format!("{what} for a job: {load}");
            let flushes = (after.flushes - before.flushes) as f64 / jobs;
            self.figures.push(Figure::new(name("flushes"), flushes, "flushes"));
            if let (Some(before), Some(after)) = (before.written_bytes, after.written_bytes) {
                let bytes = (after - before) as f64 / jobs;
                self.figures.push(Figure::new(name("written"), bytes, "bytes"));
            }
            if let (Some(before), Some(after)) = (before.processor_seconds, after.processor_seconds) {
                let micros = (after - before) * 1e6 / jobs;
                self.figures.push(Figure::new(name("processor time"), micros, "µs"));
            }
        }
        self.mark()
    }

    /// Measures the write of the mark beside the database, one for each batch, and its ratio to a bare flush, which
    /// each batch waits for.
    fn mark(&mut self) -> anyhow::Result<()> {
        self.step("the mark of a batch".to_owned());
        let mut position = Position::default();
        let mark = Mark { store: [0; 16], position };
        let mut file = MarkFile::create(self.place.folder(), mark)?;
        let mut flushed = File::create(self.place.folder().join("flushed"))?;
        let (mut marks, mut flushes) = (Latencies::default(), Latencies::default());
        for count in 1..=MARKS {
            position = position.next();
            let start = now();
            file.advance(position);
            marks.push(start.elapsed());
            if count % MARKS_TO_A_FLUSH == 0 {
                let start = now();
                flushed.rewind()?;
                flushed.write_all(&[0x5a; 4096])?;
                flushed.sync_data()?;
                flushes.push(start.elapsed());
            }
        }
        let (mark, flush) = (marks.quantile(0.5).as_secs_f64(), flushes.quantile(0.5).as_secs_f64());
        let figure = Figure::new("written beside the database for a batch, p50", mark * 1e6, "µs");
        self.figures.push(figure.ratio(mark / flush));
        Ok(())
    }

    /// Runs a load, and returns the number of its jobs.
    async fn cause(&self, load: Load, subject: &MeasuredServer) -> anyhow::Result<u64> {
        let uri = &subject.uri;
        Ok(match load {
            Load::Submit => {
                let body = submit_body(INTAKE, 0);
                submits(64).run(uri, self.run, move || body.clone()).await?.done
            }
            Load::ByCalls => BY_CALLS.run(uri, self.run).await?.done,
            Load::ByBatches => BY_BATCHES.run(uri, self.run).await?.done,
            Load::Paced => paced::submit_and_watch(uri, WORK, self.paced_calls()).await?.count() as u64,
        })
    }
}

async fn used(subject: &mut MeasuredServer) -> anyhow::Result<Used> {
    Ok(Used {
        flushes: subject.process.flushes().await?,
        written_bytes: subject.process.written_bytes(),
        processor_seconds: subject.process.processor_seconds(),
    })
}
