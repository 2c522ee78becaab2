//! leaktrace finds memory leaks in processes that are already running. This library is the daemon behind the
//! `leaktrace` command; ARCHITECTURE.md says how the modules hang together. Arrows of dependency only point down
//! the list below.

pub mod cli;

pub mod top;
pub mod watch;

pub mod alert;
pub mod serve;
pub mod setting;
pub mod store;
pub mod watched;

pub mod session;

pub mod daemon;
pub mod kernel;
pub mod target;

pub mod process;

pub mod object;
pub mod probe;

pub mod ledger;
pub mod verdict;

pub mod python;

pub mod report;
pub mod symbolize;
pub mod unwind;
