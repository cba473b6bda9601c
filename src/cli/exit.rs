//! Exit codes of the program, and one-line error messages.

use std::{io, process::ExitCode};

use super::text;
use jobmill::{
    client::{ClientError, Code, Refusal},
    proto::v1::ErrorReason,
};

/// The list of exit codes in `--help`.
pub(super) const HELP: &str = "\
Exit codes:
    0  all went well
    1  a job that was followed or waited for failed; doctor: there is a problem
    2  wrong usage, or an argument that the server refuses
    3  a job that was followed or waited for was cancelled
    4  no such job, queue, kind, worker or limit; submit: the request id's job was deleted
    5  refused: no permission, the queue is full, the job's state does not allow it, it exists
       already, it has changed since, or the server lacks what --require names
    6  no server answers
    7  no answer in time; get --wait: a job had not ended in time
   70  an internal error
   74  serve: the store failed, or had not written everything when the server ended
  130  interrupted by Ctrl-C";

/// The exit codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Exit {
    Ok = 0,
    JobFailed = 1,
    Usage = 2,
    JobCancelled = 3,
    NotFound = 4,
    Refused = 5,
    Unreachable = 6,
    TimedOut = 7,
    Internal = 70,
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// The failure of a verb.
#[derive(Debug)]
pub(super) enum Failure {
    /// A failure with a message.
    Message {
        exit: Exit,
        /// What went wrong.
        message: String,
        /// What to do next; a sentence, or empty.
        next: String,
    },
    /// The reader of the output has closed it, as `head` does. Not an error.
    OutputClosed,
}

impl Failure {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Failure::Message { exit, message: message.into(), next: String::new() }
    }

    pub(super) fn usage(message: impl Into<String>) -> Self {
        Failure::new(Exit::Usage, message)
    }

    pub(super) fn with_next(mut self, sentence: impl Into<String>) -> Self {
        if let Failure::Message { next, .. } = &mut self {
            *next = sentence.into();
        }
        self
    }

    pub(super) fn exit(&self) -> Exit {
        match self {
            Failure::Message { exit, .. } => *exit,
            Failure::OutputClosed => Exit::Ok,
        }
    }

    /// Returns the line to print, if any.
    pub(super) fn line(&self) -> Option<String> {
        match self {
            Failure::Message { message, next, .. } if next.is_empty() => {
                Some(format!("error: {}", text::escape(message)))
            }
            Failure::Message { message, next, .. } => {
                let message = text::escape(message.trim_end_matches('.')).into_owned();
                Some(format!("error: {message}. {next}"))
            }
            Failure::OutputClosed => None,
        }
    }
}

impl From<io::Error> for Failure {
    /// Converts an error of writing output.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Failure::OutputClosed
        } else {
            Failure::new(Exit::Internal, format!("the output can't be written: {error}"))
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let said = error.to_string();
        match error {
            ClientError::InvalidEndpoint { .. } => {
                Failure::usage(said).with_next("Write it as host:port, such as 127.0.0.1:7733.")
            }
            ClientError::InvalidFeature { .. } => Failure::usage(said).with_next("`jobmill info` lists them."),
            ClientError::Unreachable { .. } => Failure::new(Exit::Unreachable, said)
                .with_next("Start one with `jobmill serve`, or name another with --server."),
            ClientError::Untrusted { .. } => Failure::new(Exit::Unreachable, said).with_next(
                "Name its certificate authority with --tls-ca; an expired certificate must be renewed on the server.",
            ),
            ClientError::NotJobmill { .. } => Failure::new(Exit::Unreachable, said).with_next(
                "Name Jobmill's own address with --server: https://host:port where it has TLS; its port is 7733 unless \
                 configured.",
            ),
            ClientError::Timeout { .. } => Failure::new(Exit::TimedOut, said)
                .with_next("The call may have had its effect all the same; --call-timeout sets the limit."),
            ClientError::Refused(refusal) => refused(&refusal),
            ClientError::Failed { code: Code::Unavailable, .. } => Failure::new(Exit::Unreachable, said),
            ClientError::Failed { .. } => Failure::new(Exit::Internal, said),
            // `ClientError` is non-exhaustive: later versions may add variants.
            _ => Failure::new(Exit::Internal, said),
        }
    }
}

