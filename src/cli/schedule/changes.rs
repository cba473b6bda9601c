//! The verbs that change schedules.

use super::{
    super::{
        control::RequestIdArg,
        exit::{Exit, Failure},
        json, text,
        ui::Ui,
    },
    Backfill, Change, Create, Pause, Update, show,
};
use jobmill::{
    client::{Client, from_wire_timestamp, to_wire_timestamp},
    proto::v1::{
        BackfillScheduleRequest, CancelBackfillRequest, CreateScheduleRequest, DeleteScheduleRequest,
        JobSpec, PauseScheduleRequest, ResumeScheduleRequest, Schedule, TriggerScheduleRequest,
        UpdateScheduleRequest,
    },
};

/// The queue of jobs that name none.
const DEFAULT_QUEUE: &str = "default";

/// Returns the schedule of an answer, or a failure if it was deleted since.
fn present(schedule: Option<Schedule>) -> Result<Schedule, Failure> {
    schedule.ok_or_else(|| {
        let what = "this request id was used before, and the schedule was deleted since";
        Failure::new(Exit::NotFound, what).with_next("Use another --request-id for another change.")
    })
}

pub(super) async fn create(client: &Client, args: Create) -> Result<Schedule, Failure> {
    let Create { name, spec, job, named: RequestIdArg { request_id } } = args;
    if job.kind.is_none() {
        return Err(Failure::usage("the kind of the jobs is missing").with_next("Name it by --kind."));
    }
    let job = job.over(JobSpec { queue: DEFAULT_QUEUE.to_owned(), ..JobSpec::default() });
    let schedule = Schedule { name, spec: Some(spec.to_wire()), job: Some(job), ..Default::default() };
    let request = CreateScheduleRequest { schedule: Some(schedule), request_id, ..Default::default() };
    present(client.create_schedule(request).await?.schedule)
}

/// Checks that an update changes something, and that its repeat is the same request.
pub(super) fn check(args: &Update) -> Result<(), Failure> {
    if args.spec.mask().is_empty() && args.clear.is_empty() && !args.job.is_given() {
        let failure = Failure::usage("nothing to change is named");
        return Err(failure.with_next("Name settings, such as --catch-up 10m; --help lists them."));
    }
    if let Some(path) = args.clear.iter().find(|path| args.spec.mask().contains(path)) {
        return Err(Failure::usage(format!("{path} is both set and cleared")));
    }
    if !args.named.request_id.is_empty() && (args.etag.is_none() || args.job.is_given()) {
        // A repeat would read another state, and so be another request.
        return Err(Failure::usage(
            "--request-id needs --etag, and no options of the job, for a repeat to be the same request",
        ));
    }
    Ok(())
}

pub(super) async fn update(client: &Client, args: Update) -> Result<Schedule, Failure> {
    let Update { name, spec, job, clear, etag, named: RequestIdArg { request_id } } = args;
    let mut paths = spec.mask();
    paths.extend(clear);
    let (job, etag) = match etag {
        Some(etag) if !job.is_given() => (None, etag),
        etag => {
            let present = client.get_schedule(name.as_str()).await?;
            let changed = job.is_given().then(|| job.over(present.job.unwrap_or_default()));
            (changed, etag.unwrap_or(present.etag))
        }
    };
    paths.extend(job.is_some().then(|| "job".to_owned()));
    let schedule = Schedule { name, etag, spec: Some(spec.to_wire()), job, ..Default::default() };
    let request = UpdateScheduleRequest {
        schedule: Some(schedule),
        update_mask: Some(prost_types::FieldMask { paths }),
        request_id,
        ..Default::default()
    };
    present(client.update_schedule(request).await?.schedule)
}

pub(super) async fn delete(client: &Client, args: Change, ui: &Ui) -> Result<(), Failure> {
    let Change { name, named: RequestIdArg { request_id } } = args;
    client.delete_schedule(DeleteScheduleRequest { request_id, ..name.as_str().into() }).await?;
    if ui.is_json() {
        return ui.print_json(&serde_json::json!({ "deleted": { "name": name } }));
    }
    ui.print(&format!("schedule {} deleted", text::escape(&name)))
}

pub(super) async fn pause(client: &Client, args: Pause) -> Result<Schedule, Failure> {
    let Pause { name, reason, named: RequestIdArg { request_id } } = args;
    let request = PauseScheduleRequest { reason, request_id, ..name.into() };
    present(client.pause_schedule(request).await?.schedule)
}

pub(super) async fn resume(client: &Client, args: Change) -> Result<Schedule, Failure> {
    let Change { name, named: RequestIdArg { request_id } } = args;
    present(client.resume_schedule(ResumeScheduleRequest { request_id, ..name.into() }).await?.schedule)
}

pub(super) async fn cancel_backfill(client: &Client, args: Change) -> Result<Schedule, Failure> {
    let Change { name, named: RequestIdArg { request_id } } = args;
    present(client.cancel_backfill(CancelBackfillRequest { request_id, ..name.into() }).await?.schedule)
}

pub(super) async fn trigger(client: &Client, args: Change, ui: &Ui) -> Result<(), Failure> {
    let Change { name, named: RequestIdArg { request_id } } = args;
    let request = TriggerScheduleRequest { request_id, ..name.into() };
    let submitted = client.trigger_schedule(request).await?.submitted.unwrap_or_default();
    if ui.is_json() {
        return ui.print_json(&json::submitted(&submitted));
    }
    ui.print(&text::escape(&submitted.id))
}

pub(super) async fn backfill(client: &Client, args: Backfill, ui: &Ui) -> Result<(), Failure> {
    let Backfill { name, from, until, at_most, dry_run, again, named: RequestIdArg { request_id } } = args;
    let request = BackfillScheduleRequest {
        start_time: Some(to_wire_timestamp(from)),
        end_time: Some(to_wire_timestamp(until)),
        at_most,
        dry_run,
        again,
        request_id,
        ..name.into()
    };
    let answer = client.backfill_schedule(request).await?;
    if ui.is_json() {
        let instants: Vec<_> = answer.instants.iter().map(ToString::to_string).collect();
        return ui.print_json(&serde_json::json!({ "instants": instants, "repeated": answer.repeated }));
    }
    for instant in &answer.instants {
        ui.print(&from_wire_timestamp(instant).to_string())?;
    }
    ui.print(&show::backfill_begun(answer.instants.len(), dry_run, answer.repeated))
}
