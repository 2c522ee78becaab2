//! Stacks as they were stored: once each, out of frames that were stored once each.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Row};

use super::row::{get, named, perhaps_json, small};
use crate::report::model::{Frame, SiteReport};

/// Stacks that were read, and the frames they are made of.
#[derive(Default)]
pub(super) struct Stacks {
    stacks: HashMap<i64, SiteReport>,
    frames: HashMap<i64, Frame>,
}

impl Stacks {
    /// A site with the stack of that number and no figures. One that is missing has no frames.
    pub(super) fn site(&mut self, from: &Connection, id: i64) -> rusqlite::Result<SiteReport> {
        if let Some(known) = self.stacks.get(&id) {
            return Ok(known.clone());
        }
        let site = self.load(from, id)?;
        self.stacks.insert(id, site.clone());
        Ok(site)
    }

    fn load(&mut self, from: &Connection, id: i64) -> rusqlite::Result<SiteReport> {
        let found = from
            .prepare_cached(
                "SELECT d.text AS domain, l.text AS label, t.text AS truncated, frames FROM stacks \
                 JOIN strings d ON d.id = domain LEFT JOIN strings l ON l.id = label LEFT JOIN strings t ON t.id = truncated \
                 WHERE stacks.id = ?1",
            )?
            .query_row([id], |row| {
                let frames: Option<Vec<i64>> = perhaps_json(row, "frames")?;
                let site = SiteReport {
                    stack_id: id.cast_unsigned(),
                    domain: get(row, "domain")?,
                    label: get(row, "label")?,
                    truncated: get(row, "truncated")?,
                    ..SiteReport::default()
                };
                Ok((site, frames.unwrap_or_default()))
            })
            .optional()?;
        let Some((mut site, ids)) = found else { return Ok(SiteReport::default()) };
        for id in ids {
            site.frames.push(self.frame(from, id)?);
        }
        Ok(site)
    }

    fn frame(&mut self, from: &Connection, id: i64) -> rusqlite::Result<Frame> {
        if let Some(known) = self.frames.get(&id) {
            return Ok(known.clone());
        }
        let found = from
            .prepare_cached(
                "SELECT frames.*, f.text AS function_text, o.text AS object_text, b.text AS build_id_text, p.text AS file_text \
                 FROM frames LEFT JOIN strings f ON f.id = function LEFT JOIN strings o ON o.id = object \
                 LEFT JOIN strings b ON b.id = build_id LEFT JOIN strings p ON p.id = file WHERE frames.id = ?1",
            )?
            .query_row([id], frame)
            .optional()?
            .unwrap_or_default();
        self.frames.insert(id, found.clone());
        Ok(found)
    }
}

fn frame(row: &Row<'_>) -> rusqlite::Result<Frame> {
    let bits = |column| Ok::<_, rusqlite::Error>(get::<Option<i64>>(row, column)?.map(i64::cast_unsigned));
    let (file_offset, virtual_offset) = (bits("file_offset")?, bits("virtual_offset")?);
    // Where it lay in one run says nothing in another: its place in the file stands for it.
    let address = bits("address")?.or(virtual_offset).or(file_offset).unwrap_or(0);
    let line: Option<i64> = get(row, "line")?;
    Ok(Frame {
        kind: named(row, "kind")?,
        function: get(row, "function_text")?,
        object: get(row, "object_text")?,
        build_id: get(row, "build_id_text")?,
        file_offset,
        virtual_offset,
        address,
        file: get(row, "file_text")?,
        line: line.and_then(|line| u32::try_from(line).ok()),
        inlined: small(row, "inlined")? != 0,
        interpreter: small(row, "interpreter")? != 0,
    })
}
