//! How tables are really made: sections out of the object, compiled.

use std::path::Path;

use super::worker::{Craft, Material};
use super::{Failure, Order, Source};
use crate::unwind::{Limits, Sections, SectionsError, Table, TableKey, compile};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unwinding {
    limits: Limits,
}

impl Craft for Unwinding {
    type Sections = Sections;

    fn read(&self, order: &Order) -> Result<Option<Material<Sections>>, Failure> {
        let read = match &order.source {
            Source::File(file) => Sections::read(file, &order.name),
            Source::Image(bytes) => Sections::from_image(bytes, &order.name),
        };
        let sections = read.map_err(|error| refused(&error))?;
        let says_something = sections.frames.is_some() || !sections.trampolines.is_empty();
        Ok(says_something.then(|| Material {
            key: TableKey(sections.digest()),
            build_id: sections.build_id.clone(),
            sections,
        }))
    }

    fn compile(&self, sections: &Sections, name: &Path) -> Result<Table, Failure> {
        compile(sections, &self.limits).map_err(|refusal| Failure {
            reason: "too large",
            message: format!("{} gets no unwind table: {refusal}", name.display()),
        })
    }
}

fn refused(error: &SectionsError) -> Failure {
    let reason = match error {
        SectionsError::Io { .. } => "cannot be read",
        SectionsError::NotAFile { .. } => "no file",
        SectionsError::NotElf { .. } => "no object",
        SectionsError::ThirtyTwoBit { .. } => "32-bit",
        SectionsError::ForeignMachine { .. } => "other machine",
        SectionsError::Malformed { .. } => "malformed",
        SectionsError::TooLarge { .. } => "too large",
    };
    Failure { reason, message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::path::PathBuf;
    use std::time::Duration;

    use super::super::{Origin, Outcome, Workshop};
    use super::*;
    use crate::unwind::Cache;

    const LONG: Duration = Duration::from_secs(120);

    fn outcome(workshop: &Workshop, source: Source) -> Outcome {
        let order = Order { ticket: 1, source, name: PathBuf::from("object") };
        assert!(workshop.submit(order).is_ok());
        workshop.finished(LONG).expect("every order gets an outcome").outcome
    }

    fn own_program() -> Source {
        Source::File(File::open("/proc/self/exe").expect("this test"))
    }

    #[test]
    fn this_very_program_gets_a_table_and_the_same_one_from_disk() {
        let parent = tempfile::tempdir().expect("temporary directory");
        let cache = || Cache::open(&parent.path().join("unwind"), Cache::DEFAULT_BYTES).expect("usable");
        let workshop = Workshop::new(1, Some(cache())).expect("thread");
        let Outcome::Ready(built) = outcome(&workshop, own_program()) else { panic!("no table") };
        assert_eq!(built.origin, Origin::Built);
        assert!(built.table.statistics.functions > 1000, "{:?}", built.table.statistics);
        // Any other order: the thread has saved the table before it gets there.
        outcome(&workshop, Source::Image(Vec::new()));
        let next = Workshop::new(1, Some(cache())).expect("thread");
        let Outcome::Ready(loaded) = outcome(&next, own_program()) else { panic!("no table") };
        assert_eq!((loaded.origin, loaded.key), (Origin::Disk, built.key));
        assert_eq!(loaded.table, built.table);
    }

    #[test]
    fn what_is_no_object_has_a_reason_and_a_sentence() {
        let workshop = Workshop::new(1, None).expect("thread");
        let mut text = tempfile::tempfile().expect("temporary file");
        text.write_all(&[b'x'; 4096]).expect("writable");
        let directory = File::open("/").expect("readable");
        for (source, reason) in [
            (Source::File(text), "no object"),
            (Source::File(directory), "no file"),
            (Source::Image(b"text".repeat(100)), "no object"),
        ] {
            let Outcome::Failed(failure) = outcome(&workshop, source) else { panic!("not {reason}") };
            assert_eq!(failure.reason, reason);
            assert!(failure.message.contains("object"), "{failure:?}");
        }
        assert_eq!(workshop.statistics().failed, [("no file", 1), ("no object", 2)].into());
    }
}
