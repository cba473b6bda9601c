//! Allowed targets of handlers: the socket's address is checked, however it was resolved.

use jobmill::{
    job::FailureReason,
    settings::{HttpSettings, Targets},
};

use super::{Endpoint, call, handler, outcome, settings};

/// Notations of an address that leads to this machine.
const HOSTS: [&str; 10] = [
    "127.0.0.1",
    "127.1",
    "0x7f.1",
    "0x7f000001",
    "2130706433",
    "017700000001",
    "0177.0.0.01",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "localhost",
];

fn url(endpoint: &Endpoint, host: &str) -> String {
    format!("http://{host}:{}/", endpoint.port())
}

#[tokio::test]
async fn without_the_operators_word_nothing_private_is_connected_to() {
    let endpoint = Endpoint::start().await;
    for host in HOSTS {
        let settings = HttpSettings { targets: Targets::default(), ..settings(&url(&endpoint, host)) };
        let error = outcome(call(&handler(settings), "")).await.expect_err("refused");
        let failure = error.failure();
        assert_eq!(
            (failure.reason, failure.retryable),
            (FailureReason::StartFailed, false),
            "{host}: {failure:?}"
        );
        assert!(
            failure.message.contains("is a loopback address; to allow it, set allow_private = true"),
            "{failure:?}"
        );
    }
    assert!(!endpoint.was_called());
}

#[tokio::test]
async fn what_the_operator_allows_is_connected_to() {
    let endpoint = Endpoint::start().await;
    // The same notations reach the endpoint where loopback is allowed: it was the check that refused them.
    let loopback = vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    for targets in [
        Targets { allow_private: true, allow_networks: Vec::new() },
        Targets { allow_private: false, allow_networks: loopback },
    ] {
        for host in HOSTS {
            let settings = HttpSettings { targets: targets.clone(), ..settings(&url(&endpoint, host)) };
            let handler = handler(settings);
            let call = call(&handler, "");
            let mut line = endpoint.accept().await;
            line.request().await;
            line.answer_with("200 OK", "", host).await;
            assert_eq!(outcome(call).await.unwrap().bytes, host);
        }
    }
}

#[tokio::test]
async fn private_is_not_link_local_and_not_a_clouds_metadata() {
    for host in
        ["169.254.169.254", "0xa9fea9fe", "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "0.0.0.0", "0"]
    {
        let error = outcome(call(&handler(settings(&format!("http://{host}/latest"))), ""))
            .await
            .expect_err("refused");
        assert!(error.message().contains("to allow it, set allow_networks"), "{host}: {error:?}");
        assert!(!error.failure().retryable);
    }
}
