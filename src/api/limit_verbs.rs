//! The verbs that change limits.

use tonic::{Response, Status};

use super::{
    core::Core,
    needs::Needs,
    validate::Validator,
    verbs::{self, Target, Verb},
};
use crate::{
    engine::{Action, ControlRefusal, LimitAction, LimitDone, ReplySlot},
    job::Canonical,
    proto::v1,
    settings::{LimitKey, LimitRule, LimitSpec, Role},
};

const ADMIN: Needs = Needs::Role(Role::Admin);

/// Creates a limit.
pub(super) struct CreateLimit {
    name: String,
    spec: LimitSpec,
}

impl Verb for CreateLimit {
    type Request = v1::CreateLimitRequest;
    type Response = v1::CreateLimitResponse;
    type Done = LimitDone;
    const NAME: &'static str = "CreateLimit";
    const NEEDS: Needs = ADMIN;

    fn read(request: v1::CreateLimitRequest, validator: &mut Validator) -> Self {
        let (name, spec) = validator.job_limit(request.limit);
        CreateLimit { name, spec }
    }

    fn target(&self) -> Target<'_> {
        Target::Limit(&self.name)
    }

    fn add_to_digest(&self, said: &mut Canonical) {
        add_spec(said, &self.spec);
    }

    fn action(&self, ask: ReplySlot<LimitDone, ControlRefusal>) -> Action {
        Action::Limit { name: self.name.clone(), action: LimitAction::Create(self.spec.clone()), ask }
    }

    async fn answer(self, core: &Core, done: LimitDone) -> Result<Response<Self::Response>, Status> {
        let repeated = done.is_repeat;
        Ok(Response::new(v1::CreateLimitResponse { limit: core.limit_after(done), repeated }))
    }
}

/// Replaces what a limit says.
pub(super) struct UpdateLimit {
    name: String,
    etag: String,
    spec: LimitSpec,
}

impl Verb for UpdateLimit {
    type Request = v1::UpdateLimitRequest;
    type Response = v1::UpdateLimitResponse;
    type Done = LimitDone;
    const NAME: &'static str = "UpdateLimit";
    const NEEDS: Needs = ADMIN;

    fn read(request: v1::UpdateLimitRequest, validator: &mut Validator) -> Self {
        let etag = request.limit.as_ref().map(|limit| limit.etag.clone());
        if let Some(etag) = &etag {
            validator.etag("limit.etag", etag);
        }
        let (name, spec) = validator.job_limit(request.limit);
        UpdateLimit { name, etag: etag.unwrap_or_default(), spec }
    }

    fn target(&self) -> Target<'_> {
        Target::Limit(&self.name)
    }

    fn add_to_digest(&self, said: &mut Canonical) {
        said.put_text("etag", &self.etag);
        add_spec(said, &self.spec);
    }

    fn action(&self, ask: ReplySlot<LimitDone, ControlRefusal>) -> Action {
        let etag = verbs::wanted_etag(&self.etag);
        let action = LimitAction::Update { spec: self.spec.clone(), etag };
        Action::Limit { name: self.name.clone(), action, ask }
    }

    async fn answer(self, core: &Core, done: LimitDone) -> Result<Response<Self::Response>, Status> {
        let repeated = done.is_repeat;
        Ok(Response::new(v1::UpdateLimitResponse { limit: core.limit_after(done), repeated }))
    }
}

/// Deletes a limit with its overrides.
pub(super) struct DeleteLimit {
    name: String,
}

impl Verb for DeleteLimit {
    type Request = v1::DeleteLimitRequest;
    type Response = v1::DeleteLimitResponse;
    type Done = LimitDone;
    const NAME: &'static str = "DeleteLimit";
    const NEEDS: Needs = ADMIN;

    fn read(request: v1::DeleteLimitRequest, validator: &mut Validator) -> Self {
        validator.limit_name("name", &request.name);
        DeleteLimit { name: request.name }
    }

