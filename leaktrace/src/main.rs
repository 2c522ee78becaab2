//! The `leaktrace` command.
fn main() {}
