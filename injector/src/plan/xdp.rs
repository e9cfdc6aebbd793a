//! What must hold where an interface is struck at XDP, and what its operator should know.

use super::{Hook, TargetKind};
use crate::scenario::{Corrupt, CorruptMode, Effect, InterfaceHook};

/// Why an interface can't be struck at XDP as asked.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum XdpError {
    /// The frames of the device begin otherwise than the program expects.
    #[error(
        "the target `{target}`: the frames of the device {device} have no Ethernet header, by which packets are read at XDP\n\nhint: leave `hook` out: traffic control strikes it too"
    )]
    NotEthernet {
        /// Target.
        target: String,
        /// Device.
        device: String,
    },
    /// What would be sent back comes by again.
    #[error(
        "the fault `{fault}` can't reject at XDP what arrives at {device}: on a loopback device the error would come by again, and nobody could tell it from another\n\nhint: leave `hook` out of the target: traffic control rejects there"
    )]
    ComesBack {
        /// Fault.
        fault: String,
        /// Device.
        device: String,
    },
    /// Two targets that are one device, struck in two places.
    #[error(
        "the targets `{}` and `{}` are one device, {device}, with different hooks, and its rules are walked through in one place\n\nhint: give both the same `hook`",
        .targets[0], .targets[1]
    )]
    MixedHooks {
        /// Targets.
        targets: [String; 2],
        /// Device.
        device: String,
    },
}

/// An interface that is a target.
#[derive(Clone, Copy, Debug)]
pub struct StruckInterface<'a> {
    /// Name of the target.
    pub target: &'a str,
    /// Name of the device.
    pub device: &'a str,
    /// Its index.
    pub index: u32,
    /// Whether its frames begin with an Ethernet header.
    pub is_ethernet: bool,
    /// Whether what leaves by it arrives at it.
    pub is_loopback: bool,
    /// The fault that rejects what arrives there, if one does.
    pub rejected_by: Option<&'a str>,
    /// Where what arrives is struck.
    pub hook: InterfaceHook,
}

/// Refuses XDP where it can't be, or where traffic control is too.
pub fn check_hooks(interfaces: &[StruckInterface<'_>]) -> Result<(), XdpError> {
    for (n, one) in interfaces.iter().enumerate() {
        if one.hook == InterfaceHook::Xdp && !one.is_ethernet {
            return Err(XdpError::NotEthernet {
                target: one.target.to_owned(),
                device: one.device.to_owned(),
            });
        }
        if let Some(fault) = one.rejected_by.filter(|_| one.hook == InterfaceHook::Xdp && one.is_loopback) {
            return Err(XdpError::ComesBack { fault: fault.to_owned(), device: one.device.to_owned() });
        }
        let mut earlier = interfaces.iter().take(n);
        if let Some(other) = earlier.find(|other| other.index == one.index && other.hook != one.hook) {
            return Err(XdpError::MixedHooks {
                targets: [other.target.to_owned(), one.target.to_owned()],
                device: one.device.to_owned(),
            });
        }
    }
    Ok(())
}

/// What XDP does beside, and does not do.
pub(super) fn notes(hooks: &[Hook], kinds: &[TargetKind], effect: &Effect) -> Vec<String> {
    if !hooks.contains(&Hook::DeviceXdp) {
        return Vec::new();
    }
    let mut notes = vec!["xdp: captures on the device do not see what is lost".to_owned()];
    if kinds.contains(&TargetKind::Loopback) {
        notes.push("xdp: a loopback device has the generic mode alone".to_owned());
    } else {
        notes.push("xdp, native on veth: super-packets are taken apart, which costs about half of the throughput, or more, of all who use the device; and what arrives has lost its sender's socket, so no program behind XDP can tell the sender's cgroup".to_owned());
    }
    match effect {
        Effect::Reject(_) => notes.push("xdp: a veth that rejects what arrives takes the generic mode: natively what is sent back is thrown away unless its other end happens to poll; what was merged before is lost without an answer, and counted as failed".to_owned()),
        Effect::Corrupt(Corrupt { mode: CorruptMode::Silent, .. }) => notes.push("xdp: whether a checksum is still to be computed by a device is told by its value, which is wrong about one packet in 65,536: that one the receiver drops".to_owned()),
        _ => {}
    }
    notes.push("xdp, generic: what was merged before (by GRO, or a sender of the same host) is one packet and one segment to it, of the length of the whole".to_owned());
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(target: &'static str, index: u32, hook: InterfaceHook) -> StruckInterface<'static> {
        let (is_ethernet, is_loopback) = (true, false);
        StruckInterface { target, device: "eth0", index, is_ethernet, is_loopback, rejected_by: None, hook }
    }

    #[test]
    fn a_device_is_struck_in_one_place() {
        let (tc, xdp) = (InterfaceHook::Tc, InterfaceHook::Xdp);
        assert_eq!(check_hooks(&[interface("a", 2, xdp), interface("b", 2, xdp)]), Ok(()));
        assert_eq!(check_hooks(&[interface("a", 2, xdp), interface("b", 3, tc)]), Ok(()));
        let error = check_hooks(&[interface("a", 2, tc), interface("c", 3, tc), interface("b", 2, xdp)]);
        let targets = ["a".to_owned(), "b".to_owned()];
        assert_eq!(error, Err(XdpError::MixedHooks { targets, device: "eth0".to_owned() }));
    }

    #[test]
    fn on_a_loopback_device_nothing_is_rejected_at_xdp() {
        let at = |hook, is_loopback| {
            let interface = interface("a", 1, hook);
            check_hooks(&[StruckInterface { is_loopback, rejected_by: Some("no"), ..interface }])
        };
        assert_eq!(at(InterfaceHook::Tc, true), Ok(()));
        assert_eq!(at(InterfaceHook::Xdp, false), Ok(()));
        let error = at(InterfaceHook::Xdp, true).unwrap_err().to_string();
        assert!(
            error.contains("the fault `no` can't reject") && error.contains("leave `hook` out"),
            "{error}"
        );
    }

    #[test]
    fn xdp_wants_ethernet() {
        let on_tun = |hook| [StruckInterface { is_ethernet: false, ..interface("a", 2, hook) }];
        assert_eq!(check_hooks(&on_tun(InterfaceHook::Tc)), Ok(()));
        let error = check_hooks(&on_tun(InterfaceHook::Xdp)).unwrap_err().to_string();
        assert!(error.contains("the target `a`") && error.contains("leave `hook` out"), "{error}");
    }
}
