//! x
/// x
#[derive(Debug)]
pub struct History;
