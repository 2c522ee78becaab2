use proptest::prelude::*;

use super::*;

const ALL: [Format; 3] = [Format::Lnotab, Format::Pairs, Format::Locations];

#[test]
fn increments_of_lnotab_are_signed_and_addresses_are_not() {
    // PEP 626's predecessor: 6 bytes of line 1, then 200 of line 3, then line 2.
    let table = [6, 2, 200, 0xff];
    let lines: Vec<_> = [0, 5, 6, 205, 206, 9999].map(|at| line(Format::Lnotab, &table, 1, at)).into();
    assert_eq!(lines, [1, 1, 3, 3, 2, 2].map(Some));
    assert_eq!(line(Format::Lnotab, &[0, 1, 0, 1], 1, -1), Some(1));
    assert_eq!(line(Format::Lnotab, &[], 7, 12), Some(7));
}

#[test]
fn pairs_of_310_know_instructions_without_a_line() {
    let table = [4, 1, 2, 0x80, 0, 5, 2, 0xff];
    let lines: Vec<_> = [-1, 0, 3, 4, 5, 6, 7, 8].map(|at| line(Format::Pairs, &table, 10, at)).into();
    assert_eq!(lines, [Some(10), Some(11), Some(11), None, None, Some(15), Some(15), None]);
}

#[test]
fn every_kind_of_location_entry_is_understood() {
    let head = |kind: u8, units: u8| 0x80 | kind << 3 | (units - 1);
    let table = [
        [head(0, 1), 0x11].as_slice(),
        &[head(11, 2), 1, 2],
        // 2000 = 0b11111_010000: two bytes, sign in the lowest bit.
        &[head(13, 1), 64 | 32, 62],
        &[head(15, 8)],
        &[head(14, 1), 3, 0, 0, 0],
        &[head(12, 1), 1, 1],
    ]
    .concat();
    let lines: Vec<_> =
        [-1, 0, 1, 2, 5, 6, 8, 23, 24, 26, 28].map(|at| line(Format::Locations, &table, 5, at)).into();
    let long = 6 + 2000;
    let expected = [5, 5, 5, 6, 6, long, 0, 0, long - 1, long + 1, 0];
    assert_eq!(lines, expected.map(|line| (line != 0).then_some(line)));
}

/// A table of 3.10 and one of 3.11 that say the same: ranges of units and line increments.
fn written(ranges: &[(u8, Option<i8>)]) -> (Vec<u8>, Vec<u8>) {
    let (mut pairs, mut locations) = (Vec::new(), Vec::new());
    for &(units, lines) in ranges {
        pairs.extend([units * 2, lines.map_or(0x80, i8::cast_unsigned)]);
        match lines {
            None => locations.push(0x80 | kind::NONE << 3 | (units - 1)),
            Some(lines) => {
                let value = u32::from(lines.unsigned_abs()) << 1 | u32::from(lines < 0);
                locations.push(0x80 | kind::NO_COLUMNS << 3 | (units - 1));
                locations.extend([64 | (value & 63) as u8, (value >> 6) as u8]);
            }
        }
    }
    (pairs, locations)
}

proptest! {
    #[test]
    fn the_new_table_says_what_the_old_one_said(
        ranges in prop::collection::vec((1_u8..=8, prop::option::weighted(0.9, -127_i8..)), 0..40),
        instruction in -2..400_i32,
    ) {
        let (pairs, locations) = written(&ranges);
        let of = |format, table| line(format, table, 6000, instruction);
        prop_assert_eq!(of(Format::Pairs, &pairs), of(Format::Locations, &locations));
    }

    #[test]
    fn any_bytes_are_read_to_an_end(
        table in prop::collection::vec(any::<u8>(), 0..512),
        first in any::<i32>(),
        instruction in any::<i32>(),
    ) {
        for format in ALL {
            let _ = line(format, &table, first, instruction);
        }
    }

    #[test]
    fn what_lies_behind_the_range_does_not_matter(
        ranges in prop::collection::vec((1_u8..=8, prop::option::weighted(0.9, -127_i8..)), 1..40),
        tail in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let (pairs, locations) = written(&ranges);
        let last = ranges.iter().map(|range| i32::from(range.0) * 2).sum::<i32>() - 1;
        for (format, mut table) in [(Format::Pairs, pairs), (Format::Locations, locations)] {
            let before = line(format, &table, 6000, last);
            // An entry begins with its highest bit set.
            table.extend(tail.iter().map(|byte| byte | 0x80));
            prop_assert_eq!(line(format, &table, 6000, last), before);
        }
    }
}
