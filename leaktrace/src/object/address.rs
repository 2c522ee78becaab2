//! The three kinds of address. They are different types because mixing them up gives wrong names, not errors.

use std::fmt;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// `self + bytes`, or `None` on overflow.
            pub fn checked_add(self, bytes: u64) -> Option<Self> {
                self.0.checked_add(bytes).map(Self)
            }

            /// Distance from `base`, or `None` if `self` lies below it.
            pub fn offset_from(self, base: Self) -> Option<u64> {
                self.0.checked_sub(base.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address! {
    /// An address in a running process.
    AbsoluteAddress
}
address! {
    /// An address as an object's own headers and symbols give it, before it is loaded anywhere.
    VirtualOffset
}
address! {
    /// A position in an object's file. Uprobes are placed by it.
    FileOffset
}
