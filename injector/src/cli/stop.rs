//! `injector stop`: running experiments are told to end, all at once, and each is waited for.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::exit::{Exit, Failure};
use super::output::Output;
use super::{args, experiments};
use crate::engine::control::{ControlError, Request, ask};
use crate::journal::{Experiment, Store};

/// How long `stop` waits for experiments to take everything back.
const PATIENCE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(20);

/// The experiments that have not ended yet, and why one could not be told to.
type Pending<'a> = BTreeMap<&'a str, Result<(), ControlError>>;

pub(super) fn run(command: &args::Stop, output: &Output) -> Result<Exit, Failure> {
    let store = Store::open_default()?;
    // First: who asks for a dead one by its id learns here that it is dead.
    experiments::offer_clean(&store, output)?;
    let running: Vec<Experiment> = store.list()?.experiments.into_iter().filter(|e| e.alive).collect();
    let chosen = choose(command, &running)?;
    if chosen.is_empty() {
        output.talk("no experiment is running\n");
    }
    let mut pending = tell_all(&store, &chosen);
    wait_for_ends(&store, &mut pending, output)?;
    if output.json {
        output.object(&json!({ "experiments": as_json(&chosen, &pending) }));
    }
    failure(&pending).map_or(Ok(Exit::Done), Err)
}

fn choose<'a>(command: &'a args::Stop, running: &'a [Experiment]) -> Result<Vec<&'a str>, Failure> {
    if command.all {
        return Ok(running.iter().map(|experiment| experiment.header.id.as_str()).collect());
    }
    for id in &command.ids {
        if !running.iter().any(|experiment| experiment.header.id == *id) {
            return Err(Failure::new(
                Exit::Failed,
                format!("no running experiment has the id `{id}`"),
                Some("`injector status` lists them".to_owned()),
            ));
        }
    }
    Ok(command.ids.iter().map(String::as_str).collect())
}

/// Tells all of them at the same time: one that does not answer must not keep the others striking.
fn tell_all<'a>(store: &Store, ids: &[&'a str]) -> Pending<'a> {
    std::thread::scope(|scope| {
        let told: Vec<_> = ids
            .iter()
            .map(|&id| (id, scope.spawn(move || ask(&store.base().join(id), Request::Stop).map(drop))))
            .collect();
        let answer = |(id, thread): (_, std::thread::ScopedJoinHandle<'_, _>)| {
            (id, thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        };
        told.into_iter().map(answer).collect()
    })
}

/// Waits until all have ended, or there is no hope for those that have not. Takes out those that have.
fn wait_for_ends(store: &Store, pending: &mut Pending<'_>, output: &Output) -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        let listing = store.list()?;
        let runs = |id: &str| listing.experiments.iter().any(|e| e.alive && e.header.id == id);
        pending.retain(|id, _| {
            let runs = runs(id);
            if !runs {
                output.note("stopped", id);
            }
            runs
        });
        if start.elapsed() >= PATIENCE || pending.values().all(is_silent) {
            return Ok(());
        }
        std::thread::sleep(POLL);
    }
}

/// Whether it took the request and said nothing, as a controller does that is stopped or stuck. Any other error
/// may mean that it is ending, by itself or because of somebody else.
fn is_silent(told: &Result<(), ControlError>) -> bool {
    let kinds = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut];
    told.as_ref().is_err_and(|error| kinds.contains(&error.source.kind()))
}

fn why(told: &Result<(), ControlError>) -> String {
    match told {
        Ok(()) => "it was told to stop and still runs".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn hint(told: &Result<(), ControlError>) -> &'static str {
    match told {
        Ok(()) => "its command may not have ended: `injector status` shows it",
        Err(_) => "end its controller, whose pid `injector status --json` shows, by SIGTERM",
    }
}

/// The one that could not be stopped, or all of them.
fn failure(pending: &Pending<'_>) -> Option<Failure> {
    let (id, told) = pending.first_key_value()?;
    let message = if pending.len() == 1 {
        format!("the experiment `{id}` could not be stopped: {}", why(told))
    } else {
        let lines = pending.iter().map(|(id, told)| format!("\n  {id}: {}", why(told)));
        format!("{} experiments could not be stopped:{}", pending.len(), lines.collect::<String>())
    };
    let of_an_error = pending.values().find(|told| told.is_err()).unwrap_or(told);
    Some(Failure::new(Exit::Failed, message, Some(hint(of_an_error).to_owned())))
}

fn as_json(chosen: &[&str], pending: &Pending<'_>) -> Vec<Value> {
    let one = |id: &&str| json!({ "id": id, "stopped": !pending.contains_key(id), "problem": pending.get(id).map(why) });
    chosen.iter().map(one).collect()
}
