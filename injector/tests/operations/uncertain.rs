//! How wrong the clock may be, as it is told: by both system calls, to the target alone.

use crate::harms::{scenario, within};
use crate::support::{Cgroup, Experiment, Located as _, python};
use crate::{can, is_able};

/// Asks by each call, and prints what it hears: the maximum and the estimated error in microseconds, and whether the clock is synchronised.
const SCRIPT: &str = r#"
import ctypes
class Timex(ctypes.Structure):
    _fields_ = [("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long), ("maxerror", ctypes.c_long),
                ("esterror", ctypes.c_long), ("status", ctypes.c_int), ("rest", ctypes.c_char * 256)]
libc = ctypes.CDLL(None, use_errno=True)
ADJTIMEX, CLOCK_ADJTIME = 159, 305
def hear(*call):
    told = Timex()
    assert libc.syscall(*call, ctypes.byref(told)) >= 0
    print(told.maxerror, told.esterror, not told.status & 0x40)
hear(ADJTIMEX)
hear(CLOCK_ADJTIME, 0)
# Nothing is written to who is refused.
told = Timex(modes=0xffff)
assert libc.syscall(CLOCK_ADJTIME, 99, ctypes.byref(told)) < 0 and told.maxerror == 0
"#;

fn heard(cgroup: Option<&Cgroup>) -> Vec<String> {
    let text = match cgroup {
        Some(cgroup) => within(cgroup, &format!("enter()\n{SCRIPT}")).text(),
        None => python(SCRIPT).text(),
    };
    text.lines().map(str::to_owned).collect()
}

#[test]
fn the_target_is_told_that_its_clock_may_be_more_wrong_than_it_is() {
    let fault = "kind = \"clock.uncertainty\"\nmaxerror = \"10s\"\nesterror = \"2s\"\nsynchronised = false";
    if !is_able() || !can(fault, true, &["can't be had on this kernel"]) {
        return;
    }
    let cgroup = Cgroup::new();
    let experiment = Experiment::apply(&scenario(&cgroup, fault));
    assert_eq!(heard(Some(&cgroup)), ["10000000 2000000 False"; 2]);
    let neighbours = heard(None);
    assert!(!neighbours.iter().any(|line| line.contains("2000000")), "{neighbours:?}");
    let report = experiment.end();
    assert_eq!((report.only().matched, report.only().injected), (2, 2));
    assert!(!heard(Some(&cgroup)).iter().any(|line| line.contains("2000000")));
}

#[test]
fn what_is_not_named_stays_true_and_the_calls_fail_as_others_do() {
    let told = "kind = \"clock.uncertainty\"\nmaxerror = \"1500us\"\nsynchronised = true";
    if !is_able() || !can(told, true, &["can't be had on this kernel"]) {
        return;
    }
    let cgroup = Cgroup::new();
    let truth = heard(Some(&cgroup)).remove(0);
    let estimated = truth.split(' ').nth(1).unwrap();
    let experiment = Experiment::apply(&scenario(&cgroup, &format!("{told}\nnth = \"2\"")));
    let second = heard(Some(&cgroup)).remove(1);
    // The estimate is the kernel's, and it is the second call alone.
    assert_eq!(second, format!("1500 {estimated} True"));
    assert_eq!(experiment.end().only().injected, 1);
}

/// Both are faults of the same system call, one where it begins and one where it ends: neither is decided at the other's place.
#[test]
fn what_is_decided_where_a_call_begins_is_not_decided_once_more_where_it_ends() {
    let told = "kind = \"clock.uncertainty\"\nesterror = \"2s\"";
    let signal = "kind = \"syscall.signal\"\nid = \"signal\"\nsyscalls = \"adjtimex\"\nsignal = \"SIGURG\"";
    if !is_able() || !can(told, true, &["can't be had on this kernel"]) {
        return;
    }
    let cgroup = Cgroup::new();
    let both = format!("{told}\nid = \"told\"\n[[fault]]\ntarget = \"t\"\n{signal}");
    let experiment = Experiment::apply(&scenario(&cgroup, &both));
    assert!(heard(Some(&cgroup)).iter().all(|line| line.contains(" 2000000 ")));
    let report = experiment.end();
    let counted = |id| (report.fault(id).matched, report.fault(id).injected);
    assert_eq!((counted("told"), counted("signal")), ((2, 2), (1, 1)));
}
