//! [`Layout`]: where compiled programs find values without calling anybody.

use mem::IndexLayout;

use super::htab::{Htab, OFF_GENERATION, OFF_REF};
use super::{DevEntry, Kind, Seed};

/// How a lookup goes in machine code. Addresses stay what they are as long as the map exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Layout {
    /// By a call only.
    None,
    /// `base + index * stride` if `index < max_entries`.
    Array {
        /// Host address of value 0.
        base: u64,
        /// Bytes from one value to the next.
        stride: u64,
        /// Values.
        max_entries: u32,
    },
    /// `base + cpu * cpu_stride + index * stride` if `index < max_entries`.
    PercpuArray {
        /// Host address of CPU 0's value 0.
        base: u64,
        /// Bytes from one CPU's values to the next one's.
        cpu_stride: u64,
        /// Bytes from one value to the next.
        stride: u64,
        /// Values of each CPU.
        max_entries: u32,
    },
    /// A hash table.
    Hash(HashLayout),
    /// `slots[index]` if `index < max_entries`: null, or the address of an entry that has the address of its
    /// value at an offset.
    Entries {
        /// Host address of slot 0.
        base: u64,
        /// Slots.
        max_entries: u32,
        /// Where the value's address is in an entry, bytes.
        off_value: u32,
    },
    /// `slots[key & mask]`: null if there is no entry with such a key; else a call finds it.
    Buckets {
        /// Host address of slot 0.
        base: u64,
        /// Slots, less one.
        mask: u32,
    },
    /// `slots[index]` if `index < max_entries`: null, or the address of an `Arc` of what is there
    /// (of maps, programs, sockets), or of the entry itself (cpumap).
    Slots {
        /// Host address of slot 0.
        base: u64,
        /// Slots.
        max_entries: u32,
    },
}

/// How to find a key in a hash table:
///
/// 1. Hash the key with `seed` ([`Seed::words`] for keys of 4 and 8 bytes, else by a call).
/// 2. Read the bucket's [`IndexLayout::OFF_MOVES`]. Compare the tag with the eight tags of the bucket.
/// 3. For each that is equal: element `e` lies at `elems + number * stride`. Read its generation at
///    [`HashLayout::OFF_GENERATION`], compare the key at `off_key`, read the generation again: if it is even
///    and the same, this is it. If not, read the number in the bucket again, and if it has changed, repeat.
/// 4. None equal: if [`IndexLayout::OFF_NEXT`] is 0 and the count of moves is what it was, there is none.
///    Anything else is for a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HashLayout {
    /// Buckets.
    pub index: IndexLayout,
    /// Host address of element 0.
    pub elems: u64,
    /// Bytes from one element to the next.
    pub stride: u64,
    /// Offset of the key in an element, bytes.
    pub off_key: u32,
    /// Offset of the value in an element, bytes; without meaning if `percpu` is given.
    pub off_value: u32,
    /// Where the values of CPUs are: base, bytes per CPU, bytes per element.
    pub percpu: Option<(u64, u64, u64)>,
    /// Where the addresses of inner maps are, by number of the element: they are what a lookup answers.
    pub maps: Option<u64>,
    /// Seed of the hash.
    pub seed: Seed,
    /// Whether a lookup sets the byte at [`HashLayout::OFF_REF`] of the element to 1 unless it is.
    pub lru: bool,
}

impl HashLayout {
    /// Offset of an element's 32-bit generation, bytes.
    pub const OFF_GENERATION: usize = OFF_GENERATION;
    /// Offset of an element's reference byte, bytes.
    pub const OFF_REF: usize = OFF_REF;
}

impl Layout {
    pub(super) fn of(kind: &Kind) -> Self {
        match kind {
            Kind::Array(a) => Self::Array {
                base: a.slab().base(),
                stride: a.slab().stride() as u64,
                max_entries: a.max_entries(),
            },
            Kind::PercpuArray(a) => Self::PercpuArray {
                base: a.values.base(),
                cpu_stride: a.values.cpu_stride() as u64,
                stride: a.values.stride() as u64,
                max_entries: a.max_entries(),
            },
            Kind::Hash(table) => Self::Hash(hash(table)),
            Kind::HashOfMaps(m) => Self::Hash(HashLayout { maps: Some(m.base()), ..hash(&m.table) }),
            Kind::ProgArray(a) => Self::slots(a.slots.base(), a.slots.len()),
            Kind::ArrayOfMaps(a) => Self::slots(a.slots.base(), a.slots.len()),
            Kind::PerfEventArray(a) => Self::slots(a.slots.base(), a.slots.len()),
            Kind::Devmap(m) => Self::Entries {
                base: m.entries.base(),
                max_entries: m.entries.len() as u32,
                off_value: DevEntry::OFF_VALUE as u32,
            },
            Kind::DevmapHash(m) => Self::Buckets { base: m.buckets.base(), mask: m.buckets.len() as u32 - 1 },
            Kind::Cpumap(m) => Self::slots(m.entries.base(), m.entries.len()),
            Kind::Xskmap(m) => Self::slots(m.sockets.base(), m.sockets.len()),
            Kind::Lpm(_) | Kind::Queue(_) | Kind::Bloom(_) | Kind::Ringbuf(_) | Kind::UserRingbuf(_) => {
                Self::None
            }
        }
    }

    fn slots(base: u64, len: usize) -> Self {
        Self::Slots { base, max_entries: len as u32 }
    }
}

fn hash(table: &Htab) -> HashLayout {
    HashLayout {
        index: table.index.layout(),
        elems: table.elems.base(),
        stride: table.elems.stride() as u64,
        off_key: table.off_key as u32,
        off_value: table.off_value as u32,
        maps: None,
        percpu: table.percpu().map(|v| (v.base(), v.cpu_stride() as u64, v.stride() as u64)),
        seed: table.seed,
        lru: table.is_lru(),
    }
}
