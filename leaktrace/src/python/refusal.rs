//! Why a process's interpreter is not looked into: the process is then traced without Python frames.

use thiserror::Error;

use super::offsets::{NEWEST, OLDEST};
use super::validate::Invalid;

/// One sentence each.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// The interpreter has not set itself up yet, or is ending: worth another try.
    #[error(
        "the CPython {version} in {object} is not initialised (yet): its stacks are native only until it is"
    )]
    NotYet {
        /// As it says.
        version: String,
        /// The object that holds it.
        object: String,
    },
    /// Too old or too new.
    #[error(
        "CPython {version} in {object} is not supported (known are {}.{} to {}.{}): its stacks are native only",
        OLDEST.major, OLDEST.minor, NEWEST.major, NEWEST.minor
    )]
    Version {
        /// As it says.
        version: String,
        /// The object that holds it.
        object: String,
    },
    /// It does not say what it is.
    #[error("the version of the CPython in {object} could not be read from it: its stacks are native only")]
    NoVersion {
        /// The object that holds it.
        object: String,
    },
    /// A build whose structures or rules differ.
    #[error(
        "the CPython {version} in {object} is a {build} build, which is not supported: its stacks are native only"
    )]
    Build {
        /// As it says.
        version: String,
        /// The object that holds it.
        object: String,
        /// What kind of build.
        build: &'static str,
    },
    /// It says two things at once.
    #[error(
        "the CPython in {object} says that it is {version}, but its debug offsets are missing, unusable or those of \
         another version: its stacks are native only"
    )]
    DebugOffsets {
        /// As it says.
        version: String,
        /// The object that holds it.
        object: String,
    },
    /// A symbol is missing.
    #[error("the CPython {version} in {object} has no symbol {symbol}: its stacks are native only")]
    NoSymbol {
        /// As it says.
        version: String,
        /// The object that holds it.
        object: String,
        /// Which one.
        symbol: &'static str,
    },
    /// What is known of the version does not fit this process.
    #[error(
        "the structures of the CPython {version} in {object} are not as expected: {reason}; its stacks are native only"
    )]
    Invalid {
        /// As it says.
        version: String,
        /// The object that holds it.
        object: String,
        /// What did not fit.
        reason: Invalid,
    },
}

impl Refusal {
    /// Trying again later may succeed.
    pub fn is_not_yet(&self) -> bool {
        matches!(self, Self::NotYet { .. })
    }
}
