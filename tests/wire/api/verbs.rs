//! Every call's role, and of each call that changes something its audit entry, its documentation and its command.

use std::{fs, path::Path, process::Command};

use jobmill::settings::{Role, Settings, TokenHash};
use tempfile::TempDir;
use tonic::{Code, Status};

use super::{
    raw::{self, Fixtures, Rpc, rpcs, state_for},
    table::{Object, VERBS, Verb, role, second},
};
use crate::support::{QUEUE, Rig, memory, queue, refusal, simple, with_queue};

/// Returns the RPC of a verb.
fn rpc_of(verb: &Verb) -> Rpc {
    rpcs().into_iter().find(|rpc| rpc.short() == verb.rpc).expect("an RPC")
}

#[test]
fn every_call_that_changes_something_has_a_row() {
    for rpc in rpcs() {
        let is_verb = VERBS.iter().any(|verb| verb.rpc == rpc.short());
        let is_submission = role(&rpc) == Some(Role::Submit);
        assert_eq!(
            rpc.is_repeatable(),
            is_verb || is_submission && rpc.short() != "SubmitStream",
            "{}",
            rpc.name
        );
        assert!(!is_verb || rpc.has_field("namespace"), "{}", rpc.name);
    }
}

/// Starts a server whose tokens are the names of their roles, joined by dashes.
async fn with_tokens(dir: &TempDir, tokens: &[(&[Role], &str)]) -> Rig {
    let entry = |(roles, queues): &(&[Role], &str)| {
        let token = token(roles);
        let hash = TokenHash::of(&token);
        let roles: Vec<_> = roles.iter().map(|role| format!("'{role}'")).collect();
        let roles = roles.join(", ");
        format!("[tokens.{token}]\nhash = 'sha256:{hash}'\nroles = [{roles}]\nqueues = ['{queues}']\n")
    };
    let file = dir.path().join("tokens.toml");
    fs::write(&file, tokens.iter().map(entry).collect::<String>()).unwrap();
    let settings = with_queue(memory(), QUEUE, queue(0));
    Rig::start(simple(Settings { tokens: Some(file), ..settings })).await
}

fn token(roles: &[Role]) -> String {
    roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join("-")
}

/// Returns the reason of the refusal for a caller without any role on the queue.
fn refusal_elsewhere(verb: &Verb) -> &'static str {
    match (verb.of, verb.rpc) {
        (Object::Job, _) => "JOB_NOT_FOUND",
        (Object::Queue | Object::Calendar | Object::Limit, _) | (Object::Schedule, "CreateSchedule") => {
            "ROLE_MISSING"
        }
        (Object::Schedule, _) => "SCHEDULE_NOT_FOUND",
        (Object::Key, _) => "KEY_NOT_FOUND",
    }
}

/// The token with the role `admin`.
const BOSS: raw::Header<'static> = ("authorization", b"Bearer admin");

async fn call_as(rig: &Rig, roles: &[Role], rpc: &Rpc, request: &[u8]) -> Option<Status> {
    let bearer = format!("Bearer {}", token(roles));
    raw::call(rig, &rpc.name, &[("authorization", bearer.as_bytes())], request).await.err()
}

