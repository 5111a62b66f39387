//! The module's allocator. It keeps small freed blocks in free lists by size and reuses them in a few instructions.
//!
//! A request uses about ten blocks while it lasts. The standard library's allocator (dlmalloc) spends some 250
//! instructions on each, an eighth of a request's total; reusing a block takes about 40. A freed block serves only its
//! own size. The memory kept for a size is at most its peak use, which the number of concurrent requests bounds.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;

/// The module's allocator.
#[cfg(target_arch = "wasm32")]
#[global_allocator]
static MEMORY: FreeLists<System> = FreeLists::new(System);

// SAFETY: there is one thread.
#[cfg(target_arch = "wasm32")]
unsafe impl<S> Sync for FreeLists<S> {}

/// The smallest size of a free list. The further sizes are 24, 32, 48, 64, 96 and so on. With powers of two alone, the
/// state of a request would use 1024 bytes instead of 768 for as long as its answer streams.
const SMALLEST: usize = 16;
const SIZES: usize = 17;
/// The alignment of every dlmalloc block. Allocations with a larger alignment bypass the free lists.
const ALIGNMENT: usize = 8;

/// Keeps freed small blocks of the allocator `source`.
struct FreeLists<S> {
    source: S,
    /// The head of the free list of each size.
    lists: [Cell<*mut FreeBlock>; SIZES],
}

/// The header of a block in a free list.
struct FreeBlock {
    /// The next block in the list, which was freed before this one.
    next: *mut FreeBlock,
}

impl<S: GlobalAlloc> FreeLists<S> {
    const fn new(source: S) -> Self {
        Self {
            source,
            lists: [const { Cell::new(ptr::null_mut()) }; SIZES],
        }
    }

    /// The free list for `layout` and its block size. `None` if the source serves the layout directly.
    #[inline]
    fn list(&self, layout: Layout) -> Option<(&Cell<*mut FreeBlock>, usize)> {
        let last = layout.size().wrapping_sub(1).max(SMALLEST - 1);
        // The two highest bits of a block's last offset tell the sizes apart: 11 for 16, 32 and 64, and 10 for 24, 48
        // and 96.
        let shift = last.ilog2() - 1;
        let highest = last >> shift;
        // The shift is 2 for the smallest size.
        let index = (2 * shift as usize + highest).wrapping_sub(2 * 2 + 0b11);
        let list = self.lists.get(index)?;
        (layout.align() <= ALIGNMENT).then_some((list, (highest + 1) << shift))
    }
}

// SAFETY: every block comes from the source, with at least the size and alignment of its layout. It has one owner at a
// time: freeing a block puts it into a list, and allocating takes it out.
unsafe impl<S: GlobalAlloc> GlobalAlloc for FreeLists<S> {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((list, size)) = self.list(layout) else {
            return self.source.alloc(layout);
        };
        let block = list.get();
        if block.is_null() {
            // SAFETY: the size and `ALIGNMENT` are small powers of two.
            return self
                .source
                .alloc(Layout::from_size_align_unchecked(size, ALIGNMENT));
        }
        list.set((*block).next);
        block.cast()
    }

    #[inline(never)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some((list, _)) = self.list(layout) else {
            return self.source.dealloc(block, layout);
        };
        // SAFETY: the block is at least as large as `FreeBlock`, and aligned for it.
        let block: *mut FreeBlock = block.cast();
        block.write(FreeBlock {
            next: list.replace(block),
        });
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller guarantees that `size` and the alignment form a valid layout.
        let wanted = Layout::from_size_align_unchecked(size, layout.align());
        match (self.list(layout), self.list(wanted)) {
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

    /// Counts the calls to the system's allocator.
    #[derive(Default)]
    struct Counting {
        allocated: Cell<usize>,
        freed: Cell<usize>,
    }

    // SAFETY: the system's allocator does the work.
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
    fn freed_small_blocks_are_reused() {
        let keeper = FreeLists::new(Counting::default());
        for (sizes, asked) in [
            ([1, 16, 9], 1),
            ([17, 24, 20], 2),
            ([25, 32, 30], 3),
            ([513, 768, 600], 4),
            ([2049, 3072, 3000], 5),
            ([3073, 4096, 4000], 6),
        ] {
            for size in sizes {
                // SAFETY: each block is freed once, with its layout.
                unsafe { keeper.dealloc(keeper.alloc(layout(size)), layout(size)) };
            }
            assert_eq!(keeper.source.allocated.get(), asked, "{sizes:?}");
        }
        assert_eq!(keeper.source.freed.get(), 0);
    }

    #[test]
    fn large_or_overaligned_blocks_bypass_the_free_lists() {
        let keeper = FreeLists::new(Counting::default());
        for layout in [
            layout(4097),
            layout(1 << 20),
            Layout::from_size_align(32, 16).unwrap(),
        ] {
            // SAFETY: the layout is the one of the allocation.
            unsafe { keeper.dealloc(keeper.alloc(layout), layout) };
        }
        assert_eq!(keeper.source.freed.get(), 3);
    }

    /// Allocates, grows, shrinks and frees blocks of all sizes at random. Each block keeps its content to the end, so
    /// no two overlap.
    #[test]
    fn blocks_never_overlap() {
        struct Block {
            start: *mut u8,
            layout: Layout,
            filled: u8,
        }

        impl Block {
            fn fill(&self) {
                // SAFETY: the block has this size.
                unsafe { self.start.write_bytes(self.filled, self.layout.size()) };
            }

            fn is_filled(&self, size: usize) -> bool {
                assert_eq!(self.start.align_offset(self.layout.align()), 0);
                // SAFETY: the block has at least this size and was filled.
                let bytes = unsafe { std::slice::from_raw_parts(self.start, size) };
                bytes.iter().all(|byte| *byte == self.filled)
            }
        }

        let keeper = FreeLists::new(System);
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
                    // SAFETY: the layout is the one of the allocation.
                    unsafe { keeper.dealloc(block.start, block.layout) };
                }
                1 if !blocks.is_empty() => {
                    let index = draw(blocks.len());
                    let block = &mut blocks[index];
                    let kept = block.layout.size().min(size);
                    // SAFETY: the layout is the one of the allocation.
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
            // SAFETY: the layout is the one of the allocation.
            unsafe { keeper.dealloc(block.start, block.layout) };
        }
    }
}
