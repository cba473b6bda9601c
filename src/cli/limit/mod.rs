//! `jobmill limit`.

mod settings;
mod show;

use clap::{Args, Subcommand};

use super::{
    Global, connect,
    control::RequestIdArg,
    exit::{Exit, Failure},
    json, text,
    ui::Ui,
};
use jobmill::{
    client::Client,
    proto::v1::{
        CreateLimitRequest, DeleteLimitOverrideRequest, DeleteLimitRequest, Limit, LimitOverride,
        ListLimitValuesRequest, ListLimitsRequest, SetLimitOverrideRequest, UpdateLimitRequest,
    },
};
use settings::{Changes, Rule, RuleArgs, Settings};

/// The etag that matches any version of a limit.
const ANY: &str = "*";
/// The largest page that servers give.
const PAGE: i32 = 1_000;

/// The verbs of `jobmill limit`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List all limits
    List,
    /// Show a limit
    Get(Get),
    /// List the values of a limit that are in use, waited for, or have a rule of their own
    Values(Values),
    /// Create a limit
    Create(Create),
    /// Change what is named of a limit; the rest stays
    Update(Box<Update>),
    /// Delete a limit, with the rules of its values
    Delete(Change),
    /// Give one value of a limit a rule of its own
    Set(Set),
    /// Delete the rule of one value; the limit's own holds again
    Unset(Unset),
}

/// A limit to show.
#[derive(Debug, Args)]
pub(super) struct Get {
    /// The limit's name
    #[arg(value_name = "LIMIT")]
    name: String,
}

/// A limit whose values to show.
#[derive(Debug, Args)]
pub(super) struct Values {
    /// The limit's name
    #[arg(value_name = "LIMIT")]
    name: String,
    /// Only values with a rule of their own
    #[arg(long)]
    overridden: bool,
}

/// A limit to create.
#[derive(Debug, Args)]
pub(super) struct Create {
    /// The limit's name
    #[arg(value_name = "LIMIT")]
    name: String,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    named: RequestIdArg,
}

/// A limit and its changes.
#[derive(Debug, Args)]
#[command(
    after_help = "Concurrent changes do not undo each other: what is not named stays, and the command is refused \
                  (exit code 5) if the limit changes after the command has read it. No job that runs is ended."
)]
pub(super) struct Update {
    /// The limit's name
    #[arg(value_name = "LIMIT")]
    name: String,
    #[command(flatten)]
    changes: Changes,
    /// Refuse the change unless the limit has this etag, as shown by `jobmill limit get`. Default: its etag when the
    /// command starts
    #[arg(long, value_name = "ETAG", conflicts_with = "force")]
    etag: Option<String>,
    /// Change the limit whatever its etag is
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    named: RequestIdArg,
}

/// A limit to delete.
#[derive(Debug, Args)]
pub(super) struct Change {
    /// The limit's name
    #[arg(value_name = "LIMIT")]
    name: String,
    #[command(flatten)]
    named: RequestIdArg,
}

/// The rule of one value.
#[derive(Debug, Args)]
pub(super) struct Set {
    /// The limit's name
    #[arg(value_name = "LIMIT")]
    name: String,
    /// The value of the label, or the name of the queue or kind
    #[arg(value_name = "VALUE")]
    value: String,
    #[command(flatten)]
    rule: RuleArgs,
    /// Let no job of this value start
    #[arg(long, conflicts_with_all = ["max_running", "rate", "burst"])]
    paused: bool,
    #[command(flatten)]
    named: RequestIdArg,
}

/// A value whose rule to delete.
#[derive(Debug, Args)]
pub(super) struct Unset {
    /// The limit's name
    #[arg(value_name = "LIMIT")]
    name: String,
    /// The value
    #[arg(value_name = "VALUE")]
    value: String,
    #[command(flatten)]
    named: RequestIdArg,
}

