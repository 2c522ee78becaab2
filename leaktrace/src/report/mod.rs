//! Reports: the model, and one file per output format.

pub mod model;
