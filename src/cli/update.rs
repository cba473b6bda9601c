//! `jobmill update`.

use std::time::Duration;

use super::{
    Global, connect,
    control::{self, Condition},
    exit::{Exit, Failure},
    payload::{PayloadArgs, explained},
    ui::Ui,
    values,
};
use jobmill::{
    client::{to_wire_duration, to_wire_timestamp},
    clock::Timestamp,
    proto::v1::{
        JobSpec, UpdateJobRequest,
        job_spec::{Expiry, Start},
    },
};

/// The arguments of `jobmill update`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The job to change; none of its attempts may have started
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    payload: PayloadArgs,
    /// Remove the payload
    #[arg(long, conflicts_with_all = ["payload", "file", "stdin", "payload_type", "payload_metadata"])]
    no_payload: bool,
    /// Header passed to the handler, in place of all that the job has; may be repeated
    #[arg(long = "header", value_name = "KEY=VALUE", value_parser = values::entry)]
    headers: Vec<(String, String)>,
    /// Remove all headers
    #[arg(long, conflicts_with = "headers")]
    no_headers: bool,
    /// Priority from -100 to 100; jobs with a larger one run first
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(-100..=100)
    )]
    priority: Option<i32>,
    /// Do not run the job before this instant (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = values::instant)]
    run_at: Option<Timestamp>,
    /// Do not run the job until this time has passed from now on; 0s runs it as soon as there is a free slot
    #[arg(long, value_name = "DURATION", value_parser = values::duration, conflicts_with = "run_at")]
    delay: Option<Duration>,
    /// End the job as EXPIRED if no attempt has started within this time from now on
    #[arg(long, value_name = "DURATION", value_parser = values::positive_duration)]
    expires_in: Option<Duration>,
    /// Let the job wait for its start without a limit
    #[arg(long, conflicts_with = "expires_in")]
    never_expires: bool,
    #[command(flatten)]
    condition: Condition,
}

pub(super) async fn run(args: Args, global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    let request = request(args)?;
    let client = connect(global).await?;
    let answer = client.update_job(request).await.map_err(explained)?;
    control::tell(&answer.change.unwrap_or_default(), ui)?;
    Ok(Exit::Ok)
}

fn request(args: Args) -> Result<UpdateJobRequest, Failure> {
    let start = match (args.run_at, args.delay) {
        (Some(instant), _) => Some(("run_time", Start::RunTime(to_wire_timestamp(instant)))),
        (None, Some(delay)) => Some(("delay", Start::Delay(to_wire_duration(delay)))),
        (None, None) => None,
    };
    let expires = args.expires_in.is_some() || args.never_expires;
    let named = [
        (args.payload.is_given() || args.no_payload).then_some("payload"),
        (!args.headers.is_empty() || args.no_headers).then_some("headers"),
        args.priority.map(|_| "priority"),
        start.as_ref().map(|(path, _)| *path),
        expires.then_some("expire_after"),
    ];
    let paths: Vec<String> = named.into_iter().flatten().map(str::to_owned).collect();
    if paths.is_empty() {
        let what = "there is nothing to change";
        return Err(Failure::usage(what).with_next("Name it: see `jobmill update --help`."));
    }
    let spec = JobSpec {
        payload: args.payload.payload()?,
        headers: args.headers.into_iter().collect(),
        priority: args.priority,
        start: start.map(|(_, start)| start),
        expiry: args.expires_in.map(|time| Expiry::ExpireAfter(to_wire_duration(time))),
        ..Default::default()
    };
    Ok(UpdateJobRequest {
        id: args.id,
        spec: Some(spec),
        update_mask: Some(prost_types::FieldMask { paths }),
        request_id: args.condition.request_id(),
        expected_revision: args.condition.expected_revision,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use jobmill::proto::v1::Payload;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn requested(line: &str) -> Result<UpdateJobRequest, Failure> {
        let words = ["update"].into_iter().chain(line.split(' '));
        request(Line::try_parse_from(words).unwrap().args)
    }

    fn paths(line: &str) -> Vec<String> {
        requested(line).unwrap().update_mask.unwrap().paths
    }

    #[test]
    fn what_is_given_is_named_and_nothing_else() {
        let request =
            requested("1 photo.jpg --header a=b --priority -5 --delay 1s --expires-in 1h --request-id r")
                .unwrap();
        let delay = prost_types::Duration { seconds: 1, nanos: 0 };
        let hour = prost_types::Duration { seconds: 3_600, nanos: 0 };
        let spec = JobSpec {
            payload: Some(Payload::of_text("photo.jpg")),
            headers: [("a".to_owned(), "b".to_owned())].into(),
            priority: Some(-5),
            start: Some(Start::Delay(delay)),
            expiry: Some(Expiry::ExpireAfter(hour)),
            ..Default::default()
        };
        let paths = ["payload", "headers", "priority", "delay", "expire_after"].map(str::to_owned).to_vec();
        let expected = UpdateJobRequest {
            id: "1".into(),
            spec: Some(spec),
            update_mask: Some(prost_types::FieldMask { paths }),
            request_id: "r".into(),
            ..Default::default()
        };
        assert_eq!(request, expected);
        assert_eq!(self::paths("1 --run-at 1970-01-01T00:00:01Z"), ["run_time"]);
        assert_eq!(
            self::paths("1 --no-payload --no-headers --never-expires"),
            ["payload", "headers", "expire_after"]
        );
    }

    #[test]
    fn nothing_to_change_is_wrong_usage() {
        assert_eq!(requested("1").unwrap_err().exit(), Exit::Usage);
    }
}
