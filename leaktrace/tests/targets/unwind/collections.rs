// build: rustc -O -g
// build[size]: rustc -C opt-level=s -g -C codegen-units=1 -C lto=fat
//! Rust as it is written: generics, trait objects, closures, iterators, collections, threads, panics that are caught.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt::{Debug, Write as _},
    hint::black_box,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::mpsc::channel,
};

/// A small generator: no crate is at hand.
struct Random(u64);

impl Random {
    fn draw(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

trait Step {
    fn go(&self, random: &mut Random, depth: u64) -> usize;
}

#[derive(Debug, Clone)]
struct Words(Vec<String>);

/// Allocates when it goes, by return or by panic.
struct Guard(usize);

impl Drop for Guard {
    fn drop(&mut self) {
        black_box(vec![1u8; self.0 + 1]);
    }
}

#[inline(never)]
fn words(count: u64) -> Words {
    Words((0..count).map(|index| format!("word {index}")).collect())
}

struct Text;
impl Step for Text {
    #[inline(never)]
    fn go(&self, random: &mut Random, depth: u64) -> usize {
        let mut text = String::new();
        for word in words(random.draw(5)).0 {
            let _ = write!(text, "{word:>10} {:?}", Some(depth));
        }
        wander(random, depth) + text.len()
    }
}

struct Collections;
impl Step for Collections {
    #[inline(never)]
    fn go(&self, random: &mut Random, depth: u64) -> usize {
        let mut sorted = BTreeMap::new();
        let mut hashed: HashMap<String, Vec<u64>> = HashMap::new();
        let mut queue = VecDeque::new();
        for index in 0..random.draw(12) {
            sorted.insert(random.draw(100), words(2));
            hashed.entry(format!("{}", index % 3)).or_default().push(index);
            queue.push_front(Rc::new(words(1)));
        }
        let inner = wander(random, depth);
        let mut lines: Vec<String> = sorted.values().map(|words| format!("{words:?}")).collect();
        lines.sort_by_key(|line| line.to_uppercase());
        lines.join(",").len() + hashed.len() + queue.len() + inner
    }
}

struct Panics;
impl Step for Panics {
    #[inline(never)]
    fn go(&self, random: &mut Random, depth: u64) -> usize {
        let levels = random.draw(5);
        let caught = catch_unwind(AssertUnwindSafe(|| falls(levels)));
        wander(random, depth) + usize::from(caught.is_err())
    }
}

#[inline(never)]
fn falls(levels: u64) -> usize {
    let guard = Guard(levels as usize);
    if levels == 0 {
        panic!("at {}", words(3).0.join(" "));
    }
    falls(levels - 1) + guard.0
}

struct Closures(Vec<Box<dyn Fn(&mut Random, u64) -> usize>>);
impl Step for Closures {
    #[inline(never)]
    fn go(&self, random: &mut Random, depth: u64) -> usize {
        let index = random.draw(self.0.len() as u64) as usize;
        self.0[index](random, depth)
    }
}

struct Threads;
impl Step for Threads {
    #[inline(never)]
    fn go(&self, random: &mut Random, depth: u64) -> usize {
        if random.draw(10) != 0 {
            return wander(random, depth);
        }
        let (sender, receiver) = channel();
        let seed = random.draw(1 << 30);
        let worker = std::thread::spawn(move || sender.send(wander(&mut Random(seed), 2)));
        let answer = receiver.recv().unwrap_or(0);
        worker.join().map_or(0, |_| answer)
    }
}

#[inline(never)]
fn generic<T: Debug + Clone, const N: usize>(value: T, random: &mut Random, depth: u64) -> usize {
    let copies: [Box<T>; N] = std::array::from_fn(|_| Box::new(value.clone()));
    wander(random, depth) + format!("{copies:?}").len()
}

fn steps() -> Vec<Box<dyn Step>> {
    let closures: Vec<Box<dyn Fn(&mut Random, u64) -> usize>> = vec![
        Box::new(|random, depth| generic::<_, 3>(words(2), random, depth)),
        Box::new(|random, depth| generic::<_, 7>(Some(5u8), random, depth)),
        Box::new(|random, depth| generic::<_, 2>("text".to_owned(), random, depth)),
    ];
    vec![Box::new(Text), Box::new(Collections), Box::new(Panics), Box::new(Closures(closures)), Box::new(Threads)]
}

#[inline(never)]
fn wander(random: &mut Random, depth: u64) -> usize {
    if depth == 0 {
        return black_box(words(random.draw(4))).0.len();
    }
    let steps = steps();
    let index = random.draw(steps.len() as u64) as usize;
    steps[index].go(random, depth - 1) + 1
}

fn main() {
    std::panic::set_hook(Box::new(|info| {
        black_box(info.to_string());
    }));
    println!("ready");
    let mut random = Random(23);
    loop {
        let depth = random.draw(9);
        black_box(wander(&mut random, depth));
    }
}
