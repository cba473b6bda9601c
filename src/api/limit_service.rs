//! The LimitService.

use tonic::{Request, Response, Status};

use super::{
    core::Core,
    errors::limit_not_found,
    limit_verbs::{CreateLimit, DeleteLimit, DeleteLimitOverride, SetLimitOverride, UpdateLimit},
    needs::Needs,
    page_token, show_limit,
    sizes::ENOUGH_BYTES,
    validate::Validator,
    verbs::{self, Verb},
};
use crate::{
    engine::LimitView,
    proto::v1::{self, limit_service_server::LimitService},
    settings::Role,
};

/// The LimitService.
#[derive(Clone)]
pub(crate) struct LimitServiceApi {
    core: Core,
}

impl LimitServiceApi {
    pub(crate) fn new(core: Core) -> Self {
        LimitServiceApi { core }
    }
}

#[tonic::async_trait]
impl LimitService for LimitServiceApi {
    async fn create_limit(
        &self,
        call: Request<v1::CreateLimitRequest>,
    ) -> Result<Response<v1::CreateLimitResponse>, Status> {
        verbs::run::<CreateLimit>(&self.core, call).await
    }

    async fn get_limit(
        &self,
        call: Request<v1::GetLimitRequest>,
    ) -> Result<Response<v1::GetLimitResponse>, Status> {
        let body = call.into_inner();
        let mut validator = Validator::new(self.core.clock.now(), &body.namespace);
        validator.limit_name("name", &body.name);
        validator.finish()?;
        let view = self.core.shard.limits.limit(&body.name).ok_or_else(|| limit_not_found(&body.name))?;
        Ok(Response::new(v1::GetLimitResponse { limit: Some(show_limit::limit(&view)) }))
    }

    async fn list_limits(
        &self,
        call: Request<v1::ListLimitsRequest>,
    ) -> Result<Response<v1::ListLimitsResponse>, Status> {
        let body = call.into_inner();
        let mut validator = Validator::new(self.core.clock.now(), &body.namespace);
        let page_size = validator.page_size(body.page_size);
        let after = page_token::read_after(&body.page_token);
        if after.is_none() && !body.page_token.is_empty() {
            validator.no_page_token();
        }
        validator.finish()?;
        let is_left = |view: &LimitView| after.as_deref().is_none_or(|after| &*view.info.name > after);
        let mut left = self.core.shard.limits.limits().into_iter().filter(is_left);
        let (mut limits, mut bytes) = (Vec::new(), 0);
        while limits.len() < page_size && bytes < ENOUGH_BYTES {
            let Some(view) = left.next() else { break };
            let shown = show_limit::limit(&view);
            bytes += prost::Message::encoded_len(&shown);
            limits.push(shown);
        }
        let last = limits.last().filter(|_| left.next().is_some());
        let next_page_token = last.map(|limit| page_token::issue_after(&limit.name)).unwrap_or_default();
        Ok(Response::new(v1::ListLimitsResponse { limits, next_page_token }))
    }

    async fn update_limit(
        &self,
        call: Request<v1::UpdateLimitRequest>,
    ) -> Result<Response<v1::UpdateLimitResponse>, Status> {
        verbs::run::<UpdateLimit>(&self.core, call).await
    }

    async fn delete_limit(
        &self,
        call: Request<v1::DeleteLimitRequest>,
    ) -> Result<Response<v1::DeleteLimitResponse>, Status> {
        verbs::run::<DeleteLimit>(&self.core, call).await
    }

    async fn set_limit_override(
        &self,
        call: Request<v1::SetLimitOverrideRequest>,
    ) -> Result<Response<v1::SetLimitOverrideResponse>, Status> {
        verbs::run::<SetLimitOverride>(&self.core, call).await
    }

    async fn delete_limit_override(
        &self,
        call: Request<v1::DeleteLimitOverrideRequest>,
    ) -> Result<Response<v1::DeleteLimitOverrideResponse>, Status> {
        verbs::run::<DeleteLimitOverride>(&self.core, call).await
    }

    async fn list_limit_values(
        &self,
        call: Request<v1::ListLimitValuesRequest>,
    ) -> Result<Response<v1::ListLimitValuesResponse>, Status> {
        let body = call.into_inner();
        let now = self.core.clock.now();
        let mut validator = Validator::new(now, &body.namespace);
        validator.limit_name("limit", &body.limit);
        let page_size = validator.page_size(body.page_size);
        let after = page_token::read_after_value(&body.page_token);
        if after.is_none() && !body.page_token.is_empty() {
            validator.no_page_token();
        }
        validator.finish()?;
        let board = &self.core.shard.limits;
        // One more than fits, which shows that there is a next page.
        let views = board.values(&body.limit, after.as_deref(), body.only_overridden, page_size + 1, now);
        let views = views.ok_or_else(|| limit_not_found(&body.limit))?;
        let values: Vec<_> = views.iter().take(page_size).map(show_limit::value).collect();
        let last = values.last().filter(|_| views.len() > page_size);
        let next_page_token = last.map(|last| page_token::issue_after_value(&last.value)).unwrap_or_default();
        Ok(Response::new(v1::ListLimitValuesResponse { values, next_page_token }))
    }
}

const READ: Needs = Needs::Role(Role::Read);

/// What the service's RPCs require of their callers.
pub(super) const RPCS: &[(&str, Needs)] = &[
    ("jobmill.v1.LimitService/CreateLimit", CreateLimit::NEEDS),
    ("jobmill.v1.LimitService/GetLimit", READ),
    ("jobmill.v1.LimitService/ListLimits", READ),
    ("jobmill.v1.LimitService/UpdateLimit", UpdateLimit::NEEDS),
    ("jobmill.v1.LimitService/DeleteLimit", DeleteLimit::NEEDS),
    ("jobmill.v1.LimitService/SetLimitOverride", SetLimitOverride::NEEDS),
    ("jobmill.v1.LimitService/DeleteLimitOverride", DeleteLimitOverride::NEEDS),
    ("jobmill.v1.LimitService/ListLimitValues", READ),
];
