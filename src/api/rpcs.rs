//! The authorisation requirements of each RPC. An RPC that is not listed is not served.

use super::{job_queue, limit_service, needs::Needs, queue_service, schedule_service, worker_service};

/// Returns the name of the RPC at a path, as the audit records it, and its requirements.
pub(super) fn find(path: &str) -> Option<(&'static str, Needs)> {
    let rpc = path.strip_prefix('/')?;
    all().find(|(known, _)| *known == rpc).copied()
}

fn all() -> impl Iterator<Item = &'static (&'static str, Needs)> {
    let services = [
        job_queue::RPCS,
        queue_service::RPCS,
        schedule_service::RPCS,
        limit_service::RPCS,
        worker_service::RPCS,
        OTHERS,
    ];
    services.into_iter().flatten()
}

const OTHERS: &[(&str, Needs)] = &[
    ("jobmill.v1.ServerService/GetServerInfo", Needs::AnyToken),
    ("grpc.health.v1.Health/Check", Needs::Nothing),
    ("grpc.health.v1.Health/Watch", Needs::Nothing),
    ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Needs::AnyToken),
    ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Needs::AnyToken),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{super::calls::methods, *};
    use crate::{proto, settings::Role};

    fn served() -> BTreeSet<String> {
        let sets = [
            proto::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        sets.into_iter().flat_map(methods).map(|(method, _)| method).collect()
    }

    #[test]
    fn every_rpc_that_is_served_says_what_it_needs() {
        let listed: BTreeSet<_> = all().map(|(rpc, _)| (*rpc).to_owned()).collect();
        assert_eq!(listed, served());
        assert_eq!(listed.len(), all().count(), "none is listed twice");
    }

    #[test]
    fn paths_are_found_as_a_whole_only() {
        assert_eq!(
            find("/jobmill.v1.JobQueue/Submit"),
            Some(("jobmill.v1.JobQueue/Submit", Needs::Role(Role::Submit)))
        );
        for path in [
            "",
            "/",
            "jobmill.v1.JobQueue/Submit",
            "//jobmill.v1.JobQueue/Submit",
            "/jobmill.v1.JobQueue/submit",
        ] {
            assert_eq!(find(path), None, "{path}");
        }
    }
}
