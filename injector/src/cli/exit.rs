//! Exit statuses, and how errors become one.

use std::process::ExitCode;

use crate::engine::EngineError;
use crate::host::cgroup::CgroupError;
use crate::journal::JournalError;
use crate::kernel::KernelError;
use crate::scenario::Diagnostics;
use crate::target::TargetError;

/// The exit statuses of injector; public interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Done,
    Failed,
    Usage,
    Unsupported,
    Conflict,
    Expectation,
    Interrupted,
    /// Of the command of `run`.
    Command(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Unsupported => 3,
            Exit::Conflict => 5,
            Exit::Expectation => 6,
            Exit::Interrupted => 130,
            Exit::Command(status) => status,
        })
    }
}

/// An error on its way to the user.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    pub(super) message: String,
    pub(super) hint: Option<String>,
    /// The errors of a scenario, which are shown with their lines.
    pub(super) diagnostics: Option<Diagnostics>,
    /// The report has told it to programs already.
    pub(super) in_report: bool,
}

impl Failure {
    pub(super) fn new(exit: Exit, message: impl Into<String>, hint: Option<String>) -> Self {
        let message = message.into();
        // Some errors carry their hint in their text.
        match message.split_once("\n\nhint: ") {
            Some((text, own)) => Self {
                exit,
                message: text.to_owned(),
                hint: hint.or(Some(own.to_owned())),
                diagnostics: None,
                in_report: false,
            },
            None => Self { exit, message, hint, diagnostics: None, in_report: false },
        }
    }
}

impl From<Diagnostics> for Failure {
    fn from(diagnostics: Diagnostics) -> Self {
        Self {
            // Also where all that is wrong is that a later version is needed: the kernel is not to blame.
            exit: Exit::Usage,
            message: diagnostics.to_string(),
            hint: None,
            diagnostics: Some(diagnostics),
            in_report: false,
        }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self::new(exit_of(&error), error.to_string(), error.hint())
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        EngineError::from(error).into()
    }
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        EngineError::from(error).into()
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Failed, format!("{error:#}"), None)
    }
}

fn exit_of(error: &EngineError) -> Exit {
    match error {
        EngineError::Journal(JournalError::Conflict(_))
        | EngineError::ForeignIngress { .. }
        | EngineError::WayTaken { .. }
        | EngineError::ForeignXdp { .. } => Exit::Conflict,
        EngineError::Kernel(error) if error.is_unsupported() => Exit::Unsupported,
        EngineError::Unsupported { .. }
        | EngineError::NoFq
        | EngineError::LastingQdisc { .. }
        | EngineError::NoIfb { .. }
        | EngineError::NoOperation { .. }
        | EngineError::NoController { .. }
        | EngineError::NoClsact { .. }
        | EngineError::Cgroup(CgroupError::NotMounted { .. })
        | EngineError::Target(TargetError::Cgroup(CgroupError::NotMounted { .. })) => Exit::Unsupported,
        EngineError::Plan(_) | EngineError::Target(TargetError::Unsafe { .. }) => Exit::Usage,
        _ => Exit::Failed,
    }
}