pub(super) async fn run(command: Command, global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    check(&command)?;
    let client = connect(global).await?;
    match command {
        Command::List => list(&client, ui).await?,
        Command::Get(Get { name }) => tell(&client.get_limit(name).await?, ui)?,
        Command::Values(args) => values(&client, args, ui).await?,
        Command::Create(Create { name, settings, named: RequestIdArg { request_id } }) => {
            let limit = Some(settings.create(name));
            let request = CreateLimitRequest { limit, request_id, ..Default::default() };
            tell(&present(client.create_limit(request).await?.limit)?, ui)?;
        }
        Command::Update(args) => tell(&update(&client, *args).await?, ui)?,
        Command::Delete(Change { name, named: RequestIdArg { request_id } }) => {
            client.delete_limit(DeleteLimitRequest { request_id, ..name.as_str().into() }).await?;
            if ui.is_json() {
                ui.print_json(&serde_json::json!({ "deleted": { "name": name } }))?;
            } else {
                ui.print(&format!("limit {} deleted", text::escape(&name)))?;
            }
        }
        Command::Set(args) => set(&client, args, ui).await?,
        Command::Unset(args) => unset(&client, args, ui).await?,
    }
    Ok(Exit::Ok)
}

/// Checks that a limit and a value get a rule, that an update changes something, and that its repeat is the same request.
fn check(command: &Command) -> Result<(), Failure> {
    let needs_rule = |is_given: bool, options: &str| match is_given {
        true => Ok(()),
        false => {
            Err(Failure::usage("what the limit allows is missing").with_next(format!("Name {options}.")))
        }
    };
    match command {
        Command::Create(Create { settings, .. }) => {
            needs_rule(settings.rule.over(None).is_some(), "--max-running N, or --rate COUNT/TIME")
        }
        Command::Set(Set { rule, paused, .. }) => {
            let options = "--max-running N or --rate COUNT/TIME, as the limit has it, or --paused";
            needs_rule(*paused || rule.over(None).is_some(), options)
        }
        Command::Update(args) if !args.changes.is_given() => {
            let failure = Failure::usage("nothing to change is named");
            Err(failure.with_next("Name what to change, such as --max-running 4; --help lists all."))
        }
        Command::Update(args) if !args.named.request_id.is_empty() && args.etag.is_none() && !args.force => {
            // A repeat would read another etag, and so be another request.
            Err(Failure::usage("--request-id needs --etag or --force, for a repeat to be the same request"))
        }
        Command::Update(_)
        | Command::List
        | Command::Get(_)
        | Command::Values(_)
        | Command::Delete(_)
        | Command::Unset(_) => Ok(()),
    }
}

async fn list(client: &Client, ui: &Ui) -> Result<(), Failure> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListLimitsRequest { page_size: PAGE, page_token, ..Default::default() };
        let page = client.list_limits(request).await?;
        if ui.is_json() {
            page.limits.iter().try_for_each(|limit| ui.print_json(&json::limit(limit)))?;
        } else {
            all.extend(page.limits);
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if ui.is_json() { Ok(()) } else { ui.print(&show::list(&all, ui.colour)) }
}

