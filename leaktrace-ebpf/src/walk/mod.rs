//! Stack walks: from the registers at a function's entry out to the thread's start, one unwind rule per frame. Fills
//! `frames` of the thread's scratch, innermost first, and says why it ended. `rules` finds the rule of an address,
//! `window` reads the stack; what a rule does is in `leaktrace_common::unwind`, where plain tests reach it.

pub mod python;
mod rules;
mod window;

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use leaktrace_common::{
    counter,
    event::kind,
    record::{ThreadState, target_flag},
    rule,
    unwind::{FRAME_EXACT, Registers, Rule, step},
    walk::{CodeList, MAX_FRAMES, end},
};

use self::window::Window;
use crate::{config, lifecycle, maps::TARGETS, probe::Call, sync};

/// Walks the calling thread's user stack into `state`, and its Python frames behind that, and names it.
///
/// # Safety
/// `state` must point to the calling thread's own THREADS value.
#[inline(always)]
pub unsafe fn walk(state: *mut ThreadState, call: &Call) {
    // SAFETY: the caller's promise.
    unsafe { walk_from(state, call, Start::FunctionEntry) }
}

/// Where a walk begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At a function's entry: the first frame is its caller's.
    FunctionEntry,
    /// At an instruction in the middle of a function, which is the first frame.
    Instruction,
}

/// As [`walk`].
///
/// # Safety
/// As [`walk`].
#[inline(always)]
pub unsafe fn walk_from(state: *mut ThreadState, call: &Call, start: Start) {
    let target = &call.target;
    let seed = (u64::from(target.generation) << 32) | u64::from(target.serial);
    // SAFETY: `state` is the caller's promise; the callback has the type that the helper expects.
    unsafe {
        let walk = &raw mut (*state).walk;
        (*walk).at = Registers {
            sp: call.entry_sp,
            bp: call.registers.frame_pointer,
            bx: call.registers.base,
            ..Registers::default()
        };
        (*walk).code = rules::list_of(target);
        (*walk).window_base = window::NOTHING_READ;
        (*walk).hash = mix(seed, 0x6c65_616b);
        (*walk).count = 0;
        (*walk).reason = u64::from(end::TOO_DEEP);
        let first = match start {
            Start::FunctionEntry => caller(state),
            Start::Instruction => {
                (*walk).at.pc = call.registers.instruction_pointer;
                (*walk).at.exact = 1;
                Some(call.registers.instruction_pointer | FRAME_EXACT)
            }
        };
        match first {
            Some(first) => {
                keep(state, 0, first);
                let callback = frame as extern "C" fn(u64, *mut Context) -> i64;
                let mut context = Context { state };
                bpf_loop(MAX_FRAMES as u32, callback as *mut c_void, (&raw mut context).cast(), 0);
            }
            None => (*walk).reason = u64::from(end::UNREADABLE),
        }
        (*state).stack.frame_count = (*walk).count as u32 & MAX_FRAMES as u32;
        (*state).stack.walk_end = (*walk).reason as u32;
        (*state).stack.stack_id = mix((*walk).hash, (*walk).reason);
        (*state).stack.serial = target.serial;
        (*state).stack.generation = target.generation;
        if (*walk).reason != u64::from(end::COMPLETE) {
            sync::count(counter::STACKS_TRUNCATED);
            ask_for_mappings(call, &(*walk).code, (*walk).reason);
        }
        python::walk(state, target);
    }
}

/// What `bpf_loop` hands from frame to frame. The walk itself lies in the thread's scratch.
#[repr(C)]
struct Context {
    state: *mut ThreadState,
}

/// The first return address. It lies at the top of the stack: a function's entry has not pushed anything yet.
#[inline(always)]
unsafe fn caller(state: *mut ThreadState) -> Option<u64> {
    // SAFETY: the caller of `walk` promises that `state` is the running thread's own.
    unsafe {
        let at = &raw mut (*state).walk.at;
        let mut window = Window::new(state);
        let caller = if config::rule(rule::CALLER_FROM_STACK_TOP) {
            let caller = window.word_at((*at).sp)?;
            (*at).sp = (*at).sp.wrapping_add(8);
            caller
        } else {
            // What a walk by frame pointers alone does: it misses the caller.
            let frame = (*at).bp;
            (*at).bp = window.word_at(frame)?;
            (*at).sp = frame.wrapping_add(16);
            window.word_at(frame.wrapping_add(8))?
        };
        (*at).pc = caller;
        Some(caller)
    }
}

