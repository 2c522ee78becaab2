//! Measures what a probe costs on this host, by the instruction it sits on. Which instructions the kernel emulates
//! differs by version, and what single-stepping costs differs by machine; a version table would be a guess.
//!
//! The probed stubs are functions of our own, called in our own process.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use leaktrace_common::hook::HookCookie;

use super::{AttachPoint, AttachScope, Kernel, KernelError};
use crate::{
    object::address::{AbsoluteAddress, FileOffset},
    probe::cost::{Cost, CostSource, CostTable, InstructionClass},
};

/// Calls per measurement; one round on a slow (nested, single-stepping) machine takes 5 ms.
const CALLS: u32 = 200;
/// Rounds per measurement; the fastest counts, because the machine may be busy with something else.
const ROUNDS: u32 = 3;

/// An instruction that costs less than this share of one that is certainly single-stepped is emulated: the two
/// differ by a factor of 2 on bare metal and 20 under nested virtualisation.
const EMULATED_BELOW: f64 = 0.75;

/// A function of ours whose first instruction is of a known kind.
#[derive(Clone, Copy, Debug)]
pub struct Stub {
    /// Spelled as a disassembler would.
    pub instruction: &'static str,
    /// How the kernel treats it.
    pub class: InstructionClass,
    function: extern "C" fn(),
}

impl Stub {
    /// Calls it.
    pub fn call(&self) {
        (self.function)();
    }
}

/// What a probe costs on one kind of instruction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measurement {
    /// Nanoseconds per hit of an entry probe.
    pub entry_ns: f64,
    /// Nanoseconds per call with an entry and a return probe.
    pub with_return_ns: f64,
}

macro_rules! stubs {
    ($($symbol:ident: $class:ident, $text:literal = $assembly:literal;)*) => {
        $(core::arch::global_asm!(
            concat!(".p2align 6"),
            concat!(stringify!($symbol), ":"),
            $assembly,
            "ret",
        );)*
        unsafe extern "C" {
            $(safe fn $symbol();)*
        }
        /// Every stub there is.
        pub fn stubs() -> Vec<Stub> {
            vec![$(Stub { instruction: $text, class: InstructionClass::$class, function: $symbol },)*]
        }
    };
}

#[cfg(target_arch = "x86_64")]
stubs! {
    leaktrace_stub_push: Push, "push rbx" = "push rbx\npop rbx";
    leaktrace_stub_nop1: Nop1, "nop" = "nop";
    leaktrace_stub_nop2: Nop2, "xchg ax,ax" = ".byte 0x66, 0x90";
    leaktrace_stub_nop3: Nop3, "nop dword [rax]" = ".byte 0x0f, 0x1f, 0x00";
    leaktrace_stub_nop4: Nop4, "nop dword [rax+0]" = ".byte 0x0f, 0x1f, 0x40, 0x00";
    leaktrace_stub_nop5: Nop5, "nop dword [rax+rax+0]" = ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00";
    leaktrace_stub_nop7: Nop7, "nop dword [rax+0]" = ".byte 0x0f, 0x1f, 0x80, 0, 0, 0, 0";
    leaktrace_stub_nop8: Nop8, "nop dword [rax+rax+0]" = ".byte 0x0f, 0x1f, 0x84, 0x00, 0, 0, 0, 0";
    leaktrace_stub_nop9: MultiByteNop, "nop word [rax+rax+0]" = ".byte 0x66, 0x0f, 0x1f, 0x84, 0x00, 0, 0, 0, 0";
    leaktrace_stub_endbr: Endbr, "endbr64" = "endbr64";
    leaktrace_stub_jmp: Jmp, "jmp short" = ".byte 0xeb, 0x00";
    leaktrace_stub_jcc: Jcc, "je short" = ".byte 0x74, 0x00";
    leaktrace_stub_mov: Other, "mov eax,1" = "mov eax, 1";
}