    fn target(&self) -> Target<'_> {
        Target::Limit(&self.name)
    }

    fn action(&self, ask: ReplySlot<LimitDone, ControlRefusal>) -> Action {
        Action::Limit { name: self.name.clone(), action: LimitAction::Delete, ask }
    }

    async fn answer(self, _: &Core, _: LimitDone) -> Result<Response<Self::Response>, Status> {
        Ok(Response::new(v1::DeleteLimitResponse {}))
    }
}

/// Gives a value of a limit a rule of its own.
pub(super) struct SetLimitOverride {
    limit: String,
    value: String,
    rule: LimitRule,
}

impl Verb for SetLimitOverride {
    type Request = v1::SetLimitOverrideRequest;
    type Response = v1::SetLimitOverrideResponse;
    type Done = LimitDone;
    const NAME: &'static str = "SetLimitOverride";
    const NEEDS: Needs = ADMIN;

    fn read(request: v1::SetLimitOverrideRequest, validator: &mut Validator) -> Self {
        let (limit, value, rule) = validator.limit_override(request.r#override);
        SetLimitOverride { limit, value, rule }
    }

    fn target(&self) -> Target<'_> {
        Target::Limit(&self.limit)
    }

    fn add_to_digest(&self, said: &mut Canonical) {
        said.put_text("value", &self.value);
        add_rule(said, self.rule);
    }

    fn action(&self, ask: ReplySlot<LimitDone, ControlRefusal>) -> Action {
        let action = LimitAction::SetOverride { value: self.value.clone(), rule: self.rule };
        Action::Limit { name: self.limit.clone(), action, ask }
    }

    async fn answer(self, _: &Core, done: LimitDone) -> Result<Response<Self::Response>, Status> {
        Ok(Response::new(v1::SetLimitOverrideResponse { repeated: done.is_repeat }))
    }
}

/// Takes the rule of its own from a value of a limit.
pub(super) struct DeleteLimitOverride {
    limit: String,
    value: String,
}

impl Verb for DeleteLimitOverride {
    type Request = v1::DeleteLimitOverrideRequest;
    type Response = v1::DeleteLimitOverrideResponse;
    type Done = LimitDone;
    const NAME: &'static str = "DeleteLimitOverride";
    const NEEDS: Needs = ADMIN;

    fn read(request: v1::DeleteLimitOverrideRequest, validator: &mut Validator) -> Self {
        validator.limit_name("limit", &request.limit);
        validator.limit_value("value", &request.value);
        DeleteLimitOverride { limit: request.limit, value: request.value }
    }

    fn target(&self) -> Target<'_> {
        Target::Limit(&self.limit)
    }

    fn add_to_digest(&self, said: &mut Canonical) {
        said.put_text("value", &self.value);
    }

    fn action(&self, ask: ReplySlot<LimitDone, ControlRefusal>) -> Action {
        let action = LimitAction::DeleteOverride { value: self.value.clone() };
        Action::Limit { name: self.limit.clone(), action, ask }
    }

    async fn answer(self, _: &Core, _: LimitDone) -> Result<Response<Self::Response>, Status> {
        Ok(Response::new(v1::DeleteLimitOverrideResponse {}))
    }
}

fn add_spec(said: &mut Canonical, spec: &LimitSpec) {
    add_rule(said, spec.rule);
    match &spec.key {
        LimitKey::All => said.put_text("key", "all"),
        LimitKey::Queue => said.put_text("key", "queue"),
        LimitKey::Kind => said.put_text("key", "kind"),
        LimitKey::Label(label) => said.put_text("label", label),
    }
    spec.kinds.iter().for_each(|kind| said.put_text("kinds", kind));
    spec.queues.iter().for_each(|queue| said.put_text("queues", queue));
}

fn add_rule(said: &mut Canonical, rule: LimitRule) {
    match rule {
        LimitRule::Running(max) => said.put_number("max_running", Some(max)),
        LimitRule::Rate(rate) => {
            said.put_number("rate.count", Some(rate.count));
            // To the nanosecond: a rate is kept as exactly as it is given.
            said.put_number("rate.per", Some(rate.per.as_nanos()));
            said.put_number("rate.burst", Some(rate.burst));
        }
    }
}
