//! The gRPC server around the services.

use std::{sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::TcpIncoming};

use super::{Core, JobQueueApi, MESSAGE_MAX_BYTES, QueueServiceApi, calls::CountCalls};
use crate::proto::{
    self,
    v1::{job_queue_server::JobQueueServer, queue_service_server::QueueServiceServer},
};

/// Streams that one connection may have open.
const STREAMS_MAX: u32 = 1_024;
/// All headers of a call together.
const HEADERS_MAX_BYTES: u32 = 16 << 10;
/// Streams that a client opened and reset, and that are not cleaned up yet.
const PENDING_RESETS_MAX: usize = 50;
/// Streams that were reset for a client's faults.
const FAULTY_RESETS_MAX: usize = 200;
/// A connection that is silent for so long is asked whether it is alive,
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);
/// and cut if it does not say so in this time.
const KEEPALIVE_PATIENCE: Duration = Duration::from_secs(20);

/// Why the server could not go on.
#[derive(Debug, thiserror::Error)]
#[error("the gRPC server failed")]
pub struct ApiError(#[from] tonic::transport::Error);

/// A gRPC server with the settings that Jobmill's own has, so that one which does nothing can be compared with it.
#[must_use]
pub fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_max_local_error_reset_streams(Some(FAULTY_RESETS_MAX))
        .http2_max_header_list_size(HEADERS_MAX_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_PATIENCE))
}

/// The connections of a listener, as Jobmill's own server takes them.
#[must_use]
pub fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

/// Serves until `stopping` is cancelled, then until open calls have ended.
pub(crate) async fn serve(
    core: Core,
    listener: TcpListener,
    stopping: CancellationToken,
) -> Result<(), ApiError> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<JobQueueServer<JobQueueApi>>().await;
    reporter.set_serving::<QueueServiceServer<QueueServiceApi>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let calls = CountCalls::new(Arc::clone(&core.metrics));
    let jobs = JobQueueServer::new(JobQueueApi::new(core.clone()))
        .max_decoding_message_size(MESSAGE_MAX_BYTES)
        .max_encoding_message_size(2 * MESSAGE_MAX_BYTES);
    let queues =
        QueueServiceServer::new(QueueServiceApi::new(core)).max_decoding_message_size(MESSAGE_MAX_BYTES);
    let mut router = server().layer(calls).add_service(jobs).add_service(queues).add_service(health);
    // Built from what was compiled in: it can't be wrong at run time unless the build is.
    if let (Ok(v1), Ok(v1alpha)) = (reflection().build_v1(), reflection().build_v1alpha()) {
        router = router.add_service(v1).add_service(v1alpha);
    }
    let serving = router.serve_with_incoming_shutdown(incoming(listener), async move {
        stopping.cancelled().await;
        reporter.set_not_serving::<JobQueueServer<JobQueueApi>>().await;
        reporter.set_not_serving::<QueueServiceServer<QueueServiceApi>>().await;
    });
    Ok(serving.await?)
}