async fn values(client: &Client, args: Values, ui: &Ui) -> Result<(), Failure> {
    let Values { name: limit, overridden: only_overridden } = args;
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let limit = limit.clone();
        let page_size = PAGE;
        let request =
            ListLimitValuesRequest { limit, only_overridden, page_size, page_token, ..Default::default() };
        let page = client.list_limit_values(request).await?;
        if ui.is_json() {
            page.values.iter().try_for_each(|value| ui.print_json(&json::limit_value(value)))?;
        } else {
            all.extend(page.values);
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if ui.is_json() { Ok(()) } else { ui.print(&show::of_values(&all, ui.clock.now(), ui.colour)) }
}

async fn update(client: &Client, args: Update) -> Result<Limit, Failure> {
    let Update { name, changes, etag, force, named: RequestIdArg { request_id } } = args;
    let before = client.get_limit(name.as_str()).await?;
    if changes.lacks_a_rate(&before) {
        let what = format!("the limit {name} has no rate that a burst could belong to");
        return Err(Failure::usage(what).with_next("Name --rate as well."));
    }
    let limit = changes.over(before);
    let etag = match etag {
        Some(etag) => etag,
        None if force => ANY.to_owned(),
        None => limit.etag.clone(),
    };
    let limit = Some(Limit { etag, ..limit });
    let request = UpdateLimitRequest { limit, request_id, ..Default::default() };
    present(client.update_limit(request).await?.limit)
}

async fn set(client: &Client, args: Set, ui: &Ui) -> Result<(), Failure> {
    let Set { name, value, rule, paused, named: RequestIdArg { request_id } } = args;
    let rule = match paused {
        // Of the limit's sort.
        true => client.get_limit(name.as_str()).await?.rule.map(|rule| Rule::from(rule).paused()),
        false => rule.over(None),
    };
    let said = LimitOverride { limit: name, value, rule: rule.map(Into::into) };
    let request =
        SetLimitOverrideRequest { r#override: Some(said.clone()), request_id, ..Default::default() };
    let answer = client.set_limit_override(request).await?;
    if ui.is_json() {
        return ui.print_json(&json::limit_override(&said, answer.repeated));
    }
    let (limit, value) = (text::escape(&said.limit), text::word(&said.value));
    ui.print(&format!("limit {limit}: {value} has a rule of its own now: {}", show::rule(rule)))
}

async fn unset(client: &Client, args: Unset, ui: &Ui) -> Result<(), Failure> {
    let Unset { name, value, named: RequestIdArg { request_id } } = args;
    let (limit, said) = (name.clone(), value.clone());
    let request = DeleteLimitOverrideRequest { limit, value: said, request_id, ..Default::default() };
    client.delete_limit_override(request).await?;
    if ui.is_json() {
        return ui.print_json(&serde_json::json!({ "deleted": { "limit": name, "value": value } }));
    }
    ui.print(&format!("limit {}: {} has the limit's own rule again", text::escape(&name), text::word(&value)))
}

/// Returns the limit of an answer, or a failure if it was deleted since.
fn present(limit: Option<Limit>) -> Result<Limit, Failure> {
    limit.ok_or_else(|| {
        let what = "this request id was used before, and the limit was deleted since";
        Failure::new(Exit::NotFound, what).with_next("Use another --request-id for another change.")
    })
}

fn tell(limit: &Limit, ui: &Ui) -> Result<(), Failure> {
    if ui.is_json() { ui.print_json(&json::limit(limit)) } else { ui.print(&show::in_full(limit)) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    fn checked(line: &str) -> Result<(), Failure> {
        check(&Line::try_parse_from(["limit"].into_iter().chain(line.split_whitespace())).unwrap().command)
    }

    #[test]
    fn what_a_change_lacks_is_told_before_it_is_sent() {
        for fine in [
            "create l --max-running 0",
            "create l --rate 10/s --burst 5",
            "update l --max-running 4",
            "update l --burst 4",
            "update l --all-queues --force --request-id r",
            "update l --by-kind --etag e --request-id r",
            "set l v --paused",
            "set l v --rate 10/s",
            "set l --max-running 1 -- -v",
            "unset l v --request-id r",
        ] {
            assert!(checked(fine).is_ok(), "{fine}");
        }
        for (line, said) in [
            ("create l", "Name --max-running N, or --rate"),
            ("create l --burst 5", "Name --max-running N, or --rate"),
            ("create l --by-queue", "what the limit allows is missing"),
            ("update l", "nothing to change"),
            ("update l --force", "nothing to change"),
            ("update l --max-running 4 --request-id r", "--request-id needs --etag"),
            ("set l v", "or --paused"),
        ] {
            let failure = checked(line).unwrap_err();
            assert_eq!(failure.exit(), Exit::Usage);
            assert!(failure.line().unwrap().contains(said), "{line}: {failure:?}");
        }
        for line in ["set l v --paused --max-running 1", "update l --force --etag e", "set l", "get"] {
            let words = ["limit"].into_iter().chain(line.split_whitespace());
            assert!(Line::try_parse_from(words).is_err(), "{line}");
        }
    }

    #[test]
    fn a_limit_that_a_repeat_does_not_find_any_more_is_told_as_missing() {
        assert_eq!(present(None).unwrap_err().exit(), Exit::NotFound);
    }
}
