//! The ServerService.

use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{caller::Caller, convert, core::Core, limits, validate::Validator};
use crate::{
    proto::v1::{self, server_service_server::ServerService},
    timetable::time_zone_database,
};

/// The ServerService.
#[derive(Clone)]
pub(crate) struct ServerServiceApi {
    core: Core,
}

impl ServerServiceApi {
    pub(crate) fn new(core: Core) -> Self {
        ServerServiceApi { core }
    }
}

#[tonic::async_trait]
impl ServerService for ServerServiceApi {
    async fn get_server_info(
        &self,
        call: Request<v1::GetServerInfoRequest>,
    ) -> Result<Response<v1::GetServerInfoResponse>, Status> {
        let caller = Caller::of(&call)?;
        let body = call.into_inner();
        Validator::new(self.core.clock.now(), &body.namespace).finish()?;
        let identity = self.core.shard.reads.read(|reader| Ok(reader.identity())).await?;
        let grants = caller.subject.grants().map(|(role, queues)| v1::Grant {
            role: role.as_str().to_owned(),
            queues: queues.iter().map(ToString::to_string).collect(),
        });
        Ok(Response::new(v1::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            store_id: Uuid::from_bytes(identity.place).to_string(),
            features: limits::FEATURES.map(str::to_owned).into(),
            limits: limits::all(),
            time: Some(convert::timestamp(self.core.clock.now())),
            subject: caller.subject.name().unwrap_or_default().to_owned(),
            grants: grants.collect(),
            time_zone_database: time_zone_database(),
        }))
    }
}
