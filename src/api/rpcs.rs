//! What each RPC asks of its caller. One that is not here is not served.

use crate::settings::Role;

/// What an RPC asks of its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Needs {
    /// Nothing: whoever reaches the server may know whether it is well.
    Nothing,
    /// Any token.
    AnyToken,
    /// This role, on the queues that the call is about.
    Role(Role),
}

/// The RPC at a path, as it is told in the audit, and what it asks.
pub(super) fn find(path: &str) -> Option<(&'static str, Needs)> {
    RPCS.iter().find(|(rpc, _)| path.strip_prefix('/') == Some(rpc)).copied()
}

const SUBMIT: Needs = Needs::Role(Role::Submit);
const READ: Needs = Needs::Role(Role::Read);
const ADMIN: Needs = Needs::Role(Role::Admin);

const RPCS: &[(&str, Needs)] = &[
    ("jobmill.v1.JobQueue/Submit", SUBMIT),
    ("jobmill.v1.JobQueue/SubmitBatch", SUBMIT),
    ("jobmill.v1.JobQueue/SubmitStream", SUBMIT),
    ("jobmill.v1.JobQueue/SubmitAndWatch", SUBMIT),
    ("jobmill.v1.JobQueue/WatchStatus", READ),
    ("jobmill.v1.JobQueue/GetJob", READ),
    ("jobmill.v1.JobQueue/ListJobs", READ),
    ("jobmill.v1.JobQueue/CountJobs", READ),
    ("jobmill.v1.JobQueue/CancelJob", ADMIN),
    ("jobmill.v1.JobQueue/RetryJob", ADMIN),
    ("jobmill.v1.JobQueue/DeleteJob", ADMIN),
    ("jobmill.v1.QueueService/CreateQueue", ADMIN),
    ("jobmill.v1.QueueService/GetQueue", READ),
    ("jobmill.v1.QueueService/ListQueues", READ),
    ("jobmill.v1.QueueService/UpdateQueue", ADMIN),
    ("jobmill.v1.QueueService/DeleteQueue", ADMIN),
    ("jobmill.v1.QueueService/PauseQueue", ADMIN),
    ("jobmill.v1.QueueService/ResumeQueue", ADMIN),
    ("jobmill.v1.QueueService/PurgeQueue", ADMIN),
    ("grpc.health.v1.Health/Check", Needs::Nothing),
    ("grpc.health.v1.Health/Watch", Needs::Nothing),
    ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Needs::AnyToken),
    ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Needs::AnyToken),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{super::calls::methods, *};
    use crate::proto;

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
        let listed: BTreeSet<_> = RPCS.iter().map(|(rpc, _)| (*rpc).to_owned()).collect();
        assert_eq!(listed, served());
        assert_eq!(listed.len(), RPCS.len(), "none is listed twice");
    }

    #[test]
    fn paths_are_found_as_a_whole_only() {
        assert_eq!(find("/jobmill.v1.JobQueue/Submit"), Some(("jobmill.v1.JobQueue/Submit", SUBMIT)));
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
