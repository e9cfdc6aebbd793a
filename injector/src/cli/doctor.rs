//! `injector doctor`: what this kernel can do, found by trying it.

use std::fmt::Write as _;

use owo_colors::OwoColorize as _;
use serde::Serialize;
use serde_json::json;

use super::exit::{Exit, Failure};
use super::experiments;
use super::output::Output;
use crate::engine::{
    EngineError, check_capabilities, departure_queue, filters, survey, tc_rung, way_round,
    way_round_of_cgroups,
};
use crate::host::cgroup::{Hierarchy, Mode};
use crate::host::facts::{Fact, Facts};
use crate::journal::Store;
use crate::kernel::attach::Rung;
use crate::kernel::programs;
use crate::kinds::{KINDS, Kind, Strikes};
use crate::plan::operations::{Rungs, Tried};

/// One question, its answer, and what to do where the answer is no.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    #[serde(flatten)]
    fact: Fact,
    /// Whether no fault can work without it.
    needed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Row {
    fn new(name: &str, fact: Fact, needed: bool, remedy: &str) -> Self {
        let remedy = (!fact.is_yes() && !remedy.is_empty()).then(|| remedy.to_owned());
        Self { name: name.to_owned(), fact, needed, remedy }
    }
}

pub(super) fn run(output: &Output) -> Result<Exit, Failure> {
    let facts = Facts::read().map_err(EngineError::from)?;
    let mut rows = privileges(&facts);
    rows.push(cgroups());
    rows.extend(kernel(&facts));
    let able = !rows.iter().any(|row| row.needed && !row.fact.is_yes());
    let queue = departures();
    // What keeps packets back takes more than the others do.
    let survey = survey();
    let (rungs, operations) = match &survey {
        Ok((rungs, operations)) => (Ok(rungs), &operations[..]),
        Err(error) => (Err(error), &[][..]),
    };
    let controllers = Hierarchy::find().and_then(|hierarchy| hierarchy.controllers()).unwrap_or_default();
    let has = |rung: fn(&Rungs) -> &Tried| rungs.is_ok_and(|rungs| rung(rungs).is_ok());
    let lets = |kind: &dyn Kind| match kind.strikes() {
        Strikes::Packets => queue.fact.is_yes() || !kind.keeps_back(),
        Strikes::Processes => true,
        Strikes::Limits(controller) => controllers.contains(controller),
        Strikes::Operations => has(|rungs| &rungs.lsm) || has(|rungs| &rungs.security),
        Strikes::Delays => has(|rungs| &rungs.lsm_sleep),
        Strikes::Results => has(|rungs| &rungs.security),
        Strikes::Ends => has(|rungs| &rungs.end),
        Strikes::Syscalls => has(|rungs| &rungs.syscall),
        Strikes::SyscallDelays => has(|rungs| &rungs.syscall_sleep),
        Strikes::SyscallEntries => has(|rungs| &rungs.entry),
        Strikes::Deputies => has(|rungs| &rungs.seccomp),
    };
    let (can, cannot): (Vec<&&dyn Kind>, Vec<_>) = KINDS.iter().partition(|kind| able && lets(**kind));
    let [kinds, lacking] =
        [can, cannot].map(|kinds: Vec<&&dyn Kind>| kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>());
    rows.push(queue);
    rows.push(arrivals("ifb", way_round(), "by which what arrives gets there"));
    let of_cgroups = way_round_of_cgroups();
    rows.push(arrivals("ifb by socket", of_cgroups, "by which what arrives at a cgroup gets there"));
    rows.extend(functions(rungs));
    if output.json {
        output.object(&json!({
            "kernel": facts.kernel_release, "able": able, "facts": rows, "kinds": kinds, "operations": operations,
        }));
    } else {
        output.data(&as_text(&facts.kernel_release, &rows, [&kinds, &lacking], output.stdout_colour()));
    }
    // Without them the kernel could not be asked, so it is not the kernel that can't.
    check_capabilities(&facts).map_err(|error| Failure { in_report: true, ..error.into() })?;
    let offered = Store::open_default()
        .map_err(Failure::from)
        .and_then(|store| experiments::offer_clean(&store, output));
    // Journals that can't be read say nothing of what the kernel can do.
    if let Err(failure) = offered {
        output.warning(&failure.message);
    }
    Ok(if able { Exit::Done } else { Exit::Unsupported })
}

