//! What a probe costs, by the class of the instruction under it. The kernel emulates some classes; everything else
//! is single-stepped out of line, which costs 2 times as much on bare metal and 20 times under nested virtualisation.

use std::fmt;

/// Classes of instructions that the kernel treats alike when a probe sits on one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InstructionClass {
    /// `push` of a general register in its shortest encoding.
    Push,
    /// `nop`.
    Nop1,
    /// Two-byte nop.
    Nop2,
    /// Three-byte nop.
    Nop3,
    /// Four-byte nop.
    Nop4,
    /// Five-byte nop: recent kernels replace it by a `call`, which is only safe at a function's first instruction.
    Nop5,
    /// Seven-byte nop.
    Nop7,
    /// Eight-byte nop.
    Nop8,
    /// Nop of six bytes, or of nine and more: with a prefix.
    MultiByteNop,
    /// Direct unconditional jump.
    Jmp,
    /// Direct conditional jump.
    Jcc,
    /// Direct call.
    Call,
    /// `endbr64`.
    Endbr,
    /// Anything else that the kernel accepts: single-stepped.
    Other,
    /// The kernel refuses a probe here, or may.
    Refused,
}

impl InstructionClass {
    /// Every class, in the order of the cost table.
    pub const ALL: [Self; 15] = [
        Self::Push,
        Self::Nop1,
        Self::Nop2,
        Self::Nop3,
        Self::Nop4,
        Self::Nop5,
        Self::Nop7,
        Self::Nop8,
        Self::MultiByteNop,
        Self::Jmp,
        Self::Jcc,
        Self::Call,
        Self::Endbr,
        Self::Other,
        Self::Refused,
    ];

    fn position(self) -> usize {
        Self::ALL.iter().position(|class| *class == self).unwrap_or(Self::ALL.len() - 1)
    }
}

impl fmt::Display for InstructionClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Push => "push",
            Self::Nop1 => "1-byte nop",
            Self::Nop2 => "2-byte nop",
            Self::Nop3 => "3-byte nop",
            Self::Nop4 => "4-byte nop",
            Self::Nop5 => "5-byte nop",
            Self::Nop7 => "7-byte nop",
            Self::Nop8 => "8-byte nop",
            Self::MultiByteNop => "long nop",
            Self::Jmp => "jump",
            Self::Jcc => "conditional jump",
            Self::Call => "call",
            Self::Endbr => "endbr64",
            Self::Other => "other",
            Self::Refused => "refused",
        })
    }
}

/// Where a cost comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CostSource {
    /// Calibrated on this host.
    Measured,
    /// Taken from the table built in.
    Predicted,
}

impl fmt::Display for CostSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Measured => "measured",
            Self::Predicted => "predicted",
        })
    }
}

/// Cost of one hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Nanoseconds of an entry probe.
    pub entry_ns: u32,
    /// Nanoseconds of an entry and a return probe together.
    pub return_ns: u32,
    /// Whether the kernel emulates the instruction instead of single-stepping it.
    pub emulated: bool,
    /// Measured here or predicted.
    pub source: CostSource,
}

impl Cost {
    /// Nanoseconds per hit of a probe with or without its return probe.
    pub fn per_hit_ns(self, needs_return: bool) -> u32 {
        if needs_return { self.return_ns } else { self.entry_ns }
    }
}

/// What one more link on an instruction adds to each hit, as measured with 50 to 200 multi links; perf links take half as
/// much again.
const VISIT_NS: u32 = 30;

/// Cost by class. Begins as prediction; calibration overwrites what it measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CostTable([Cost; InstructionClass::ALL.len()]);

impl CostTable {
    /// Cost of a probe on an instruction of that class.
    pub fn cost(&self, class: InstructionClass) -> Cost {
        self.0[class.position()]
    }

    /// Nanoseconds that a hit takes longer where so many processes have a link of their own on the same instruction: the
    /// kernel visits each.
    pub fn visits_ns(&self, processes: usize) -> u32 {
        u32::try_from(processes).unwrap_or(u32::MAX).saturating_mul(VISIT_NS)
    }

    /// Replaces the prediction for a class.
    pub fn set(&mut self, class: InstructionClass, cost: Cost) {
        self.0[class.position()] = cost;
    }
}

impl Default for CostTable {
    /// What holds on every kernel from 6.1 on, x86-64. Which longer nops are emulated differs by kernel, so without a
    /// measurement they count as single-stepped.
    fn default() -> Self {
        Self(InstructionClass::ALL.map(predicted))
    }
}

fn predicted(class: InstructionClass) -> Cost {
    use InstructionClass as Class;
    let (entry_ns, return_ns, emulated) = match class {
        Class::Push => (715, 809, true),
        Class::Nop1 | Class::Jmp | Class::Jcc => (570, 780, true),
        Class::Call => (730, 830, true),
        Class::Refused => (u32::MAX, u32::MAX, false),
        _ => (10_000, 10_300, false),
    };
    Cost { entry_ns, return_ns, emulated, source: CostSource::Predicted }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_nops_are_not_trusted_before_calibration() {
        let mut table = CostTable::default();
        assert!(!table.cost(InstructionClass::Nop5).emulated);
        assert!(table.cost(InstructionClass::Push).emulated);
        let measured = Cost { entry_ns: 386, return_ns: 648, emulated: true, source: CostSource::Measured };
        table.set(InstructionClass::Nop5, measured);
        assert_eq!(table.cost(InstructionClass::Nop5), measured);
        assert_eq!(table.cost(InstructionClass::Nop4).source, CostSource::Predicted);
    }

    #[test]
    fn every_class_has_its_own_place() {
        let places: std::collections::BTreeSet<_> =
            InstructionClass::ALL.iter().map(|c| c.position()).collect();
        assert_eq!(places.len(), InstructionClass::ALL.len());
    }
}
