//! The canonical form of a request, which never changes: `docs/requests.md`.
//!
//! Its digest identifies a repeat. The form has only what the client set: defaults, which may change, are not in it, a
//! relative time stays relative, and a field that is not set adds nothing, so that fields of later versions change no
//! existing digest.

use crate::job::{
    Canonical, DependencyTarget, JobDraft, JobUpdate, PartialRetryPolicy, PayloadInfo, RequestId, UniqueKey, When,
};

/// Name and version of the form.
const FORM: &str = "jobmill-request-1";

fn put_when(canonical: &mut Canonical, [at, after]: [&str; 2], when: Option<When>) {
    match when {
        Some(When::At(instant)) => canonical.put_number(at, Some(instant.as_micros())),
        Some(When::After(delay)) => canonical.put_duration(after, Some(delay)),
        None => {}
    }
}

fn put_payload(canonical: &mut Canonical, payload: &[u8], info: &PayloadInfo) {
    if !payload.is_empty() {
        canonical.put("payload", &[payload]);
    }
    canonical.put_text("payload.media_type", &info.media_type);
    canonical.put_entries("payload.metadata", &info.metadata);
}

/// Adds the new input of a job, after the paths that name it.
pub(crate) fn put_update(canonical: &mut Canonical, update: &JobUpdate) {
    let JobUpdate { payload, headers, priority, start, expiry } = update;
    if let Some((payload, info)) = payload {
        put_payload(canonical, payload, info);
    }
    if let Some(headers) = headers {
        canonical.put_entries("headers", headers);
    }
    canonical.put_number("priority", priority.flatten());
    put_when(canonical, ["run_time", "delay"], start.flatten());
    put_when(canonical, ["expire_time", "expire_after"], expiry.flatten());
}

/// Adds a job as its client describes it.
pub(crate) fn put_job(canonical: &mut Canonical, job: &JobDraft) {
    canonical.put("job", &[]);
    canonical.put_text("queue", &job.queue);
    canonical.put_text("kind", &job.kind);
    put_payload(canonical, &job.payload, &job.payload_info);
    canonical.put_entries("labels", &job.labels);
    canonical.put_entries("headers", &job.headers);
    canonical.put_number("priority", job.priority);
    canonical.put_number("max_attempts", job.max_attempts);
    if let Some(PartialRetryPolicy { initial_delay, max_delay, multiplier, jitter, delays }) = &job.retry {
        canonical.put_duration("retry_policy.initial_delay", *initial_delay);
        canonical.put_duration("retry_policy.max_delay", *max_delay);
        canonical.put_float("retry_policy.multiplier", *multiplier);
        canonical.put_float("retry_policy.jitter", *jitter);
        for delay in delays.iter().flat_map(|delays| delays.iter()) {
            canonical.put_duration("retry_policy.delays", Some(*delay));
        }
    }
    canonical.put_duration("attempt_timeout", job.attempt_timeout);
    put_when(canonical, ["run_time", "delay"], job.start);
    put_when(canonical, ["expire_time", "expire_after"], job.expiry);
    put_when(canonical, ["deadline_time", "deadline_after"], job.deadline);
    canonical.put_number("max_snoozes", job.max_snoozes);
    canonical.put_number("max_process_losses", job.max_process_losses);
    if let Some(unique) = &job.unique {
        put_unique(canonical, unique);
    }
    for (limit, weight) in &job.weights {
        canonical.put_text("weights.limit", limit);
        canonical.put_number("weights.weight", Some(*weight));
    }
    for dependency in &job.depends_on {
        match dependency.on {
            DependencyTarget::Job(id) => canonical.put_text("depends_on.job_id", &id.to_string()),
            DependencyTarget::Item(index) => canonical.put_number("depends_on.batch_index", Some(index)),
        }
        canonical.put_number("depends_on.condition", dependency.condition.map(|condition| condition as u8));
        canonical.put_number("depends_on.optional_edge", dependency.is_optional.then_some(1));
    }
}

