//! From addresses to names. A frame is *normalised* when it is first seen, while its process is alive: the address
//! becomes an object and a position in its file. It is *symbolized* only when it is shown, once per run, all frames of
//! one object together. Between the two the process may die and its files may be deleted or replaced.
//!
//! Nothing here fails: what cannot be named is a frame that says where it lies, and the reason is counted.

mod answers;
mod bounds;
mod debug_file;
mod generated;
mod inflate;
mod jit;
mod lookup;
mod mini;
mod name;
mod objects;
mod outline;
mod perf_map;
mod python;
mod settings;
mod signal;
mod snapshot;
mod statistics;
#[cfg(test)]
mod tests;
mod vdso;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::fs::File;
use std::path::Path;

pub use objects::{ObjectId, Unreadable};
pub use python::PythonStatistics;
pub use settings::Settings;
pub use statistics::{Statistics, Unresolved};

use crate::object::address::{AbsoluteAddress, FileOffset, VirtualOffset};
use crate::process::maps::{self, Mapping};
use crate::report::model::Frame;
use answers::{Answer, Question, Tally};
use generated::Generated;
use jit::{GeneratedName, may_be_generated};
use lookup::Call;
use objects::Objects;
use python::PythonNames;

/// Number of a frame within one [`FrameStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameId(u32);

impl FrameId {
    /// Stands for every frame that came after the table was full.
    pub const OVERFLOW: Self = Self(0);
}

/// Where a frame lies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    /// At a [`Location`].
    Object(u32),
    /// In a mapping that is no file; the label, if it has one.
    Memory(Option<Box<str>>),
    /// In executable memory that is no file: what this process image wrote there itself.
    Generated { serial: u32, label: Option<Box<str>>, is_return_address: bool },
    /// In no mapping.
    Nowhere,
    /// In Python code: number of its name.
    Python { name: u32, line: Option<u32> },
    /// In Python code that could not be read.
    NamelessPython(Unresolved),
}

/// A frame as seen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Seen {
    address: AbsoluteAddress,
    place: Place,
}

/// A position in an object; many processes share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Location {
    object: ObjectId,
    offset: FileOffset,
    is_return_address: bool,
}

/// What is known of a location.
#[derive(Clone, Debug)]
enum Names {
    NotAsked,
    Found(Box<[Call]>),
    None,
}

/// See the module.
#[derive(Debug)]
pub struct FrameStore {
    settings: Settings,
    objects: Objects,
    frames: Vec<Seen>,
    by_frame: HashMap<Seen, FrameId>,
    locations: Vec<(Location, Names)>,
    by_location: HashMap<Location, u32>,
    /// Locations of each object that nobody has asked names for.
    waiting: HashMap<ObjectId, Vec<u32>>,
    generated: Generated,
    generated_names: HashMap<FrameId, GeneratedName>,
    /// Frames in generated code of each process image that have no name yet.
    nameless: HashMap<u32, Vec<FrameId>>,
    unresolved: BTreeMap<Unresolved, u64>,
    refused: u64,
    tally: Tally,
    python: PythonNames,
    text: usize,
}

impl Default for FrameStore {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

impl FrameStore {
    /// An empty store.
    pub fn new(settings: Settings) -> Self {
        let overflow = Seen { address: AbsoluteAddress(0), place: Place::Nowhere };
        Self {
            objects: Objects::new(settings.max_objects, settings.max_open),
            frames: vec![overflow],
            by_frame: HashMap::new(),
            locations: Vec::new(),
            by_location: HashMap::new(),
            waiting: HashMap::new(),
            generated: Generated::default(),
            generated_names: HashMap::new(),
            nameless: HashMap::new(),
            unresolved: BTreeMap::new(),
            refused: 0,
            tally: Tally::default(),
            python: PythonNames::default(),
            text: 0,
            settings,
        }
    }

    /// Opens the objects behind a process image's code while they can be reached: a process that lives for a
    /// millisecond is gone before its first stack arrives.
    pub fn learn(&mut self, pid: u32, serial: u32, mappings: &[Mapping]) {
        for mapping in mappings.iter().filter(|mapping| mapping.executable) {
            if mapping.is_file() {
                // A full table is counted when a frame asks for it.
                let _ = self.objects.intern(pid, serial, mapping);
            } else if may_be_generated(mapping) {
                self.generated.learn(pid, serial);
            }
        }
    }

    /// Normalises an address of the process image `serial`, whose PID is `pid` and whose mappings are `mappings` (as
    /// [`maps::read`] returned them after the address was seen). Cheap for what was seen before; else it opens the
    /// object's file. A return address is reported as it is but looked up one byte before, where the call stands; an
    /// address that is none is the very instruction.
    pub fn intern(
        &mut self,
        pid: u32,
        serial: u32,
        mappings: &[Mapping],
        address: AbsoluteAddress,
        is_return_address: bool,
    ) -> FrameId {
        let Some(mapping) = maps::find(mappings, address) else {
            return self.insert(Seen { address, place: Place::Nowhere });
        };
        let object = match mapping.is_file() {
            true => match self.objects.intern(pid, serial, mapping) {
                None => return self.refuse(),
                // Code in a memory file is an object only if it looks like one.
                object => object.filter(|&object| !self.is_generated(mapping, object)),
            },
            false if mapping.label.as_deref() == Some(crate::process::vdso::LABEL) => {
                self.objects.intern_vdso(pid, mapping)
            }
            false => None,
        };
        let place = match object {
            Some(object) => {
                let Some(place) = self.place_in_object(object, mapping, address, is_return_address) else {
                    return self.refuse();
                };
                place
            }
            None => self.place_in_memory(pid, serial, mapping, is_return_address),
        };
        self.insert(Seen { address, place })
    }

