//! What the kernel half tells the controller: counts, decisions, and programs that begin.

use aya::maps::{Map, MapData, PerCpuArray, RingBuf};
use aya::programs::RawTracePoint;

use injector_common::layout::Counters;

use super::error::KernelError;
use super::object::{Kernel, add};
use super::programs::EXEC;

/// The kernel's tracepoint for programs that begin (include/trace/events/sched.h).
const EXEC_TRACEPOINT: &str = "sched_process_exec";

impl Kernel {
    /// What each rule did so far, all CPUs together.
    pub fn counters(&mut self) -> Result<Vec<Counters>, KernelError> {
        let counters: PerCpuArray<_, Counters> = self.typed("COUNTERS")?;
        (0..counters.len())
            .map(|index| {
                let per_cpu = counters.get(&index, 0).map_err(|e| KernelError::map("COUNTERS", e))?;
                Ok(per_cpu.iter().fold(Counters::default(), add).with_segments())
            })
            .collect()
    }

    /// The counters by a handle of their own, for another thread.
    pub fn share_counters(&self) -> Result<PerCpuArray<MapData, Counters>, KernelError> {
        const NAME: &str = "COUNTERS";
        let Some(Map::PerCpuArray(own)) = self.ebpf.map(NAME) else {
            return Err(KernelError::Missing { name: NAME });
        };
        let other = own.info().and_then(|info| MapData::from_id(info.id()));
        let other = other.map(Map::PerCpuArray).and_then(PerCpuArray::try_from);
        other.map_err(|e| KernelError::map(NAME, e))
    }

    /// The ring of decisions, once.
    pub fn take_events(&mut self) -> Result<RingBuf<MapData>, KernelError> {
        let map = self.ebpf.take_map("EVENTS").ok_or(KernelError::Missing { name: "EVENTS" })?;
        RingBuf::try_from(map).map_err(|e| KernelError::map("EVENTS", e))
    }

    /// Attaches what tells of programs that begin in targets, until the descriptor is closed, and gives the ring in which it tells of
    /// them, once: a number of a process each.
    pub fn follow_programs(&mut self) -> Result<RingBuf<MapData>, KernelError> {
        let program = self.ebpf.program_mut(EXEC).ok_or(KernelError::Missing { name: EXEC })?;
        let program: &mut RawTracePoint = program.try_into().map_err(|e| KernelError::program(EXEC, e))?;
        program.load().map_err(|e| KernelError::program(EXEC, e))?;
        program.attach(EXEC_TRACEPOINT).map_err(|e| KernelError::program(EXEC, e))?;
        let map = self.ebpf.take_map("BEGUN").ok_or(KernelError::Missing { name: "BEGUN" })?;
        RingBuf::try_from(map).map_err(|e| KernelError::map("BEGUN", e))
    }

    /// Decisions that found no room in the ring.
    pub fn events_lost(&mut self) -> Result<u64, KernelError> {
        let lost: PerCpuArray<_, u64> = self.typed("EVENTS_LOST")?;
        let per_cpu = lost.get(&0, 0).map_err(|e| KernelError::map("EVENTS_LOST", e))?;
        Ok(per_cpu.iter().sum())
    }
}