fn refused(refusal: &Refusal) -> Failure {
    let exit = match refusal.code {
        Code::InvalidArgument => Exit::Usage,
        Code::NotFound => Exit::NotFound,
        Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::ResourceExhausted
        | Code::OutOfRange
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented => Exit::Refused,
        // The server answers, but its store is locked for now.
        Code::Unavailable if refusal.reason() == ErrorReason::StoreLocked => Exit::TimedOut,
        Code::Unavailable => Exit::Unreachable,
        Code::DeadlineExceeded => Exit::TimedOut,
        Code::Ok | Code::Cancelled | Code::Unknown | Code::Aborted | Code::Internal | Code::DataLoss => {
            Exit::Internal
        }
    };
    Failure::new(exit, message(refusal)).with_next(next(refusal))
}

/// Returns the server's message, followed by the faults of single fields that it does not contain.
fn message(refusal: &Refusal) -> String {
    let untold: Vec<_> = refusal
        .fields
        .iter()
        .filter(|fault| !refusal.message.contains(&fault.description))
        .map(|fault| format!("{}: {}", fault.field, fault.description))
        .collect();
    // Beginnings of advice in the protocol's terms, which is cut off: `next` gives it in this program's terms.
    let ways_out = [
        ": list the queues with",
        ": send the header",
        ": look at it again",
        ": get it again",
        ": GetServerInfo",
        ": list the workers",
        ": list the limits with",
        ": list them with",
        ": leave the weight out",
    ];
    let told = ways_out.iter().find_map(|way_out| Some(refusal.message.split_once(way_out)?.0));
    let told = told.unwrap_or(&refusal.message);
    match (told, untold.as_slice()) {
        ("", []) => format!("refused ({})", refusal.reason),
        (message, []) => message.to_owned(),
        ("", untold) => untold.join("; "),
        (message, untold) => format!("{message}: {}", untold.join("; ")),
    }
}

