//! The client against a fake server, over connections in memory that tests can cut.

mod changing;
mod fake;
mod submitting;
mod waiting;
mod watching;

use std::{sync::Arc, time::Duration};

use super::{Client, ClientBuilder};
use crate::{job::RetryPolicy, proto::v1};
use fake::Fake;

/// Returns a client with delays of 1, 2, 4, … s for 10 s: tries at 0, 1, 3 and 7 s.
fn client(fake: &Arc<Fake>) -> Client {
    client_with(fake, |builder| builder)
}

fn client_with(fake: &Arc<Fake>, change: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Client {
    let policy = RetryPolicy {
        delays: None,
        initial_delay: Duration::from_secs(1),
        max_delay: Duration::from_secs(60),
        multiplier: 2.0,
        jitter: 0.0,
    };
    let builder = Client::builder("fake.test").retry_delays(policy).retry_for(Duration::from_secs(10));
    let builder = change(builder.random(|| 0.0));
    let (text, endpoint) = builder.endpoint().unwrap();
    let channel = endpoint.connect_with_connector_lazy(fake.connector());
    builder.with_channel(text, channel)
}

fn spec() -> v1::JobSpec {
    v1::JobSpec { queue: "default".into(), kind: "test".into(), ..Default::default() }
}

fn job(id: &str, state: v1::JobState) -> v1::Job {
    v1::Job { id: id.into(), state: state.into(), ..Default::default() }
}