    /// The frame in words: innermost first, inlined calls before the function they were inlined into; always at least
    /// one entry. The first question about an object symbolizes every frame of it that is known by then.
    pub fn resolve(&mut self, id: FrameId) -> Vec<Frame> {
        let Some(seen) = self.frames.get(id.0 as usize).cloned() else { return vec![Frame::default()] };
        match seen.place {
            Place::Object(location) => self.resolve_location(seen.address, location),
            Place::Memory(label) => {
                let object = Some(label.map_or_else(|| "[anonymous]".to_owned(), String::from));
                vec![Frame { object, address: seen.address.0, ..Frame::default() }]
            }
            Place::Generated { serial, label, is_return_address } => {
                let at = seen.address.0.saturating_sub(u64::from(is_return_address));
                self.resolve_generated(id, seen.address, serial, at, label)
            }
            Place::Nowhere => vec![Frame { address: seen.address.0, ..Frame::default() }],
            place @ (Place::Python { .. } | Place::NamelessPython(_)) => {
                vec![self.resolve_python(seen.address, &place)]
            }
        }
    }

    /// The object behind a file mapping of a process image; `None` if the table of objects is full.
    pub fn object(&mut self, pid: u32, serial: u32, mapping: &Mapping) -> Option<ObjectId> {
        self.objects.intern(pid, serial, mapping)
    }

    /// An object's file, held open since the object was first seen.
    ///
    /// # Errors
    /// If it could not be opened then, or not again since.
    pub fn object_file(&mut self, object: ObjectId) -> Result<File, Unreadable> {
        self.objects.file(object)
    }

    /// Where the first target saw an object's file.
    pub fn object_path(&self, object: ObjectId) -> Option<&Path> {
        self.objects.get(object)?.path.as_deref()
    }

    /// What an address in a mapping has to be reduced by to become one of the object's own. `None` if the object's
    /// headers say nothing of code there.
    pub fn load_bias(&self, object: ObjectId, mapping: &Mapping) -> Option<u64> {
        let outline = self.objects.get(object)?.outline.as_ref().ok()?;
        outline.load_bias(mapping.start, mapping.offset, mapping.len())
    }

    /// Forgets which mappings a process image had. Its frames can still be resolved.
    pub fn forget_process(&mut self, serial: u32) {
        self.process_ending(serial);
        self.objects.forget_process(serial);
        self.python.forget_process(serial);
    }

    /// Numbers for the truth line.
    pub fn statistics(&self) -> Statistics {
        let mut by_reason = BTreeMap::new();
        for (reason, count) in &self.unresolved {
            *by_reason.entry(reason.describe()).or_default() += count;
        }
        Statistics {
            frames: (self.frames.len() - 1) as u64,
            unresolved_frames: self.unresolved.values().sum(),
            unresolved_by_reason: by_reason,
            refused_frames: self.refused,
            objects: self.objects.len() as u64,
            open_objects: self.objects.open() as u64,
            debug_left_out: self.tally.debug_left_out,
            refused_files: statistics::refused_files(&self.tally.refused, &self.generated.refused),
            malformed_lines: self.generated.malformed,
            text_bytes: self.text as u64,
            python: self.python.statistics(),
        }
    }

    fn place_in_object(
        &mut self,
        object: ObjectId,
        mapping: &Mapping,
        address: AbsoluteAddress,
        is_return_address: bool,
    ) -> Option<Place> {
        let offset = mapping.file_offset(address)?;
        let location = Location { object, offset, is_return_address };
        if let Some(&known) = self.by_location.get(&location) {
            return Some(Place::Object(known));
        }
        if self.locations.len() >= self.settings.max_frames {
            return None;
        }
        let number = u32::try_from(self.locations.len()).ok()?;
        self.locations.push((location, Names::NotAsked));
        self.by_location.insert(location, number);
        self.waiting.entry(object).or_default().push(number);
        Some(Place::Object(number))
    }

    fn insert(&mut self, seen: Seen) -> FrameId {
        if let Some(&known) = self.by_frame.get(&seen) {
            return known;
        }
        let number = u32::try_from(self.frames.len()).ok();
        let Some(number) = number.filter(|_| self.frames.len() <= self.settings.max_frames) else {
            return self.refuse();
        };
        match &seen.place {
            // Counted when its name is asked for in vain.
            Place::Object(_) | Place::Generated { .. } | Place::Python { .. } => {}
            Place::NamelessPython(reason) => self.count(*reason),
            Place::Nowhere => self.count(Unresolved::Unmapped),
            Place::Memory(label) => self.count(Unresolved::of_memory(label.as_deref())),
        }
        if let Place::Generated { serial, .. } = seen.place {
            self.nameless.entry(serial).or_default().push(FrameId(number));
            self.generated.hold(serial);
        }
        self.frames.push(seen.clone());
        self.by_frame.insert(seen, FrameId(number));
        FrameId(number)
    }

