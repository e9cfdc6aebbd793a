//! What is generated from the code: the schema, completions, manual pages, the table of programs.

use std::path::Path;

use anyhow::Context as _;
use clap::CommandFactory as _;

use super::args::Arguments;
use super::exit::{Exit, Failure};
use super::output::Output;
use crate::kernel::programs;
use crate::scenario;

pub(super) fn schema(output: &Output) -> Result<Exit, Failure> {
    let text =
        serde_json::to_string_pretty(&scenario::schema()).context("the schema could not be written")?;
    output.data(&format!("{text}\n"));
    Ok(Exit::Done)
}

pub(super) fn completions(shell: clap_complete::Shell, output: &Output) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "injector", &mut script);
    output.data(&String::from_utf8_lossy(&script));
    Exit::Done
}

pub(super) fn man(directory: Option<&Path>, output: &Output) -> Result<Exit, Failure> {
    if let Some(directory) = directory {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("{} can't be made", directory.display()))?;
        clap_mangen::generate_to(Arguments::command(), directory)
            .with_context(|| format!("the pages can't be written to {}", directory.display()))?;
        return Ok(Exit::Done);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Arguments::command()).render(&mut page).context("the page can't be written")?;
    output.data(&String::from_utf8_lossy(&page));
    Ok(Exit::Done)
}

pub(super) fn programs(output: &Output) -> Result<Exit, Failure> {
    let reports = programs::load_all()?;
    let all_loaded = reports.iter().all(|report| report.loaded);
    if output.json {
        output.object(&reports);
    } else {
        for report in &reports {
            let insns = report.verified_insns.map_or_else(|| "-".to_owned(), |n| n.to_string());
            let said = report.error.as_deref().unwrap_or("loaded");
            output.data(&format!(
                "{:20} {:12} {insns:>8} instructions verified  {said}\n",
                report.program, report.r#type
            ));
        }
    }
    Ok(if all_loaded { Exit::Done } else { Exit::Unsupported })
}
