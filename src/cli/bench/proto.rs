//! The empty service that the bench compares with, generated from `empty.proto`.

#![expect(
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    clippy::doc_markdown,
    reason = "generated"
)]

tonic::include_proto!("jobmill.bench.v1");
