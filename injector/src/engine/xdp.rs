//! XDP of the devices that are struck as a whole: it is somebody's already, or it is ours in one mode or the other.

use std::collections::BTreeMap;

use super::attachments::{AtXdp, Attachments};
use super::error::EngineError;
use crate::errno::name_of;
use crate::host::link;
use crate::host::netlink::Netlink;
use crate::kernel::xdp::{self, Attached, Mode};
use crate::kernel::{Kernel, KernelError};

/// Attaches to the XDP of a device of the current namespace, which must be nobody's.
pub(super) fn attach(
    kernel: &mut Kernel,
    (name, index): (&str, u32),
    done: AtXdp,
) -> Result<Attached, EngineError> {
    // A veth throws away what is sent back natively, without a word, unless its other end polls (NAPI), which it does with a
    // program of its own or with GRO (`veth_xdp_xmit` in drivers/net/veth.c). Generically it goes like any other packet.
    let native = done != AtXdp::SendsBack || !is_veth(index)?;
    let error = match xdp::attach(kernel, name, index, native) {
        Err(KernelError::Attach { source, .. }) if xdp::is_taken(&source) => source,
        other => return Ok(other?),
    };
    let program = match crate::host::xdp::program(&mut Netlink::open()?, index)? {
        Some(id) => {
            format!("number {id} ({})", xdp::name_of(id).unwrap_or_else(|| "without a name".to_owned()))
        }
        // It may be on a device above or below, or gone by now.
        None => format!("not seen by netlink ({})", name_of(&error)),
    };
    Err(EngineError::ForeignXdp { device: name.to_owned(), program })
}

fn is_veth(index: u32) -> Result<bool, EngineError> {
    let device = link::get(&mut Netlink::open()?, index)?;
    Ok(device.is_some_and(|device| device.kind.as_deref() == Some("veth")))
}

/// How devices are struck at XDP, by name, and a sentence for each whose driver would not.
pub(super) fn modes(attachments: &Attachments) -> (BTreeMap<String, Mode>, Vec<String>) {
    let all = attachments.at_xdp();
    // Of a loopback device the plan has said so.
    let refused = all.iter().filter(|(name, _)| *name != "lo").filter_map(|(name, attached)| {
        let why = name_of(attached.refusal.as_ref()?);
        Some(format!(
            "the driver of {name} does not run XDP natively ({why}), so it is generic there: behind the allocation of a socket buffer, and slower"
        ))
    });
    (all.iter().map(|(name, attached)| (name.clone(), attached.mode)).collect(), refused.collect())
}
