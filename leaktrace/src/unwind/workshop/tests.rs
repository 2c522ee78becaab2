//! The workshop with a craft that waits, panics and refuses as the tests want it; its threads, bench and cache are the
//! real ones.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use leaktrace_common::unwind::{Page, Rule, row};

use super::worker::Material;
use super::*;

/// Long enough for any machine; nothing here takes it.
const LONG: Duration = Duration::from_secs(60);

/// Reads an image of one byte as what it is to do. Threads that compile are told to go on through a channel.
struct Scripted {
    began: Sender<u8>,
    go_on: Mutex<Receiver<()>>,
}

mod script {
    pub(super) const NO_FRAMES: u8 = 0;
    pub(super) const REFUSED: u8 = 1;
    pub(super) const PANIC_READING: u8 = 2;
    pub(super) const PANIC_COMPILING: u8 = 3;
    /// From here on: waits while compiling, makes a table.
    pub(super) const WAIT: u8 = 100;
    /// From here on: makes a table.
    pub(super) const TABLE: u8 = 200;
}

impl Craft for Scripted {
    type Sections = u8;

    fn read(&self, order: &Order) -> Result<Option<Material<u8>>, Failure> {
        let Source::Image(image) = &order.source else { panic!("scripts are images") };
        match image[0] {
            script::NO_FRAMES => Ok(None),
            script::REFUSED => Err(Failure { reason: "refused", message: String::new() }),
            script::PANIC_READING => panic!("as told: {}", order.ticket),
            sections => Ok(Some(Material { key: TableKey([sections; 16]), build_id: None, sections })),
        }
    }

    fn compile(&self, sections: &u8, _name: &Path) -> Result<Table, Failure> {
        if *sections < script::TABLE {
            self.began.send(*sections).expect("the test listens");
            self.go_on.lock().unwrap_or_else(PoisonError::into_inner).recv().expect("the test tells");
        }
        assert_ne!(*sections, script::PANIC_COMPILING, "as told");
        Ok(table(*sections))
    }
}

fn table(rows: u8) -> Table {
    Table {
        pages: vec![Page { first: 0, count: rows.into() }],
        rows: (0..rows).map(|n| row(n.into(), 0)).collect(),
        rules: vec![Rule::NONE],
        ..Table::default()
    }
}

/// A workshop, with the ends of its craft's channels.
struct Scene {
    workshop: Workshop,
    began: Receiver<u8>,
    go_on: Sender<()>,
}

fn scene(threads: usize, cache: Option<Cache>) -> Scene {
    let (began, heard) = channel();
    let (go_on, told) = channel();
    let craft = Scripted { began, go_on: Mutex::new(told) };
    let workshop = Workshop::with_craft(threads, cache, craft).expect("threads");
    Scene { workshop, began: heard, go_on }
}

fn order(ticket: u64, script: u8) -> Order {
    Order { ticket, source: Source::Image(vec![script]), name: PathBuf::from("scripted") }
}

impl Scene {
    fn submit(&self, ticket: u64, script: u8) {
        assert!(self.workshop.submit(order(ticket, script)).is_ok());
    }

    fn next(&self) -> Finished {
        self.workshop.finished(LONG).expect("every order gets an outcome")
    }

