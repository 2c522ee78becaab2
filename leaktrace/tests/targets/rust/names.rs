//! Collections and strings of one user, each with a size of its own.

use std::collections::HashMap;
use std::hint::black_box;
use std::io::BufRead;

mod store {
    pub struct Records<T>(pub Vec<T>);

    impl<T: Clone> Records<T> {
        #[inline(never)]
        pub fn keep(&mut self, item: &T) {
            self.0.push(item.clone());
        }
    }
}

#[inline(never)]
fn text() -> String {
    "x".repeat(6000)
}

#[inline(never)]
fn boxed() -> Box<[u8; 7000]> {
    Box::new(black_box([1; 7000]))
}

#[inline(never)]
fn table(table: &mut HashMap<u64, [u8; 3000]>) {
    table.insert(7, [1; 3000]);
}

#[inline(never)]
fn in_thread() -> Vec<u8> {
    black_box(vec![1; 8000])
}

fn main() {
    let (mut records, mut tables) = (store::Records::<[u8; 5000]>(Vec::new()), HashMap::new());
    println!("ready");
    for _ in std::io::stdin().lock().lines() {
        records.keep(&[1; 5000]);
        std::mem::forget(black_box((text(), boxed())));
        table(&mut tables);
        std::mem::forget(std::thread::spawn(in_thread).join());
        println!("expect app 1 1\ntotal 1 1");
    }
}