    fn refuse(&mut self) -> FrameId {
        if self.refused == 0 {
            self.count(Unresolved::FrameCap);
        }
        self.refused += 1;
        FrameId::OVERFLOW
    }

    fn count(&mut self, reason: Unresolved) {
        *self.unresolved.entry(reason).or_default() += 1;
    }

    fn resolve_location(&mut self, address: AbsoluteAddress, number: u32) -> Vec<Frame> {
        let asked = self.locations.get(number as usize).map(|(location, _)| location.object);
        if let Some(object) = asked.filter(|object| self.waiting.contains_key(object)) {
            self.resolve_object(object);
        }
        let Some((location, names)) = self.locations.get(number as usize) else {
            return vec![Frame::default()];
        };
        let object = self.objects.get(location.object);
        let outline = object.and_then(|object| object.outline.as_ref().ok());
        let path = object.and_then(|object| object.path.as_deref());
        let base = Frame {
            object: path.map(|path| path.to_string_lossy().into_owned()),
            build_id: outline.and_then(|outline| outline.build_id.as_deref()).map(hexadecimal),
            file_offset: Some(location.offset.0),
            virtual_offset: outline
                .and_then(|outline| outline.virtual_offset(location.offset))
                .map(|at| at.0),
            address: address.0,
            interpreter: self.python.is_interpreter(location.object),
            ..Frame::default()
        };
        match names {
            Names::Found(calls) => calls.iter().map(|call| named(&base, call)).collect(),
            Names::NotAsked | Names::None => vec![base],
        }
    }

    /// Asks for the names of every waiting location of an object.
    fn resolve_object(&mut self, object: ObjectId) {
        let mut waiting = self.waiting.remove(&object).unwrap_or_default();
        if let Ok(file) = self.objects.file(object) {
            waiting.retain(|&number| !self.is_signal_return(&file, number));
        }
        let addresses: Vec<Option<VirtualOffset>> =
            waiting.iter().map(|&number| self.lookup_address(number)).collect();
        let asked: Vec<VirtualOffset> = addresses.iter().flatten().copied().collect();
        let directories = &self.settings.debug_directories;
        let (objects, tally) = (&mut self.objects, &mut self.tally);
        let question = Question { objects, directories, tally, object, addresses: &asked };
        let mut answers = question.answers().into_iter();
        for (number, address) in waiting.into_iter().zip(addresses) {
            let answer = address.and_then(|_| answers.next()).unwrap_or_else(|| Err(self.reason(object)));
            self.keep(number, answer);
        }
    }

    /// Names a location that a signal handler returns to, and says whether it is one.
    fn is_signal_return(&mut self, file: &File, number: u32) -> bool {
        let Some(&(location, _)) = self.locations.get(number as usize) else { return false };
        let found = location.is_return_address && signal::is_return(file, location.offset);
        if found {
            self.keep(number, Ok(vec![signal::call()]));
        }
        found
    }

    /// Where in the object's own addresses the instruction stands that a location means.
    fn lookup_address(&self, number: u32) -> Option<VirtualOffset> {
        let (location, _) = self.locations.get(number as usize)?;
        let outline = self.objects.get(location.object)?.outline.as_ref().ok()?;
        let at = location.offset.0.checked_sub(u64::from(location.is_return_address))?;
        outline.virtual_offset(FileOffset(at))
    }

    fn reason(&self, object: ObjectId) -> Unresolved {
        let outline = self.objects.get(object).map(|object| object.outline.as_ref().err().copied());
        outline.flatten().map_or(Unresolved::NoSymbol, Unresolved::Object)
    }

    fn keep(&mut self, number: u32, answer: Answer) {
        let answer = answer.and_then(|calls| {
            let size: usize = calls.iter().map(text_size).sum();
            let total = self.text.saturating_add(size);
            if total > self.settings.max_text {
                return Err(Unresolved::TextCap);
            }
            self.text = total;
            Ok(calls)
        });
        let names = match answer {
            Ok(calls) => Names::Found(calls.into()),
            Err(reason) => {
                self.count(reason);
                Names::None
            }
        };
        if let Some(slot) = self.locations.get_mut(number as usize) {
            slot.1 = names;
        }
    }
}

fn named(base: &Frame, call: &Call) -> Frame {
    Frame {
        function: call.function.clone(),
        file: call.file.clone(),
        line: call.line,
        inlined: call.inlined,
        ..base.clone()
    }
}

fn text_size(call: &Call) -> usize {
    let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    size_of::<Call>() + length(&call.function) + length(&call.file)
}

/// Lower-case hexadecimal, as build IDs are written.
fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