    fn next_ready(&self) -> (u64, Ready) {
        match self.next() {
            Finished { ticket, outcome: Outcome::Ready(ready) } => (ticket, ready),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn every_kind_of_outcome_comes_back_with_its_ticket() {
    let scene = scene(1, None);
    scene.submit(7, script::TABLE + 1);
    scene.submit(8, script::NO_FRAMES);
    scene.submit(9, script::REFUSED);
    let (ticket, ready) = scene.next_ready();
    assert_eq!((ticket, ready.origin, &*ready.table), (7, Origin::Built, &table(script::TABLE + 1)));
    assert!(matches!(scene.next(), Finished { ticket: 8, outcome: Outcome::NoFrames }));
    assert!(matches!(scene.next(), Finished { ticket: 9, outcome: Outcome::Failed(_) }));
    assert!(scene.workshop.try_finished().is_none());
    let statistics = scene.workshop.statistics();
    assert_eq!((statistics.built, statistics.no_frames, statistics.waiting), (1, 1, 0));
    assert_eq!(statistics.failed, [("refused", 1)].into());
    assert_eq!(statistics.bytes, table(script::TABLE + 1).bytes());
}

#[test]
fn orders_for_the_same_contents_are_worked_on_once() {
    let scene = scene(2, None);
    scene.submit(1, script::WAIT);
    scene.began.recv_timeout(LONG).expect("compiling");
    (2..=5).for_each(|ticket| scene.submit(ticket, script::WAIT));
    // The other thread has come to this one only after it has looked at all before it.
    scene.submit(6, script::NO_FRAMES);
    assert!(matches!(scene.next(), Finished { ticket: 6, .. }));
    scene.go_on.send(()).expect("it waits");
    let finished: Vec<_> = (0..5).map(|_| scene.next_ready()).collect();
    assert_eq!(finished.iter().map(|(ticket, _)| *ticket).collect::<BTreeSet<_>>(), (1..=5).collect());
    let (_, first) = &finished[0];
    assert!(finished.iter().all(|(_, ready)| Arc::ptr_eq(&ready.table, &first.table)));
    let built = finished.iter().filter(|(_, ready)| ready.origin == Origin::Built);
    assert_eq!(built.map(|(ticket, _)| *ticket).collect::<Vec<_>>(), [1]);
    assert_eq!((scene.workshop.statistics().built, scene.workshop.statistics().shared), (1, 4));
}

#[test]
fn a_panic_is_a_failure_of_all_who_waited_and_the_thread_works_on() {
    let scene = scene(1, None);
    scene.submit(1, script::PANIC_READING);
    scene.submit(2, script::PANIC_COMPILING);
    scene.go_on.send(()).expect("it will wait");
    scene.submit(3, script::TABLE + 1);
    for ticket in [1, 2] {
        let finished = scene.next();
        assert_eq!(finished.ticket, ticket);
        let Outcome::Failed(failure) = finished.outcome else { panic!("{finished:?}") };
        assert!(failure.message.contains("scripted"), "{failure:?}");
    }
    assert_eq!(scene.next_ready().0, 3);
    // The claim of the panicked thread is gone: the same is tried again.
    scene.submit(4, script::PANIC_COMPILING);
    scene.go_on.send(()).expect("it will wait");
    assert!(matches!(scene.next(), Finished { ticket: 4, outcome: Outcome::Failed(_) }));
    assert_eq!(scene.workshop.statistics().failed, [("internal error", 3)].into());
}

#[test]
fn the_disk_cache_is_asked_first_and_filled() {
    let parent = tempfile::tempdir().expect("temporary directory");
    let path = parent.path().join("unwind");
    let cache = || Some(Cache::open(&path, Cache::DEFAULT_BYTES).expect("usable"));
    let first = scene(1, cache());
    first.submit(1, script::TABLE + 2);
    assert_eq!(first.next_ready().1.origin, Origin::Built);
    // The same thread has saved before it gets to this.
    first.submit(2, script::NO_FRAMES);
    first.next();
    let second = scene(1, cache());
    second.submit(1, script::TABLE + 2);
    let (_, ready) = second.next_ready();
    assert_eq!((ready.origin, &*ready.table), (Origin::Disk, &table(script::TABLE + 2)));
    let statistics = second.workshop.statistics();
    assert_eq!((statistics.built, statistics.from_disk), (0, 1));
    assert_eq!(statistics.cache.map(|cache| cache.hits), Some(1));
}

#[test]
fn what_has_its_place_is_not_made_again() {
    let scene = scene(1, None);
    let key = TableKey([script::TABLE; 16]);
    scene.workshop.note_placed(key);
    scene.submit(1, script::TABLE);
    assert!(
        matches!(scene.next(), Finished { ticket: 1, outcome: Outcome::Placed(placed) } if placed == key)
    );
    scene.workshop.note_evicted(key);
    scene.submit(2, script::TABLE);
    assert_eq!(scene.next_ready().0, 2);
}

#[test]
fn orders_are_given_back_while_too_many_have_not_been_taken() {
    let scene = scene(1, None);
    (0..MAX_ORDERS as u64).for_each(|ticket| scene.submit(ticket, script::NO_FRAMES));
    let refused = scene.workshop.submit(order(1000, script::NO_FRAMES)).expect_err("too many");
    assert_eq!(refused.ticket, 1000);
    scene.next();
    assert!(scene.workshop.submit(refused).is_ok());
    let tickets: Vec<_> = (0..MAX_ORDERS).map(|_| scene.next().ticket).collect();
    assert_eq!(tickets.last(), Some(&1000));
}

#[test]
fn the_event_loop_is_woken_for_everything_that_is_finished() {
    let scene = scene(2, None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime");
    let mut taken = 0;
    runtime.block_on(async {
        for ticket in 0..50 {
            scene.submit(ticket, script::NO_FRAMES);
        }
        while taken < 50 {
            tokio::time::timeout(LONG, scene.workshop.ready()).await.expect("woken");
            while scene.workshop.try_finished().is_some() {
                taken += 1;
            }
        }
    });
    assert_eq!(taken, 50);
}

#[test]
fn dropping_the_workshop_ends_its_threads_though_orders_are_left() {
    let scene = scene(2, None);
    let bench = Arc::downgrade(&scene.workshop.bench);
    scene.submit(1, script::WAIT);
    scene.submit(2, script::WAIT + 1);
    for _ in 0..2 {
        scene.began.recv_timeout(LONG).expect("compiling");
    }
    (3..100).for_each(|ticket| scene.submit(ticket, script::WAIT));
    let Scene { workshop, began, go_on } = scene;
    drop(workshop);
    (0..2).for_each(|_| go_on.send(()).expect("it waits"));
    // The craft goes with its last thread, and its end of the channel with it.
    assert_eq!(began.recv_timeout(LONG), Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
    assert_eq!(bench.strong_count(), 0);
}
