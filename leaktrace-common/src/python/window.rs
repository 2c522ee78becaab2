//! A piece of somebody else's memory, read at once, and the numbers in it. Offsets come from data: whatever they are, a
//! read stays inside of the window.

/// Words of a window. A power of two.
pub const WINDOW_WORDS: usize = 32;

/// Bytes of a window.
pub const WINDOW_BYTES: u32 = WINDOW_WORDS as u32 * 8;

/// Memory, eight bytes a word, lowest first.
pub type Window = [u64; WINDOW_WORDS];

/// The eight bytes at an offset that is a multiple of 8.
#[inline(always)]
pub const fn word(window: &Window, offset: u32) -> u64 {
    window[(offset >> 3) as usize & (WINDOW_WORDS - 1)]
}

/// The four bytes at an offset that is a multiple of 4.
#[inline(always)]
pub const fn half(window: &Window, offset: u32) -> u32 {
    (word(window, offset) >> ((offset & 4) * 8)) as u32
}

/// The byte at an offset.
#[inline(always)]
pub const fn byte(window: &Window, offset: u32) -> u8 {
    (word(window, offset) >> ((offset & 7) * 8)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_where_they_lie_and_never_outside() {
        let mut window = [0; WINDOW_WORDS];
        window[1] = 0x8877_6655_4433_2211;
        assert_eq!(word(&window, 8), 0x8877_6655_4433_2211);
        assert_eq!((half(&window, 8), half(&window, 12)), (0x4433_2211, 0x8877_6655));
        assert_eq!((byte(&window, 8), byte(&window, 13)), (0x11, 0x66));
        assert_eq!(word(&window, WINDOW_BYTES + 8), word(&window, 8));
    }
}
