//! Every program of the object, loaded on the running kernel: what `injector programs` prints and what
//! `cargo xtask verify` compares over the kernels.

use aya::programs::Program;
use injector_common::frequency::Budget;
use injector_common::layout::CONTROL_TRACE;
use injector_common::operation::Subject;
use injector_common::rule::{ACTION_LOSS, ACTION_OPERATION, FREQUENCY_NTH, FREQUENCY_PROBABILITY, Rule};
use injector_common::window::Window;
use serde::Serialize;

use super::functions::{Function, Functions, insns_of};
use super::{Image, Kernel, KernelError};
use crate::plan::operations::{self, TRIAL_PROGRAM};

/// A traffic-control program in its two forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classifier {
    /// For Ethernet devices and loopback: reads headers directly.
    ethernet: &'static str,
    /// For devices whose frames begin otherwise (tun, ppp, wireguard): asks the kernel for each header.
    any: &'static str,
}

impl Classifier {
    /// The form for a device.
    #[must_use]
    pub const fn for_device(self, is_ethernet: bool) -> &'static str {
        if is_ethernet { self.ethernet } else { self.any }
    }
}

/// Packets that leave a cgroup.
pub const EGRESS: Classifier = Classifier { ethernet: "injector_egress", any: "injector_egress_any" };
/// Packets that arrive at a cgroup.
pub const INGRESS: &str = "injector_ingress";
/// Packets that leave by a device.
pub const DEVICE_OUT: Classifier = Classifier { ethernet: "injector_dev_out", any: "injector_dev_out_any" };
/// Packets that arrive at a device.
pub const DEVICE_IN: Classifier = Classifier { ethernet: "injector_dev_in", any: "injector_dev_in_any" };

/// What has arrived at a device, on its way round by an ifb.
pub const DEVICE_IN_ROUND: Classifier = Classifier { ethernet: "injector_ifb", any: "injector_ifb_any" };

/// Packets that arrive at a cgroup, where they arrive.
pub const ARRIVE: Classifier = Classifier { ethernet: "injector_arrive", any: "injector_arrive_any" };
/// Those of them that take the way round by an ifb: no program that acts, but a filter that matches.
pub const ROUND: &str = "injector_round";
/// Sockets that a cgroup's processes make.
pub const SOCKET_NEW: &str = "injector_sock_new";
/// Sockets of a cgroup at which a packet arrives.
pub const SOCKET_SEEN: &str = "injector_sock_seen";
/// Sockets of a cgroup that the controller asks about.
pub const SOCKET_OLD: &str = "injector_sock_old";

/// connect(2) to IPv4 and to IPv6 addresses.
pub const CONNECT: [&str; 2] = ["injector_connect4", "injector_connect6"];
/// bind(2), likewise.
pub const BIND: [&str; 2] = ["injector_bind4", "injector_bind6"];
/// UDP sends that name an address, likewise.
pub const SENDMSG: [&str; 2] = ["injector_sendmsg4", "injector_sendmsg6"];

/// Packets that arrive at an Ethernet device, at XDP.
pub const XDP: &str = "injector_xdp";

/// Programs that begin.
pub const EXEC: &str = "injector_exec";

/// Drops all, at XDP: for comparison. It is never attached.
pub const XDP_DROP: &str = "injector_xdp_drop";

/// Does nothing, at traffic control: for trials, and for comparison.
pub const EMPTY: &str = "injector_empty";

/// How the names of programs of operations begin.
const OPERATION: &str = "injector_do_";

/// One of each type. The others of a type differ in what is in front of the same code.
const OF_EACH_TYPE: [&str; 7] =
    [EGRESS.ethernet, ARRIVE.ethernet, INGRESS, XDP, CONNECT[0], SOCKET_NEW, SOCKET_OLD];

/// How the kernel took one program.
#[derive(Debug, Serialize)]
pub struct ProgramReport {
    /// Its name.
    pub program: String,
    /// Its type, in the kernel's words.
    pub r#type: &'static str,
    /// Whether the kernel loaded it.
    pub loaded: bool,
    /// Instructions that the verifier walked.
    pub verified_insns: Option<u32>,
    /// Size of the program as the kernel keeps it.
    pub xlated_bytes: Option<u32>,
    /// Why it was refused.
    pub error: Option<String>,
}

/// Loads every program of the object. Nothing is attached.
pub fn load_all() -> Result<Vec<ProgramReport>, KernelError> {
    let mut kernel = Kernel::load(&Image::default(), 1)?;
    let names = kernel.program_names().into_iter().filter(|name| !name.starts_with(OPERATION));
    let mut reports: Vec<_> = names.map(|name| report(&mut kernel, name)).collect();
    reports.extend(load_operations()?);
    Ok(reports)
}

