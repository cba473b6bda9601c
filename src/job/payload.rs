//! What is known of bytes beside themselves.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What a reader of some bytes is told of them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PayloadInfo {
    /// The media type; empty where none was given.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The sender's own names and values, such as an encoding.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

impl PayloadInfo {
    /// The media type of text.
    pub const TEXT: &'static str = "text/plain; charset=utf-8";

    /// A media type without metadata.
    #[must_use]
    pub fn typed(media_type: impl Into<String>) -> Self {
        PayloadInfo { media_type: media_type.into(), ..Self::default() }
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.media_type.is_empty() && self.metadata.is_empty()
    }

    /// The bytes that it takes itself.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.media_type.len() + bytes_of(&self.metadata)
    }
}

/// What a handler returned.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Output {
    /// The result itself.
    pub bytes: Bytes,
    /// What its readers are told of it.
    pub info: PayloadInfo,
}

impl Output {
    /// Whether nothing was returned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.info.is_empty()
    }

    /// What a job keeps of it in its own row; absent where nothing was returned.
    #[must_use]
    pub fn summary(&self) -> Option<Arc<ResultInfo>> {
        let bytes = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        (!self.is_empty()).then(|| Arc::new(ResultInfo { bytes, info: self.info.clone() }))
    }
}

/// What a job knows of its result.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ResultInfo {
    /// How many bytes it has.
    pub bytes: u32,
    /// What its readers are told of it.
    #[serde(flatten)]
    pub info: PayloadInfo,
}

/// The bytes of names and values.
pub(crate) fn bytes_of(entries: &BTreeMap<String, String>) -> usize {
    entries.iter().map(|(key, value)| key.len() + value.len()).sum()
}
