//! The one table of hooked functions. What the kernel side needs to know about each travels in the attach cookie;
//! adding a function means adding a row here.

use leaktrace_common::hook::{HookCookie, MAX_HOOKS, domain, kind};

/// Index into [`TABLE`]: the `hook` field of an attach cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HookId(u8);

impl HookId {
    /// The id of a row of [`TABLE`], or `None` when there is no such row.
    pub fn new(index: u8) -> Option<Self> {
        (usize::from(index) < TABLE.len()).then_some(Self(index))
    }

    /// The first row with this function name.
    pub fn by_name(name: &str) -> Option<Self> {
        all().find(|id| id.hook().name == name)
    }

    /// The number that goes into the cookie and into the hit table.
    pub fn index(self) -> u8 {
        self.0
    }

    /// The row.
    pub fn hook(self) -> &'static Hook {
        // In range by construction: `new` and `all` are the only sources of ids.
        &TABLE[usize::from(self.0)]
    }
}

/// Which object may provide a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// The first object in the dynamic linker's search order that defines it.
    Allocator,
    /// The C library only: a wrapper elsewhere ends there anyway.
    Libc,
    /// The dynamic linker.
    Linker,
    /// CPython's allocator table: found by role, not by name.
    Python,
}

/// One hooked function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Symbol name.
    pub name: &'static str,
    /// Who provides it.
    pub provider: Provider,
    /// What it does ([`kind`]).
    pub kind: u8,
    /// Which allocator its blocks belong to ([`domain`]).
    pub domain: u8,
    /// Position of the size, from 1; 0 for none. Likewise below.
    pub size_arg: u8,
    /// Position of a factor of the size.
    pub factor_arg: u8,
    /// Position of the block, or of the pointer the result is stored through.
    pub ptr_arg: u8,
    /// How many leading arguments the kernel side reads: their registers must be intact at the probe.
    pub arguments: u8,
}

impl Hook {
    /// Whether the return value matters, so that a return probe is needed.
    pub fn needs_return(&self) -> bool {
        !matches!(self.kind, kind::FREE | kind::LINK_MAP)
    }

    /// Order in which probes are placed, lowest first: a `malloc` probe that precedes its `free` probe would make
    /// phantom leaks, so whatever gives memory back comes first.
    pub fn priority(&self) -> u8 {
        match self.kind {
            kind::FREE | kind::MUNMAP => 0,
            kind::REALLOC | kind::MREMAP => 1,
            kind::LINK_MAP => 3,
            _ => 2,
        }
    }

    /// The argument whose being null makes the call do nothing (`free(NULL)`): a probe may be skipped then.
    pub fn no_op_when_null(&self) -> Option<u8> {
        (self.kind == kind::FREE).then_some(self.ptr_arg)
    }

    /// Whether two rows mean the same to the kernel side, so that one probe serves both.
    pub fn same_behaviour(&self, other: &Self) -> bool {
        let key = |hook: &Self| (hook.kind, hook.domain, hook.size_arg, hook.factor_arg, hook.ptr_arg);
        key(self) == key(other)
    }
}

/// The attach cookie of a hook whose probe sits behind `pushed_words` pushes.
pub fn cookie(id: HookId, pushed_words: u8) -> HookCookie {
    let hook = id.hook();
    HookCookie {
        kind: hook.kind,
        size_arg: hook.size_arg,
        factor_arg: hook.factor_arg,
        ptr_arg: hook.ptr_arg,
        domain: hook.domain,
        pushed_words,
        hook: id.index(),
        link: 0,
    }
}

/// Every hook, in table order.
pub fn all() -> impl Iterator<Item = HookId> {
    (0..TABLE.len()).filter_map(|index| u8::try_from(index).ok()).map(HookId)
}

/// The row for CPython's function that takes a pool into use.
pub const POOL_TAKEN: &str = "py pool";

/// The dynamic linker's notification function.
pub const LINK_MAP_CHANGED: &str = "_dl_debug_state";

const fn allocator(name: &'static str, kind: u8, size_arg: u8, factor_arg: u8, ptr_arg: u8) -> Hook {
    let arguments = max(size_arg, max(factor_arg, ptr_arg));
    let provider = Provider::Allocator;
    Hook { name, provider, kind, domain: domain::MALLOC, size_arg, factor_arg, ptr_arg, arguments }
}

const fn mapping(name: &'static str, kind: u8, size_arg: u8, ptr_arg: u8, arguments: u8) -> Hook {
    Hook {
        name,
        provider: Provider::Libc,
        kind,
        domain: domain::MMAP,
        size_arg,
        factor_arg: 0,
        ptr_arg,
        arguments,
    }
}

