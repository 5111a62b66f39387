//! Random changes of inputs, all from one seed.

/// Bytes at the borders of readers' decisions.
const NUMBERS: [u8; 8] = [0, 1, 9, 0x7f, 0x80, 0xff, b'\n', b'"'];

/// A random number generator, splitmix64, which makes inputs.
pub struct Mutator(pub u64);

impl Mutator {
    /// An input that is one or more steps away from an input of `corpus`, which must not be empty.
    pub fn input(&mut self, corpus: &[Vec<u8>], longest: usize) -> Vec<u8> {
        let mut input = corpus[self.below(corpus.len())].clone();
        // Few steps keep much of a realistic input. Many lead far away.
        for _ in 0..1 << self.below(5) {
            self.step(&mut input, corpus);
        }
        input.truncate(longest);
        input
    }

    fn step(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let end = at + self.below((input.len() - at).min(64) + 1);
        match self.below(9) {
            0 => drop(input.drain(at..end)),
            1 => input.insert(at, self.next() as u8),
            2 => input.insert(at, NUMBERS[self.below(NUMBERS.len())]),
            3 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
            4 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = NUMBERS[self.below(NUMBERS.len())];
                }
            }
            5 => {
                // Repeats a part, or moves it.
                let part = input[at..end].to_vec();
                let to = self.below(input.len() + 1);
                input.splice(to..to, part);
            }
            6 | 7 => {
                // Inserts a part of another input, or replaces a part by it.
                let other = &corpus[self.below(corpus.len())];
                let from = self.below(other.len() + 1);
                let to = from + self.below((other.len() - from).min(64) + 1);
                let replaced = if self.below(2) == 0 { at..end } else { at..at };
                input.splice(replaced, other[from..to].iter().copied());
            }
            _ => {
                let digit = input.iter().skip(at).position(u8::is_ascii_digit);
                if let Some(digit) = digit {
                    input[at + digit] = b'0' + self.below(10) as u8;
                }
            }
        }
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
