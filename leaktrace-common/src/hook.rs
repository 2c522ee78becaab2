//! The attach cookie: what a probe tells the kernel side about the function it sits on. The table of functions
//! lives in userspace (`leaktrace::probe::hooks`); BPF only knows the handful of kinds below.

/// How a hooked function behaves, as the kernel side needs to know it.
pub mod kind {
    /// No call in flight (only in [`crate::record::ThreadState::kind`]).
    pub const NONE: u8 = 0;
    /// Returns a new block (`malloc`, `calloc`, `aligned_alloc` ...).
    pub const ALLOC: u8 = 1;
    /// Stores the new block through a pointer argument and returns an error number (`posix_memalign`).
    pub const ALLOC_OUT: u8 = 2;
    /// Replaces a block (`realloc`, `reallocarray`).
    pub const REALLOC: u8 = 3;
    /// Gives a block back (`free`).
    pub const FREE: u8 = 4;
    /// `mmap(addr, len, prot, flags, fd, offset)`.
    pub const MMAP: u8 = 5;
    /// `munmap(addr, len)`.
    pub const MUNMAP: u8 = 6;
    /// `mremap(old, old_len, new_len, flags, new_addr)`.
    pub const MREMAP: u8 = 7;
    /// The dynamic linker's `_dl_debug_state`: the list of loaded objects changed.
    pub const LINK_MAP: u8 = 8;
    /// Returns the first block of a pool that CPython's small-object allocator took into use (light detail).
    pub const POOL: u8 = 9;
    /// No function: a place in CPython's code at which it takes a block from a free list that is an array, if there is one.
    /// [`super::HookCookie::size_arg`] is the list's number ([`crate::python::Runtime::arrays`]).
    pub const REUSE: u8 = 10;
    /// The same for a list of linked objects: the object is in the register with the number [`super::HookCookie::ptr_arg`]
    /// (as instructions encode registers), [`super::HookCookie::size_arg`] is the list's group
    /// ([`crate::python::Runtime::linked`]).
    pub const REUSE_LINKED: u8 = 11;
}

/// Which allocator handed a block out.
pub mod domain {
    /// The C library's or a replacement's `malloc` family.
    pub const MALLOC: u8 = 0;
    /// Anonymous memory mapped directly.
    pub const MMAP: u8 = 1;
    /// CPython's raw domain.
    pub const PY_RAW: u8 = 2;
    /// CPython's mem and object domains.
    pub const PY: u8 = 3;
    /// How many there are.
    pub const COUNT: usize = 4;
    /// The name used in reports, by number.
    pub const NAMES: [&str; COUNT] = ["malloc", "mmap", "py_raw", "py"];
}

/// The decoded form of an attach cookie. Argument positions count from 1; 0 means "has none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookCookie {
    /// One of [`kind`].
    pub kind: u8,
    /// Position of the size in bytes.
    pub size_arg: u8,
    /// Position of a factor of the size (`calloc`, `reallocarray`).
    pub factor_arg: u8,
    /// Position of the block that is freed or replaced, or of the pointer the result is stored through.
    pub ptr_arg: u8,
    /// One of [`domain`].
    pub domain: u8,
    /// How many 8-byte words the function has pushed before the probed instruction.
    pub pushed_words: u8,
    /// Index into the table of hooked functions; hits are counted under it.
    pub hook: u8,
    /// Which shared link the probe belongs to; 0: to one process alone.
    pub link: u16,
}

impl HookCookie {
    /// Packs the cookie into the one integer that the kernel passes on.
    pub const fn pack(self) -> u64 {
        (self.kind as u64)
            | (self.size_arg as u64 & 0xf) << 8
            | (self.factor_arg as u64 & 0xf) << 12
            | (self.ptr_arg as u64 & 0xf) << 16
            | (self.domain as u64) << 24
            | (self.pushed_words as u64) << 32
            | (self.hook as u64) << 40
            | (self.link as u64) << 48
    }

    /// The reverse of [`Self::pack`].
    #[inline(always)]
    pub const fn unpack(cookie: u64) -> Self {
        Self {
            kind: cookie as u8,
            size_arg: (cookie >> 8) as u8 & 0xf,
            factor_arg: (cookie >> 12) as u8 & 0xf,
            ptr_arg: (cookie >> 16) as u8 & 0xf,
            domain: (cookie >> 24) as u8,
            pushed_words: (cookie >> 32) as u8,
            hook: (cookie >> 40) as u8,
            link: (cookie >> 48) as u16,
        }
    }
}

/// Upper bound of [`HookCookie::hook`]: size of the hit table.
pub const MAX_HOOKS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_survives_packing() {
        let cookie = HookCookie {
            kind: 3,
            size_arg: 2,
            factor_arg: 3,
            ptr_arg: 1,
            domain: 3,
            pushed_words: 5,
            hook: 63,
            link: 65_535,
        };
        assert_eq!(HookCookie::unpack(cookie.pack()), cookie);
    }
}
