//! The record of decisions: one JSON object a line, as the kernel made them.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::net::{IpAddr, Ipv6Addr};

use aya::maps::{MapData, RingBuf};
use injector_common::event::Event;
use injector_common::operation;
use injector_common::packet::Address;
use injector_common::rule::{EGRESS, INGRESS, OPERATION};
use serde::Serialize;
use syscalls::Sysno;

use super::error::EngineError;
use crate::kernel::decode_event;

/// One decision over one packet.
#[derive(Debug, Serialize)]
struct Decision<'a> {
    time_ns: u64,
    fault: &'a str,
    direction: &'static str,
    outcome: &'static str,
    protocol: u8,
    local: IpAddr,
    local_port: u16,
    remote: IpAddr,
    remote_port: u16,
    length: u32,
    segments: u32,
    delay_ns: u64,
    class: u32,
    /// Of what is no packet: the operation, or the system call by its number.
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<String>,
}

/// Reads the ring and writes the file.
pub(super) struct Recorder {
    ring: RingBuf<MapData>,
    file: BufWriter<File>,
    faults: Vec<String>,
    pub(super) told_of_loss: bool,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Recorder {
    pub(super) fn new(ring: RingBuf<MapData>, file: BufWriter<File>, faults: Vec<String>) -> Self {
        Self { ring, file, faults, told_of_loss: false }
    }

    /// Writes all that is in the ring.
    pub(super) fn drain(&mut self) -> Result<(), EngineError> {
        while let Some(item) = self.ring.next() {
            let Some(event) = decode_event(&item) else { continue };
            let decision = decision(&event, &self.faults);
            let written = serde_json::to_writer(&mut self.file, &decision).map_err(std::io::Error::from);
            written.and_then(|()| self.file.write_all(b"\n")).map_err(EngineError::Record)?;
        }
        self.file.flush().map_err(EngineError::Record)
    }
}

/// The name of an operation, or of a system call.
fn name_of(number: u16) -> String {
    if let Some(syscall) = number.checked_sub(operation::SYSCALL_BASE) {
        return Sysno::new(usize::from(syscall))
            .map_or_else(|| syscall.to_string(), |call| call.name().to_owned());
    }
    operation::NAMES.get(usize::from(number)).copied().unwrap_or("unknown").to_owned()
}

fn decision<'a>(event: &Event, faults: &'a [String]) -> Decision<'a> {
    let packet = &event.packet;
    let operation = (event.direction == OPERATION).then(|| name_of(operation::number(packet)));
    let address = |address: Address| Ipv6Addr::from(address.octets()).to_canonical();
    Decision {
        time_ns: event.time_ns,
        fault: faults.get(event.fault as usize).map_or("?", String::as_str),
        direction: match event.direction {
            EGRESS => "egress",
            INGRESS => "ingress",
            OPERATION => "operation",
            _ => "call",
        },
        outcome: match event.outcome {
            1 => "matched",
            2 => "injected",
            3 => "spared-by-limit",
            4 => "spared-by-budget",
            5 => "contended",
            6 => "queue-full",
            _ => "unknown",
        },
        protocol: packet.protocol,
        local: address(packet.local),
        local_port: if operation.is_some() { 0 } else { packet.local_port },
        remote: address(packet.remote),
        remote_port: if operation.is_some() { 0 } else { packet.remote_port },
        length: packet.length,
        segments: packet.segments,
        delay_ns: event.delay_ns,
        class: packet.class(event.direction),
        operation,
    }
}