fn put_unique(canonical: &mut Canonical, unique: &UniqueKey) {
    let UniqueKey { key, scope, on_waiting, on_started, hold, debounce, throttle } = unique;
    canonical.put_text("unique_key.key", key);
    canonical.put_number("unique_key.scope", scope.map(|scope| scope as u8));
    canonical.put_number("unique_key.on_waiting", on_waiting.map(|policy| policy as u8));
    canonical.put_number("unique_key.on_started", on_started.map(|policy| policy as u8));
    canonical.put_duration("unique_key.hold", *hold);
    canonical.put_duration("unique_key.debounce.quiet", debounce.map(|debounce| debounce.quiet));
    canonical.put_duration("unique_key.debounce.max_wait", debounce.and_then(|debounce| debounce.max_wait));
    canonical.put_duration("unique_key.throttle", *throttle);
}

/// Returns the key and digest of a submission, if it has a request id.
pub(crate) fn request<'a>(
    request_id: &str,
    call: &str,
    jobs: impl IntoIterator<Item = &'a JobDraft>,
) -> Option<RequestId> {
    repeatable(request_id, call, |canonical| jobs.into_iter().for_each(|job| put_job(canonical, job)))
}

/// Returns the key and digest of any other repeatable call, if it has a request id.
pub(crate) fn repeatable(
    request_id: &str,
    call: &str,
    say: impl FnOnce(&mut Canonical),
) -> Option<RequestId> {
    if request_id.is_empty() {
        return None;
    }
    let mut canonical = Canonical::of(FORM, call);
    say(&mut canonical);
    Some(RequestId { key: RequestId::key_of(request_id), digest: canonical.digest() })
}

/// Test vectors of the form: each has the hashed text and its digest.
#[cfg(test)]
pub(crate) mod vectors {
    use serde::Deserialize;
    use sha2::{Digest, Sha256};

    #[derive(Deserialize)]
    struct Vector {
        name: String,
        call: String,
        form: String,
        digest: String,
    }

