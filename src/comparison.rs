//! The comparison of two byte strings that the compiler calls for `==` and `<` on slices.
//!
//! WASI's C library compares byte by byte, and a request compares some twenty names of headers and parts of its path.
//! [`memcmp`] here compares eight bytes at a time, which takes a quarter of the instructions. The linker uses it in
//! place of the library's function.
#![allow(unsafe_code)]

/// Compares `count` bytes. Negative, zero or positive if `left` is less than, equal to or greater than `right`.
///
/// # Safety
/// Both pointers are valid for reads of `count` bytes.
#[cfg_attr(target_arch = "wasm32", no_mangle)]
#[inline(never)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    if count == 0 {
        return 0;
    }
    // Most texts that differ do so in their first byte.
    let first = [*left, *right];
    if first[0] != first[1] {
        return i32::from(first[0]) - i32::from(first[1]);
    }
    if count < 8 {
        return compare_few(left, right, count);
    }
    let last = count - 8;
    let mut at = 0;
    loop {
        // SAFETY: `at` is at most eight less than `count`.
        let word = |text: *const u8| text.add(at).cast::<u64>().read_unaligned();
        let (one, other) = (word(left), word(right));
        if one != other {
            return compare_words(one, other);
        }
        if at == last {
            return 0;
        }
        // The last word may overlap the one before it, whose bytes are equal.
        at = last.min(at + 8);
    }
}

/// [`memcmp`] for one to seven bytes, the first of which are equal.
#[inline]
unsafe fn compare_few(left: *const u8, right: *const u8, count: usize) -> i32 {
    // SAFETY: each read ends before `count`. Where two reads overlap, both texts have the same bytes twice.
    let word = |text: *const u8| match count {
        1..=3 => {
            let [middle, last] = [count / 2, count - 1].map(|at| u64::from(*text.add(at)));
            middle | last << 8
        }
        _ => {
            let first = text.cast::<u32>().read_unaligned();
            let last = text.add(count - 4).cast::<u32>().read_unaligned();
            u64::from(first) | u64::from(last) << 32
        }
    };
    match (word(left), word(right)) {
        (one, other) if one == other => 0,
        (one, other) => compare_words(one, other),
    }
}

/// Compares the first bytes that differ. The first byte of the text is the lowest of a word.
#[inline]
fn compare_words(left: u64, right: u64) -> i32 {
    let place = (left ^ right).trailing_zeros() & !7;
    let byte = |word: u64| (word >> place) as u8;
    i32::from(byte(left)) - i32::from(byte(right))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn order(left: &[u8], right: &[u8]) -> std::cmp::Ordering {
        let count = left.len().min(right.len());
        // SAFETY: both texts have at least `count` bytes.
        unsafe { memcmp(left.as_ptr(), right.as_ptr(), count) }.cmp(&0)
    }

    proptest! {
        /// The texts are mostly equal, so that any byte can be the first that differs.
        #[test]
        fn texts_are_ordered_by_their_first_difference(
            text in proptest::collection::vec(any::<u8>(), 0..40),
            change in any::<(prop::sample::Index, u8)>(),
            start in 0_usize..8,
        ) {
            let mut other = text.clone();
            if !other.is_empty() {
                other[change.0.index(text.len())] = change.1;
            }
            // Words at any address, and other bytes behind the text.
            let (start, whole) = (start.min(text.len()), &text[..]);
            prop_assert_eq!(order(&whole[start..], &other[start..]), whole[start..].cmp(&other[start..]));
        }
    }

    #[test]
    fn every_length_is_compared_to_its_last_byte() {
        let text: Vec<u8> = (0..32).collect();
        for length in 0..=text.len() {
            for place in 0..length {
                let mut greater = text.clone();
                greater[place] = 0xff;
                let [text, greater] = [&text[..length], &greater[..length]];
                assert_eq!(order(text, greater), std::cmp::Ordering::Less);
                assert_eq!(order(greater, text), std::cmp::Ordering::Greater);
                assert_eq!(order(text, text), std::cmp::Ordering::Equal);
            }
        }
    }
}
