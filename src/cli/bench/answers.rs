//! The cost of answers: Submit's default answer, beside one with the whole job.

use bytes::Bytes;
use jobmill::proto::v1::{self, JobView, job_queue_client::JobQueueClient};
use prost::Message;

use super::{
    figures::{Series, submits},
    report::{Bounds, Figure},
    server::INTAKE,
    session::Bench,
    subject::MeasuredServer,
    wire::submit_request,
};

const IN_FLIGHT: usize = 64;

impl Bench {
    /// Measures Submit with its default answer, beside Submit with the whole job.
    pub(super) async fn answers(&mut self) -> anyhow::Result<()> {
        let views = [JobView::Unspecified, JobView::Basic];
        let [lean, whole] =
            views.map(|view| v1::SubmitRequest { view: view as i32, ..submit_request(INTAKE, 0) });
        let subjects = [MeasuredServer::empty(&self.place).await?, MeasuredServer::empty(&self.place).await?];
        let mut bytes = [0; 2];
        for ((subject, request), bytes) in subjects.iter().zip([&lean, &whole]).zip(&mut bytes) {
            let answer = JobQueueClient::connect(subject.uri.clone()).await?.submit(request.clone()).await?;
            *bytes = answer.into_inner().encoded_len();
        }
        let bodies = [lean, whole].map(|request| Bytes::from(request.encode_to_vec()));
        let (mut series, mut accepted) = (Series::default(), [1; 2]);
        for _ in 0..self.pairs {
            let mut rates = [0.0; 2];
            for (index, (subject, body)) in subjects.iter().zip(&bodies).enumerate() {
                self.step("Submit with its own answer, and with the job".to_owned());
                let body = body.clone();
                let loaded = submits(IN_FLIGHT).run(&subject.uri, self.run, move || body.clone()).await?;
                accepted[index] += loaded.done;
                rates[index] = loaded.rate;
            }
            series.add(rates[0], rates[1]);
        }
        for (subject, accepted) in subjects.into_iter().zip(accepted) {
            subject.expect(INTAKE, None, accepted).await?;
            subject.end().await?;
        }
        let name = |answer| format!("Submit, {IN_FLIGHT} in flight, answered with {answer}");
        self.figures.push(Figure::new(name("the job"), series.ceiling(), "jobs/s"));
        let own = series.figure(name("id and token"), "jobs/s");
        self.figures.push(own.bounds(Bounds::ratio_at_least(1.05, 1.0)));
        self.figures.push(Figure::new("an answer with the job", bytes[1] as f64, "bytes"));
        let own = Figure::new("an answer with id and token", bytes[0] as f64, "bytes");
        self.figures.push(own.ratio(bytes[0] as f64 / bytes[1] as f64));
        Ok(())
    }
}
