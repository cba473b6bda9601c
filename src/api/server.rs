//! The gRPC server around the services.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{
    codegen::http::{HeaderName, HeaderValue, Method},
    transport::{Server, server::Connected},
};
use tonic_web::GrpcWebLayer;
use tower::util::option_layer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::{
    calls::Calls,
    core::Core,
    guard::{Gate, GuardLayer},
    job_queue::JobQueueApi,
    limit_service::LimitServiceApi,
    queue_service::QueueServiceApi,
    schedule_service::ScheduleServiceApi,
    server_service::ServerServiceApi,
    sizes::MESSAGE_MAX_BYTES,
    worker_service::WorkerServiceApi,
};
use crate::{
    listen::{Connection, Listener, Peer},
    proto::{
        self,
        v1::{
            job_queue_server::JobQueueServer, limit_service_server::LimitServiceServer,
            queue_service_server::QueueServiceServer, schedule_service_server::ScheduleServiceServer,
            server_service_server::ServerServiceServer, worker_service_server::WorkerServiceServer,
        },
    },
    settings::LimitSettings,
};

/// Limit of streams that a client opened and reset, and that are not cleaned up yet.
const PENDING_RESETS_MAX: usize = 50;
/// Limit of streams that the server reset because of a client's errors.
const FAULTY_RESETS_MAX: usize = 200;

/// How long a browser may cache a CORS preflight response.
const CORS_MAX_AGE: Duration = Duration::from_secs(3_600);

/// The gRPC server has failed.
#[derive(Debug, thiserror::Error)]
#[error("the gRPC server failed")]
pub struct ApiError(#[from] tonic::transport::Error);

/// Creates a gRPC server with these limits, as Jobmill's own has. It is public so that benchmarks can compare with an
/// empty service.
#[must_use]
pub fn server(limits: &LimitSettings) -> Server {
    Server::builder()
        .max_concurrent_streams(limits.streams_per_connection)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_max_local_error_reset_streams(Some(FAULTY_RESETS_MAX))
        .http2_max_header_list_size(limits.header_bytes)
        .http2_keepalive_interval(Some(limits.keepalive_interval))
        .http2_keepalive_timeout(Some(limits.keepalive_timeout))
}

/// Returns the connections of a listener as a stream.
pub fn incoming(listener: Listener) -> impl Stream<Item = Result<Connection, Infallible>> {
    futures_util::stream::unfold(listener, |mut listener| async {
        let connection = listener.next().await;
        Some((Ok(connection), listener))
    })
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer().clone()
    }
}

/// Builds the CORS policy for the web pages that may call.
fn cors(gate: &Gate) -> CorsLayer {
    let origins = gate.origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
    let exposed = ["grpc-status", "grpc-message", "grpc-status-details-bin"].map(HeaderName::from_static);
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(exposed)
        .max_age(CORS_MAX_AGE)
}

/// Serves until `stopping` is cancelled, then until open calls have ended.
pub(crate) async fn serve(
    core: Core,
    gate: Gate,
    limits: &LimitSettings,
    listener: Listener,
    stopping: CancellationToken,
) -> Result<(), ApiError> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<JobQueueServer<JobQueueApi>>().await;
    reporter.set_serving::<QueueServiceServer<QueueServiceApi>>().await;
    reporter.set_serving::<ScheduleServiceServer<ScheduleServiceApi>>().await;
    reporter.set_serving::<LimitServiceServer<LimitServiceApi>>().await;
    reporter.set_serving::<WorkerServiceServer<WorkerServiceApi>>().await;
    reporter.set_serving::<ServerServiceServer<ServerServiceApi>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // The types of error details: without them, clients that use reflection can't show the details.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let calls = Calls::new(Arc::clone(&core.counters));
    let jobs = JobQueueServer::new(JobQueueApi::new(core.clone()))
        .max_decoding_message_size(MESSAGE_MAX_BYTES)
        .max_encoding_message_size(2 * MESSAGE_MAX_BYTES);
    let queues = QueueServiceServer::new(QueueServiceApi::new(core.clone()))
        .max_decoding_message_size(MESSAGE_MAX_BYTES);
    let schedules = ScheduleServiceServer::new(ScheduleServiceApi::new(core.clone()))
        .max_decoding_message_size(MESSAGE_MAX_BYTES)
        .max_encoding_message_size(2 * MESSAGE_MAX_BYTES);
    let job_limits = LimitServiceServer::new(LimitServiceApi::new(core.clone()))
        .max_decoding_message_size(MESSAGE_MAX_BYTES);
    let workers = WorkerServiceServer::new(WorkerServiceApi::new(core.clone()))
        .max_decoding_message_size(MESSAGE_MAX_BYTES)
        .max_encoding_message_size(2 * MESSAGE_MAX_BYTES);
    let about =
        ServerServiceServer::new(ServerServiceApi::new(core)).max_decoding_message_size(MESSAGE_MAX_BYTES);
    let pages = !gate.origins.is_empty();
    let mut router = server(limits)
        .accept_http1(pages)
        .layer(option_layer(pages.then(|| cors(&gate))))
        .layer(option_layer(pages.then(GrpcWebLayer::new)))
        .layer(GuardLayer::new(gate, calls))
        .add_service(jobs)
        .add_service(queues)
        .add_service(schedules)
        .add_service(job_limits)
        .add_service(workers)
        .add_service(about)
        .add_service(health);
    // Built from descriptors that were compiled in, so it fails at run time only if the build is wrong.
    if let (Ok(v1), Ok(v1alpha)) = (reflection().build_v1(), reflection().build_v1alpha()) {
        router = router.add_service(v1).add_service(v1alpha);
    }
    let serving = router.serve_with_incoming_shutdown(incoming(listener), async move {
        stopping.cancelled().await;
        reporter.set_not_serving::<JobQueueServer<JobQueueApi>>().await;
        reporter.set_not_serving::<QueueServiceServer<QueueServiceApi>>().await;
        reporter.set_not_serving::<ScheduleServiceServer<ScheduleServiceApi>>().await;
        reporter.set_not_serving::<LimitServiceServer<LimitServiceApi>>().await;
        reporter.set_not_serving::<WorkerServiceServer<WorkerServiceApi>>().await;
        reporter.set_not_serving::<ServerServiceServer<ServerServiceApi>>().await;
    });
    Ok(serving.await?)
}