/// Ends the walk.
const STOP: i64 = 1;
/// Goes on with the next frame.
const GO_ON: i64 = 0;

/// Why a walk ends at a return address with nothing known in front of it. If something is known from there on, a function
/// begins there and no call has left that address: contexts of `makecontext` end by returning to such a one.
#[inline(always)]
fn begun_at(code: &CodeList, pc: u64) -> u8 {
    match rules::find(code, pc) {
        Ok(Rule::NONE) | Err(_) => end::NO_RULE,
        Ok(_) => end::COMPLETE,
    }
}

/// One frame: finds its rule and follows it to the caller. The verifier looks at this once: an unrolled or bounded loop
/// of [`MAX_FRAMES`] frames costs it seconds.
extern "C" fn frame(index: u64, context: *mut Context) -> i64 {
    // SAFETY: `bpf_loop` hands over what `walk` gave it.
    unsafe {
        let state = (*context).state;
        let walk = &raw mut (*state).walk;
        let mut at = (*walk).at;
        let address = at.pc.wrapping_sub(1).wrapping_add(at.exact);
        let outcome = match rules::find(&(*walk).code, address) {
            Ok(Rule::NONE) if at.exact == 0 => Err(begun_at(&(*walk).code, at.pc)),
            Ok(rule) => step(rule, &mut at, &mut Window::new(state)),
            Err(reason) => Err(reason),
        };
        if let Err(reason) = outcome {
            (*walk).reason = u64::from(reason);
            return STOP;
        }
        (*walk).at = at;
        // The slot follows from the loop's own index, not from a count of ours: the verifier knows the bounds of the
        // former anew at every turn and would have to follow the latter through all of them.
        let slot = index as usize + 1;
        if slot >= MAX_FRAMES {
            return STOP;
        }
        keep(state, slot, if at.exact != 0 { at.pc | FRAME_EXACT } else { at.pc });
    }
    GO_ON
}

/// Notes a frame; `slot` is below [`MAX_FRAMES`].
#[inline(always)]
unsafe fn keep(state: *mut ThreadState, slot: usize, frame: u64) {
    // SAFETY: the caller of `walk` promises that `state` is the running thread's own.
    unsafe {
        (*(&raw mut (*state).frames))[slot] = frame;
        (*state).walk.hash = mix((*state).walk.hash, frame);
        (*state).walk.count = slot as u64 + 1;
    }
}

/// Tells the daemon, once per list, that the list of code mappings does not hold what this walk met.
#[inline(always)]
fn ask_for_mappings(call: &Call, code: &CodeList, reason: u64) {
    let wanting = reason == u64::from(end::UNKNOWN_CODE) || reason == u64::from(end::STALE_MAPPINGS);
    if wanting && rules::ask_once(code) {
        tell_unknown_code(call);
    }
}

#[inline(always)]
fn tell_unknown_code(call: &Call) {
    lifecycle::send(kind::UNKNOWN_CODE, call.target.serial, call.pid_tgid, 0);
}

/// A range is about to be unmapped by the program itself.
#[inline(always)]
pub fn code_goes(call: &Call, address: u64, length: u64) {
    if rules::overlaps(&rules::list_of(&call.target), address, address.wrapping_add(length))
        && let Some(target) = TARGETS.get_ptr_mut(&call.tgid())
    {
        // SAFETY: a map value.
        unsafe { (*target).flags |= target_flag::OBJECTS_GONE };
    }
}

/// Code is about to be mapped by the program itself: a new generation begins if other code has gone before.
#[inline(always)]
pub fn code_comes(call: &Call) {
    let Some(target) = TARGETS.get_ptr_mut(&call.tgid()) else { return };
    // SAFETY: a map value.
    unsafe {
        if (*target).flags & target_flag::OBJECTS_GONE == 0 || !config::rule(rule::MAPPING_GENERATION) {
            return;
        }
        (*target).flags &= !target_flag::OBJECTS_GONE;
        (*target).generation += 1;
    }
    tell_unknown_code(call);
}

/// One step of the stack hash.
#[inline(always)]
pub fn mix(hash: u64, value: u64) -> u64 {
    let mixed = (hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}
