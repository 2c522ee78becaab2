//! pprof profiles (`.pb.gz`), as Go's heap profiles have them: `inuse_*` is everything live, `alloc_*` everything that
//! the same sites ever allocated. Survivors, which pprof has no sample type for, travel as numeric labels of each
//! sample, the truth line as a comment (`pprof -comments`). Processes are labels too, whatever was asked to be merged: pprof
//! itself puts samples together (as it opens) and takes them apart (`-tagfocus`).

use std::collections::HashMap;
use std::io::{self, Write};

use flate2::{Compression, GzBuilder};
use prost::Message;

use super::folded;
use super::human::{duration, printable};
use super::model::{Frame, FrameKind, ProcessReport, Report, SiteReport};
use super::proto::{Function, Label, Line, Location, Mapping, Profile, Sample, ValueType};

const PAGE: u64 = 4096;

/// Writes the profile, compressed.
pub fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    // No time stamp and no name in the header: the same report gives the same bytes.
    let mut gzip = GzBuilder::new().write(out, Compression::default());
    gzip.write_all(&profile(report).encode_to_vec())?;
    gzip.finish()?;
    Ok(())
}

/// The profile before it is encoded.
pub fn profile(report: &Report) -> Profile {
    let mut builder = Builder::new();
    for process in &report.processes {
        for site in process.sites.iter().filter(|site| !site.live.is_zero() || !site.allocated.is_zero()) {
            builder.sample(process, site);
        }
    }
    builder.finish(report)
}

/// One mapping per object and process: the distance between address and file offset tells segments apart.
#[derive(PartialEq, Eq, Hash)]
struct MappingKey<'a> {
    serial: u32,
    object: &'a str,
    build_id: Option<&'a str>,
    bias: u64,
}

#[derive(PartialEq, Eq, Hash)]
struct LocationKey {
    mapping_id: u64,
    address: u64,
    lines: Vec<(u64, i64)>,
}

struct Builder<'a> {
    profile: Profile,
    strings: HashMap<String, i64>,
    mappings: HashMap<MappingKey<'a>, usize>,
    locations: HashMap<LocationKey, u64>,
    functions: HashMap<(i64, i64), u64>,
}

impl<'a> Builder<'a> {
    fn new() -> Self {
        let mut builder = Self {
            profile: Profile::default(),
            strings: HashMap::new(),
            mappings: HashMap::new(),
            locations: HashMap::new(),
            functions: HashMap::new(),
        };
        builder.string("");
        for (name, unit) in [
            ("inuse_space", "bytes"),
            ("inuse_objects", "count"),
            ("alloc_space", "bytes"),
            ("alloc_objects", "count"),
        ] {
            let value_type = builder.value_type(name, unit);
            builder.profile.sample_type.push(value_type);
        }
        builder
    }

    fn finish(mut self, report: &Report) -> Profile {
        let comments = [
            format!("truth: {}", report.truth_line()),
            "inuse_*: every live block allocated while traced; alloc_*: everything ever allocated by sites that still \
             hold live blocks"
                .to_owned(),
            format!("labels survivor_bytes, survivor_blocks: alive > {}", duration(report.min_age_s)),
            format!("leaktrace {}, kernel {}", report.leaktrace_version, report.kernel),
        ];
        self.profile.comment = comments.iter().map(|comment| self.string(comment)).collect();
        self.profile.period_type = Some(self.value_type("space", "bytes"));
        self.profile.period = 1;
        self.profile.default_sample_type = self.string("inuse_space");
        self.profile.time_nanos = nanos(report.started_unix_s);
        self.profile.duration_nanos = nanos(report.elapsed_s);
        self.profile
    }

    fn sample(&mut self, process: &'a ProcessReport, site: &'a SiteReport) {
        let mut location_id: Vec<u64> = folded::shown(site)
            .chunk_by(|frame, _| frame.inlined)
            .map(|at_one_address| self.location(process, at_one_address))
            .collect();
        if let Some(reason) = &site.truncated {
            location_id.push(self.note(&format!("[truncated: {}]", printable(reason))));
        }
        if location_id.is_empty() {
            location_id.push(self.note("[no stack]"));
        }
        let values = [site.live.bytes, site.live.blocks, site.allocated.bytes, site.allocated.blocks];
        let label = self.labels(process, site);
        self.profile.sample.push(Sample { location_id, value: values.map(signed).to_vec(), label });
    }

    fn labels(&mut self, process: &ProcessReport, site: &SiteReport) -> Vec<Label> {
        let mut labels = vec![
            self.number("pid", u64::from(process.pid), ""),
            self.text("process", &process.name),
            self.text("domain", &site.domain),
            self.number("survivor_bytes", site.survivors.bytes, "bytes"),
            self.number("survivor_blocks", site.survivors.blocks, "count"),
        ];
        labels.extend(site.label.as_deref().map(|label| self.text("label", label)));
        if let [_, .., inner] = process.namespace_pids.as_slice() {
            labels.push(self.number("container_pid", u64::from(*inner), ""));
        }
        let Some(container) = &process.container else { return labels };
        labels.push(self.text("container", &container.short()));
        labels.push(self.text("container_id", &container.id));
        labels.extend(container.pod.as_deref().map(|pod| self.text("pod", pod)));
        labels
    }

