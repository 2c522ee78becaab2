//! What is said again and again is stored once: names, frames, stacks, sites. Numbers that were found or given lately are
//! remembered, so that a report that resembles the last one costs no look-ups.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, ToSql, params};

use super::write::exact;
use crate::report::{
    fingerprint::SiteKey,
    human::cut_middle,
    model::{Frame, FrameKind, SiteReport},
};

/// Most characters of one string: targets choose their names.
const MAX_STRING: usize = 2048;
/// Numbers of each kind that are remembered; then all are forgotten, and found again.
const REMEMBERED: usize = 32_768;

/// What tells a frame or a stack from every other.
type Hash = [u8; 16];

/// Numbers of rows that are there, or were given in the transaction that is under way.
#[derive(Debug, Default)]
pub(super) struct Interned {
    strings: HashMap<String, i64>,
    frames: HashMap<Hash, i64>,
    stacks: HashMap<Hash, i64>,
    sites: HashMap<(i64, SiteKey), i64>,
}

impl Interned {
    /// What was remembered may not be true any more.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    fn string(&mut self, to: &Connection, text: &str) -> rusqlite::Result<i64> {
        let text = cut_middle(text, MAX_STRING);
        if let Some(id) = self.strings.get(text.as_ref()) {
            return Ok(*id);
        }
        let id = find_or_make(
            to,
            "SELECT id FROM strings WHERE text = ?1",
            "INSERT INTO strings (text) VALUES (?1)",
            &[&text.as_ref()],
        )?;
        remember(&mut self.strings, text.into_owned(), id);
        Ok(id)
    }

    fn perhaps(&mut self, to: &Connection, text: Option<&str>) -> rusqlite::Result<Option<i64>> {
        text.map(|text| self.string(to, text)).transpose()
    }

    /// The number of a site's stack, with its allocator and how it ends.
    pub(super) fn stack(&mut self, to: &Connection, site: &SiteReport) -> rusqlite::Result<i64> {
        let hashes: Vec<Hash> = site.frames.iter().map(frame_hash).collect();
        let hash = stack_hash(site, &hashes);
        if let Some(id) = self.stacks.get(&hash) {
            return Ok(*id);
        }
        let found = to.prepare_cached("SELECT id FROM stacks WHERE hash = ?1")?;
        let id = match one(found, &[&hash])? {
            Some(id) => id,
            None => self.new_stack(to, site, &hashes, hash)?,
        };
        remember(&mut self.stacks, hash, id);
        Ok(id)
    }

    fn new_stack(
        &mut self,
        to: &Connection,
        site: &SiteReport,
        hashes: &[Hash],
        hash: Hash,
    ) -> rusqlite::Result<i64> {
        let frames = site.frames.iter().zip(hashes).map(|(frame, hash)| self.frame(to, frame, *hash));
        let frames: Vec<i64> = frames.collect::<rusqlite::Result<_>>()?;
        let list: Vec<String> = frames.iter().map(i64::to_string).collect();
        let domain = self.string(to, &site.domain)?;
        let label = self.perhaps(to, site.label.as_deref())?;
        let truncated = self.perhaps(to, site.truncated.as_deref())?;
        to.prepare_cached(
            "INSERT INTO stacks (hash, domain, label, truncated, frames) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .insert(params![hash, domain, label, truncated, format!("[{}]", list.join(","))])
    }

    fn frame(&mut self, to: &Connection, frame: &Frame, hash: Hash) -> rusqlite::Result<i64> {
        if let Some(id) = self.frames.get(&hash) {
            return Ok(*id);
        }
        let found = to.prepare_cached("SELECT id FROM frames WHERE hash = ?1")?;
        let id = match one(found, &[&hash])? {
            Some(id) => id,
            None => self.new_frame(to, frame, hash)?,
        };
        remember(&mut self.frames, hash, id);
        Ok(id)
    }

    fn new_frame(&mut self, to: &Connection, frame: &Frame, hash: Hash) -> rusqlite::Result<i64> {
        let function = self.perhaps(to, frame.function.as_deref())?;
        let object = self.perhaps(to, frame.object.as_deref())?;
        let build_id = self.perhaps(to, frame.build_id.as_deref())?;
        let file = self.perhaps(to, frame.file.as_deref())?;
        to.prepare_cached(
            "INSERT INTO frames (hash, kind, function, object, build_id, file, line, file_offset, virtual_offset, address, \
             inlined, interpreter) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?
        .insert(params![
            hash,
            kind(frame.kind),
            function,
            object,
            build_id,
            file,
            frame.line,
            frame.file_offset.map(exact),
            frame.virtual_offset.map(exact),
            lasting_address(frame).map(exact),
            frame.inlined,
            frame.interpreter
        ])
    }

    /// The number of a site of a subject; made if it is missing. Its first stack stands for it.
    pub(super) fn site(
        &mut self,
        to: &Connection,
        subject: i64,
        key: SiteKey,
        stack: Option<i64>,
        now_unix_s: f64,
    ) -> rusqlite::Result<i64> {
        if let Some(id) = self.sites.get(&(subject, key)) {
            return Ok(*id);
        }
        to.prepare_cached(
            "INSERT INTO sites (subject, key, stack, first_seen) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT DO UPDATE SET stack = ifnull(stack, excluded.stack)",
        )?
        .execute(params![subject, key.0, stack, now_unix_s])?;
        let id = to
            .prepare_cached("SELECT id FROM sites WHERE subject = ?1 AND key = ?2")?
            .query_row(params![subject, key.0], |row| row.get(0))?;
        // One without a stack may be given one by the next report.
        if stack.is_some() {
            remember(&mut self.sites, (subject, key), id);
        }
        Ok(id)
    }
}

fn remember<K: std::hash::Hash + Eq>(known: &mut HashMap<K, i64>, key: K, id: i64) {
    if known.len() >= REMEMBERED {
        known.clear();
    }
    known.insert(key, id);
}

fn one(mut statement: rusqlite::CachedStatement<'_>, values: &[&dyn ToSql]) -> rusqlite::Result<Option<i64>> {
    statement.query_row(values, |row| row.get(0)).optional()
}

fn find_or_make(to: &Connection, find: &str, make: &str, values: &[&dyn ToSql]) -> rusqlite::Result<i64> {
    match one(to.prepare_cached(find)?, values)? {
        Some(id) => Ok(id),
        None => to.prepare_cached(make)?.insert(values),
    }
}

/// Where code lies changes from run to run; where it is in its file does not. Only what has neither file nor line keeps its address.
fn lasting_address(frame: &Frame) -> Option<u64> {
    let placed = frame.file_offset.is_some() || frame.virtual_offset.is_some();
    (!placed && frame.kind != FrameKind::Python).then_some(frame.address)
}

pub(super) fn kind(kind: FrameKind) -> &'static str {
    match kind {
        FrameKind::Native => "native",
        FrameKind::Python => "python",
        FrameKind::Other => "other",
    }
}