fn privileges(facts: &Facts) -> Vec<Row> {
    let remedy = "run it as root (sudo); in a container add the capability";
    let host = Row::new(
        "host's user namespace",
        facts.host_user_namespace.clone(),
        false,
        "run it outside of the container",
    );
    let capabilities = facts
        .capabilities
        .iter()
        .map(|(capability, fact)| Row::new(&capability.to_string(), fact.clone(), true, remedy));
    std::iter::once(host).chain(capabilities).collect()
}

fn cgroups() -> Row {
    let (fact, remedy) = match Hierarchy::find() {
        Ok(hierarchy) => {
            let mode = match hierarchy.mode() {
                Mode::Unified => "unified",
                Mode::Hybrid => "hybrid, version 1 beside it",
            };
            (Fact::Yes(format!("{} ({mode})", hierarchy.mount().display())), String::new())
        }
        Err(error) => (Fact::No(error.to_string()), error.hint().unwrap_or_default()),
    };
    Row::new("cgroup version 2", fact, true, &remedy)
}

fn kernel(facts: &Facts) -> Vec<Row> {
    let mut rows = vec![
        Row::new(
            "no lockdown",
            facts.unlocked.clone(),
            false,
            "network faults work all the same; kinds that need fentry, LSM or kprobes will not: boot with lockdown=none",
        ),
        Row::new(
            "BTF",
            facts.btf.clone(),
            false,
            "network faults do without; CONFIG_DEBUG_INFO_BTF=y gives it",
        ),
        Row::new(
            "BPF JIT",
            facts.jit.clone(),
            false,
            "sysctl net.core.bpf_jit_enable=1, or faults cost more time",
        ),
    ];
    rows.extend(loads());
    let rung = tc_rung();
    let hangs_on_filters = matches!(rung, Ok(Rung::Clsact));
    let (fact, remedy) = match rung {
        Ok(Rung::Tcx) => (Fact::Yes("a link, which dies with injector".to_owned()), String::new()),
        Ok(Rung::Clsact) => (
            Fact::No("the kernel does not know it: filters on a clsact qdisc are taken instead".to_owned()),
            "Linux 6.6 and later have it; without it `injector clean` is needed after a SIGKILL".to_owned(),
        ),
        Err(error) => (Fact::Unknown(error.to_string()), error.hint().unwrap_or_default()),
    };
    rows.push(Row::new("tcx", fact, false, &remedy));
    if hangs_on_filters {
        rows.push(instead_of_tcx());
    }
    rows
}

/// What programs hang on where there is no tcx.
fn instead_of_tcx() -> Row {
    let (fact, remedy) = match filters() {
        Ok(()) => (Fact::Yes("what is taken instead of tcx".to_owned()), String::new()),
        Err(error @ EngineError::NoClsact { .. }) => {
            (Fact::No(error.to_string()), error.hint().unwrap_or_default())
        }
        Err(error) => (Fact::Unknown(error.to_string()), error.hint().unwrap_or_default()),
    };
    Row::new("clsact and bpf filters", fact, true, &remedy)
}

/// Where packets wait that are kept back.
fn departures() -> Row {
    let (fact, remedy) = match departure_queue() {
        Ok(()) => (Fact::Yes("where packets wait that are kept back".to_owned()), String::new()),
        Err(error @ EngineError::NoFq) => (Fact::No(error.to_string()), error.hint().unwrap_or_default()),
        Err(error) => (Fact::Unknown(error.to_string()), error.hint().unwrap_or_default()),
    };
    Row::new("fq", fact, false, &remedy)
}

/// The way of what arrives to that queue.
fn arrivals(name: &str, way: Result<(), EngineError>, leads: &str) -> Row {
    let (fact, remedy) = match way {
        Ok(()) => (Fact::Yes(leads.to_owned()), String::new()),
        Err(error @ EngineError::NoIfb { .. }) => {
            (Fact::No(error.to_string()), error.hint().unwrap_or_default())
        }
        Err(error) => (Fact::Unknown(error.to_string()), error.hint().unwrap_or_default()),
    };
    Row::new(name, fact, false, &remedy)
}