    /// The location of frames that share an address: inlined calls first, the function that holds them last.
    fn location(&mut self, process: &'a ProcessReport, frames: &[&'a Frame]) -> u64 {
        let lines: Vec<(u64, i64)> = frames.iter().filter_map(|frame| self.line(frame)).collect();
        let Some(frame) = frames.last() else { return self.note("[unknown]") };
        if frame.kind == FrameKind::Python {
            // As other profilers of interpreted code have it: a line of a function, in no mapping and at no address.
            return self.intern_location(LocationKey { mapping_id: 0, address: 0, lines });
        }
        let mapping_id = self.mapping(process.serial, frame, frames);
        self.intern_location(LocationKey { mapping_id, address: call(frame), lines })
    }

    /// A location that is no code but has to be seen.
    fn note(&mut self, text: &str) -> u64 {
        let function = self.function(text, "");
        self.intern_location(LocationKey { mapping_id: 0, address: 0, lines: vec![(function, 0)] })
    }

    fn intern_location(&mut self, key: LocationKey) -> u64 {
        if let Some(id) = self.locations.get(&key) {
            return *id;
        }
        let id = next_id(self.profile.location.len());
        let line =
            key.lines.iter().map(|(function_id, line)| Line { function_id: *function_id, line: *line });
        self.profile.location.push(Location {
            id,
            mapping_id: key.mapping_id,
            address: key.address,
            line: line.collect(),
        });
        self.locations.insert(key, id);
        id
    }

    fn line(&mut self, frame: &Frame) -> Option<(u64, i64)> {
        let file = frame.file.as_deref().unwrap_or("");
        let function = match (&frame.function, frame.kind) {
            (Some(function), _) => self.function(function, file),
            // A bare address is what pprof shows by itself, with the object beside it; a file is more than that.
            (None, FrameKind::Native) if frame.file.is_none() && frame.object.is_some() => return None,
            (None, _) => self.function(&folded::native_name(frame), file),
        };
        Some((function, i64::from(frame.line.unwrap_or(0))))
    }

    fn function(&mut self, name: &str, file: &str) -> u64 {
        let (name, filename) = (self.string(name), self.string(file));
        let functions = &mut self.profile.function;
        *self.functions.entry((name, filename)).or_insert_with(|| {
            let id = next_id(functions.len());
            functions.push(Function { id, name, system_name: name, filename });
            id
        })
    }

    /// The mapping of a frame, widened so that it covers the frame's page; 0 for frames that lie in no object.
    fn mapping(&mut self, serial: u32, frame: &'a Frame, lines: &[&Frame]) -> u64 {
        let (Some(object), Some(file_offset)) = (frame.object.as_deref(), frame.file_offset) else {
            return 0;
        };
        let bias = bias(frame.address, file_offset);
        let build_id = frame.build_id.as_deref();
        let (filename, build) = (self.string(object), self.string(build_id.unwrap_or("")));
        let start = call(frame) / PAGE * PAGE;
        let limit = start.saturating_add(PAGE);
        let mappings = &mut self.profile.mapping;
        let index =
            *self.mappings.entry(MappingKey { serial, object, build_id, bias }).or_insert_with(|| {
                let id = next_id(mappings.len());
                let range = Mapping { id, memory_start: start, memory_limit: limit, ..Mapping::default() };
                mappings.push(Mapping { filename, build_id: build, ..range });
                mappings.len() - 1
            });
        let Some(mapping) = mappings.get_mut(index) else { return 0 };
        mapping.memory_start = mapping.memory_start.min(start);
        mapping.memory_limit = mapping.memory_limit.max(limit);
        mapping.file_offset = mapping.memory_start.wrapping_sub(bias);
        mapping.has_functions |= lines.iter().any(|line| line.function.is_some());
        mapping.has_filenames |= lines.iter().any(|line| line.file.is_some());
        mapping.has_line_numbers |= lines.iter().any(|line| line.line.is_some());
        mapping.has_inline_frames |= lines.iter().any(|line| line.inlined);
        mapping.id
    }

    fn text(&mut self, key: &str, value: &str) -> Label {
        Label { key: self.string(key), str: self.string(value), ..Label::default() }
    }

    fn number(&mut self, key: &str, value: u64, unit: &str) -> Label {
        Label { key: self.string(key), num: signed(value), num_unit: self.string(unit), ..Label::default() }
    }

    fn value_type(&mut self, name: &str, unit: &str) -> ValueType {
        ValueType { r#type: self.string(name), unit: self.string(unit) }
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(index) = self.strings.get(text) {
            return *index;
        }
        let index = i64::try_from(self.profile.string_table.len()).unwrap_or(0);
        self.profile.string_table.push(text.to_owned());
        self.strings.insert(text.to_owned(), index);
        index
    }
}

