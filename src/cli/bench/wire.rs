//! The client's side of the wire, as cheap as possible: requests are encoded once, and of answers only the parts that
//! the bench looks at are decoded. This leaves the machine's cores to the measured server.

use std::marker::PhantomData;

use bytes::{BufMut, Bytes, BytesMut};
use jobmill::proto::v1;
use prost::Message;
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::server::KIND;

/// The payload of every job and of every empty call.
pub(super) const PAYLOAD_BYTES: usize = 100;

/// Codec that sends bytes which are encoded already.
struct Raw<R>(PhantomData<R>);

struct RawEncoder;

struct LeanDecoder<R>(PhantomData<R>);

impl<R: Message + Default + 'static> Codec for Raw<R> {
    type Encode = Bytes;
    type Decode = R;
    type Encoder = RawEncoder;
    type Decoder = LeanDecoder<R>;

    fn encoder(&mut self) -> RawEncoder {
        RawEncoder
    }

    fn decoder(&mut self) -> LeanDecoder<R> {
        LeanDecoder(PhantomData)
    }
}

impl Encoder for RawEncoder {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl<R: Message + Default> Decoder for LeanDecoder<R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        R::decode(buffer).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

/// The part of a WatchStatusResponse that shows which jobs have ended.
#[derive(Clone, PartialEq, Message)]
pub(super) struct LeanWatch {
    #[prost(message, repeated, tag = "1")]
    pub(super) events: Vec<LeanEvent>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LeanEvent {
    #[prost(message, optional, tag = "3")]
    pub(super) updated: Option<LeanUpdated>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LeanUpdated {
    #[prost(message, optional, tag = "1")]
    pub(super) job: Option<LeanJob>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LeanJob {
    #[prost(message, optional, tag = "2")]
    pub(super) spec: Option<LeanSpec>,
    #[prost(bool, tag = "4")]
    pub(super) done: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LeanSpec {
    #[prost(int32, tag = "6")]
    pub(super) priority: i32,
}

/// The part of a SubmitStreamResponse that shows which items were accepted, and how many more may come.
#[derive(Clone, PartialEq, Message)]
pub(super) struct LeanResults {
    #[prost(message, repeated, tag = "1")]
    pub(super) results: Vec<LeanResult>,
    #[prost(int32, tag = "2")]
    pub(super) credits: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LeanResult {
    #[prost(message, optional, tag = "1")]
    pub(super) submitted: Option<()>,
}

/// A method that the bench calls.
#[derive(Clone, Copy, Debug)]
pub(super) enum Method {
    EmptyCall,
    EmptyStream,
    Submit,
    SubmitBatch,
    SubmitStream,
    WatchStatus,
    CreateSchedule,
    UpdateSchedule,
}

impl Method {
    fn path(self) -> PathAndQuery {
        PathAndQuery::from_static(match self {
            Method::EmptyCall => "/jobmill.bench.v1.EmptyService/Call",
            Method::EmptyStream => "/jobmill.bench.v1.EmptyService/Stream",
            Method::Submit => "/jobmill.v1.JobQueue/Submit",
            Method::SubmitBatch => "/jobmill.v1.JobQueue/SubmitBatch",
            Method::SubmitStream => "/jobmill.v1.JobQueue/SubmitStream",
            Method::WatchStatus => "/jobmill.v1.JobQueue/WatchStatus",
            Method::CreateSchedule => "/jobmill.v1.ScheduleService/CreateSchedule",
            Method::UpdateSchedule => "/jobmill.v1.ScheduleService/UpdateSchedule",
        })
    }
}

/// A connection.
#[derive(Clone)]
pub(super) struct Wire(Grpc<Channel>);

impl Wire {
    /// Opens a connection.
    pub(super) async fn connect(uri: &str) -> anyhow::Result<Self> {
        Ok(Wire(Grpc::new(Endpoint::from_shared(uri.to_owned())?.connect().await?)))
    }

    /// Opens an encrypted connection, to a server whose certificate is this one.
    pub(super) async fn connect_tls(uri: &str, certificate: &str) -> anyhow::Result<Self> {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(certificate));
        Ok(Wire(Grpc::new(Endpoint::from_shared(uri.to_owned())?.tls_config(tls)?.connect().await?)))
    }

    /// Opens some connections.
    pub(super) async fn connect_many(uri: &str, count: usize) -> anyhow::Result<Vec<Self>> {
        let mut wires = Vec::with_capacity(count);
        for _ in 0..count {
            wires.push(Self::connect(uri).await?);
        }
        Ok(wires)
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.0.ready().await.map_err(|error| Status::unavailable(error.to_string()))
    }

    /// Makes a unary call. Only the form of the answer is checked.
    pub(super) async fn call(&mut self, method: Method, body: Bytes) -> Result<(), Status> {
        self.ready().await?;
        self.0.unary(Request::new(body), method.path(), Raw::<()>(PhantomData)).await?;
        Ok(())
    }

    /// Opens a stream in both directions.
    pub(super) async fn stream<R: Message + Default + 'static>(
        &mut self,
        method: Method,
        bodies: impl tokio_stream::Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Streaming<R>, Status> {
        self.ready().await?;
        Ok(self.0.streaming(Request::new(bodies), method.path(), Raw::<R>(PhantomData)).await?.into_inner())
    }

    /// Opens a watch.
    pub(super) async fn watch<R: Message + Default + 'static>(
        &mut self,
        request: &v1::WatchStatusRequest,
    ) -> Result<Streaming<R>, Status> {
        self.ready().await?;
        let body = Request::new(Bytes::from(request.encode_to_vec()));
        let codec = Raw::<R>(PhantomData);
        Ok(self.0.server_streaming(body, Method::WatchStatus.path(), codec).await?.into_inner())
    }

    /// Watches the jobs that succeed in a queue from now on.
    pub(super) async fn watch_successes(&mut self, queue: &str) -> Result<Streaming<LeanWatch>, Status> {
        let request = v1::WatchStatusRequest {
            filter: Some(v1::JobFilter {
                queues: vec![queue.to_owned()],
                states: vec![v1::JobState::Succeeded as i32],
                ..v1::JobFilter::default()
            }),
            start: v1::WatchStart::Now as i32,
            ..v1::WatchStatusRequest::default()
        };
        self.watch(&request).await
    }
}

/// Returns the payload of every job.
pub(super) fn payload() -> Bytes {
    Bytes::from_static(&[b'x'; PAYLOAD_BYTES])
}

/// Returns a job for a queue.
pub(super) fn job(queue: &str, priority: i32) -> v1::JobSpec {
    v1::JobSpec {
        queue: queue.to_owned(),
        kind: KIND.to_owned(),
        payload: Some(v1::Payload::of(payload())),
        priority: (priority != 0).then_some(priority),
        ..v1::JobSpec::default()
    }
}

/// Returns an encoded Submit of a job.
pub(super) fn submit_body(queue: &str, priority: i32) -> Bytes {
    submit_request(queue, priority).encode_to_vec().into()
}

/// Returns a Submit of a job.
pub(super) fn submit_request(queue: &str, priority: i32) -> v1::SubmitRequest {
    v1::SubmitRequest { job: Some(job(queue, priority)), ..v1::SubmitRequest::default() }
}

/// Returns an encoded SubmitBatch of equal jobs.
pub(super) fn batch_body(queue: &str, priority: i32, jobs: usize) -> Bytes {
    batch_of(vec![job(queue, priority); jobs])
}

/// The label of the tenants.
pub(super) const TENANT: &str = "tenant";
/// The label of the endpoints that jobs call.
pub(super) const ENDPOINT: &str = "endpoint";

/// Returns an encoded SubmitBatch of jobs with one tenant after another, from the one with the number `first` on, each round at
/// other endpoints, if there are any.
pub(super) fn batch_of_tenants(
    queue: &str,
    first: usize,
    jobs: usize,
    (tenants, endpoints): (usize, usize),
) -> Bytes {
    let of = |number: usize| {
        let tenant = (TENANT.to_owned(), format!("tenant-{}", number % tenants));
        let of_endpoint = |endpoint: usize| (ENDPOINT.to_owned(), format!("endpoint-{endpoint}"));
        let endpoint = (number + number / tenants).checked_rem(endpoints).map(of_endpoint);
        v1::JobSpec { labels: std::iter::once(tenant).chain(endpoint).collect(), ..job(queue, 0) }
    };
    batch_of((first..first + jobs).map(of).collect())
}

/// Returns an encoded SubmitBatch.
pub(super) fn batch_of(jobs: Vec<v1::JobSpec>) -> Bytes {
    v1::SubmitBatchRequest { jobs, ..v1::SubmitBatchRequest::default() }.encode_to_vec().into()
}

/// Returns an encoded empty call, which is also a message of an empty stream.
pub(super) fn empty_body() -> Bytes {
    super::proto::CallRequest { payload: payload().into() }.encode_to_vec().into()
}

/// Adds a request id to an encoded Submit. Encoded fields of a message may simply follow each other.
pub(super) fn with_request_id(body: &Bytes, id: &uuid::Uuid) -> Bytes {
    /// Field 2 of SubmitRequest, with a length.
    const REQUEST_ID: u8 = 2 << 3 | 2;

    let mut text = uuid::Uuid::encode_buffer();
    let text = id.hyphenated().encode_lower(&mut text).as_bytes();
    let mut bytes = BytesMut::with_capacity(body.len() + 2 + text.len());
    bytes.put_slice(body);
    bytes.put_u8(REQUEST_ID);
    bytes.put_u8(text.len() as u8);
    bytes.put_slice(text);
    bytes.freeze()
}
