//! Features that a call requires (`jobmill-require`): an unknown one refuses the call before anything else is checked.

use jobmill::{
    proto::v1::{self, server_service_client::ServerServiceClient},
    settings::{Settings, TokenHash},
};
use tonic::{Code, Request, Status};

use super::{
    raw::{self, Fixtures, rpcs, state},
    shelf,
};
use crate::support::{Rig, job, memory, refusal, simple, soon, submission};

const REQUIRE: &str = "jobmill-require";

/// RPCs that are served beside those of the protocol.
const BESIDE: [&str; 3] = [
    "grpc.health.v1.Health/Check",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

async fn features(rig: &Rig) -> Vec<String> {
    let request = v1::GetServerInfoRequest::default();
    soon(rig.about.clone().get_server_info(request)).await.unwrap().into_inner().features
}

fn lines<'a>(values: &'a [&'a str]) -> Vec<(&'static str, &'a [u8])> {
    values.iter().map(|value| (REQUIRE, value.as_bytes())).collect()
}

/// Returns the feature that the server reports as unknown.
fn unknown(status: &Status) -> String {
    let mut refused = refusal(status);
    assert_eq!((refused.code, refused.reason.as_str()), (Code::Unimplemented, "FEATURE_UNKNOWN"));
    refused.metadata.remove("feature").expect("the feature")
}

#[tokio::test]
async fn every_rpc_takes_the_names_of_all_features_in_one_line_and_in_several() {
    let rig = shelf().await;
    let features = features(&rig).await;
    let (joined, spaced) = (features.join(","), features.join(" ,\t "));
    let several: Vec<_> = features.iter().map(String::as_str).collect();
    for (n, rpc) in rpcs().iter().enumerate() {
        for (form, values) in [&[joined.as_str()][..], &[spaced.as_str()], &several].into_iter().enumerate() {
            let fixtures = Fixtures::set_up(&rig, &format!("q{n}-{form}")).await;
            let answer = raw::call(&rig, &rpc.name, &lines(values), &fixtures.request(rpc, "")).await;
            answer.unwrap_or_else(|status| panic!("{}: {status:?}", rpc.name));
        }
    }
    rig.stop().await;
}

#[tokio::test]
async fn every_rpc_is_refused_where_a_name_is_not_known_and_nothing_is_changed() {
    let rig = shelf().await;
    let fixtures = Fixtures::set_up(&rig, "fixtures").await;
    let before = state(&rig).await;
    let rows: [(&[&str], &str); 10] = [
        (&["teleport"], "teleport"),
        (&["headers,teleport"], "teleport"),
        (&["teleport, headers"], "teleport"),
        (&["headers", "teleport"], "teleport"),
        (&["teleport", "headers"], "teleport"),
        (&["HEADERS"], "HEADERS"),
        (&["headers;wait"], "headers;wait"),
        (&["headers,,wait"], ""),
        (&[""], ""),
        (&["headers", ""], ""),
    ];
    for rpc in rpcs() {
        for (values, feature) in &rows {
            let what = format!("{} {values:?}", rpc.name);
            let answer = raw::call(&rig, &rpc.name, &lines(values), &fixtures.request(&rpc, "unused")).await;
            let status = answer.err().unwrap_or_else(|| panic!("{what} was carried out"));
            assert_eq!(unknown(&status), *feature, "{what}");
        }
        let not_text: [(&str, &[u8]); 1] = [(REQUIRE, b"h\xc3\xa9aders")];
        let answer = raw::call(&rig, &rpc.name, &not_text, &fixtures.request(&rpc, "unused")).await;
        assert_eq!(unknown(&answer.unwrap_err()), "?", "{}", rpc.name);
        assert_eq!(state(&rig).await, before, "{}", rpc.name);
    }
    // The refused calls have used up no request id.
    for rpc in rpcs().iter().filter(|rpc| rpc.has_field("request_id")) {
        let fixtures = Fixtures::set_up(&rig, &rpc.short().to_lowercase()).await;
        let request = fixtures.request(rpc, &format!("unused by {}", rpc.name));
        raw::call(&rig, &rpc.name, &[], &request).await.unwrap_or_else(|status| panic!("{status:?}"));
    }
    rig.stop().await;
}

#[tokio::test]
async fn streams_are_refused_before_their_first_message() {
    let rig = shelf().await;
    let mut watch =
        Request::new(v1::WatchStatusRequest { filter: Some(v1::JobFilter::default()), ..Default::default() });
    watch.metadata_mut().insert(REQUIRE, "teleport".parse().unwrap());
    let status = soon(rig.jobs.clone().watch_status(watch)).await.unwrap_err();
    assert_eq!(unknown(&status), "teleport");
    // The refusal comes before the client sends an item.
    let mut stream = Request::new(tokio_stream::pending());
    stream.metadata_mut().insert(REQUIRE, "teleport".parse().unwrap());
    let status = soon(rig.jobs.clone().submit_stream(stream)).await.unwrap_err();
    assert_eq!(unknown(&status), "teleport");
    rig.stop().await;
}

#[tokio::test]
async fn long_lists_and_long_names_are_judged_as_short_ones_or_refused_as_a_whole() {
    let rig = shelf().await;
    let submit = submission(job("echo"));
    let submit = prost::Message::encode_to_vec(&submit);
    let call = async |value: String| {
        raw::call(&rig, "jobmill.v1.JobQueue/Submit", &[(REQUIRE, value.as_bytes())], &submit).await
    };
    let known = vec!["wait"; 2_000].join(",");
    call(known.clone()).await.unwrap();
    assert_eq!(rig.total().await, 1);
    assert_eq!(unknown(&call(format!("{known},teleport")).await.unwrap_err()), "teleport");
    assert_eq!(unknown(&call("x".repeat(10_000)).await.unwrap_err()), "x".repeat(64));
    // More bytes than the server's header limit.
    call(vec!["wait"; 10_000].join(",")).await.unwrap_err();
    assert_eq!(rig.total().await, 1);
    rig.submit(job("echo")).await;
    rig.stop().await;
}

fn with_tokens(file: std::path::PathBuf) -> Settings {
    let hash = TokenHash::of("boss");
    let entry = format!("[tokens.boss]\nhash = 'sha256:{hash}'\nroles = ['admin']\nqueues = ['*']\n");
    std::fs::write(&file, entry).unwrap();
    Settings { tokens: Some(file), ..memory() }
}

#[tokio::test]
async fn what_is_required_is_looked_at_before_the_token_and_the_request() {
    let home = tempfile::tempdir().unwrap();
    let audit = home.path().join("audit");
    let settings = with_tokens(home.path().join("tokens.toml"));
    let rig = Rig::start(simple(Settings { audit_file: Some(audit.clone()), ..settings })).await;
    let garbage = b"\xff\xff\xff";
    for rpc in rpcs() {
        for token in [None, Some("Bearer stranger"), Some("Bearer boss")] {
            let mut headers = lines(&["teleport"]);
            headers.extend(token.map(|token| ("authorization", token.as_bytes())));
            let status = raw::call(&rig, &rpc.name, &headers, garbage).await.unwrap_err();
            assert_eq!(unknown(&status), "teleport", "{} {token:?}", rpc.name);
        }
        let status = raw::call(&rig, &rpc.name, &lines(&["headers"]), garbage).await.unwrap_err();
        assert_eq!(refusal(&status).reason, "TOKEN_MISSING", "{}", rpc.name);
    }
    rig.stop().await;
    let told = std::fs::read_to_string(audit).unwrap();
    assert!(told.contains("TOKEN_MISSING") && !told.contains("FEATURE_UNKNOWN"), "{told}");
}

#[tokio::test]
async fn health_and_reflection_ask_for_nothing_and_are_refused_what_is_not_known_as_all_else() {
    let rig = shelf().await;
    // To Reflection the request means "list all services"; Health ignores the field.
    let request = b"\x3a\x01*";
    for rpc in BESIDE {
        raw::call(&rig, rpc, &[], request).await.unwrap_or_else(|status| panic!("{rpc}: {status:?}"));
        raw::call(&rig, rpc, &lines(&["headers"]), request).await.unwrap();
        let status = raw::call(&rig, rpc, &lines(&["teleport"]), request).await.unwrap_err();
        assert_eq!(unknown(&status), "teleport", "{rpc}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_client_that_asks_for_the_features_first_is_told_them_all() {
    let rig = shelf().await;
    let told = features(&rig).await;
    assert!(told.is_sorted() && told.windows(2).all(|pair| pair[0] != pair[1]), "{told:?}");
    for feature in ["expected-revision", "filter-queues", "headers", "request-ids", "wait"] {
        assert!(told.iter().any(|own| own == feature), "{told:?}");
    }
    let mut about = ServerServiceClient::new(rig.channel.clone());
    for feature in told {
        let mut request = Request::new(v1::GetServerInfoRequest::default());
        request.metadata_mut().insert(REQUIRE, feature.parse().unwrap());
        soon(about.get_server_info(request)).await.unwrap();
    }
    rig.stop().await;
}