/// Those at functions of the kernel, if it lets anybody attach there: what it does not let is left out.
fn load_operations() -> Result<Vec<ProgramReport>, KernelError> {
    let (own, plain): (Vec<Function>, Vec<Function>) =
        operations::of_each_shape().into_iter().partition(operations::has_own_action);
    // Those of errors with all that rules can ask for, the others with what their faults ask for and a limit: with all of it the verifier of
    // Linux 7.3 walks for minutes.
    let bounded = Rule {
        limit: 1,
        budget: Budget { count: 1, period_ns: 1 },
        window: Window { for_ns: 1, every_ns: 2, ..Window::default() },
        ..Rule::default()
    };
    let frequencies = [FREQUENCY_PROBABILITY, FREQUENCY_NTH];
    let rule = |frequency| Rule { action: ACTION_OPERATION, frequency, ..bounded };
    let mut reports = load_for(frequencies.map(rule).to_vec(), CONTROL_TRACE, &plain)?;
    for function in own {
        let rule = |action: &u32| Rule {
            action: *action,
            flags: operations::flags(&function),
            frequency: FREQUENCY_NTH,
            limit: 1,
            ..Rule::default()
        };
        let rules = operations::actions(&function).iter().map(rule).collect();
        reports.extend(load_for(rules, 0, std::slice::from_ref(&function))?);
    }
    Ok(reports)
}

/// Those that the kernel lets anybody attach, as these rules ask for them.
fn load_for(
    rules: Vec<Rule>,
    control_flags: u32,
    wanted: &[Function],
) -> Result<Vec<ProgramReport>, KernelError> {
    let image = Image {
        rules,
        faults: 1,
        subjects: vec![Subject::default()],
        flags: control_flags,
        ..Image::default()
    };
    let kernel = match Kernel::load(&image, 1) {
        Err(KernelError::Btf(_)) => return Ok(Vec::new()),
        kernel => kernel?,
    };
    let functions = kernel.functions()?;
    let lets = |function: &&Function| {
        let trial = Function { program: TRIAL_PROGRAM, ..(*function).clone() };
        functions.has(&function.name) && functions.load(&trial).is_ok()
    };
    Ok(wanted.iter().filter(lets).map(|function| report_of(functions, function)).collect())
}

fn report_of(functions: &Functions, function: &Function) -> ProgramReport {
    let sleeps = if function.sleeps { ".s" } else { "" };
    let program = format!("{}{sleeps}", function.program);
    // In an emulated machine one may take a minute.
    tracing::info!(program, "loading");
    match functions.load(function).and_then(|program| insns_of(&program)) {
        Err(error) => refused(program, function.mechanism.name(), error.to_string()),
        Ok((verified, xlated)) => ProgramReport {
            program,
            r#type: function.mechanism.name(),
            loaded: true,
            verified_insns: Some(verified),
            xlated_bytes: Some(xlated),
            error: None,
        },
    }
}

/// The same of one program of each type, as an experiment with a loss loads it: what no rule asks for, the verifier does not walk, and to walk
/// all takes seconds, in an emulated machine minutes.
pub fn load_each_type() -> Result<Vec<ProgramReport>, KernelError> {
    let loss = Rule { action: ACTION_LOSS, frequency: FREQUENCY_PROBABILITY, ..Rule::default() };
    let image = Image { rules: vec![loss], faults: 1, ..Image::default() };
    let mut kernel = Kernel::load(&image, 1)?;
    Ok(OF_EACH_TYPE.iter().map(|name| report(&mut kernel, (*name).to_owned())).collect())
}

fn report(kernel: &mut Kernel, name: String) -> ProgramReport {
    let Some(program) = kernel.program(&name) else {
        return refused(name, "unknown", "it is not in the object".to_owned());
    };
    let (kind, loaded) = match program {
        Program::SchedClassifier(p) => ("sched_cls", p.load()),
        Program::CgroupSkb(p) => ("cgroup_skb", p.load()),
        Program::CgroupSockAddr(p) => ("cgroup_sock_addr", p.load()),
        Program::CgroupSock(p) => ("cgroup_sock", p.load()),
        Program::CgroupSockopt(p) => ("cgroup_sockopt", p.load()),
        Program::Xdp(p) => ("xdp", p.load()),
        Program::RawTracePoint(p) => ("raw_tracepoint", p.load()),
        _ => return refused(name, "unknown", "injector has no use for this type".to_owned()),
    };
    if let Err(error) = loaded {
        return refused(name, kind, KernelError::program("of the object", error).to_string());
    }
    let info = program.info().ok();
    ProgramReport {
        program: name,
        r#type: kind,
        loaded: true,
        verified_insns: info.as_ref().and_then(aya::programs::ProgramInfo::verified_instruction_count),
        xlated_bytes: info.as_ref().and_then(aya::programs::ProgramInfo::size_translated),
        error: None,
    }
}

fn refused(program: String, r#type: &'static str, error: String) -> ProgramReport {
    ProgramReport {
        program,
        r#type,
        loaded: false,
        verified_insns: None,
        xlated_bytes: None,
        error: Some(error),
    }
}
