//! Frames in code that a process made at run time: in memory without a file, or in a file that exists in memory only.
//! Their names come from the process's perf map, which may mention them later than they are seen.

use super::objects::ObjectId;
use super::{FrameId, FrameStore, Place, Seen, Unresolved, name};
use crate::object::address::AbsoluteAddress;
use crate::process::maps::{self, Mapping};
use crate::report::model::Frame;

/// What is known of a frame in generated code.
#[derive(Clone, Debug)]
pub(super) enum GeneratedName {
    /// Its name and the perf map that it stands in.
    Found(Box<str>, Box<str>),
    /// Asked for in vain, so far.
    Missing,
}

impl FrameStore {
    /// To be called when a process image ends, as early as can be: names that only the process's own files hold are read
    /// now. Its frames can be resolved at any time later.
    pub fn process_ending(&mut self, serial: u32) {
        let nameless = self.nameless.remove(&serial).unwrap_or_default();
        if !nameless.is_empty() {
            self.generated.finish(serial);
        }
        for id in nameless {
            let place = self.frames.get(id.0 as usize).cloned();
            if let Some(Seen { address, place: Place::Generated { is_return_address, .. } }) = place {
                self.name_generated(id, serial, address.0.saturating_sub(u64::from(is_return_address)));
            }
        }
        self.generated.forget(serial);
    }

    /// Whether a mapping of a file holds generated code: the file exists in memory only and is no object.
    pub(super) fn is_generated(&self, mapping: &Mapping, object: ObjectId) -> bool {
        mapping.path.as_deref().is_some_and(maps::is_memory_file)
            && self.objects.get(object).is_some_and(|object| object.outline.is_err())
    }

    pub(super) fn place_in_memory(
        &mut self,
        pid: u32,
        serial: u32,
        mapping: &Mapping,
        is_return_address: bool,
    ) -> Place {
        let path = mapping.path.as_deref().map(|path| path.to_string_lossy());
        let label = mapping.label.as_deref().or(path.as_deref());
        let label = label.map(|label| name::shortened(label).into());
        if !mapping.executable || !may_be_generated(mapping) {
            return Place::Memory(label);
        }
        self.generated.learn(pid, serial);
        Place::Generated { serial, label, is_return_address }
    }

    /// A frame in generated code. Its name may be written down after it was first shown.
    pub(super) fn resolve_generated(
        &mut self,
        id: FrameId,
        address: AbsoluteAddress,
        serial: u32,
        at: u64,
        label: Option<Box<str>>,
    ) -> Vec<Frame> {
        if !matches!(self.generated_names.get(&id), Some(GeneratedName::Found(..))) {
            self.name_generated(id, serial, at);
        }
        let (function, object) = match self.generated_names.get(&id) {
            Some(GeneratedName::Found(name, file)) => (Some(name.to_string()), file.to_string()),
            _ => (None, label.map_or_else(|| "[anonymous]".to_owned(), String::from)),
        };
        vec![Frame { function, object: Some(object), address: address.0, ..Frame::default() }]
    }

    /// Looks a frame in generated code up, in what was read and then in what was added since.
    fn name_generated(&mut self, id: FrameId, serial: u32, at: u64) {
        if self.generated.find(serial, at).is_none() {
            self.generated.refresh(serial);
        }
        let room = self.settings.max_text.saturating_sub(self.text);
        let found = self.generated.find(serial, at);
        let Some((name, file)) = found.filter(|(name, _)| name.len() <= room) else {
            if self.generated_names.insert(id, GeneratedName::Missing).is_none() {
                self.count(Unresolved::Anonymous);
            }
            return;
        };
        self.text += name.len();
        let name = GeneratedName::Found(name.into(), file.to_string_lossy().into());
        if let Some(GeneratedName::Missing) = self.generated_names.insert(id, name)
            && let Some(count) = self.unresolved.get_mut(&Unresolved::Anonymous)
        {
            *count = count.saturating_sub(1);
        }
    }
}

/// Whether code may be generated into such memory: the kernel's own mappings are no such place.
pub(super) fn may_be_generated(mapping: &Mapping) -> bool {
    Unresolved::of_memory(mapping.label.as_deref()) == Unresolved::Anonymous
}
