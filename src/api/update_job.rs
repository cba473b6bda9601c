//! UpdateJob: new input for a job that has never started.

use std::collections::BTreeSet;

use tonic::{Response, Status};

use super::{
    core::Core,
    needs::Needs,
    outgoing,
    validate::Validator,
    verbs::{Target, Verb},
    views::job_change,
};
use crate::{
    admission::{self, rules::shown},
    engine::{Action, ControlRefusal, JobDone, ReplySlot},
    job::{Canonical, JobDraft, JobId, JobUpdate},
    proto::v1,
    settings::Role,
};

/// Changes the input of a job that has never started.
pub(super) struct UpdateJob {
    id: JobId,
    expected_revision: Option<u64>,
    paths: BTreeSet<Path>,
    update: JobUpdate,
    view: v1::JobView,
}

/// A field that an update mask names, in the order of the names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Path {
    Delay,
    ExpireAfter,
    ExpireTime,
    Headers,
    Payload,
    Priority,
    RunTime,
}

impl Path {
    const ALL: [(&'static str, Path); 7] = [
        ("delay", Path::Delay),
        ("expire_after", Path::ExpireAfter),
        ("expire_time", Path::ExpireTime),
        ("headers", Path::Headers),
        ("payload", Path::Payload),
        ("priority", Path::Priority),
        ("run_time", Path::RunTime),
    ];

    fn named(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(name, _)| *name == path).map(|(_, path)| path)
    }

    fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, path)| *path == self).map_or("", |(name, _)| name)
    }
}

impl Validator {
    /// Reads the new input of a job: the fields of a spec that an update mask names.
    fn job_update(
        &mut self,
        spec: Option<v1::JobSpec>,
        mask: Option<prost_types::FieldMask>,
    ) -> (BTreeSet<Path>, JobUpdate) {
        let paths = self.update_paths(&mask.map(|mask| mask.paths).unwrap_or_default());
        let has = |path| paths.contains(&path);
        let (start, expiry) =
            (has(Path::RunTime) || has(Path::Delay), has(Path::ExpireTime) || has(Path::ExpireAfter));
        let mut spec = spec.unwrap_or_default();
        // What the mask does not name is ignored, faults included.
        spec.payload.take_if(|_| !has(Path::Payload));
        spec.priority.take_if(|_| !has(Path::Priority));
        spec.start.take_if(|_| !start);
        spec.expiry.take_if(|_| !expiry);
        spec.unique_key = None;
        if !has(Path::Headers) {
            spec.headers.clear();
        }
        let set = spec.start.as_ref().map(|start| match start {
            v1::job_spec::Start::RunTime(_) => Path::RunTime,
            v1::job_spec::Start::Delay(_) => Path::Delay,
        });
        self.is_named(&paths, set);
        let set = spec.expiry.as_ref().map(|expiry| match expiry {
            v1::job_spec::Expiry::ExpireTime(_) => Path::ExpireTime,
            v1::job_spec::Expiry::ExpireAfter(_) => Path::ExpireAfter,
        });
        self.is_named(&paths, set);
        let JobDraft { payload, payload_info, headers, priority, start: starts, expiry: expires, .. } =
            self.job_input(&"spec", &mut spec);
        let update = JobUpdate {
            payload: has(Path::Payload).then_some((payload, payload_info)),
            headers: has(Path::Headers).then_some(headers),
            priority: has(Path::Priority).then_some(priority),
            start: start.then_some(starts),
            expiry: expiry.then_some(expires),
        };
        (paths, update)
    }

    fn update_paths(&mut self, paths: &[String]) -> BTreeSet<Path> {
        const PATHS_MAX: usize = 16;
        let allowed = || Path::ALL.map(|(name, _)| format!("`{name}`")).join(", ");
        if paths.is_empty() || paths.len() > PATHS_MAX {
            let count = paths.len();
            self.fault(
                "update_mask",
                format!("has {count} paths; it must have 1 to {PATHS_MAX} of {}", allowed()),
            );
        }
        let mut named = BTreeSet::new();
        for (index, path) in paths.iter().take(PATHS_MAX).enumerate() {
            match Path::named(path) {
                Some(path) => {
                    named.insert(path);
                }
                None => {
                    let (field, path, allowed) =
                        (format!("update_mask.paths[{index}]"), shown(path), allowed());
                    self.fault(
                        field,
                        format!(
                            "{path} can't be changed, only {allowed}: cancel the job, and submit another one"
                        ),
                    );
                }
            }
        }
        named
    }

    /// Checks that the mask names the field of a choice that is set.
    fn is_named(&mut self, paths: &BTreeSet<Path>, set: Option<Path>) {
        if let Some(set) = set.filter(|set| !paths.contains(set)) {
            let name = set.name();
            self.fault(
                format!("spec.{name}"),
                format!("is set, but not named by update_mask: name `{name}` there"),
            );
        }
    }
}

impl Verb for UpdateJob {
    type Request = v1::UpdateJobRequest;
    type Response = v1::UpdateJobResponse;
    type Done = JobDone;
    const NAME: &'static str = "UpdateJob";
    const NEEDS: Needs = Needs::Role(Role::Admin);

    fn read(request: v1::UpdateJobRequest, validator: &mut Validator) -> Self {
        let (paths, update) = validator.job_update(request.spec, request.update_mask);
        UpdateJob {
            id: validator.job_id("id", &request.id),
            expected_revision: validator.expected_revision(request.expected_revision),
            paths,
            update,
            view: validator.view("view", request.view, v1::JobView::Unspecified),
        }
    }

    fn target(&self) -> Target<'_> {
        Target::Job(self.id, self.expected_revision)
    }

    fn shows_job(&self) -> bool {
        self.view != v1::JobView::Unspecified
    }

    fn add_to_digest(&self, said: &mut Canonical) {
        for path in &self.paths {
            said.put_text("update_mask", path.name());
        }
        admission::put_update(said, &self.update);
    }

    fn action(&self, ask: ReplySlot<JobDone, ControlRefusal>) -> Action {
        let (id, expected_revision) = (self.id, self.expected_revision);
        Action::Update { id, expected_revision, update: Box::new(self.update.clone()), ask }
    }

    async fn answer(self, core: &Core, done: JobDone) -> Result<Response<v1::UpdateJobResponse>, Status> {
        let share = core.outgoing.share();
        let (change, job) = job_change(core, &share, done, self.view).await?;
        Ok(outgoing::message(v1::UpdateJobResponse { change: Some(change), job }, share))
    }
}