fn stack_hash(site: &SiteReport, frames: &[Hash]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for text in [Some(site.domain.as_str()), site.label.as_deref(), site.truncated.as_deref()] {
        add_text(&mut hasher, text);
    }
    frames.iter().for_each(|hash| {
        hasher.update(hash);
    });
    finish(&hasher)
}

fn frame_hash(frame: &Frame) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for text in [&frame.function, &frame.object, &frame.build_id, &frame.file] {
        add_text(&mut hasher, text.as_deref());
    }
    let numbers =
        [frame.line.map(u64::from), frame.file_offset, frame.virtual_offset, lasting_address(frame)];
    for number in numbers {
        hasher.update(&[u8::from(number.is_some())]);
        hasher.update(&number.unwrap_or_default().to_le_bytes());
    }
    hasher.update(kind(frame.kind).as_bytes());
    hasher.update(&[u8::from(frame.inlined), u8::from(frame.interpreter)]);
    finish(&hasher)
}

/// With its length, so that no two lists of texts look alike.
fn add_text(hasher: &mut blake3::Hasher, text: Option<&str>) {
    hasher.update(&text.map_or(u64::MAX, |text| text.len() as u64).to_le_bytes());
    hasher.update(text.unwrap_or_default().as_bytes());
}

fn finish(hasher: &blake3::Hasher) -> Hash {
    let mut hash = [0; 16];
    hasher.finalize_xof().fill(&mut hash);
    hash
}