#[tokio::test]
async fn every_call_needs_its_role_and_no_other_one_will_do() {
    let dir = tempfile::tempdir().unwrap();
    let all_but = |lacking: Option<Role>| -> Vec<Role> {
        Role::ALL.into_iter().filter(|role| *role != Role::Admin && Some(*role) != lacking).collect()
    };
    let but =
        [Role::Submit, Role::Read, Role::Cancel, Role::Work, Role::Admin].map(|role| all_but(Some(role)));
    let mut tokens: Vec<(&[Role], &str)> = but.iter().map(|roles| (&roles[..], "*")).collect();
    tokens.extend(Role::ALL.iter().map(|role| (std::slice::from_ref(role), "*")));
    let rig = with_tokens(&dir, &tokens).await;
    for rpc in rpcs() {
        let fixtures = Fixtures::set_up_by(&rig, &[BOSS], &rpc.short().to_lowercase()).await;
        let request = fixtures.request(&rpc, &rpc.name);
        let Some(role) = role(&rpc) else {
            assert!(call_as(&rig, &[Role::Work], &rpc, &request).await.is_none(), "{}", rpc.name);
            continue;
        };
        let before = state_for(&rig, &[BOSS]).await;
        let status = call_as(&rig, &all_but(Some(role)), &rpc, &request).await;
        let refused = refusal(&status.unwrap_or_else(|| panic!("{} needs no {role}", rpc.name)));
        let told = (refused.code, refused.reason.as_str(), refused.metadata["role"].as_str());
        assert_eq!(told, (Code::PermissionDenied, "ROLE_MISSING", role.as_str()), "{}", rpc.name);
        assert_eq!(state_for(&rig, &[BOSS]).await, before, "{}", rpc.name);
        let status = call_as(&rig, &[role], &rpc, &request).await;
        assert!(status.is_none(), "{} by {role}: {status:?}", rpc.name);
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_role_on_other_queues_is_none_and_jobs_there_are_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let roles: &[Role] = &[Role::Submit, Role::Read, Role::Cancel, Role::Work, Role::Admin];
    let rig = with_tokens(&dir, &[(&[Role::Admin], "*"), (roles, "elsewhere*")]).await;
    for verb in &VERBS {
        let rpc = rpc_of(verb);
        let fixtures = Fixtures::set_up_by(&rig, &[BOSS], &verb.rpc.to_lowercase()).await;
        let before = state_for(&rig, &[BOSS]).await;
        for request_id in ["", verb.rpc] {
            let status = call_as(&rig, roles, &rpc, &fixtures.request(&rpc, request_id)).await;
            let refused = refusal(&status.unwrap_or_else(|| panic!("{} was carried out", verb.rpc)));
            let expected = refusal_elsewhere(verb);
            assert_eq!(refused.reason, expected, "{}", verb.rpc);
            if expected == "ROLE_MISSING" {
                let named = [&fixtures.queue, &fixtures.empty, &fixtures.new, &"*".to_owned()]
                    .contains(&&refused.metadata["queue"]);
                assert!(named && refused.metadata["role"] == "admin", "{}: {refused:?}", verb.rpc);
            }
        }
        assert_eq!(state_for(&rig, &[BOSS]).await, before, "{}", verb.rpc);
        // A job that the caller may not see is not found, even by a caller that repeats a whole request about it.
        let request = fixtures.request(&rpc, verb.rpc);
        assert!(call_as(&rig, &[Role::Admin], &rpc, &request).await.is_none(), "{}", verb.rpc);
        let before = state_for(&rig, &[BOSS]).await;
        let repeat = call_as(&rig, roles, &rpc, &request).await;
        let other = call_as(&rig, roles, &rpc, &fixtures.other_request(&rpc, verb.rpc)).await;
        let expected = refusal_elsewhere(verb);
        for told in [repeat, other] {
            assert_eq!(refusal(&told.expect("a refusal")).reason, expected, "{}", verb.rpc);
        }
        assert_eq!(state_for(&rig, &[BOSS]).await, before, "{}", verb.rpc);
    }
    rig.stop().await;
}

#[tokio::test]
async fn every_change_has_its_line_in_the_audit() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit");
    let settings = with_queue(memory(), QUEUE, queue(0));
    let rig = Rig::start(simple(Settings { audit_file: Some(file.clone()), ..settings })).await;
    let last = || -> serde_json::Value {
        let text = fs::read_to_string(&file).unwrap();
        serde_json::from_str(text.lines().next_back().expect("a line")).unwrap()
    };
    for verb in &VERBS {
        let rpc = rpc_of(verb);
        let fixtures = Fixtures::set_up(&rig, &verb.rpc.to_lowercase()).await;
        let queue = match verb.rpc {
            "CreateQueue" => &fixtures.new,
            "DeleteQueue" => &fixtures.empty,
            _ => &fixtures.queue,
        };
        let second = second(&fixtures.queue);
        let ids = match (verb.of, verb.rpc) {
            (Object::Queue | Object::Key, _) => None,
            (Object::Job, "CancelJob" | "UpdateJob") => Some(&fixtures.waiting),
            (Object::Job, _) => Some(&fixtures.cancelled),
            (_, "CreateSchedule" | "CreateCalendar" | "CreateLimit") => Some(&fixtures.new),
            (_, "CancelBackfill") => Some(&second),
            (Object::Schedule | Object::Calendar | Object::Limit, _) => Some(&fixtures.queue),
        };
        // A repeat has an audit entry, too.
        for time in ["once", "twice"] {
            raw::call(&rig, &rpc.name, &[], &fixtures.request(&rpc, verb.rpc)).await.unwrap();
            let line = last();
            assert_eq!((&line["rpc"], &line["code"]), (&rpc.name.as_str().into(), &"OK".into()), "{line}");
            let gone =
                matches!((verb.rpc, time), ("DeleteJob" | "DeleteSchedule" | "ReleaseUniqueKey", "twice"))
                    || [Object::Calendar, Object::Limit].contains(&verb.of);
            let queue = if gone { serde_json::Value::Null } else { queue.as_str().into() };
            assert_eq!(line["queue"], queue, "{line}");
            let ids: Vec<serde_json::Value> = ids.iter().map(|id| id.as_str().into()).collect();
            assert_eq!(line["ids"].as_array().cloned().unwrap_or_default(), ids, "{line}");
        }
        raw::call(&rig, &rpc.name, &[], &fixtures.other_request(&rpc, verb.rpc)).await.unwrap_err();
        let line = last();
        assert_eq!(
            (&line["rpc"], &line["code"]),
            (&rpc.name.as_str().into(), &"ALREADY_EXISTS".into()),
            "{line}"
        );
        assert_eq!(line["reason"], "REQUEST_ID_REUSED", "{line}");
    }
    rig.stop().await;
}

#[test]
fn every_change_is_in_the_documents_with_its_role_and_the_command_that_makes_it() {
    let docs = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/api.md")).unwrap();
    for Verb { rpc, role, command, .. } in &VERBS {
        let row = format!("| `{rpc}` | `{role}` | `jobmill {}` |", command.join(" "));
        assert!(docs.lines().any(|line| line.starts_with(&row)), "docs/api.md lacks {row}");
    }
}

#[test]
fn every_call_of_workers_is_in_the_documents_with_its_role() {
    let docs = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/api.md")).unwrap();
    for rpc in rpcs().iter().filter(|rpc| rpc.name.contains("WorkerService")) {
        let row = format!("| `{}` | `{}` |", rpc.short(), role(rpc).expect("a role"));
        assert!(docs.lines().any(|line| line.starts_with(&row)), "docs/api.md lacks {row}");
    }
}

#[test]
fn every_change_has_a_command() {
    for Verb { rpc, command, .. } in &VERBS {
        let mut jobmill = Command::new(env!("CARGO_BIN_EXE_jobmill"));
        let output = jobmill.args(*command).arg("--help").output().unwrap();
        assert!(output.status.success(), "{rpc}: {output:?}");
        let usage = format!("Usage: jobmill {}", command.join(" "));
        let help = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(help.contains(&usage), "{rpc}: {help}");
    }
}