/// Returns advice for a refusal, or an empty string.
#[expect(clippy::wildcard_enum_match_arm, reason = "most reasons, and future ones, need no advice")]
fn next(refusal: &Refusal) -> String {
    let told = |key: &str| text::escape(refusal.metadata.get(key).map_or("", String::as_str));
    match refusal.reason() {
        ErrorReason::QueueNotFound => "List queues: jobmill queue list".to_owned(),
        ErrorReason::JobNotFound => "List jobs: jobmill list".to_owned(),
        ErrorReason::WorkerNotFound => "List workers: jobmill workers".to_owned(),
        ErrorReason::RequestIdReused => "Use another --request-id for another request.".to_owned(),
        ErrorReason::RevisionMismatch => format!(
            "Look at it with `jobmill get {}`, then repeat the command with --expected-revision {} if it still should be \
             done.",
            told("job_id"),
            told("revision")
        ),
        _ if refusal.reason == "LIMIT_NOT_FOUND" => "List limits: jobmill limit list".to_owned(),
        ErrorReason::EtagMismatch if refusal.metadata.contains_key("limit") => format!(
            "Look at it with `jobmill limit get {}`, and repeat the command, with --etag {} if you name one; --force \
             changes it all the same.",
            told("limit"),
            told("etag")
        ),
        ErrorReason::EtagMismatch => format!(
            "Look at it with `jobmill queue get {}`, and repeat the command, with --etag {} if you name one; --force \
             changes it all the same.",
            told("queue"),
            told("etag")
        ),
        ErrorReason::TokenMissing => "Name a file with a token: --token-file.".to_owned(),
        ErrorReason::ResumeTokenTooOld => "Start anew without --from-token.".to_owned(),
        ErrorReason::FeatureUnknown => {
            "`jobmill info` lists what it knows; a newer version of the server may know more.".to_owned()
        }
        _ => match refusal.retry_after {
            Some(wait) if refusal.code == Code::ResourceExhausted => {
                format!("Try again in {}.", text::duration(wait))
            }
            Some(_) | None => String::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use jobmill::client::FieldFault;

    fn refusal(code: Code, reason: &str, message: &str) -> Refusal {
        let mut refusal = Refusal::new(code, ErrorReason::Unspecified, message);
        refusal.reason = reason.into();
        refusal
    }

    fn with(mut refusal: Refusal, change: impl FnOnce(&mut Refusal)) -> Refusal {
        change(&mut refusal);
        refusal
    }

    #[test]
    fn every_error_is_one_line_with_the_next_step() {
        let endpoint = || "http://127.0.0.1:7733".to_owned();
        let fault = FieldFault::new;
        let about = |refusal, values: &[(&str, &str)]| {
            with(refusal, |refusal| {
                let values = values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
                refusal.metadata.extend(values);
            })
        };
        let refused = |refusal| ClientError::Refused(Box::new(refusal));
        let errors = [
            ClientError::InvalidEndpoint { endpoint: "https://x".into(), reason: "no TLS".into() },
            ClientError::Unreachable { endpoint: endpoint(), cause: "connection refused".into() },
            ClientError::Untrusted { endpoint: endpoint(), cause: "UnknownIssuer".into() },
            ClientError::NotJobmill { endpoint: endpoint(), cause: "404".into() },
            ClientError::Timeout { endpoint: endpoint(), after: Duration::from_secs(40) },
            ClientError::Failed { endpoint: endpoint(), code: Code::Internal, message: "oops".into() },
            ClientError::Failed { endpoint: endpoint(), code: Code::Unavailable, message: "503".into() },
            refused(refusal(
                Code::NotFound,
                "QUEUE_NOT_FOUND",
                "no queue is named `x`: list the queues with QueueService.ListQueues",
            )),
            refused(refusal(Code::NotFound, "JOB_NOT_FOUND", "there is no job `x`")),
            refused(refusal(Code::NotFound, "UNKNOWN_KIND", "no handler runs `x`; known: a, b")),
            refused(with(refusal(Code::ResourceExhausted, "QUEUE_FULL", "queue `x` is full"), |full| {
                full.retry_after = Some(Duration::from_millis(1500));
            })),
            refused(with(refusal(Code::InvalidArgument, "INVALID_REQUEST", "invalid request"), |invalid| {
                invalid.fields.push(fault("job.payload", "at most 1048576 bytes, has 2000000"));
            })),
            refused(with(refusal(Code::InvalidArgument, "INVALID_REQUEST", "id: not a job id"), |invalid| {
                invalid.fields.push(fault("id", "not a job id"));
            })),
            refused(refusal(Code::InvalidArgument, "INVALID_REQUEST", "")),
            refused(refusal(Code::AlreadyExists, "REQUEST_ID_REUSED", "another job has it")),
            refused(refusal(Code::FailedPrecondition, "WRONG_STATE", "the job has SUCCEEDED")),
            refused(about(
                refusal(
                    Code::FailedPrecondition,
                    "REVISION_MISMATCH",
                    "the job x is at revision 7, and not at 3: look at it again, and decide anew",
                ),
                &[("job_id", "x"), ("expected_revision", "3"), ("revision", "7")],
            )),
            refused(about(
                refusal(
                    Code::FailedPrecondition,
                    "ETAG_MISMATCH",
                    "the queue `q` has changed since: get it again, or send its present etag, 3f9a, or `*`",
                ),
                &[("queue", "q"), ("etag", "3f9a")],
            )),
            refused(about(
                refusal(
                    Code::FailedPrecondition,
                    "ETAG_MISMATCH",
                    "the limit `l` has changed since: get it again, or send its present etag, 7, or `*`",
                ),
                &[("limit", "l"), ("etag", "7")],
            )),
            refused(refusal(
                Code::NotFound,
                "LIMIT_NOT_FOUND",
                "no limit is named `l`: list the limits with LimitService.ListLimits",
            )),
            refused(refusal(
                Code::NotFound,
                "LIMIT_OVERRIDE_NOT_FOUND",
                "the value \"v\" of the limit `l` has no override: list them with LimitService.ListLimitValues",
            )),
            refused(refusal(
                Code::Unimplemented,
                "FEATURE_UNKNOWN",
                "the call requires the feature \"x\", which this server does not know: GetServerInfo lists its features",
            )),
            ClientError::InvalidFeature { name: "a b".into() },
            refused(refusal(
                Code::Unauthenticated,
                "TOKEN_MISSING",
                "the call has no token: send the header `authorization`",
            )),
            refused(refusal(Code::PermissionDenied, "ROLE_MISSING", "`ci` lacks the role `read`")),
            refused(refusal(Code::OutOfRange, "RESUME_TOKEN_TOO_OLD", "the token is too old")),
            refused(refusal(Code::Unavailable, "STOPPING", "the server stops")),
            refused(refusal(Code::NotFound, "JOB_NOT_FOUND", "no job \u{1b}[31m\n")),
        ];
        let lines: Vec<_> = errors
            .into_iter()
            .map(|error| {
                let failure = Failure::from(error);
                format!("{:>2} {}", failure.exit() as u8, failure.line().unwrap())
            })
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
         2 error: `https://x` is no server address: no TLS. Write it as host:port, such as 127.0.0.1:7733.
         6 error: no Jobmill server answers at http://127.0.0.1:7733 (connection refused). Start one with `jobmill serve`, or name another with --server.
         6 error: the certificate of http://127.0.0.1:7733 is not accepted (UnknownIssuer). Name its certificate authority with --tls-ca; an expired certificate must be renewed on the server.
         6 error: what answers at http://127.0.0.1:7733 is not a Jobmill server (404). Name Jobmill's own address with --server: https://host:port where it has TLS; its port is 7733 unless configured.
         7 error: no answer from http://127.0.0.1:7733 within 40s. The call may have had its effect all the same; --call-timeout sets the limit.
        70 error: the call to http://127.0.0.1:7733 failed: oops (Internal)
         6 error: the call to http://127.0.0.1:7733 failed: 503 (Unavailable)
         4 error: no queue is named `x`. List queues: jobmill queue list
         4 error: there is no job `x`. List jobs: jobmill list
         4 error: no handler runs `x`; known: a, b
         5 error: queue `x` is full. Try again in 1.5s.
         2 error: invalid request: job.payload: at most 1048576 bytes, has 2000000
         2 error: id: not a job id
         2 error: refused (INVALID_REQUEST)
         5 error: another job has it. Use another --request-id for another request.
         5 error: the job has SUCCEEDED
         5 error: the job x is at revision 7, and not at 3. Look at it with `jobmill get x`, then repeat the command with --expected-revision 7 if it still should be done.
         5 error: the queue `q` has changed since. Look at it with `jobmill queue get q`, and repeat the command, with --etag 3f9a if you name one; --force changes it all the same.
         5 error: the limit `l` has changed since. Look at it with `jobmill limit get l`, and repeat the command, with --etag 7 if you name one; --force changes it all the same.
         4 error: no limit is named `l`. List limits: jobmill limit list
         4 error: the value "v" of the limit `l` has no override
         5 error: the call requires the feature "x", which this server does not know. `jobmill info` lists what it knows; a newer version of the server may know more.
         2 error: `a b` can't be the name of a feature. `jobmill info` lists them.
         5 error: the call has no token. Name a file with a token: --token-file.
         5 error: `ci` lacks the role `read`
         5 error: the token is too old. Start anew without --from-token.
         6 error: the server stops
         4 error: no job \x1b[31m\n. List jobs: jobmill list
        "#);
    }

    #[test]
    fn a_reader_that_leaves_is_no_error() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit(), failure.line()), (Exit::Ok, None));
    }
}
