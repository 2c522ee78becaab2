//! Unwind tables: from an object's `.eh_frame` to rows that the kernel side can search.
//!
//! The files read as the pipeline: `sections` takes what is needed out of a file nobody vouches for, `compile` turns
//! call frame information into a [`Table`], `cache` keeps tables on disk, `workshop` does all this on threads of its
//! own, `store` gives tables their place in the kernel side's memory. Everything but `sections`, `cache` and
//! `workshop` is pure: bytes and values in, values out.

pub mod bounds;
mod cache;
pub mod compile;
mod entries;
#[cfg(test)]
mod forged;
mod functions;
#[cfg(test)]
mod hand_made;
mod pool;
#[cfg(test)]
mod real;
mod rows;
pub mod sections;
#[cfg(test)]
mod soundness;
mod store;
pub mod survey;
mod table;
mod workshop;
pub mod x86_64;

pub use cache::{Cache, CacheError, CacheStatistics, Flaw};
pub use compile::{Limits, Refusal, compile, compile_observed};
pub use pool::{Pool, Span};
pub use sections::{Sections, SectionsError};
pub use store::{Full, MAX_TABLES, Memory, Place, Retired, Store, StoreStatistics, TableId, TableKey};
pub use table::{Statistics, Table};
pub use workshop::{
    Failure, Finished, MAX_ORDERS, Order, Origin, Outcome, Ready, Source, Workshop, WorkshopError,
    WorkshopStatistics,
};
