//! The generated protocol: messages, clients and servers of `jobmill.v1`.

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
    /// Bytes without a type.
    #[must_use]
    pub fn of(data: impl Into<Bytes>) -> Self {
        Self { body: Some(v1::payload::Body::Data(data.into())), ..Self::default() }
    }

    /// Text, whose type is then plain text.
    #[must_use]
    pub fn of_text(text: impl Into<String>) -> Self {
        Self { body: Some(v1::payload::Body::Text(text.into())), ..Self::default() }
    }

    /// With a media type.
    #[must_use]
    pub fn with_type(self, media_type: impl Into<String>) -> Self {
        Self { media_type: media_type.into(), ..self }
    }

    /// The bytes; none where they are left out.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.body {
            Some(v1::payload::Body::Data(data)) => data,
            Some(v1::payload::Body::Text(text)) => text.as_bytes(),
            None => &[],
        }
    }
}

impl v1::Job {
    /// The name of its queue.
    #[must_use]
    pub fn queue(&self) -> &str {
        self.spec.as_ref().map_or("", |spec| &spec.queue)
    }

    /// The name of its kind.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.spec.as_ref().map_or("", |spec| &spec.kind)
    }
}

impl v1::SubmitResponse {
    /// The job's id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.submitted.as_ref().map_or("", |submitted| &submitted.id)
    }

    /// What became of the submission.
    #[must_use]
    pub fn outcome(&self) -> v1::SubmitOutcome {
        self.submitted.as_ref().map_or(v1::SubmitOutcome::Unspecified, v1::Submitted::outcome)
    }
}

/// The protocol's descriptors, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/jobmill_v1.bin"));