/// What CPython's allocator table points to: the allocator's own context comes first.
const fn python(name: &'static str, kind: u8, domain: u8, size_arg: u8, factor_arg: u8, ptr_arg: u8) -> Hook {
    let arguments = max(size_arg, max(factor_arg, ptr_arg));
    Hook { name, provider: Provider::Python, kind, domain, size_arg, factor_arg, ptr_arg, arguments }
}

const fn max(a: u8, b: u8) -> u8 {
    if a > b { a } else { b }
}

/// The table. A row's position is its id: append, do not insert, so that recorded hit counts keep their meaning.
pub static TABLE: &[Hook] = &[
    allocator("free", kind::FREE, 0, 0, 1),
    // glibc up to 2.25 lets programs link to it; the same code as `free`.
    allocator("cfree", kind::FREE, 0, 0, 1),
    allocator("realloc", kind::REALLOC, 2, 0, 1),
    allocator("reallocarray", kind::REALLOC, 3, 2, 1),
    allocator("malloc", kind::ALLOC, 1, 0, 0),
    allocator("calloc", kind::ALLOC, 2, 1, 0),
    allocator("posix_memalign", kind::ALLOC_OUT, 3, 0, 1),
    allocator("aligned_alloc", kind::ALLOC, 2, 0, 0),
    allocator("memalign", kind::ALLOC, 2, 0, 0),
    allocator("valloc", kind::ALLOC, 1, 0, 0),
    allocator("pvalloc", kind::ALLOC, 1, 0, 0),
    mapping("munmap", kind::MUNMAP, 2, 1, 2),
    // old address, old length, new length, flags, new address
    mapping("mremap", kind::MREMAP, 3, 1, 5),
    // address, length, protection, flags, descriptor
    mapping("mmap", kind::MMAP, 2, 1, 5),
    mapping("mmap64", kind::MMAP, 2, 1, 5),
    Hook {
        name: LINK_MAP_CHANGED,
        provider: Provider::Linker,
        kind: kind::LINK_MAP,
        domain: domain::MALLOC,
        size_arg: 0,
        factor_arg: 0,
        ptr_arg: 0,
        arguments: 0,
    },
    python("py free", kind::FREE, domain::PY, 0, 0, 2),
    python("py realloc", kind::REALLOC, domain::PY, 3, 0, 2),
    python("py malloc", kind::ALLOC, domain::PY, 2, 0, 0),
    python("py calloc", kind::ALLOC, domain::PY, 3, 2, 0),
    python("py_raw free", kind::FREE, domain::PY_RAW, 0, 0, 2),
    python("py_raw realloc", kind::REALLOC, domain::PY_RAW, 3, 0, 2),
    python("py_raw malloc", kind::ALLOC, domain::PY_RAW, 2, 0, 0),
    python("py_raw calloc", kind::ALLOC, domain::PY_RAW, 3, 2, 0),
    // The small-object allocator takes a pool into use; its size is that of the pool.
    python(POOL_TAKEN, kind::POOL, domain::PY, 0, 0, 0),
];

const _: () = assert!(TABLE.len() <= MAX_HOOKS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        for (index, hook) in TABLE.iter().enumerate() {
            assert!(TABLE.iter().skip(index + 1).all(|other| other.name != hook.name), "{} twice", hook.name);
        }
    }

    #[test]
    fn ids_are_positions() {
        for id in all() {
            assert_eq!(HookId::by_name(id.hook().name), Some(id));
            assert_eq!(cookie(id, 0).hook, id.index());
        }
        assert_eq!(HookId::new(u8::try_from(TABLE.len()).expect("asserted above")), None);
    }

    #[test]
    fn what_gives_memory_back_is_probed_first() {
        let priority = |name| HookId::by_name(name).expect("in the table").hook().priority();
        assert!(priority("free") < priority("realloc"));
        assert!(priority("realloc") < priority("malloc"));
        assert!(priority("munmap") < priority("mmap"));
    }

    #[test]
    fn every_argument_in_a_cookie_is_required_intact() {
        for hook in TABLE {
            let used = [hook.size_arg, hook.factor_arg, hook.ptr_arg];
            assert!(used.iter().all(|argument| *argument <= hook.arguments), "{}", hook.name);
        }
    }

    #[test]
    fn a_cookie_carries_the_argument_positions() {
        let id = HookId::by_name("reallocarray").expect("in the table");
        let cookie = HookCookie::unpack(cookie(id, 3).pack());
        assert_eq!((cookie.ptr_arg, cookie.factor_arg, cookie.size_arg, cookie.pushed_words), (1, 2, 3, 3));
    }
}
