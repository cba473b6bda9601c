//! Handlers with typed input and output, for remote workers and for a server's own process.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    execute::{Attempt, Handler, HandlerError, HandlerFuture},
    job::Output,
};

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/x-protobuf";

/// A value that a handler returns as the job's result.
pub trait IntoOutput {
    /// Converts the value.
    fn into_output(self) -> Output;
}

impl IntoOutput for Output {
    fn into_output(self) -> Output {
        self
    }
}

impl IntoOutput for Bytes {
    fn into_output(self) -> Output {
        Output::new(self)
    }
}

impl IntoOutput for Vec<u8> {
    fn into_output(self) -> Output {
        Output::new(self)
    }
}

impl IntoOutput for String {
    fn into_output(self) -> Output {
        Output::new(self).media_type(crate::job::PayloadInfo::TEXT)
    }
}

impl IntoOutput for () {
    fn into_output(self) -> Output {
        Output::default()
    }
}

/// Creates a handler that gets the payload as bytes.
///
/// ```
/// # use jobmill::{HandlerError, worker};
/// let reverse = worker::bytes(|_attempt, payload| async move {
///     Ok::<_, HandlerError>(payload.iter().rev().copied().collect::<Vec<u8>>())
/// });
/// # drop(reverse);
/// ```
pub fn bytes<F, Fut, R>(run: F) -> impl Handler
where
    F: Fn(Attempt, Bytes) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, HandlerError>> + Send + 'static,
    R: IntoOutput,
{
    move |attempt: Attempt| {
        let payload = attempt.payload().clone();
        let run = run(attempt, payload);
        async move { Ok(run.await?.into_output()) }
    }
}

/// Creates a handler whose input and output are JSON. A payload that can't be read is a permanent failure with the code
/// `INVALID_PAYLOAD`. An output of `()` is no result.
///
/// ```
/// # use jobmill::{HandlerError, worker};
/// #[derive(serde::Deserialize)]
/// struct Mail {
///     to: String,
/// }
///
/// let send = worker::json(|attempt, mail: Mail| async move {
///     attempt.progress(0.5, &format!("writing to {}", mail.to), "send");
///     Ok::<_, HandlerError>(())
/// });
/// # drop(send);
/// ```
pub fn json<F, T, Fut, R>(run: F) -> impl Handler
where
    F: Fn(Attempt, T) -> Fut + Send + Sync + 'static,
    T: DeserializeOwned + Send + 'static,
    Fut: Future<Output = Result<R, HandlerError>> + Send + 'static,
    R: Serialize + Send + 'static,
{
    let run = Arc::new(run);
    move |attempt: Attempt| {
        let run = Arc::clone(&run);
        async move {
            let input = serde_json::from_slice(attempt.payload()).map_err(unreadable)?;
            let output = run(attempt, input).await?;
            let json = serde_json::to_vec(&output).map_err(HandlerError::permanent)?;
            Ok(if json == b"null" { Output::default() } else { Output::new(json).media_type(JSON) })
        }
    }
}

/// Creates a handler whose input and output are protobuf messages. A payload that can't be read is a permanent failure
/// with the code `INVALID_PAYLOAD`.
pub fn protobuf<F, T, Fut, R>(run: F) -> impl Handler
where
    F: Fn(Attempt, T) -> Fut + Send + Sync + 'static,
    T: prost::Message + Default + 'static,
    Fut: Future<Output = Result<R, HandlerError>> + Send + 'static,
    R: prost::Message + 'static,
{
    let run = Arc::new(run);
    move |attempt: Attempt| {
        let run = Arc::clone(&run);
        async move {
            let input = T::decode(attempt.payload().clone()).map_err(unreadable)?;
            let output = run(attempt, input).await?.encode_to_vec();
            Ok(if output.is_empty() { Output::default() } else { Output::new(output).media_type(PROTOBUF) })
        }
    }
}

fn unreadable(error: impl std::error::Error) -> HandlerError {
    HandlerError::permanent(format!("the payload can't be read: {error}")).with_code("INVALID_PAYLOAD")
}

/// What an attempt does when its worker has heard nothing of the server for a lease's time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnSilence {
    /// It goes on, and its end is reported when the server is back. The server may have given the job to another worker
    /// by then; the report is then refused, and the attempt is asked to stop.
    #[default]
    Continue,
    /// It is stopped before its lease is over, so that no two attempts of a job run at the same time.
    Stop,
}

/// Sets what a handler's attempts do when the server is silent. With [`OnSilence::Stop`], an attempt is asked to stop a
/// grace period before the end of its lease (at most a quarter of the lease), and its future is dropped before that
/// end. A handler that blocks its thread can't be dropped.
pub fn on_silence(what: OnSilence, handler: impl Handler) -> impl Handler {
    Adjusted { handler, stops: what == OnSilence::Stop }
}

struct Adjusted<H> {
    handler: H,
    stops: bool,
}

impl<H: Handler> Handler for Adjusted<H> {
    fn run(&self, attempt: Attempt) -> HandlerFuture {
        self.handler.run(attempt)
    }

    fn stop_grace(&self) -> Duration {
        self.handler.stop_grace()
    }

    fn stops_on_silence(&self) -> bool {
        self.stops
    }
}
