//! The one entry point for building, testing and measuring leaktrace.
fn main() {}
