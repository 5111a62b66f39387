//! The module's memory: small blocks that are given back are kept, by their size, and handed out again in a few instructions.
//!
//! A request has about ten blocks for as long as it lasts. The standard library's allocator (dlmalloc) spends some 250 instructions
//! on each, which was an eighth of what a request took; a kept block takes about 30. What is kept serves blocks of its size alone:
//! as much of it as was in use at one time, which is bounded as the requests under way are.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;

/// The module's allocator.
#[cfg(target_arch = "wasm32")]
#[global_allocator]
static MEMORY: Keeper<System> = Keeper::new(System);

// SAFETY: there is one thread.
#[cfg(target_arch = "wasm32")]
unsafe impl<S> Sync for Keeper<S> {}

/// The smallest size that is kept; the others are its double, and so on.
const SMALLEST: usize = 16;
const SIZES: usize = 9;
/// What every block of dlmalloc's has; what needs more is not kept.
const ALIGNMENT: usize = 8;

/// Keeps small blocks of a `source` that has them from elsewhere.
struct Keeper<S> {
    source: S,
    /// By size, the block that was given back last.
    kept: [Cell<*mut Kept>; SIZES],
}

/// A block that is kept.
struct Kept {
    /// The block of the same size that was given back before.
    before: *mut Kept,
}

impl<S: GlobalAlloc> Keeper<S> {
    const fn new(source: S) -> Self {
        Self {
            source,
            kept: [const { Cell::new(ptr::null_mut()) }; SIZES],
        }
    }

    /// Which blocks serve this layout, if kept ones do: where they are, and their size.
    #[inline]
    fn shelf(&self, layout: Layout) -> Option<(&Cell<*mut Kept>, usize)> {
        let bits = usize::BITS - (layout.size().wrapping_sub(1) | (SMALLEST - 1)).leading_zeros();
        let index = bits - SMALLEST.trailing_zeros();
        let shelf = self.kept.get(index as usize)?;
        (layout.align() <= ALIGNMENT).then_some((shelf, SMALLEST << index))
    }
}

// SAFETY: what is handed out is the source's, of at least the size and alignment that is asked for. It is in use once: it is
// kept when it was given back, and no longer kept when it is handed out.
unsafe impl<S: GlobalAlloc> GlobalAlloc for Keeper<S> {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((shelf, size)) = self.shelf(layout) else {
            return self.source.alloc(layout);
        };
        let block = shelf.get();
        if block.is_null() {
            // A small power of two, with the alignment of another.
            return self
                .source
                .alloc(Layout::from_size_align_unchecked(size, ALIGNMENT));
        }
        shelf.set((*block).before);
        block.cast()
    }

    #[inline(never)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some((shelf, _)) = self.shelf(layout) else {
            return self.source.dealloc(block, layout);
        };
        // It is at least as large as this, and aligned for it.
        let block: *mut Kept = block.cast();
        block.write(Kept {
            before: shelf.replace(block),
        });
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller sees to it that this is the layout of what is asked for.
        let wanted = Layout::from_size_align_unchecked(size, layout.align());
        match (self.shelf(layout), self.shelf(wanted)) {
            (None, None) => return self.source.realloc(block, layout, size),
            (Some((_, before)), Some((_, after))) if before == after => return block,
            _ => {}
        }
        let moved = self.alloc(wanted);
        if !moved.is_null() {
            ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
            self.dealloc(block, layout);
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts what is asked of it.
    #[derive(Default)]
    struct Counting {
        allocated: Cell<usize>,
        freed: Cell<usize>,
    }

    // SAFETY: the system's.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            self.allocated.set(self.allocated.get() + 1);
            System.alloc(layout)
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            self.freed.set(self.freed.get() + 1);
            System.dealloc(block, layout);
        }
    }

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 1).unwrap()
    }

    #[test]
    fn a_small_block_is_asked_for_once() {
        let keeper = Keeper::new(Counting::default());
        for (sizes, asked) in [([1, 16, 9], 1), ([17, 32, 20], 2), ([2049, 4096, 3000], 3)] {
            for size in sizes {
                // SAFETY: as many are given back as are taken, with their layouts.
                unsafe { keeper.dealloc(keeper.alloc(layout(size)), layout(size)) };
            }
            assert_eq!(keeper.source.allocated.get(), asked, "{sizes:?}");
        }
        assert_eq!(keeper.source.freed.get(), 0);
    }

    #[test]
    fn what_is_large_or_has_an_alignment_of_its_own_is_the_sources() {
        let keeper = Keeper::new(Counting::default());
        for layout in [
            layout(4097),
            layout(1 << 20),
            Layout::from_size_align(32, 16).unwrap(),
        ] {
            // SAFETY: it is given back as it was taken.
            unsafe { keeper.dealloc(keeper.alloc(layout), layout) };
        }
        assert_eq!(keeper.source.freed.get(), 3);
    }

    /// Blocks of all sizes are taken, grown, shrunk and given back in no order; each holds what was written into it until the end,
    /// so no two have a byte in common.
    #[test]
    fn every_block_is_in_use_once() {
        struct Block {
            start: *mut u8,
            layout: Layout,
            filled: u8,
        }

        impl Block {
            fn fill(&self) {
                // SAFETY: it is this large.
                unsafe { self.start.write_bytes(self.filled, self.layout.size()) };
            }

            fn is_filled(&self, size: usize) -> bool {
                assert_eq!(self.start.align_offset(self.layout.align()), 0);
                // SAFETY: it is at least this large, and was filled.
                let bytes = unsafe { std::slice::from_raw_parts(self.start, size) };
                bytes.iter().all(|byte| *byte == self.filled)
            }
        }

        let keeper = Keeper::new(System);
        let mut blocks: Vec<Block> = Vec::new();
        let mut random = 1_u64;
        let mut draw = |below: usize| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) as usize % below
        };
        for step in 0..20_000 {
            let most = 1 << draw(14);
            let size = 1 + draw(most);
            match draw(3) {
                0 if !blocks.is_empty() => {
                    let block = blocks.swap_remove(draw(blocks.len()));
                    assert!(block.is_filled(block.layout.size()));
                    // SAFETY: it was taken with this layout.
                    unsafe { keeper.dealloc(block.start, block.layout) };
                }
                1 if !blocks.is_empty() => {
                    let index = draw(blocks.len());
                    let block = &mut blocks[index];
                    let kept = block.layout.size().min(size);
                    // SAFETY: it was taken with this layout.
                    block.start = unsafe { keeper.realloc(block.start, block.layout, size) };
                    assert!(block.is_filled(kept));
                    block.layout = Layout::from_size_align(size, block.layout.align()).unwrap();
                    block.fill();
                }
                _ => {
                    let layout = Layout::from_size_align(size, 1 << draw(5)).unwrap();
                    let block = Block {
                        // SAFETY: the size is not zero.
                        start: unsafe { keeper.alloc(layout) },
                        layout,
                        filled: step as u8,
                    };
                    block.fill();
                    blocks.push(block);
                }
            }
        }
        for block in blocks {
            assert!(block.is_filled(block.layout.size()));
            // SAFETY: it was taken with this layout.
            unsafe { keeper.dealloc(block.start, block.layout) };
        }
    }
}
