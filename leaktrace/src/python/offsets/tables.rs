//! The printed tables, one file per release whose headers were at hand.

mod v3_10_13;
mod v3_11_2;
mod v3_11_7;
mod v3_12_1;
mod v3_13_0;
mod v3_13_5;
mod v3_14_10;
mod v3_8_18;
mod v3_9_18;
mod v3_9_2;

use super::Table;

/// By version.
pub const ALL: &[Table] = &[
    v3_8_18::TABLE,
    v3_9_2::TABLE,
    v3_9_18::TABLE,
    v3_10_13::TABLE,
    v3_11_2::TABLE,
    v3_11_7::TABLE,
    v3_12_1::TABLE,
    v3_13_0::TABLE,
    v3_13_5::TABLE,
    v3_14_10::TABLE,
];
