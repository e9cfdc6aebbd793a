//! The tables that treatments look things up in: quantiles of distributions, opportunities of traced links.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use injector_common::distribution::Quantiles;
use injector_common::link_trace::{Opportunities, SEARCH_STEPS, Search};

use crate::maps::{OPPORTUNITIES, QUANTILES};

/// Both tables, and where a search in them keeps its state.
pub(crate) struct Tables {
    /// In a map and not on the stack, because the verifier forgets what a map holds: it walks through one step of the search
    /// and not through each.
    pub(crate) search: *mut Search,
}

impl Quantiles for Tables {
    #[inline(always)]
    fn at(&self, index: u32) -> u64 {
        QUANTILES.get(index).copied().unwrap_or(0)
    }
}

impl Opportunities for Tables {
    #[inline(always)]
    fn at_ms(&self, index: u32) -> u32 {
        OPPORTUNITIES.get(index).copied().unwrap_or(u32::MAX)
    }

    #[inline(always)]
    fn finish(&self, search: Search) -> u32 {
        let mut at = self.search;
        // SAFETY: `at` points into the walk of this CPU and direction, which nobody else uses meanwhile. The callback
        // has the signature that the helper wants, and its context outlives the call.
        unsafe {
            *at = search;
            bpf_loop(SEARCH_STEPS, halve as *mut c_void, (&raw mut at).cast(), 0);
            (*at).passed
        }
    }
}

/// One round of `bpf_loop`.
unsafe extern "C" fn halve(step: u32, context: *mut c_void) -> i64 {
    // SAFETY: `finish` passes a pointer to its pointer to the search.
    let search = unsafe { &mut **context.cast::<*mut Search>() };
    let tables = Tables { search };
    search.halve(&tables, step);
    0
}
