//! Code objects in forged memory, seen, forgotten and shown.

use super::super::Statistics;
use super::*;
use crate::python::forged;
use crate::python::soundness::{Image, frame, offsets};

/// Memory with one code object: `f` in `a.py`, line 12.
struct Target {
    image: Image,
    offsets: Offsets,
    frame: PythonFrame,
}

fn target() -> Target {
    let (bytes, code) = forged::one_object(3);
    let (image, offsets) = (Image::new(&bytes), offsets(3));
    let frame = frame(&image, &offsets, code, 2);
    Target { image, offsets, frame }
}

fn nowhere() -> Image {
    Image::new(&[])
}

fn intern(store: &mut FrameStore, target: &Target, serial: u32) -> FrameId {
    store.intern_code(&target.image, serial, &target.offsets, &target.frame)
}

fn shown(store: &mut FrameStore, id: FrameId) -> (Option<String>, Option<String>, Option<u32>) {
    let frames = store.resolve(id);
    let [frame] = frames.as_slice() else { panic!("{frames:?}") };
    assert_eq!(frame.kind, FrameKind::Python);
    (frame.function.clone(), frame.file.clone(), frame.line)
}

fn reasons(statistics: &Statistics) -> Vec<(&'static str, u64)> {
    statistics.unresolved_by_reason.iter().map(|(reason, count)| (*reason, *count)).collect()
}

#[test]
fn a_code_object_is_read_once_and_named_after_its_process_is_gone() {
    let (mut store, target) = (FrameStore::default(), target());
    let first = intern(&mut store, &target, 1);
    // Nothing can be read any more, but another instruction of the same code needs nothing.
    let other = PythonFrame { instruction: u32::MAX, ..target.frame };
    let second = store.intern_code(&nowhere(), 1, &target.offsets, &other);
    store.forget_process(1);
    assert_eq!(shown(&mut store, first), (Some("f".into()), Some("a.py".into()), Some(12)));
    assert_eq!(shown(&mut store, second), (Some("f".into()), Some("a.py".into()), Some(10)));
    let statistics = store.statistics();
    assert_eq!((statistics.python.codes, statistics.python.table_bytes), (1, 0));
    assert_eq!((statistics.frames, statistics.unresolved_frames), (2, 0));
}

#[test]
fn code_that_is_gone_has_no_name_until_it_can_be_read() {
    let (mut store, target) = (FrameStore::default(), target());
    let gone = PythonFrame { identity: target.frame.identity ^ 1, ..target.frame };
    for _ in 0..2 {
        let id = store.intern_code(&target.image, 1, &target.offsets, &gone);
        assert_eq!(shown(&mut store, id), (None, None, None));
    }
    let id = store.intern_code(&nowhere(), 1, &target.offsets, &target.frame);
    assert_eq!(shown(&mut store, id), (None, None, None));
    assert_eq!(reasons(&store.statistics()), [("code object gone", 1), ("code object unreadable", 1)]);
    let id = intern(&mut store, &target, 1);
    assert_eq!(shown(&mut store, id).0.as_deref(), Some("f"));
}

#[test]
fn processes_share_names_and_tables_until_the_last_is_forgotten() {
    let (mut store, target) = (FrameStore::default(), target());
    let ids = [1, 2].map(|serial| intern(&mut store, &target, serial));
    assert_eq!(ids[0], ids[1]);
    let both = store.statistics().python;
    assert_eq!(both.codes, 2);
    store.forget_process(1);
    assert_eq!(store.statistics().python, both);
    store.forget_process(2);
    assert_eq!(store.statistics().python, PythonStatistics { table_bytes: 0, ..both });
    // A successor with the same number reads again.
    let id = store.intern_code(&nowhere(), 2, &target.offsets, &target.frame);
    assert_eq!(shown(&mut store, id).0, None);
}

#[test]
fn a_full_table_of_frames_refuses_and_counts() {
    let mut store = FrameStore::new(super::super::Settings { max_frames: 0, ..Default::default() });
    assert_eq!(intern(&mut store, &target(), 1), FrameId::OVERFLOW);
    assert_eq!(store.statistics().refused_frames, 1);
}

#[test]
fn code_that_runs_once_is_read_whenever_it_is_seen() {
    let mut store = FrameStore::default();
    let shown_of = |store: &mut FrameStore, table: &[u8]| {
        let (bytes, code) = forged::module(3, table);
        let (image, offsets) = (Image::new(&bytes), offsets(3));
        let frame = frame(&image, &offsets, code, 0);
        let id = store.intern_code(&image, 1, &offsets, &frame);
        (frame, shown(store, id).2)
    };
    // The same identity in the same place, but other lines.
    let (first, line) = shown_of(&mut store, &[0x80 | 12 << 3, 1, 1]);
    assert_eq!(line, Some(12));
    let (second, line) = shown_of(&mut store, &[0x80 | 11 << 3, 1, 1]);
    assert_eq!((second, line), (first, Some(11)));
}
