//! `jobmill completions` and `jobmill man`: shell completion scripts and manual pages.

use std::path::PathBuf;

use clap::{Command, CommandFactory};
use clap_complete::{Shell, aot};

use super::{
    Cli,
    exit::{self, Exit, Failure},
    ui::Ui,
};

/// Write a script to stdout that completes the program's arguments.
#[derive(clap::Args, Debug)]
pub(super) struct CompletionsArgs {
    /// Shell to write the script for
    #[arg(value_enum)]
    shell: Shell,
}

/// Write manual pages.
#[derive(clap::Args, Debug)]
pub(super) struct ManArgs {
    /// Folder for the pages, one for the program and one for each verb; without it, the program's page goes to stdout
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
}

/// Returns the command tree without the hidden verbs.
fn visible() -> Command {
    let all = Cli::command();
    let verbs = all.get_subcommands().filter(|verb| !verb.is_hide_set());
    let shown = Command::new("jobmill")
        .version(env!("CARGO_PKG_VERSION"))
        .after_help(exit::HELP)
        .disable_help_subcommand(true)
        .subcommand_required(true)
        .args(all.get_arguments())
        .subcommands(verbs);
    match all.get_about() {
        Some(about) => shown.about(about.clone()),
        None => shown,
    }
}

pub(super) fn completions(args: &CompletionsArgs, ui: &Ui) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    aot::generate(args.shell, &mut visible(), "jobmill", &mut script);
    ui.print_raw(&script)?;
    Ok(Exit::Ok)
}

pub(super) fn man(args: &ManArgs, ui: &Ui) -> Result<Exit, Failure> {
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(visible()).render(&mut page)?;
        ui.print_raw(&page)?;
        return Ok(Exit::Ok);
    };
    clap_mangen::generate_to(visible(), dir).map_err(|error| {
        Failure::new(Exit::Internal, format!("the pages can't be written to {}: {error}", dir.display()))
            .with_next("Name a folder that exists and that this user may write to.")
    })?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    fn verbs() -> Vec<String> {
        visible().get_subcommands().map(|verb| verb.get_name().to_owned()).collect()
    }

    #[test]
    fn every_shell_completes_what_people_may_use_and_nothing_else() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            aot::generate(*shell, &mut visible(), "jobmill", &mut script);
            let script = String::from_utf8(script).unwrap();
            for verb in verbs() {
                assert!(script.contains(&verb), "{shell}: {verb}");
            }
            for hidden in ["__checksum", "__bench-server"] {
                assert!(!script.contains(hidden), "{shell}: {hidden}");
            }
        }
    }

    #[test]
    fn every_verb_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        let ui = Ui::new(crate::cli::ui::Format::Text, true);
        man(&ManArgs { dir: Some(dir.path().to_owned()) }, &ui).unwrap();
        for verb in verbs() {
            let page = std::fs::read_to_string(dir.path().join(format!("jobmill-{verb}.1"))).unwrap();
            assert!(page.contains(".SH OPTIONS"), "{verb}");
        }
        let page = std::fs::read_to_string(dir.path().join("jobmill.1")).unwrap();
        assert!(page.contains("Exit codes") && !page.contains("__checksum"), "{page}");
    }
}
