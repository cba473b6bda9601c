//! `jobmill key`.

use super::{
    Global, connect,
    control::RequestIdArg,
    exit::{Exit, Failure},
    json,
    table::{Table, plain},
    text,
    ui::Ui,
    unique::{self, ScopeArg},
};
use jobmill::{
    client::from_wire_timestamp,
    clock::Timestamp,
    proto::v1::{ListUniqueKeysRequest, ReleaseUniqueKeyRequest, UniqueKeyStatus, UniqueScope},
};

/// The verbs of `jobmill key`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the unique keys that are held
    List(List),
    /// Take a unique key from its holder; the job itself goes on
    Release(Release),
}

/// The keys to list.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Keys whose holder is in this queue
    #[arg(long, value_name = "QUEUE", default_value = "", hide_default_value = true)]
    queue: String,
    /// This key, in all scopes
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    key: String,
    /// The largest number of keys; 0 for all
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
}

/// The key to release.
#[derive(Debug, clap::Args)]
pub(super) struct Release {
    /// The key
    #[arg(value_name = "KEY")]
    key: String,
    /// The kind of the key's scope, or the queue with --scope queue
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    of: String,
    /// The scope of the key
    #[arg(long, value_enum, value_name = "SCOPE", default_value = "kind")]
    scope: ScopeArg,
    #[command(flatten)]
    named: RequestIdArg,
}

pub(super) async fn run(command: Command, global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    match command {
        Command::List(args) => list(args, global, ui).await,
        Command::Release(args) => release(args, global, ui).await,
    }
}

async fn list(args: List, global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    const PAGE: usize = 1_000;
    let client = connect(global).await?;
    let (mut keys, mut page_token) = (Vec::new(), String::new());
    loop {
        let left = if args.limit == 0 { PAGE } else { args.limit - keys.len() };
        let request = ListUniqueKeysRequest {
            queue: args.queue.clone(),
            key: args.key.clone(),
            page_size: left.min(PAGE) as i32,
            page_token,
            ..Default::default()
        };
        let page = client.list_unique_keys(request).await?;
        if ui.is_json() {
            page.keys.iter().try_for_each(|key| ui.print_json(&json::unique_key(key)))?;
        }
        keys.extend(page.keys);
        page_token = page.next_page_token;
        if page_token.is_empty() || (args.limit > 0 && keys.len() >= args.limit) {
            break;
        }
    }
    if !ui.is_json() {
        if keys.is_empty() {
            ui.note("no keys are held");
        } else {
            ui.print(&render(&keys, ui.clock.now(), ui.colour))?;
        }
    }
    if !page_token.is_empty() {
        ui.note(&format!(
            "there are more than {}; --limit 0 lists all",
            text::counted(args.limit as u64, "key")
        ));
    }
    Ok(Exit::Ok)
}

fn render(keys: &[UniqueKeyStatus], now: Timestamp, colour: bool) -> String {
    let mut table = Table::new(["KEY", "SCOPE", "QUEUE", "HOLDER", "SUCCESSOR", "HELD UNTIL"], colour);
    for key in keys {
        let scope = UniqueScope::try_from(key.scope).unwrap_or_default();
        let until = key.held_until.as_ref().map(|until| text::relative(from_wire_timestamp(until), now));
        table.row([
            plain(text::escape(&key.key)),
            plain(unique::scope(scope, &key.queue, &key.kind)),
            plain(text::escape(&key.queue)),
            plain(text::escape(&key.holder_id)),
            plain(text::escape(&key.successor_id)),
            plain(until.unwrap_or_else(|| "its end".to_owned())),
        ]);
    }
    table.render()
}

async fn release(args: Release, global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    let client = connect(global).await?;
    let request = ReleaseUniqueKeyRequest {
        key: args.key,
        scope: args.scope.to_wire().into(),
        of: args.of,
        request_id: args.named.request_id,
        ..Default::default()
    };
    let answer = client.release_unique_key(request).await?;
    if ui.is_json() {
        ui.print_json(&json::released(&answer))?;
        return Ok(Exit::Ok);
    }
    if answer.repeated {
        ui.note("this request id was used before: nothing changed");
        return Ok(Exit::Ok);
    }
    let holder = text::escape(&answer.holder_id);
    ui.print(&match answer.successor_id.as_str() {
        "" => format!("released by {holder}"),
        successor => format!("released by {holder}, held by {}", text::escape(successor)),
    })?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::describe::tests::at;
    use jobmill::client::to_wire_timestamp;

    #[test]
    fn keys_in_a_table_with_one_line_each() {
        let held = UniqueKeyStatus {
            key: "order 17".into(),
            holder_id: "06g3k5m0v4001".into(),
            successor_id: "06g3k5m0v4002".into(),
            queue: "default".into(),
            kind: "report/daily".into(),
            ..Default::default()
        };
        let ended = UniqueKeyStatus {
            key: "a\nb".into(),
            scope: UniqueScope::Queue.into(),
            successor_id: String::new(),
            held_until: Some(to_wire_timestamp(at(65_000))),
            ..held.clone()
        };
        let everywhere = UniqueKeyStatus { scope: UniqueScope::Namespace.into(), ..held.clone() };
        insta::assert_snapshot!(render(&[held, ended, everywhere], at(60_000), false), @r"
        KEY       SCOPE              QUEUE    HOLDER         SUCCESSOR      HELD UNTIL
        order 17  kind report/daily  default  06g3k5m0v4001  06g3k5m0v4002  its end
        a\nb      queue default      default  06g3k5m0v4001                 in 5s
        order 17  namespace          default  06g3k5m0v4001  06g3k5m0v4002  its end
        ");
    }
}