/// A mechanism by which operations are struck: its name, itself, what is done by it, and the remedy where there is none.
type Way = (&'static str, fn(&Rungs) -> &Tried, &'static str, &'static str);

const WAYS: [Way; 8] = [
    (
        "BPF LSM",
        |rungs| &rungs.lsm,
        "by which operations fail",
        "boot with lockdown=none, and with `bpf` in lsm=; without the LSM fmod_ret is taken",
    ),
    (
        "BPF LSM, sleeping",
        |rungs| &rungs.lsm_sleep,
        "by which operations are delayed: open, stat, send and others",
        "Linux 6.2 or later without lockdown, and the module fuse",
    ),
    (
        "fmod_ret at security_*",
        |rungs| &rungs.security,
        "by which operations fail where the BPF LSM is not active, and writes are lost",
        "boot with lockdown=none",
    ),
    (
        "fmod_ret at system calls",
        |rungs| &rungs.syscall,
        "by which fsync, close and system calls by their names fail",
        "a kernel that lets it: Linux 7.3 does, without lockdown",
    ),
    (
        "fmod_ret, sleeping",
        |rungs| &rungs.syscall_sleep,
        "by which read, write, fsync and system calls by their names are delayed",
        "a kernel that lets it: Linux 7.3 does, without lockdown; and the module fuse",
    ),
    ("fentry", |rungs| &rungs.entry, "by which system calls get a signal", "boot with lockdown=none"),
    ("fexit", |rungs| &rungs.end, "by which bits of what was read are flipped", "boot with lockdown=none"),
    (
        "seccomp notifications",
        |rungs| &rungs.seccomp,
        "by which `fallback = \"seccomp\"` decides over the calls of a command, and cuts reads and writes short",
        "x86-64, and outside of containers whose seccomp profile forbids it",
    ),
];

/// What decides over operations.
fn functions(rungs: Result<&Rungs, &EngineError>) -> Vec<Row> {
    let row = |(name, rung, what, remedy): Way| {
        let fact = match rungs.map(rung) {
            Ok(Ok(())) => Fact::Yes(what.to_owned()),
            // Each says its own name for the errors of plans.
            Ok(Err(why)) => Fact::No(why.split_once(": ").map_or(why.as_str(), |(_, rest)| rest).to_owned()),
            Err(error) => Fact::No(error.to_string()),
        };
        Row::new(name, fact, false, remedy)
    };
    WAYS.into_iter().map(row).collect()
}

/// One program of each type; `injector programs` has all of them.
fn loads() -> Vec<Row> {
    let reports = match programs::load_each_type() {
        Ok(reports) => reports,
        Err(error) => {
            return vec![Row::new("BPF maps", Fact::No(error.to_string()), true, "see the error")];
        }
    };
    reports
        .into_iter()
        .map(|report| {
            let fact = match report.error {
                None => Fact::Yes(format!("{} instructions verified", report.verified_insns.unwrap_or(0))),
                Some(error) => Fact::No(error),
            };
            Row::new(&format!("program {}", report.program), fact, true, "the kernel's words are above")
        })
        .collect()
}

fn as_text(release: &str, rows: &[Row], kinds: [&[&str]; 2], colour: bool) -> String {
    let mut text = format!("Linux {release}\n");
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    for row in rows {
        let (sign, detail) = match &row.fact {
            Fact::Yes(detail) => (if colour { "yes".green().to_string() } else { "yes".to_owned() }, detail),
            Fact::No(why) => (if colour { " no".red().to_string() } else { " no".to_owned() }, why),
            Fact::Unknown(why) => (if colour { "  ?".yellow().to_string() } else { "  ?".to_owned() }, why),
        };
        let _ = writeln!(text, "  {sign}  {:width$}  {detail}", row.name);
        if let Some(remedy) = &row.remedy {
            let _ = writeln!(text, "       {:width$}  remedy: {remedy}", "");
        }
    }
    for (kinds, verdict) in kinds.iter().zip(["can be injected here", "can't be injected here"]) {
        if !kinds.is_empty() {
            let _ = writeln!(text, "{} {verdict}", kinds.join(", "));
        }
    }
    text
}
