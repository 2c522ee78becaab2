//! x86-64: where the System V ABI keeps arguments, results and the caller.

use aya_ebpf::{
    bindings::pt_regs,
    helpers::{bpf_get_current_task, bpf_probe_read_kernel},
};

use crate::config;

/// The registers a probe needs, read once.
pub struct Registers {
    /// Arguments 1 to 6.
    pub arguments: [u64; 6],
    /// Return value (in a return probe).
    pub result: u64,
    /// The probed instruction.
    pub instruction_pointer: u64,
    /// Stack pointer.
    pub stack_pointer: u64,
    /// Frame pointer.
    pub frame_pointer: u64,
    /// The register that some functions keep their frame's base in (rbx).
    pub base: u64,
}

impl Registers {
    /// Reads the registers of the probed thread.
    #[inline(always)]
    pub fn read(regs: *const pt_regs) -> Self {
        // SAFETY: the context of a uprobe program; fixed offsets, as the verifier demands.
        unsafe {
            Self {
                arguments: [
                    (&raw const (*regs).rdi).read_volatile(),
                    (&raw const (*regs).rsi).read_volatile(),
                    (&raw const (*regs).rdx).read_volatile(),
                    (&raw const (*regs).rcx).read_volatile(),
                    (&raw const (*regs).r8).read_volatile(),
                    (&raw const (*regs).r9).read_volatile(),
                ],
                result: (&raw const (*regs).rax).read_volatile(),
                instruction_pointer: (&raw const (*regs).rip).read_volatile(),
                stack_pointer: (&raw const (*regs).rsp).read_volatile(),
                frame_pointer: (&raw const (*regs).rbp).read_volatile(),
                base: (&raw const (*regs).rbx).read_volatile(),
            }
        }
    }

    /// Argument at a position that counts from 1; 0 where there is none.
    #[inline(always)]
    pub fn argument(&self, position: u8) -> u64 {
        match position {
            1 => self.arguments[0],
            2 => self.arguments[1],
            3 => self.arguments[2],
            4 => self.arguments[3],
            5 => self.arguments[4],
            6 => self.arguments[5],
            _ => 0,
        }
    }
}

/// Where in `pt_regs` (words) the registers lie, four bits for each in the order in which instructions encode them; the stack
/// pointer lies further than four bits say, and nobody asks for it.
const PLACES: u64 = 0x0123_6789_ed4f_5cba;

/// A register by the number that instructions encode it with.
#[inline(always)]
pub fn register(regs: *const pt_regs, number: u8) -> u64 {
    let place = (PLACES >> (u32::from(number & 15) * 4)) & 15;
    // SAFETY: a checked read of the context, whose fields the verifier lets nobody choose at run time.
    unsafe { bpf_probe_read_kernel(regs.cast::<u64>().wrapping_add(place as usize)) }.unwrap_or(0)
}

/// How far the stack pointer has moved between a function's first instruction and its caller's next one: `ret`
/// has popped the return address.
pub const RETURN_POPS: u64 = 8;

/// What the running thread's C library knows it by (`pthread_self`): fsbase. The kernel keeps it up to date in the task
/// when the thread is made and when it sets it by a system call.
#[inline(always)]
pub fn thread_pointer() -> Option<u64> {
    if config::task_thread_pointer_offset() == 0 {
        return None;
    }
    // SAFETY: a helper without arguments; a checked read of kernel memory.
    unsafe {
        let task = bpf_get_current_task();
        bpf_probe_read_kernel((task + u64::from(config::task_thread_pointer_offset())) as *const u64).ok()
    }
}