impl Kernel {
    /// Measures every stub: one link for all entries, one for all returns.
    ///
    /// # Errors
    /// If a probe cannot be placed.
    pub fn measure(&mut self) -> Result<Vec<(Stub, Measurement)>, KernelError> {
        let stubs = stubs();
        let points = stubs.iter().map(own_point).collect::<Result<Vec<_>, _>>()?;
        let points: Vec<&AttachPoint> = points.iter().collect();
        let path = Path::new("/proc/self/exe");
        let times = || stubs.iter().map(|stub| time(stub.function)).collect::<Vec<_>>();
        let own = AttachScope::Process(std::process::id());
        let bare = times();
        let entry = self.attach_program("calibration", path, own, &points)?;
        let with_entry = times();
        let leave = self.attach_program("calibration_return", path, own, &points)?;
        let with_both = times();
        drop((entry, leave));
        let per_call = |with: &Duration, bare: &Duration| {
            with.saturating_sub(*bare).as_secs_f64() * 1e9 / f64::from(CALLS)
        };
        let measured = bare.iter().zip(&with_entry).zip(&with_both).map(|((bare, entry), both)| {
            Measurement { entry_ns: per_call(entry, bare), with_return_ns: per_call(both, bare) }
        });
        Ok(stubs.iter().copied().zip(measured).collect())
    }

    /// The cost table of this host: what was measured replaces what was predicted.
    ///
    /// # Errors
    /// If a probe cannot be placed.
    pub fn calibrate(&mut self) -> Result<CostTable, KernelError> {
        let measured = self.measure()?;
        let mut table = CostTable::default();
        let stepped = measured
            .iter()
            .find(|(stub, _)| stub.class == InstructionClass::Other)
            .map_or(f64::INFINITY, |(_, measurement)| measurement.entry_ns);
        for (stub, measurement) in measured {
            table.set(
                stub.class,
                Cost {
                    entry_ns: measurement.entry_ns.round() as u32,
                    return_ns: measurement.with_return_ns.round() as u32,
                    emulated: measurement.entry_ns < stepped * EMULATED_BELOW,
                    source: CostSource::Measured,
                },
            );
        }
        Ok(table)
    }
}

fn time(function: extern "C" fn()) -> Duration {
    (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..CALLS {
                std::hint::black_box(function)();
            }
            start.elapsed()
        })
        .min()
        .unwrap_or_default()
}

/// Where a stub lies in our own file.
pub(super) fn own_point(stub: &Stub) -> Result<AttachPoint, KernelError> {
    let address = AbsoluteAddress(stub.function as usize as u64);
    let maps = fs::read_to_string("/proc/self/maps")
        .map_err(|source| KernelError::Io { what: "reading our own mappings".into(), source })?;
    let offset = maps.lines().find_map(|line| file_offset(line, address)).ok_or_else(|| {
        KernelError::Unsupported(
            "leaktrace's own code is not mapped from a file, so nothing can be measured".into(),
        )
    })?;
    Ok(AttachPoint {
        path: "/proc/self/exe".into(),
        offset,
        cookie: HookCookie::default(),
        needs_return: false,
    })
}

/// The file offset of `address`, if this line of `/proc/PID/maps` holds it.
fn file_offset(line: &str, address: AbsoluteAddress) -> Option<FileOffset> {
    let mut fields = line.split_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(end, 16).ok()?;
    let offset = u64::from_str_radix(fields.nth(1)?, 16).ok()?;
    (start..end).contains(&address.0).then(|| FileOffset(address.0 - start + offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_placed_in_its_file() {
        let line = "55d0c0c22000-55d0c0c9a000 r-xp 00022000 08:01 1234   /usr/bin/x";
        assert_eq!(file_offset(line, AbsoluteAddress(0x55d0c0c22010)), Some(FileOffset(0x22010)));
        assert_eq!(file_offset(line, AbsoluteAddress(0x55d0c0c9a000)), None);
    }

    #[test]
    fn stubs_can_be_called() {
        for stub in stubs() {
            (stub.function)();
        }
    }
}
