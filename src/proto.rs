//! The generated protobuf code: messages, clients and servers of `jobmill.v1`.

use bytes::Bytes;

#[expect(
    missing_docs,
    clippy::allow_attributes_without_reason,
    clippy::large_enum_variant,
    clippy::doc_markdown,
    reason = "generated"
)]
mod generated {
    pub mod v1 {
        tonic::include_proto!("jobmill.v1");
    }
}

pub use generated::v1;

/// A request of a call that changes something: repeated under the same request id, it changes nothing more.
pub trait ChangeRequest: Send {
    /// The namespace; empty for the default one.
    fn namespace(&self) -> &str;

    /// The request id; empty where there is none.
    fn request_id(&self) -> &str;

    /// The request id, to be set.
    fn request_id_mut(&mut self) -> &mut String;
}

include!(concat!(env!("OUT_DIR"), "/requests.rs"));

impl v1::Payload {
    /// Creates a payload of bytes without a media type.
    #[must_use]
    pub fn of(data: impl Into<Bytes>) -> Self {
        Self { body: Some(v1::payload::Body::Data(data.into())), ..Self::default() }
    }

    /// Creates a payload of text, which gets the media type of plain text by default.
    #[must_use]
    pub fn of_text(text: impl Into<String>) -> Self {
        Self { body: Some(v1::payload::Body::Text(text.into())), ..Self::default() }
    }

    /// Sets the media type.
    #[must_use]
    pub fn with_type(self, media_type: impl Into<String>) -> Self {
        Self { media_type: media_type.into(), ..self }
    }

    /// Returns the bytes; empty if they are left out.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.body {
            Some(v1::payload::Body::Data(data)) => data,
            Some(v1::payload::Body::Text(text)) => text.as_bytes(),
            None => &[],
        }
    }
}

impl v1::Dependency {
    /// Creates a dependency on the success of a job that exists.
    #[must_use]
    pub fn on_job(id: impl Into<String>) -> Self {
        Self { on: Some(v1::dependency::On::JobId(id.into())), ..Self::default() }
    }

    /// Creates a dependency on the success of the job of the same batch with this index.
    #[must_use]
    pub fn on_index(index: i32) -> Self {
        Self { on: Some(v1::dependency::On::BatchIndex(index)), ..Self::default() }
    }

    /// Sets the condition under which the child may start.
    #[must_use]
    pub fn when(self, condition: v1::DependencyCondition) -> Self {
        Self { condition: condition.into(), ..self }
    }

    /// Lets the child do without the dependency once its condition can't hold any more.
    #[must_use]
    pub fn optional(self) -> Self {
        Self { optional_edge: true, ..self }
    }
}

impl v1::JobSpec {
    /// Adds a dependency: the job waits for another one.
    #[must_use]
    pub fn after(mut self, dependency: v1::Dependency) -> Self {
        self.depends_on.push(dependency);
        self
    }

    /// Sets what the job weighs under a limit, in place of 1.
    #[must_use]
    pub fn weight(mut self, limit: impl Into<String>, weight: i32) -> Self {
        self.weights.insert(limit.into(), weight);
        self
    }
}

impl v1::Job {
    /// Returns the name of the job's queue.
    #[must_use]
    pub fn queue(&self) -> &str {
        self.spec.as_ref().map_or("", |spec| &spec.queue)
    }

    /// Returns the name of the job's kind.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.spec.as_ref().map_or("", |spec| &spec.kind)
    }
}

impl v1::SubmitResponse {
    /// Returns the job's id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.submitted.as_ref().map_or("", |submitted| &submitted.id)
    }

    /// Returns the outcome of the submission.
    #[must_use]
    pub fn outcome(&self) -> v1::SubmitOutcome {
        self.submitted.as_ref().map_or(v1::SubmitOutcome::Unspecified, v1::Submitted::outcome)
    }
}

/// The protocol's file descriptor set, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/jobmill_v1.bin"));
