//! The generated protocol: messages, clients and servers of `jobmill.v1`.

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
    #[cfg(feature = "cli")]
    pub mod bench {
        tonic::include_proto!("jobmill.bench.v1");
    }
}

#[cfg(feature = "cli")]
pub use generated::bench;
pub use generated::v1;

/// The protocol's descriptors, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/jobmill_v1.bin"));
