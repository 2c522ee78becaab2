//! What is kept of the past. By age: everything for an hour, then one reading a minute, after a day one in ten minutes, at last
//! nothing. By size: the oldest makes room, in the order in which it was written. Both go in small steps, so that the log
//! stays small and writing never waits for long.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::{Store, StoreError, write::set_meta};

/// Above that share of its cap a database is made smaller, and below which: eighths.
const FULL_EIGHTHS: u64 = 7;
const ROOM_EIGHTHS: u64 = 6;
/// What nothing points to any more is looked for every so many times that the history is tidied: it takes a look at everything.
const COLLECT_EVERY: u32 = 30;
/// Steps of making room at once.
const MAX_STEPS: usize = 64;
/// Pages that are given back to the file system at once.
const PAGES_AT_ONCE: u64 = 2048;
/// How far the age of data goes ahead at one time, seconds. A clock that jumps years ahead and is put right soon costs little.
const STEP_S: f64 = 3600.0;

/// How coarse data of some age is.
struct Grain {
    /// Where it is written down how far this has come.
    mark: &'static str,
    /// Of what age on, seconds.
    age_s: f64,
    /// One reading in so many seconds.
    bucket_s: f64,
}

const GRAINS: [Grain; 2] = [
    Grain { mark: "one_a_minute_until", age_s: 3600.0, bucket_s: 60.0 },
    Grain { mark: "one_in_ten_minutes_until", age_s: 86_400.0, bucket_s: 600.0 },
];

impl Store {
    /// Thins what is old, drops what is too old, and makes room. Meant to be called about once a minute.
    ///
    /// # Errors
    /// If the disk refuses or the file is damaged.
    pub fn tidy(&mut self, now_unix_s: f64) -> Result<(), StoreError> {
        let keep_s = self.config.keep.as_secs_f64();
        let aged = age(&mut self.connection, now_unix_s, keep_s);
        aged.map_err(|error| self.failed(error))?;
        self.tidied += 1;
        if self.tidied.is_multiple_of(COLLECT_EVERY) {
            self.collect()?;
        }
        if self.used()? * 8 > self.cap()? * FULL_EIGHTHS {
            self.make_room()?;
        }
        self.give_back()
    }

    /// Drops the oldest until there is room again.
    pub(super) fn make_room(&mut self) -> Result<(), StoreError> {
        for _ in 0..MAX_STEPS {
            if self.used()? * 8 <= self.cap()? * ROOM_EIGHTHS {
                break;
            }
            let dropped = drop_oldest(&mut self.connection).map_err(|error| self.failed(error))?;
            self.collect()?;
            if dropped == 0 {
                break;
            }
        }
        self.give_back()
    }

    /// Drops what nothing points to any more.
    fn collect(&mut self) -> Result<(), StoreError> {
        self.interned.forget();
        collect(&mut self.connection).map_err(|error| self.failed(error))
    }

    /// Gives pages that are not used back to the file system.
    fn give_back(&mut self) -> Result<(), StoreError> {
        let free = self.pages("freelist_count")?;
        // Some are kept: they are needed again at once.
        let surplus = free.saturating_sub(self.cap()? / 16).min(PAGES_AT_ONCE);
        if surplus == 0 {
            return Ok(());
        }
        let sql = format!("PRAGMA incremental_vacuum({surplus})");
        self.connection.execute_batch(&sql).map_err(|error| self.failed(error))
    }

    fn used(&self) -> Result<u64, StoreError> {
        Ok(self.pages("page_count")?.saturating_sub(self.pages("freelist_count")?))
    }

    fn cap(&self) -> Result<u64, StoreError> {
        self.pages("max_page_count")
    }

    fn failed(&self, error: rusqlite::Error) -> StoreError {
        StoreError::of(&self.path, error)
    }
}

/// Thins and drops by age.
fn age(connection: &mut Connection, now: f64, keep_s: f64) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let now = go_ahead(&transaction, now)?;
    GRAINS.iter().try_for_each(|grain| thin(&transaction, grain, now))?;
    drop_older(&transaction, now - keep_s)?;
    transaction.commit()
}

/// The time by which data ages: that of the clock, but ahead by no more than a step since the last time.
fn go_ahead(to: &Connection, now: f64) -> rusqlite::Result<f64> {
    let last = meta_number(to, "aged_until")?;
    let until = last.map_or(now, |last| now.min(last + STEP_S));
    set_meta(to, "aged_until", until)?;
    Ok(until)
}

fn meta_number(to: &Connection, key: &str) -> rusqlite::Result<Option<f64>> {
    to.prepare_cached("SELECT value FROM meta WHERE key = ?1")?.query_row([key], |row| row.get(0)).optional()
}

