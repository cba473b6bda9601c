//! Descriptions of payloads and results.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Description of bytes for their reader.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
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

    /// Creates a description with a media type and no metadata.
    #[must_use]
    pub fn typed(media_type: impl Into<String>) -> Self {
        PayloadInfo { media_type: media_type.into(), ..Self::default() }
    }

    /// Returns whether neither media type nor metadata is given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.media_type.is_empty() && self.metadata.is_empty()
    }

    /// Returns the size of the description in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.media_type.len() + bytes_of(&self.metadata)
    }
}

/// Output of a handler.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Output {
    /// The result's bytes.
    pub bytes: Bytes,
    /// Description of the result for its readers.
    pub info: PayloadInfo,
}

impl Output {
    /// Creates an output of these bytes, without a description.
    #[must_use]
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Output { bytes: bytes.into(), info: PayloadInfo::default() }
    }

    /// Sets the media type.
    #[must_use]
    pub fn media_type(mut self, media_type: impl Into<String>) -> Self {
        self.info.media_type = media_type.into();
        self
    }

    /// Adds a name and a value to the description.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.info.metadata.insert(key.into(), value.into());
        self
    }

    /// Returns whether the handler returned nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.info.is_empty()
    }

    /// Returns what the job's own row holds of the result; `None` if the handler returned nothing.
    #[must_use]
    pub fn summary(&self) -> Option<Arc<ResultInfo>> {
        let bytes = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        (!self.is_empty()).then(|| Arc::new(ResultInfo { bytes, info: self.info.clone() }))
    }
}

/// Size and description of a job's result.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ResultInfo {
    /// Size of the result in bytes.
    pub bytes: u32,
    /// Description of the result for its readers.
    #[serde(flatten)]
    pub info: PayloadInfo,
}

/// Returns the total size of names and values in bytes.
pub(crate) fn bytes_of(entries: &BTreeMap<String, String>) -> usize {
    entries.iter().map(|(key, value)| key.len() + value.len()).sum()
}
