//! Finding the interpreter of a process: the object that holds it, its version, where things lie in it, and the proof that
//! they do. Whatever is not certain is refused.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use leaktrace_common::python::Runtime;

use super::bounded::{Bounded, QUESTION};
use super::debug_offsets::DebugOffsets;
use super::image::{FUNCTIONS, Image, Images, VARIABLES, absolute};
use super::offsets::{self, Choice};
use super::refusal::Refusal;
use super::validate::{Confirmed, Suspect, Verdict};
use super::{Defined, Interpreter, Memory, Version, version};
use crate::object::address::{AbsoluteAddress, VirtualOffset};
use crate::object::elf::Elf;
use crate::object::symbols::Table;
use crate::probe::view::{LiveView, View};
use crate::process::{Mapping, MemoryReader, maps};

/// First version that describes itself.
const DESCRIBED: (u8, u8) = (3, 13);

/// How often a process is looked at before what does not fit counts.
const ATTEMPTS: u32 = 25;

/// How long it may run between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// Entry of the auxiliary vector: where execution began.
const AT_ENTRY: u64 = 9;

/// Most objects of a process that are opened.
const MAX_OBJECTS: usize = 8192;

/// Finds the interpreter of a process; `None` if it has none. Opens every object of the process: whoever looks at many
/// processes keeps a [`Finder`].
pub fn find(pid: u32, mappings: &[Mapping]) -> Result<Option<Interpreter>, Refusal> {
    Finder::default().find(pid, mappings)
}

/// Finds interpreters and remembers which files hold one.
#[derive(Debug, Default)]
pub struct Finder {
    images: Images,
}

/// An object of a process that holds an interpreter.
struct Place<'a> {
    pid: u32,
    mapping: &'a Mapping,
    mappings: &'a [Mapping],
    image: Arc<Image>,
    bias: u64,
    memory: &'a dyn Memory,
}

impl Finder {
    /// The interpreter of a process; `None` if it has none.
    pub fn find(&mut self, pid: u32, mappings: &[Mapping]) -> Result<Option<Interpreter>, Refusal> {
        let memory = MemoryReader::new(pid);
        let mut refused = None;
        for mapping in objects(mappings) {
            let openable = maps::openable_path(pid, mapping);
            let Some(image) = self.images.open(&openable) else { continue };
            let Some(bias) = image.bias(mapping) else { continue };
            let place = Place { pid, mapping, mappings, image, bias, memory: &memory };
            match place.interpreter() {
                Ok(interpreter) => return Ok(Some(Interpreter { openable, ..interpreter })),
                Err(refusal) => refused = refused.or(Some(refusal)),
            }
        }
        refused.map_or(Ok(None), Err)
    }
}