/// An address inside the call, where pprof's own symbolizer wants to look: one before the return address.
fn call(frame: &Frame) -> u64 {
    frame.address.saturating_sub(1)
}

/// Distance between addresses and file offsets of one mapping, in whole pages: whether `file_offset` belongs to the
/// return address or to the call before it makes no difference.
fn bias(address: u64, file_offset: u64) -> u64 {
    address.wrapping_sub(file_offset).wrapping_add(PAGE / 2) / PAGE * PAGE
}

fn next_id(length: usize) -> u64 {
    length as u64 + 1
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Seconds as nanoseconds. A float-to-integer cast saturates, and makes 0 of what is no number.
fn nanos(seconds: f64) -> i64 {
    (seconds * 1e9) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::Amount;

    fn frame(address: u64, file_offset: u64, function: &str, inlined: bool) -> Frame {
        Frame {
            address,
            file_offset: Some(file_offset),
            object: Some("/lib/a.so".into()),
            function: Some(function.into()),
            inlined,
            ..Frame::default()
        }
    }

    fn report(frames: Vec<Frame>) -> Report {
        let live = Amount { bytes: 10, blocks: 2 };
        let site = SiteReport { live, frames, ..SiteReport::default() };
        let process = ProcessReport { sites: vec![site], serial: 1, ..ProcessReport::default() };
        Report { processes: vec![process], ..Report::default() }
    }

    #[test]
    fn inlined_calls_share_the_location_of_their_caller() {
        let frames = vec![
            frame(0x5010, 0x1010, "inner", true),
            frame(0x5010, 0x1010, "outer", false),
            frame(0x7020, 0x3020, "main", false),
        ];
        let profile = profile(&report(frames));
        assert_eq!(profile.sample[0].location_id, [1, 2]);
        assert_eq!(profile.location[0].line.len(), 2);
        assert!(profile.mapping[0].has_inline_frames);
    }

    #[test]
    fn a_mapping_covers_its_frames_whichever_end_of_the_call_the_offset_means() {
        for offset in [0x1010, 0x100f] {
            let frames = vec![frame(0x5010, offset, "a", false), frame(0x7020, offset + 0x2010, "b", false)];
            let profile = profile(&report(frames));
            assert_eq!(profile.mapping.len(), 1, "one segment, one mapping");
            let mapping = profile.mapping[0];
            assert_eq!(
                (mapping.memory_start, mapping.memory_limit, mapping.file_offset),
                (0x5000, 0x8000, 0x1000)
            );
        }
    }

    #[test]
    fn every_location_lies_in_its_mapping() {
        // A call at the very end of a page: its return address is on the next one.
        let profile = profile(&report(vec![frame(0x6000, 0x2000, "a", false)]));
        let (mapping, location) = (profile.mapping[0], &profile.location[0]);
        assert!((mapping.memory_start..mapping.memory_limit).contains(&location.address));
        assert_eq!((mapping.memory_start, mapping.file_offset), (0x5000, 0x1000));
    }

    #[test]
    fn the_same_function_string_and_location_is_stored_once() {
        let frames = vec![frame(0x5010, 0x1010, "f", false), frame(0x5010, 0x1010, "f", false)];
        let profile = profile(&report(frames));
        assert_eq!((profile.location.len(), profile.function.len()), (1, 1));
        let mut strings = profile.string_table.clone();
        strings.sort();
        strings.dedup();
        assert_eq!(strings.len(), profile.string_table.len());
        assert_eq!(profile.string_table[0], "");
    }

    #[test]
    fn a_python_frame_is_a_line_of_a_function_wherever_its_code_lies() {
        let python = |address, line| Frame {
            kind: FrameKind::Python,
            address,
            function: Some("View.get".into()),
            file: Some("/srv/app/views.py".into()),
            line: Some(line),
            ..Frame::default()
        };
        let frames =
            vec![python(0x7000, 5), python(0x9000, 5), python(0x7000, 6), frame(0x5010, 0x1010, "f", false)];
        let profile = profile(&report(frames));
        assert_eq!(profile.sample[0].location_id, [1, 1, 2, 3]);
        assert_eq!((profile.function.len(), profile.mapping.len()), (2, 1));
        let location = &profile.location[0];
        assert_eq!((location.mapping_id, location.address, location.line[0].line), (0, 0, 5));
        let function = profile.function[0];
        let text = |index: i64| profile.string_table[index as usize].as_str();
        assert_eq!((text(function.name), text(function.filename)), ("View.get", "/srv/app/views.py"));
    }

    #[test]
    fn numbers_beyond_the_format_are_held_at_its_limit() {
        assert_eq!(signed(u64::MAX), i64::MAX);
        assert_eq!(nanos(f64::NAN), 0);
        assert_eq!(nanos(1e300), i64::MAX);
        let edge = vec![frame(u64::MAX, 5, "f", false), frame(0, u64::MAX, "g", false)];
        assert_eq!(profile(&report(edge)).sample.len(), 1);
    }
}
