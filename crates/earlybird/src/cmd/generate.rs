//! `earlybird completions` and `earlybird man`: what packagers install beside the command.

use std::io;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Command};

use super::Failure;

/// Print completions for a shell
///
/// For bash: `earlybird completions bash > /etc/bash_completion.d/earlybird`
#[derive(Args)]
pub(crate) struct CompletionsArgs {
    /// bash, zsh, fish, elvish or powershell
    shell: clap_complete::Shell,
}

/// Write manual pages, one for each command
#[derive(Args)]
pub(crate) struct ManArgs {
    /// Folder to write them to
    folder: PathBuf,
}

/// Prints completions.
pub(crate) fn completions(args: &CompletionsArgs, mut command: Command) {
    clap_complete::generate(args.shell, &mut command, "earlybird", &mut io::stdout());
}

/// Writes manual pages.
pub(crate) fn man(args: &ManArgs, command: Command) -> Result<(), Failure> {
    let shown = args.folder.display().to_string();
    std::fs::create_dir_all(&args.folder).with_context(|| shown.clone())?;
    clap_mangen::generate_to(command, &args.folder).context(shown)?;
    Ok(())
}