/// Keeps the first reading of every stretch of time; of reports also the last of each session.
fn thin(to: &Connection, grain: &Grain, now: f64) -> rusqlite::Result<()> {
    let until = ((now - grain.age_s) / grain.bucket_s).floor() * grain.bucket_s;
    // A clock that was put back has readings written again for times that were thinned already.
    let from = meta_number(to, grain.mark)?.unwrap_or(0.0);
    set_meta(to, grain.mark, until)?;
    if from >= until {
        return Ok(());
    }
    let stretch = params![from, until, grain.bucket_s];
    to.prepare_cached(
        "DELETE FROM memory WHERE subject IN (SELECT id FROM subjects) AND at >= ?1 AND at < ?2 AND id NOT IN (\
         SELECT min(id) FROM memory WHERE subject IN (SELECT id FROM subjects) AND at >= ?1 AND at < ?2 \
         GROUP BY subject, CAST(at / ?3 AS INTEGER))",
    )?
    .execute(stretch)?;
    to.prepare_cached(
        "DELETE FROM reports WHERE at >= ?1 AND at < ?2 AND id NOT IN (\
         SELECT min(id) FROM reports WHERE at >= ?1 AND at < ?2 GROUP BY session, CAST(at / ?3 AS INTEGER)) AND id NOT IN (\
         SELECT max(id) FROM reports WHERE session IN (SELECT session FROM reports WHERE at >= ?1 AND at < ?2) \
         GROUP BY session)",
    )?
    .execute(stretch)
    .map(drop)
}

/// Drops what happened before a moment. Sessions go with their last report.
fn drop_older(to: &Connection, than: f64) -> rusqlite::Result<()> {
    for table in ["memory", "reports", "decisions", "alerts", "evidence", "verdicts", "unexplained"] {
        let scope = if table == "memory" { "subject IN (SELECT id FROM subjects) AND" } else { "" };
        to.prepare_cached(&format!("DELETE FROM {table} WHERE {scope} at < ?1"))?.execute([than])?;
    }
    to.prepare_cached(
        "DELETE FROM sessions WHERE ifnull(ended, began) < ?1 AND id NOT IN (SELECT session FROM reports)",
    )?
    .execute([than])
    .map(drop)
}

/// Drops the twentieth part of everything that was written first; returns how many rows went.
fn drop_oldest(connection: &mut Connection) -> rusqlite::Result<usize> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut dropped = 0;
    // Below that number, rows of these are not worth dropping, and tell most.
    let tables = [("reports", 1), ("memory", 1), ("decisions", 200), ("alerts", 200), ("verdicts", 1000)];
    for (table, few) in tables.into_iter().chain([("evidence", 200), ("unexplained", 200)]) {
        let rows: i64 =
            transaction.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?;
        let surplus = (rows - few).clamp(0, rows / 20 + 1);
        let sql = format!("DELETE FROM {table} WHERE id IN (SELECT id FROM {table} ORDER BY id LIMIT ?1)");
        dropped += transaction.prepare_cached(&sql)?.execute([surplus])?;
    }
    // Sessions that began before the first report that is left, and of which nothing is left.
    dropped += transaction.execute(
        "DELETE FROM sessions WHERE id NOT IN (SELECT session FROM reports) \
         AND id < ifnull((SELECT session FROM reports ORDER BY id LIMIT 1), 0)",
        [],
    )?;
    transaction.commit()?;
    Ok(dropped)
}

/// What was stored once for many goes when the last of them is gone.
fn collect(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(
        "DELETE FROM images WHERE id NOT IN (SELECT image FROM process_readings);
         DELETE FROM sites WHERE id NOT IN (SELECT site FROM site_readings) AND id NOT IN (SELECT site FROM verdicts);
         DELETE FROM stacks WHERE id NOT IN (SELECT stack FROM site_readings)
             AND id NOT IN (SELECT stack FROM sites WHERE stack IS NOT NULL);
         DELETE FROM frames WHERE id NOT IN (SELECT value FROM stacks, json_each(stacks.frames));
         DELETE FROM strings WHERE id NOT IN (
             SELECT function FROM frames WHERE function IS NOT NULL
             UNION SELECT object FROM frames WHERE object IS NOT NULL
             UNION SELECT build_id FROM frames WHERE build_id IS NOT NULL
             UNION SELECT file FROM frames WHERE file IS NOT NULL
             UNION SELECT domain FROM stacks
             UNION SELECT label FROM stacks WHERE label IS NOT NULL
             UNION SELECT truncated FROM stacks WHERE truncated IS NOT NULL);
         DELETE FROM subjects WHERE id NOT IN (SELECT subject FROM memory)
             AND id NOT IN (SELECT subject FROM sessions)
             AND id NOT IN (SELECT subject FROM decisions WHERE subject IS NOT NULL)
             AND id NOT IN (SELECT subject FROM alerts WHERE subject IS NOT NULL)
             AND id NOT IN (SELECT subject FROM evidence)
             AND id <= (SELECT max(id) FROM subjects) - 4096;",
    )?;
    transaction.commit()
}