impl Place<'_> {
    fn interpreter(&self) -> Result<Interpreter, Refusal> {
        let copies = Copies::of(self.pid);
        let version = self.version(&copies)?;
        if self
            .image
            .function("_Py_NegativeRefcount")
            .or(self.image.function("_Py_AddToAllObjects"))
            .is_some()
        {
            return Err(Refusal::Build {
                version: version.to_string(),
                object: self.object(),
                build: "debug",
            });
        }
        let runtime = self.need(&copies, version, "_PyRuntime")?;
        let size = self.image.variable("_PyRuntime").map(|symbol| symbol.size).filter(|size| *size > 0);
        let choice = offsets::choose(version, size).ok_or_else(|| self.unsupported(version))?;
        let choice = self.described(version, runtime, choice)?;
        let bounded = Bounded::new(self.memory, QUESTION);
        let suspect = Suspect {
            memory: &bounded,
            runtime,
            offsets: &choice.offsets,
            code_type: self.need(&copies, version, "PyCode_Type")?,
            string_type: self.need(&copies, version, "PyUnicode_Type")?,
            strict: !choice.same_size,
        };
        let confirmed = self.confirm(version, &suspect)?;
        Ok(Interpreter {
            version,
            path: self.mapping.path.clone().unwrap_or_default(),
            openable: self.mapping.path.clone().unwrap_or_default(),
            device: self.mapping.device,
            inode: self.mapping.inode,
            bias: self.bias,
            code: self.code(),
            evaluator: self.evaluator(),
            runtime: AbsoluteAddress(runtime),
            main: AbsoluteAddress(confirmed.main),
            symbols: self.symbols(&copies),
            exact: choice.same_size,
            offsets: choice.offsets,
        })
    }

    fn version(&self, copies: &Copies) -> Result<Version, Refusal> {
        let word = self.address(copies, "Py_Version").and_then(|address| self.memory.word(address));
        let found = match word {
            Some(word) => Version::from_word(word),
            None => self.image.function("Py_GetVersion").and_then(|function| {
                version::of_code(self.memory, absolute(function.address, self.bias).0, function.size)
            }),
        };
        let found = found.ok_or_else(|| Refusal::NoVersion { object: self.object() })?;
        let known = offsets::choose(found, None).is_some();
        if known { Ok(found) } else { Err(self.unsupported(found)) }
    }

    /// From 3.13 on the interpreter's own word counts, and it must agree with everything else it says.
    fn described(&self, version: Version, runtime: u64, choice: Choice) -> Result<Choice, Refusal> {
        if version.series() < DESCRIBED {
            return Ok(choice);
        }
        let refused = || Refusal::DebugOffsets { version: version.to_string(), object: self.object() };
        let said = DebugOffsets::read(self.memory, runtime).ok_or_else(refused)?;
        if said.free_threaded {
            let build = "free-threaded";
            return Err(Refusal::Build { version: version.to_string(), object: self.object(), build });
        }
        if Version::from_word(said.version) != Some(version) {
            return Err(refused());
        }
        let offsets = said.over(choice.offsets, version).ok_or_else(refused)?;
        Ok(Choice { offsets, same_size: choice.same_size })
    }

    fn confirm(&self, version: Version, suspect: &Suspect<'_>) -> Result<Confirmed, Refusal> {
        let mut last = suspect.examine();
        for _ in 1..ATTEMPTS {
            if last.is_ok() {
                break;
            }
            thread::sleep(PAUSE);
            last = suspect.examine();
        }
        let (version, object) = (version.to_string(), self.object());
        match last {
            Ok(Verdict::Valid(confirmed)) => Ok(confirmed),
            Ok(Verdict::NotYet) => Err(Refusal::NotYet { version, object }),
            Err(reason) => Err(Refusal::Invalid { version, object, reason }),
        }
    }

    fn need(&self, copies: &Copies, version: Version, symbol: &'static str) -> Result<u64, Refusal> {
        let missing = || Refusal::NoSymbol { version: version.to_string(), object: self.object(), symbol };
        self.address(copies, symbol).ok_or_else(missing)
    }

    fn address(&self, copies: &Copies, name: &str) -> Option<u64> {
        let own = self.image.variable(name).map(|symbol| absolute(symbol.address, self.bias).0);
        own.map(|own| copies.addresses.get(name).copied().unwrap_or(own))
    }

    fn symbols(&self, copies: &Copies) -> BTreeMap<&'static str, Defined> {
        let functions = FUNCTIONS.iter().filter_map(|name| {
            let found = self.image.function(name)?;
            Some((*name, Defined { address: absolute(found.address, self.bias).0, size: found.size }))
        });
        let variables = VARIABLES.iter().filter_map(|name| {
            let size = self.image.variable(name)?.size;
            Some((*name, Defined { address: self.address(copies, name)?, size }))
        });
        functions.chain(variables).collect()
    }

    fn code(&self) -> Vec<Range<u64>> {
        let same =
            |other: &&Mapping| other.device == self.mapping.device && other.inode == self.mapping.inode;
        let code = self.mappings.iter().filter(|mapping| mapping.executable).filter(same);
        code.map(|mapping| mapping.start.0..mapping.end.0).collect()
    }

    fn evaluator(&self) -> Vec<Range<u64>> {
        let absolute = |address: u64| absolute(VirtualOffset(address), self.bias).0;
        self.image.evaluator().iter().map(|part| absolute(part.start)..absolute(part.end)).collect()
    }

    fn object(&self) -> String {
        self.mapping.path.as_deref().map_or_else(|| "?".to_owned(), |path| path.display().to_string())
    }

    fn unsupported(&self, version: Version) -> Refusal {
        Refusal::Version { version: version.to_string(), object: self.object() }
    }
}

/// Variables of a library that the executable has taken over: a program that is not position-independent and names such a
/// variable has its own copy, which everybody then uses.
#[derive(Debug, Default)]
struct Copies {
    addresses: BTreeMap<&'static str, u64>,
}

impl Copies {
    fn of(pid: u32) -> Self {
        Self::read(pid).unwrap_or_default()
    }

    fn read(pid: u32) -> Option<Self> {
        let view = LiveView::open(pid).ok()?;
        let elf = Elf::open(&view.executable()).ok()?;
        let bias = view.auxiliary(AT_ENTRY)?.wrapping_sub(elf.entry().0);
        let found = elf.variables(Table::Dynamic, &VARIABLES).ok()?;
        let addresses = VARIABLES.iter().zip(found).filter_map(|(name, found)| {
            let symbol = found.ok()?;
            Some((*name, absolute(symbol.address, bias).0))
        });
        Some(Self { addresses: addresses.collect() })
    }
}

/// Code of each file that is mapped, the first mapping of each.
fn objects(mappings: &[Mapping]) -> impl Iterator<Item = &Mapping> {
    let mut seen = HashSet::new();
    let code = mappings.iter().filter(|mapping| mapping.executable && mapping.is_file());
    code.filter(move |mapping| seen.insert((mapping.device, mapping.inode, mapping.offset))).take(MAX_OBJECTS)
}

impl Interpreter {
    /// What the kernel side needs to walk its frames. Free lists are for whoever closes them to add.
    pub fn kernel_side(&self) -> Runtime {
        let interpreters = self.runtime.0.wrapping_add(self.offsets.interpreters_head.into());
        Runtime {
            holder: self.offsets.holder(self.runtime.0, self.main.0),
            interpreters,
            layout: self.offsets.layout,
            pool_bytes: self.offsets.pool_bytes,
            ..Runtime::default()
        }
    }
}