    /// Compares the vectors of a file with the digests that `made` returns for a name and call.
    pub(crate) fn check(json: &str, count: usize, made: impl Fn(&str, &str) -> [u8; 16]) {
        let vectors: Vec<Vector> = serde_json::from_str(json).unwrap();
        assert_eq!(vectors.len(), count);
        for Vector { name, call, form, digest } in vectors {
            let by_hand = &Sha256::digest(form.as_bytes())[..16];
            assert_eq!(hex(by_hand), digest, "{name}: what was hashed");
            assert_eq!(hex(&made(&name, &call)), digest, "{name}");
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use crate::{
        clock::Timestamp,
        job::{Debounce, Dependency, DependencyCondition, JobId, OnConflict, PayloadInfo, UniqueScope},
    };

    fn full() -> JobDraft {
        JobDraft {
            queue: "mail".into(),
            kind: "send".into(),
            payload: "h\u{e9}llo\n".into(),
            payload_info: PayloadInfo {
                media_type: "text/plain".into(),
                metadata: BTreeMap::from([("encoding".into(), "none".into())]),
            },
            labels: BTreeMap::from([("b".into(), "2".into()), ("a".into(), String::new())]),
            headers: BTreeMap::from([("tenant".into(), "x y".into())]),
            priority: Some(-5),
            max_attempts: Some(3),
            retry: Some(PartialRetryPolicy {
                initial_delay: Some(Duration::from_millis(1_500)),
                max_delay: Some(Duration::from_secs(60)),
                multiplier: Some(1.5),
                jitter: Some(0.0),
                delays: None,
            }),
            attempt_timeout: Some(Duration::from_secs(30)),
            start: Some(When::At(Timestamp::from_micros(1_800_000_000_000_001))),
            expiry: Some(When::After(Duration::from_secs(7_200))),
            unique: Some(Box::new(UniqueKey {
                key: "order-17".into(),
                scope: Some(UniqueScope::Queue),
                on_waiting: Some(OnConflict::Replace),
                on_started: Some(OnConflict::Follow),
                hold: Some(Duration::from_secs(60)),
                debounce: Some(Debounce {
                    quiet: Duration::from_secs(2),
                    max_wait: Some(Duration::from_secs(10)),
                }),
                throttle: Some(Duration::from_secs(5)),
            })),
            ..JobDraft::default()
        }
    }

    fn plain() -> JobDraft {
        JobDraft { queue: "mail".into(), kind: "send".into(), ..JobDraft::default() }
    }

    /// A job with all that tells when its attempts end.
    fn ending() -> JobDraft {
        let delays = [5, 60].map(Duration::from_secs);
        JobDraft {
            retry: Some(PartialRetryPolicy { delays: Some(delays.into()), ..PartialRetryPolicy::default() }),
            deadline: Some(When::After(Duration::from_secs(3_600))),
            max_snoozes: Some(10),
            max_process_losses: Some(2),
            ..plain()
        }
    }

    fn drafts(name: &str) -> Vec<JobDraft> {
        match name {
            "plain" => vec![plain()],
            "delay" => {
                vec![JobDraft { start: Some(When::After(Duration::from_secs(5))), ..plain() }]
            }
            "priority 0" => vec![JobDraft { priority: Some(0), ..plain() }],
            "ending" => vec![ending()],
            "full" => vec![JobDraft { unique: None, ..full() }],
            "batch" => vec![plain(), JobDraft { unique: None, ..full() }],
            "unique key" => vec![JobDraft { unique: full().unique, ..plain() }],
            other => panic!("no draft is named {other}"),
        }
    }

    /// Digests must never change: with a different digest, every stored request would look like a different one.
    #[test]
    fn digests_are_those_of_the_vectors() {
        vectors::check(include_str!("../../tests/vectors/requests.json"), 7, |name, call| {
            request("id", call, &drafts(name)).unwrap().digest
        });
    }

    #[test]
    fn the_digest_is_of_every_field_that_a_client_can_say() {
        let digest = |job: &JobDraft| request("id", "Submit", [job]).unwrap().digest;
        let (plain, full) = (plain(), full());
        assert_eq!(digest(&plain), digest(&plain.clone()));
        let said = full.unique.as_deref().unwrap();
        let debounce = said.debounce.unwrap();
        let keyed = |unique| JobDraft { unique: Some(Box::new(unique)), ..plain.clone() };
        let after = |dependency| JobDraft { depends_on: vec![dependency], ..plain.clone() };
        let others = [
            JobDraft { queue: full.queue.clone() + "2", ..plain.clone() },
            JobDraft { kind: full.kind.clone() + "2", ..plain.clone() },
            JobDraft { payload: full.payload.clone(), ..plain.clone() },
            JobDraft { payload_info: full.payload_info.clone(), ..plain.clone() },
            JobDraft { labels: full.labels.clone(), ..plain.clone() },
            JobDraft { headers: full.labels.clone(), ..plain.clone() },
            JobDraft { priority: full.priority, ..plain.clone() },
            JobDraft { max_attempts: full.max_attempts, ..plain.clone() },
            JobDraft { retry: full.retry.clone(), ..plain.clone() },
            JobDraft { retry: ending().retry, ..plain.clone() },
            JobDraft { deadline: ending().deadline, ..plain.clone() },
            JobDraft { max_snoozes: Some(0), ..plain.clone() },
            JobDraft { max_process_losses: Some(3), ..plain.clone() },
            JobDraft { attempt_timeout: full.attempt_timeout, ..plain.clone() },
            JobDraft { start: full.start, ..plain.clone() },
            JobDraft { expiry: full.expiry, ..plain.clone() },
            keyed(UniqueKey { key: "a".into(), ..UniqueKey::default() }),
            keyed(UniqueKey { key: "b".into(), ..UniqueKey::default() }),
            keyed(UniqueKey { scope: said.scope, ..UniqueKey::default() }),
            keyed(UniqueKey { on_waiting: said.on_waiting, ..UniqueKey::default() }),
            keyed(UniqueKey { on_started: said.on_started, ..UniqueKey::default() }),
            keyed(UniqueKey { hold: said.hold, ..UniqueKey::default() }),
            keyed(UniqueKey { debounce: said.debounce, ..UniqueKey::default() }),
            keyed(UniqueKey { debounce: Some(Debounce { max_wait: None, ..debounce }), ..UniqueKey::default() }),
            keyed(UniqueKey { throttle: said.throttle, ..UniqueKey::default() }),
            after(Dependency::on_job(JobId::from_raw(1))),
            after(Dependency::on_job(JobId::from_raw(2))),
            after(Dependency::on_item(1)),
            after(Dependency::on_item(1).when(DependencyCondition::Succeeded)),
            after(Dependency::on_item(1).when(DependencyCondition::Ended)),
            after(Dependency::on_item(1).optional()),
        ];
        let digests: std::collections::BTreeSet<_> = others.iter().chain([&plain]).map(digest).collect();
        assert_eq!(digests.len(), others.len() + 1);
        assert_eq!(request("", "Submit", [&plain]).map(|_| ()), None);
    }
}
